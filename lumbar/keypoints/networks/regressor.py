"""Points as they are: a backbone on the stack as channels, its features, one linear layer; first and second place.

`network_args`: pool = "avg" (default), the mean over the feature map; "features": the same without the norm that some
networks have after their last stage (ConvNeXt; first place); "flatten": the whole map, which knows where things are;
"expectation": the layer scores every cell of the map for every name, and the point is the mean place under
the softmax of its scores, which learns from few studies (Sun et al., 2018). dropout: before the linear layer.
"""

import torch
from torch import nn

from lumbar.backbones import create_backbone, leave_out_head_norm
from lumbar.issues import InputError
from lumbar.keypoints.answers import points
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec

_POOLS = ("avg", "features", "flatten", "expectation")


class Regressor(nn.Module):
    """Stacks (B, T, S, S) → points (B, K, 2 or 3), shares from 0 to 1."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.names, self.axes = points.shape(spec)
        args = read_arguments(spec, {"pool": ("word", "avg"), "dropout": ("share", 0.0)})
        self.pool, self.side = args["pool"], spec.image_size
        if self.pool not in _POOLS:
            known = ", ".join(f'"{word}"' for word in _POOLS)
            raise InputError(f"network_args pool = {self.pool!r} is no way to pool; write one of {known}")
        self.encoder = create_backbone(spec, spec.channels, global_pool="")
        if self.pool == "features":
            leave_out_head_norm(self.encoder)
        features, outputs = int(self.encoder.num_features), self.names * self.axes  # type: ignore[arg-type]
        if self.pool == "flatten":
            features *= (-(-spec.image_size // int(self.encoder.feature_info[-1]["reduction"]))) ** 2  # type: ignore[index]
        elif self.pool == "expectation":
            self.cells = nn.Conv2d(features, self.names, 1)
            outputs = self.names * (self.axes - 2)
        self.dropout = nn.Dropout(args["dropout"])
        self.head = nn.Linear(features, outputs) if outputs else None

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(stacks)
        features = self.dropout(maps.flatten(1) if self.pool == "flatten" else maps.mean((2, 3)))
        said = [] if self.head is None else [self.head(features).unflatten(1, (self.names, -1)).sigmoid()]
        if self.pool == "expectation":
            said.insert(0, expected_place(self.cells(maps).float(), self.side))
        return torch.cat(said, -1)


def expected_place(scores: torch.Tensor, size: int) -> torch.Tensor:
    """Scores of cells (B, K, h, w) → (B, K, 2): the mean of the cells' middles under their softmax, as shares of an
    image of `size` pixels a side."""
    shares = scores.flatten(2).softmax(-1).unflatten(2, scores.shape[2:])
    means = []
    for axis in (3, 2):  # columns, rows
        cells = scores.shape[axis]
        middles = (torch.arange(cells, device=scores.device) + 0.5) / cells - 0.5 / size
        means.append((shares.sum(5 - axis) * middles).sum(-1))
    return torch.stack(means, -1).clamp(0, 1)


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"points": (False, True)})
    return Regressor(spec)
