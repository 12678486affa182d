"""What the network files here share: which answers a network can give, and slices with their neighbours."""

import math
from typing import Final

import torch
from torch import nn

from lumbar.issues import InputError
from lumbar.recipe.answers import Answer
from lumbar.recipe.detector import DetectorSpec

#: What an untrained map shows everywhere.
RARE: Final = 0.01


def refuse_other_answers(
    spec: DetectorSpec, gives: dict[Answer, tuple[bool, ...]], *, canal_distances: bool = False
) -> None:
    """InputError where a spec asks for what a network does not give; `gives`: each answer, and with which `depth`.

    The same where it is to see planes of `canal_distances`, which most take for slices.
    """
    if spec.canal_distances and not canal_distances:
        raise InputError(
            f"network {spec.network!r} knows nothing of canal_distances; leave the key out, or name slice_scores"
        )
    if spec.depth not in gives.get(spec.answer, ()):
        words = " or ".join(
            f"{answer}{'' if len(depths) > 1 or not depths[0] else ' with depth = true'}"
            for answer, depths in gives.items()
        )
        raise InputError(
            f"network {spec.network!r} answers {words}, not {spec.answer}{' with depth = true' if spec.depth else ''}; "
            "change answer and depth, or name another network"
        )


def refuse_stride(spec: DetectorSpec) -> None:
    """InputError where a spec asks for coarser maps of a network whose maps are as large as the image."""
    if spec.stride != 1:
        raise InputError(f"network {spec.network!r} gives maps of stride 1; leave stride out, or name centernet")


def with_neighbours(stacks: torch.Tensor, series: int = 1) -> torch.Tensor:
    """(B, T, H, W) → (B x T, 3, H, W): each slice between the one before and the one after; zeros beyond the ends.

    Stacks of two `series` of T slices, one after the other (B, 2 T, H, W), become images of six channels.
    """
    each = stacks.unflatten(1, (series, -1))
    end = torch.zeros_like(each[:, :, :1])
    before, after = torch.cat([end, each[:, :, :-1]], 2), torch.cat([each[:, :, 1:], end], 2)
    return torch.stack([before, each, after], 2).flatten(1, 2).transpose(1, 2).flatten(0, 1)


def slices_there(stacks: torch.Tensor, series: int = 1) -> torch.Tensor:
    """(B, series x T, H, W) → (B, T) bool: the places at which any series shows something; empty ones have no
    contrast."""
    return (stacks.amax((2, 3)) > stacks.amin((2, 3))).unflatten(1, (series, -1)).any(1)


def start_rare(head: nn.Module) -> None:
    """Let the layer that maps come from answer `RARE` everywhere, as Lin et al. (2017) begin: most of a map is empty.

    Else the first gradients are a hundred times larger than later ones, and Adam's second moment remembers them long.
    """
    layer = next(module for module in head.modules() if isinstance(module, nn.Conv2d))
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, math.log(RARE / (1 - RARE)))


class AlongSlices(nn.Module):
    """(B, T, F) features of slices → (B, K, T) scores: a bidirectional LSTM, then a head, the same for every slice."""

    def __init__(self, features: int, hidden: int, head: nn.Module, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True, bidirectional=True)
        self.head = head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(features)[0]).transpose(1, 2)
