"""Which slice, from the whole volume at once: a three-dimensional ConvNeXt (Liu et al., 2022); first place.

The volume is brought to `in_chans` slices (place "whole"). A stem halves rows and columns, every stage halves all three
axes, blocks look 2 slices, 7 rows and 7 columns wide. Answers `slices`, a score of every slice for every name, or
`points` with depth, shares of width, height and slices. `network_args`: widths (64, 128, 256, 512) and depths
(3, 3, 9, 3) of the stages. The spec's encoder, a network of images, means nothing to it.
"""

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.issues import InputError
from lumbar.keypoints.answers.registry import answer_of
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec

#: Slices, rows and columns that a block sees around each place: its own slice and the next.
_KERNEL = (2, 7, 7)


def _each_channel(channels: int) -> nn.GroupNorm:
    """Every channel of every volume is normed by itself (instance norm)."""
    return nn.GroupNorm(channels, channels)


class DepthWise(nn.Conv3d):
    """(B, C, T, H, W) → the same: each channel by itself, slices with the next one; beyond the last all is zero.

    As two convolutions of images, one for each slice of the kernel: as fast as one of volumes, and the gradients on a
    CPU up to twice as fast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, _KERNEL, groups=channels, bias=False)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        slices = volumes.shape[2]
        images = volumes.transpose(1, 2).flatten(0, 1)
        around = [size // 2 for size in _KERNEL[1:]]
        own, after = (
            nnf.conv2d(images, self.weight[:, :, at], padding=around, groups=self.groups).unflatten(0, (-1, slices))
            for at in range(_KERNEL[0])
        )
        seen = own + nnf.pad(after[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        return seen.transpose(1, 2)


class Block(nn.Module):
    """(B, C, T, H, W) → the same plus what it adds: a depth-wise convolution, then two linear layers a place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            DepthWise(channels),
            _each_channel(channels),
            nn.Conv3d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv3d(4 * channels, channels, 1),
        )

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return volumes + self.block(volumes)


class ConvNext3d(nn.Module):
    """Volumes (B, series, T, S, S) → features (B, F, T / 2^n, S / 2^(n + 1), S / 2^(n + 1)) of n stages."""

    def __init__(self, series: int, widths: list[int], depths: list[int]) -> None:
        super().__init__()
        first = widths[0] // 2
        self.stem = nn.Sequential(nn.Conv3d(series, first, (1, 2, 2), (1, 2, 2)), nn.GroupNorm(1, first))
        stages = []
        for before, width, depth in zip([first, *widths], widths, depths, strict=False):
            smaller = nn.Sequential(_each_channel(before), nn.Conv3d(before, width, 2, 2))
            stages.append(nn.Sequential(smaller, *(Block(width) for _ in range(depth))))
        self.stages = nn.Sequential(*stages)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return self.stages(self.stem(volumes))


class VolumeFinder(nn.Module):
    """Stacks (B, T, S, S) → scores (B, K, T) of slices, or points (B, K, 3); those of two series are two channels."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        given = read_arguments(spec, {"widths": ("wholes", (64, 128, 256, 512)), "depths": ("wholes", (3, 3, 9, 3))})
        widths, depths = list(given["widths"]), list(given["depths"])
        if len(widths) != len(depths) or widths[0] < 2:
            raise InputError(
                f"network_args widths = {widths} and depths = {depths} must tell of the same stages, the first at "
                "least 2 wide; give as many of each"
            )
        least = 2 ** len(widths), 4 * 2 ** len(widths)
        if spec.in_chans < least[0] or spec.image_size < least[1]:
            raise InputError(
                f"{len(widths)} stages halve {spec.in_chans} slices of {spec.image_size} px to nothing; give "
                f"in_chans = {least[0]} and image_size = {least[1]} or more, or fewer widths and depths"
            )
        self.series, self.are_points = len(spec.types), spec.answer == "points"
        self.names, self.outputs = answer_of(spec).shape(spec)
        self.encoder = ConvNext3d(self.series, widths, depths)
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], self.names * self.outputs)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(stacks.unflatten(1, (self.series, -1)))
        said = self.head(self.norm(maps.mean((2, 3, 4)))).unflatten(1, (self.names, self.outputs))
        return said.sigmoid() if self.are_points else said


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where its stages leave nothing of the volume."""
    refuse_other_answers(spec, {"slices": (False,), "points": (True,)})
    return VolumeFinder(spec)
