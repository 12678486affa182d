"""Which slice: every slice with its two neighbours through a backbone, an LSTM along the slices; fourth place.

`network_args`: hidden (features of the backbone), layers (1) of the LSTM, dropout (0).
"""

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.keypoints.answers import slices
from lumbar.keypoints.networks.gives import AlongSlices, refuse_other_answers, with_neighbours
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec


class SliceScores(nn.Module):
    """Stacks (B, T, S, S) → scores (B, K, T) of every slice for every name, raw."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.series, self.slices = len(spec.types), spec.in_chans
        args = read_arguments(spec, {"hidden": ("whole", None), "layers": ("whole", 1), "dropout": ("share", 0.0)})
        self.encoder = create_backbone(spec, 3 * self.series)
        features = int(self.encoder.num_features)  # type: ignore[arg-type]
        hidden = args["hidden"] or features
        head = nn.Sequential(
            nn.Linear(2 * hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ELU(),
            nn.Dropout(args["dropout"]),
            nn.Linear(hidden, slices.shape(spec)[0]),
        )
        self.along = AlongSlices(features, hidden, head, args["layers"])

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        features = self.encoder(with_neighbours(stacks, self.series))
        return self.along(features.unflatten(0, (-1, self.slices)))


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"slices": (False,)})
    return SliceScores(spec)
