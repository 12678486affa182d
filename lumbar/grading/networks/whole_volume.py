"""The seventh place's one-stage networks: a whole series is one volume, and maps learnt beside the grades weigh it.

A 2D backbone sees every slice; a U-Net's decoder brings its last maps (strides 4 to 32) to the finest of them. Slices
without contrast are not there: they are masked before every convolution along the slices, and no map lies on them.

- `maps = "volume"` (foramina): the decoder's convolutions go along the slices, too. Of each condition and level a map
  over all cells of the volume is learnt, whose softmax weighs the cells' features; one small network grades them all.
- `maps = "slice"` (canal): the decoder sees each slice alone. A softmax over the slices' mean features says where each
  level lies; on the mean of the slices around there, the same for all levels (a guess: the recorded volumes are too
  short to tell), a map over the image is learnt, which weighs the severities that every cell answers.

In training maps are asked for by the loss `heatmaps`, as shares: the sigmoid of what is given is a cell's softmax.

`network_args`: `maps` ("volume"); `decoder`, the widths of its blocks ([384, 192, 96]); `features` of a cell before its
grade (128; of "slice" 64).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.backbones import channels_first, create_backbone
from lumbar.grading.networks.slices import channels_of
from lumbar.grading.networks.whole_slices import weighed
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import LEVELS, SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec

#: How many axes a decoder's convolutions have, and how many features a cell, by the word of `maps`.
_AXES: Final = {"volume": 3, "slice": 2}
_FEATURES: Final = {"volume": 128, "slice": 64}
#: Of "slice": how far slices lie from the expected one whose maps are averaged.
_NEAR: Final = 3
#: What a softmax gives no share to; and the least of a share whose logarithm is taken.
_NOWHERE: Final = -1e4
_LEAST: Final = 1e-6
_CONVOLUTION: Final[Mapping[int, Any]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: Final[Mapping[int, Any]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def slices_there(stacks: torch.Tensor) -> torch.Tensor:
    """Which slices (B, T) of stacks (B, T, C, H, W) show something: those that follow a short series do not."""
    return stacks.amax((2, 3, 4)) > stacks.amin((2, 3, 4))


def _layer(axes: int, inward: int, outward: int) -> nn.Module:
    convolution = _CONVOLUTION[axes](inward, outward, 3, padding=1, bias=False)
    return nn.Sequential(convolution, _NORM[axes](outward), nn.ReLU())


class Block(nn.Module):
    """Maps (N, F, …) of one stride → (N, outward, …); what `there` (N, 1, …) leaves out is zero to its convolutions."""

    def __init__(self, axes: int, inward: int, outward: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _layer(axes, inward, outward), _layer(axes, outward, outward)

    def forward(self, maps: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv2(self.conv1(maps * there) * there)
        return found


class VolumeMaps(nn.Module):
    """Stacks (B, T, C, H, W) → maps (B, F, T, h, w) at the finest of the strides that the decoder joins."""

    def __init__(self, spec: GraderSpec, channels: int, widths: Sequence[int], axes: int) -> None:
        super().__init__()
        self.images = create_backbone(spec, channels, features_only=True)
        self.slices_at_once: int | None = None
        info: Any = self.images.feature_info
        self.axes, self.count = axes, len(widths) + 1
        inward = info.channels()[-self.count :]
        if len(inward) < self.count:
            raise InputError(
                f"{spec.named_backbone} gives maps of {len(inward)} strides and the decoder of {spec.network} joins "
                f"{self.count}; give network_args decoder {len(inward) - 1} widths, or name another backbone"
            )
        deeper = [inward[-1], *widths]
        pairs = zip(deeper, reversed(inward[:-1]), widths, strict=False)
        self.blocks = nn.ModuleList(Block(axes, below + skip, width) for below, skip, width in pairs)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        images, samples = stacks.flatten(0, 1), stacks.shape[:2]
        parts = [self.images(part)[-self.count :] for part in images.split(self.slices_at_once or len(images))]
        maps = [channels_first(self.images, torch.cat(each)) for each in zip(*parts, strict=True)]
        there = slices_there(stacks)[:, None, :, None, None].to(maps[0].dtype)  # (B, 1, T, 1, 1)
        if self.axes == 3:
            maps = [each.unflatten(0, samples).transpose(1, 2) for each in maps]
        else:
            there = there.flatten(0, 2)[:, None]
        *skips, found = maps
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            finer = nnf.interpolate(found, skip.shape[2:], mode="nearest")
            found = block(torch.cat([finer, skip], dim=1), there)
        return found if self.axes == 3 else found.unflatten(0, samples).transpose(1, 2)


def odds_of(logs: torch.Tensor) -> torch.Tensor:
    """Logarithms of shares → numbers whose sigmoids are the shares."""
    return logs - (-torch.expm1(logs.clamp(max=-_LEAST))).log()


class OfVolume(nn.Module):
    """Maps (B, F, T, h, w) → logits (B, answers, 3), and the logarithms of its maps' shares (B, answers, T, h, w)."""

    def __init__(self, width: int, answers: int, features: int) -> None:
        super().__init__()
        self.where, self.features = nn.Conv3d(width, answers, 1), nn.Conv3d(width, features, 1)
        self.grade = nn.Sequential(
            nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, len(SEVERITIES))
        )

    def forward(self, maps: torch.Tensor, there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.where(maps).float().masked_fill(~there[:, None, :, None, None], _NOWHERE)
        found = weighed(self.features(maps), scores)
        logits = self.grade(found.flatten(0, 1)).float().unflatten(0, found.shape[:2])
        return logits, scores.flatten(2).log_softmax(-1).view_as(scores)


class OfSlice(nn.Module):
    """The same of one condition (answers: its levels), from the slices around the expected one."""

    def __init__(self, width: int, answers: int, features: int) -> None:
        super().__init__()
        self.which = nn.Sequential(
            nn.Linear(width, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, answers)
        )
        self.where, self.grade = (
            nn.Sequential(
                nn.Conv2d(width, features, 1), nn.BatchNorm2d(features), nn.SiLU(), nn.Conv2d(features, own, 1)
            )
            for own in (answers, len(SEVERITIES))
        )

    def forward(self, maps: torch.Tensor, there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slices = maps.mean((3, 4)).transpose(1, 2)  # (B, T, F)
        scores = self.which(slices.flatten(0, 1)).unflatten(0, there.shape).float()
        along = scores.masked_fill(~there[..., None], _NOWHERE).log_softmax(1)  # (B, T, answers)
        order = torch.arange(there.shape[1], device=there.device)
        middle = (along.exp() * order[:, None]).sum(1).mean(1, keepdim=True).round()  # (B, 1)
        near = ((order - middle).abs() <= _NEAR) & there
        weights = near / near.sum(1, keepdim=True).clamp_min(1)
        image = torch.einsum("bfthw,bt->bfhw", maps, weights.to(maps.dtype))
        places = self.where(image).float()
        found = weighed(self.grade(image).float().softmax(1), places)
        across = places.flatten(2).log_softmax(-1).view_as(places)
        return found.clamp_min(_LEAST).log(), along.transpose(1, 2)[..., None, None] + across[:, :, None]


class WholeVolume(nn.Module):
    """A view (B, 1, T, C, H, W) → logits (B, 5, conditions, 3) of all levels.

    In training a mapping: `severity` is that, `heatmaps` by view its maps (B, T, 5 · conditions, h, w).
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        known: Any = {"maps": ("word", "volume"), "decoder": ("wholes", [384, 192, 96]), "features": ("whole", None)}
        args, task = read_arguments(spec, known), task_of(spec)
        if args["maps"] not in _AXES:
            raise InputError(f'network_args maps = {args["maps"]!r} cannot be used; write "volume" or "slice"')
        if spec.levels != "study" or len(task.samples[0].views) > 1:
            raise InputError(
                f'network {spec.network} sees one whole series; set levels = "study" and name one view, as sagittal_t1'
            )
        if args["maps"] == "slice" and task.num_conditions > 1:
            raise InputError(
                f'network_args maps = {args["maps"]!r} looks for one slice; name one condition, or set maps = "volume"'
            )
        (self.view,), (channels,) = task.samples[0].views, channels_of(spec)
        self.each = (len(LEVELS), task.num_conditions)
        self.backbone = VolumeMaps(spec, channels, args["decoder"], _AXES[args["maps"]])
        answer = OfVolume if args["maps"] == "volume" else OfSlice
        features = args["features"] or _FEATURES[args["maps"]]
        self.answer = answer(args["decoder"][-1], len(LEVELS) * task.num_conditions, features)

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        stacks = views[self.view][:, 0] * seen[:, 0, :, None, None, None]
        logits, logs = self.answer(self.backbone(stacks), slices_there(stacks))
        severity = logits.unflatten(1, self.each)
        if not self.training:
            return severity
        found: dict[str, Any] = {"severity": severity, "heatmaps": {str(self.view): odds_of(logs).transpose(1, 2)}}
        return found


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return WholeVolume(spec)
