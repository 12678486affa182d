"""timm's networks of images as networks of volumes: every layer gets a third axis as long as its first; seventh place.

What is inflated are convolutions, batch norms and pools of images (kernel, stride and padding of rows hold for slices,
too), what looks at each place or at all of them together (norms over channels, squeeze-and-excitation), and blocks of
ConvNeXt. Keys, and `pretrained_cfg`, stay timm's; the weights of a convolution (O, I, k, k) become (O, I, k, k, k). A
layer of another kind is refused: it would look at rows and columns and not at slices.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.issues import InputError

with without_compiler():
    import timm.layers as tl
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models.convnext import ConvNeXtBlock

#: Layers that treat all places alike, or each by itself: a volume is an image of as many rows and longer columns to
#: them.
_FLAT: Final = (tl.LayerNorm2d, tl.LayerNormAct2d, tl.SEModule, tl.EffectiveSEModule, SqueezeExcite)
#: Layers to which it is all the same how many axes there are, or that hold others and say nothing themselves.
_ANY: Final = (
    nn.Identity,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Dropout,
    nn.GroupNorm,
    tl.DropPath,
    tl.ConvNormAct,
    tl.SeparableConvNormAct,
    tl.ClassifierHead,
    tl.NormMlpClassifierHead,
)
_ACTIVATIONS: Final = ("torch.nn.modules.activation", "timm.layers.activations")


class SameConv3d(nn.Conv3d):
    """TensorFlow's convolution: as many cells come out as strides begin in what goes in; zeros around it as needed."""

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        around: list[int] = []
        for side, kernel, stride, step in zip(
            volumes.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            lacking = max((-(-side // stride) - 1) * stride + (kernel - 1) * step + 1 - side, 0)
            around = [lacking // 2, lacking - lacking // 2, *around]  # the last axis comes first
        padded = nnf.pad(volumes, around)
        return nnf.conv3d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class BatchNormAct3d(nn.BatchNorm3d):
    """A batch norm and what timm lets follow it within the same layer."""

    drop: nn.Module
    act: nn.Module

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(volumes)))


class ConvNeXtBlock3d(ConvNeXtBlock):
    """A block whose depth-wise convolution sees volumes; all else looks at one place."""

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        seen = self.conv_dw(volumes)
        places = seen.flatten(3)  # (B, C, H, W · D)
        if self.use_conv_mlp:
            places = self.mlp(self.norm(places))
        else:
            places = self.mlp(self.norm(places.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        if self.gamma is not None:
            places = places * self.gamma.reshape(1, -1, 1, 1)
        return self.drop_path(places.unflatten(3, seen.shape[3:])) + self.shortcut(volumes)


class _Flat(nn.Module):
    """In front of a layer of images: volumes (B, C, H, W, D) pass it as images (B, C, H, W · D)."""

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return super().forward(volumes.flatten(3)).unflatten(3, volumes.shape[3:])  # type: ignore[misc]


_FLATTENED: Final = {kind: type(f"{kind.__name__}OfVolumes", (_Flat, kind), {}) for kind in _FLAT}


def inflate(encoder: nn.Module, name: str, example: Sequence[int]) -> tuple[int, ...]:
    """Let timm's network of images, without pool and classifier, take volumes (B, C, H, W, D), in place.

    Weights begin as widely spread as timm has them, for as many more terms. Gives the shape of its features for an
    `example` (B, C, H, W, D). Raises InputError, with `name` in it, for a network that cannot be inflated, or where
    nothing is left of the example.
    """
    for path, why in _inflated(encoder):
        raise InputError(f"{name} cannot be inflated to volumes: its layer {path} {why}; name another network")
    state = {key: value.to("meta") for key, value in encoder.state_dict(keep_vars=False).items()}
    training = encoder.training
    try:
        with torch.no_grad():
            given = torch.zeros(*example, device="meta")
            features = torch.func.functional_call(encoder.eval(), state, (given,))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}, inflated, cannot take volumes of {example[-1]} slices of {example[-2]} px; give it larger ones, "
            "or name another network"
        ) from error
    finally:
        encoder.train(training)
    if features.ndim != len(example) or not features.numel():
        raise InputError(
            f"{name}, inflated, leaves nothing of {example[-1]} slices of {example[-2]} px; give it more, or name "
            "another network"
        )
    return tuple(features.shape)


def inflated_weight(weight: torch.Tensor, slices: int) -> torch.Tensor:
    """Weights (O, I, h, w) that were learnt on images, for volumes (O, I, h, w, d): every slice the same, their sum as
    before (Carreira and Zisserman, 2017), so that a volume of one picture again and again gives what the picture
    gave."""
    return weight[..., None].repeat(1, 1, 1, 1, slices) / slices


def _inflated(module: nn.Module, path: str = "") -> Iterator[tuple[str, str]]:
    """Inflate everything below a module; yields what cannot be, and why."""
    for name, child in module.named_children():
        own = f"{path}{name}"
        if isinstance(module, ConvNeXtBlock3d) and name not in ("conv_dw", "shortcut"):
            continue
        try:
            made = _of_volumes(child)
        except ValueError as why:
            yield own, str(why)
            continue
        if made is not None:
            setattr(module, name, made.train(child.training))
        elif type(child) in _FLATTENED:
            child.__class__ = _FLATTENED[type(child)]
        elif _is_any(child):
            if isinstance(child, ConvNeXtBlock):
                child.__class__ = ConvNeXtBlock3d
            yield from _inflated(child, f"{own}.")
        else:
            yield own, f"is a {type(child).__name__}, which knows rows and columns alone"


def _is_any(layer: nn.Module) -> bool:
    """Whether it is all the same to a layer's own code how many axes there are."""
    kind = type(layer)
    if kind in _ANY or kind is ConvNeXtBlock:
        return True
    if isinstance(layer, tl.SelectAdaptivePool2d):
        return bool(layer.is_identity())
    if kind.__module__.startswith(_ACTIVATIONS):
        return not isinstance(layer, nn.MultiheadAttention)
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return kind.__module__.startswith("timm.models.") and not own


def _of_volumes(layer: Any) -> nn.Module | None:
    """The layer of volumes in place of one of images, with its weights; None for another layer.

    Raises ValueError for one whose rows and columns are not alike.
    """
    kind = type(layer)
    if kind in (nn.Conv2d, tl.Conv2dSame):
        return _convolution(layer, nn.Conv3d if kind is nn.Conv2d else SameConv3d)
    if kind in (nn.BatchNorm2d, tl.BatchNormAct2d):
        norm = nn.BatchNorm3d if kind is nn.BatchNorm2d else BatchNormAct3d
        made = norm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        if isinstance(made, BatchNormAct3d):
            made.drop, made.act = layer.drop, layer.act
        made.load_state_dict(layer.state_dict())
        return made
    if kind is nn.MaxPool2d:
        return nn.MaxPool3d(
            _one(layer.kernel_size),
            _one(layer.stride),
            _one(layer.padding),
            _one(layer.dilation),
            ceil_mode=layer.ceil_mode,
        )
    if kind is nn.AvgPool2d:
        size = _one(layer.kernel_size), _one(layer.stride), _one(layer.padding)
        return nn.AvgPool3d(*size, layer.ceil_mode, layer.count_include_pad, layer.divisor_override)
    return None


def _convolution(layer: nn.Conv2d, kind: type[nn.Conv3d]) -> nn.Conv3d:
    made = kind(
        layer.in_channels,
        layer.out_channels,
        _one(layer.kernel_size),
        _one(layer.stride),
        _one(layer.padding),
        _one(layer.dilation),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    spread = layer.weight.std(unbiased=False) / made.kernel_size[0] ** 0.5
    made.weight = nn.Parameter(torch.randn_like(made.weight) * spread)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().clone())
    return made


def _one(size: Any) -> Any:
    """The size along rows, where that along columns is the same."""
    if not isinstance(size, tuple):
        return size
    if len(set(size)) > 1:
        raise ValueError(f"is {' x '.join(map(str, size))} and has no third size")
    return size[0]
