"""Which slices show each side of each level, and which level a slice shows: the seventh place's axial network.

Every slice passes a backbone between its two neighbours, then a linear layer; a bi-LSTM along the slices is added to
its features; blocks of a transformer that attends to nothing but the slice itself follow, as the original's does.
`network_args`: hidden (512) features of a slice, layers (2) of the LSTM, blocks (2), inner (2048) features of a block's
two linear layers, dropout (0.1). In training a mapping: `answer`, and `levels` (B, 5, T), which level each slice shows,
for the losses `bce` and `cross_entropy`.
"""

from collections.abc import Mapping

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.issues import InputError
from lumbar.keypoints.answers import slices
from lumbar.keypoints.networks.gives import refuse_other_answers, with_neighbours
from lumbar.labels import LEVELS
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec


class Block(nn.Module):
    """(…, F) → (…, F): what a post-norm transformer layer makes of one token alone.

    Attention to a single token is that token's value: of its matrices the value's and the outer one are left, which are
    one linear layer.
    """

    def __init__(self, features: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.mix = nn.Linear(features, features)
        self.norm_mix = nn.LayerNorm(features)
        self.forwards = nn.Sequential(
            nn.Linear(features, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, features)
        )
        self.norm_forwards = nn.LayerNorm(features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm_mix(tokens + self.dropout(self.mix(tokens)))
        return self.norm_forwards(tokens + self.dropout(self.forwards(tokens)))


class LevelScores(nn.Module):
    """Stacks (B, T, S, S) → scores (B, K, T) of every slice for every name, raw."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        given = read_arguments(
            spec,
            {
                "hidden": ("even", 512),
                "layers": ("whole", 2),
                "blocks": ("whole", 2),
                "inner": ("whole", 2048),
                "dropout": ("share", 0.1),
            },
        )
        self.series, self.slices, hidden = len(spec.types), spec.in_chans, given["hidden"]
        self.encoder = create_backbone(spec, 3 * self.series)
        self.neck = nn.Linear(int(self.encoder.num_features), hidden)  # type: ignore[arg-type]
        self.lstm = nn.LSTM(hidden, hidden // 2, given["layers"], batch_first=True, bidirectional=True)
        self.blocks = nn.Sequential(*(Block(hidden, given["inner"], given["dropout"]) for _ in range(given["blocks"])))
        self.head = nn.Linear(hidden, slices.shape(spec)[0])
        self.level_head = nn.Linear(hidden, len(LEVELS))

    def forward(self, stacks: torch.Tensor) -> torch.Tensor | Mapping[str, torch.Tensor]:
        features = self.neck(self.encoder(with_neighbours(stacks, self.series))).unflatten(0, (-1, self.slices))
        along = self.lstm(features)[0] + features
        along = self.blocks(along)
        scores = self.head(along).transpose(1, 2)
        return {"answer": scores, "levels": self.level_head(along).transpose(1, 2)} if self.training else scores


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"slices": (False,)})
    if spec.num_classes % len(LEVELS) or spec.classes:
        raise InputError(
            "network 'level_scores' scores slices for names of all levels; give num_classes 5, or twice as many, and "
            'another decode than "change" or "sides"'
        )
    return LevelScores(spec)
