"""Points on a series as one: each slice alone through a backbone, attention over the slices; the second place's.

Where one point stands for all slices, those that show it best should say where it is: attention (Bahdanau et al., 2015)
weighs the slices' features, one linear layer reads all points from their sum. A slice without contrast, as padding has
none, has no weight. `network_args`: dropout of the slices' features (0.05).
"""

import torch
from torch import nn

from lumbar.backbones import create_backbone, pooled_features
from lumbar.compute.layers import Pool
from lumbar.keypoints.answers import points
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec


class Frames(nn.Module):
    """Stacks (B, T, S, S) → points (B, K, 2 or 3), shares from 0 to 1."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        args = read_arguments(spec, {"dropout": ("share", 0.05)})
        self.names, self.axes = points.shape(spec)
        self.series = len(spec.types)
        self.encoder = create_backbone(spec, self.series)
        features = pooled_features(self.encoder)
        self.dropout, self.pool = nn.Dropout(args["dropout"]), Pool(features)
        self.head = nn.Linear(features, self.names * self.axes)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        slices = stacks.unflatten(1, (self.series, -1)).transpose(1, 2)  # (B, T, series, S, S)
        there = slices.amax((2, 3, 4)) > slices.amin((2, 3, 4))
        features = self.dropout(self.encoder(slices.flatten(0, 1)).unflatten(0, slices.shape[:2]))
        return self.head(self.pool(features, there)).unflatten(-1, (self.names, self.axes)).sigmoid()


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"points": (False, True)})
    return Frames(spec)
