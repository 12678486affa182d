"""Points as they are: a backbone on the stack as channels, its features, one linear layer; first and second place.

`network_args`: pool = "avg" (default), the mean over the feature map; "features": the same without the norm that some
networks have after their last stage (ConvNeXt; first place); "gem": a generalised mean (second place); "flatten": the
whole map, which knows where things are; "expectation": the layer scores every cell of the map for every name, and the
point is the mean place under the softmax of its scores, which learns from few studies (Sun et al., 2018). dropout:
before the linear layer. volume: the slices are a third axis of a volume, not channels, and the backbone is inflated
(`inflated`; seventh place); those of two series are two channels.
"""

import math
from typing import Any

import torch
from torch import nn

from lumbar.backbones import channels_first, create_backbone, leave_out_head_norm
from lumbar.compute.layers import Gem
from lumbar.issues import InputError
from lumbar.keypoints.answers import points
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.keypoints.networks.inflated import inflate
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec

_POOLS = ("avg", "features", "gem", "flatten", "expectation")


class Regressor(nn.Module):
    """Stacks (B, T, S, S) → points (B, K, 2 or 3), shares from 0 to 1."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.names, self.axes = points.shape(spec)
        arguments: Any = {"pool": ("word", "avg"), "dropout": ("share", 0.0), "volume": ("flag", False)}
        args = read_arguments(spec, arguments)
        self.pool, self.volume, self.series = args["pool"], args["volume"], len(spec.types)
        self.sides = (spec.image_size, spec.image_size, spec.in_chans)[: 3 if self.volume else 2]
        if self.pool not in _POOLS:
            known = ", ".join(f'"{word}"' for word in _POOLS)
            raise InputError(f"network_args pool = {self.pool!r} is no way to pool; write one of {known}")
        channels = self.series if self.volume else spec.channels
        self.encoder = create_backbone(spec, channels, global_pool="")
        if self.pool == "features":
            leave_out_head_norm(self.encoder)
        features: int = self.encoder.num_features  # type: ignore[assignment]
        outputs = self.names * self.axes
        cells: list[int] = []
        if self.volume:
            _, features, *cells = inflate(self.encoder, spec.named_backbone, (1, channels, *self.sides))
        if self.pool == "gem" and self.volume:
            raise InputError('network_args.pool = "gem" is of images, not of volumes; choose another pool')
        self.gem = Gem() if self.pool == "gem" else None
        if self.pool == "flatten" and self.volume:
            features *= math.prod(cells)
        elif self.pool == "flatten":
            features *= (-(-spec.image_size // int(self.encoder.feature_info[-1]["reduction"]))) ** 2  # type: ignore[index]
        elif self.pool == "expectation":
            self.cells = (nn.Conv3d if self.volume else nn.Conv2d)(features, self.names, 1)
            outputs = self.names * max(self.axes - len(self.sides), 0)
        self.dropout = nn.Dropout(args["dropout"])
        self.head = nn.Linear(features, outputs) if outputs else None

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        if self.volume:  # (B, series, S, S, T)
            stacks = stacks.unflatten(1, (self.series, -1)).movedim(2, -1)
        maps = self.encoder(stacks)
        if self.gem is not None:
            features = self.gem(channels_first(self.encoder, maps))
        else:
            features = maps.flatten(1) if self.pool == "flatten" else maps.mean(tuple(range(2, maps.ndim)))
        features = self.dropout(features)
        said = [] if self.head is None else [self.head(features).unflatten(1, (self.names, -1)).sigmoid()]
        if self.pool == "expectation":
            said.insert(0, expected_place(self.cells(maps).float(), *self.sides)[..., : self.axes])
        return torch.cat(said, -1)


def expected_place(scores: torch.Tensor, *sides: int) -> torch.Tensor:
    """Scores of cells (B, K, h, w) or (B, K, h, w, d) → (B, K, 2 or 3): the mean of the cells' middles under their
    softmax, as shares of `sides`: the columns and rows of an image in pixels, the slices of a volume."""
    shares = scores.flatten(2).softmax(-1).unflatten(2, scores.shape[2:])
    means = []
    for axis, side in zip((3, 2, 4), sides, strict=False):  # columns, rows, slices
        cells = scores.shape[axis]
        middles = (torch.arange(cells, device=scores.device) + 0.5) / cells - 0.5 / side
        others = [other for other in range(2, scores.ndim) if other != axis]
        means.append((shares.sum(others) * middles).sum(-1))
    return torch.stack(means, -1).clamp(0, 1)


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"points": (False, True)})
    return Regressor(spec)
