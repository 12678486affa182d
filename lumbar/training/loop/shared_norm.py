"""Batch norms that take their statistics over the batch shares of all processes, so that these train as one would."""

from typing import TYPE_CHECKING

import torch
import torch.distributed.nn
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    _Norm = _BatchNorm
else:
    _Norm = object


class _Shared(_Norm):
    """In front of a class of batch norms: in training, mean and variance of every process's share of the batch.

    torch's `SyncBatchNorm` does the same on GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, …) → the same; timm's batch norms go on with their activation."""
        if not self.training:
            return super().forward(input)
        out = self._normalised(input)
        for following in ("drop", "act"):
            out = getattr(self, following, nn.Identity())(out)
        return out

    def _normalised(self, input: Tensor) -> Tensor:
        axes = [axis for axis in range(input.ndim) if axis != 1]
        values = input.float()
        count = values.new_full((1,), values.numel() / values.shape[1])
        total, of = self._sum(torch.cat([values.sum(axes), count])).tensor_split([-1])
        mean = total / of
        centred = values - self._wide(mean, input)
        variance = self._sum(centred.square().sum(axes)) / of
        self._follow(mean.detach(), (variance * of / (of - 1).clamp_min(1)).detach())
        out = centred * self._wide(torch.rsqrt(variance + self.eps), input)
        if self.affine:
            out = out * self._wide(self.weight, input) + self._wide(self.bias, input)
        return out.to(input.dtype)

    @staticmethod
    def _sum(own: Tensor) -> Tensor:
        return torch.distributed.nn.functional.all_reduce(own)  # type: ignore[no-any-return]

    @staticmethod
    def _wide(channels: Tensor, like: Tensor) -> Tensor:
        return channels.view(1, -1, *[1] * (like.ndim - 2))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def share_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with every batch norm replaced by one over all processes; weights and their names stay."""
    if device.type != "cpu":
        return convert_sync_batchnorm(network)  # type: ignore[no-any-return]
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            module.__class__ = type(f"Shared{kind.__name__}", (_Shared, kind), {})  # same state, another way through
    return network
