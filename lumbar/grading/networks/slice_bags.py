"""The first place's grader: each view is a bag of slices, and attention finds those that show the disease.

A 2D backbone sees every slice, a two-layer bi-LSTM runs along them, attention (Bahdanau et al., 2015) weighs them, one
linear layer answers from the bags of all views. In training three more questions teach it: the severity from each bag
alone (`views`, one layer for all views), and which slice of each view is the annotated one (`annotated_slice`).
`network_args`: hidden, features of a slice (those of the backbone), layers (2), dropout between layers and before the
answers (0.1).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lumbar.backbones import create_backbone, leave_out_head_norm
from lumbar.grading.networks.slices import channels_of, encoded, slice_features
from lumbar.grading.tasks import task_of
from lumbar.labels import SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec


class SliceScore(nn.Sequential):
    """(N, T, F) → (N, T): one number a slice."""

    def __init__(self, features: int, *, bias: bool = True) -> None:
        super().__init__(nn.Tanh(), nn.Linear(features, 1, bias=bias), nn.Flatten(1))


class BagEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of the bag (N, F), and of each slice how much it looks annotated (N, T)."""

    def __init__(self, spec: GraderSpec, channels: int, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        leave_out_head_norm(self.backbone)
        self.slices_at_once: int | None = None
        own = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.features = given["hidden"] or own + own % 2
        layers = given["layers"]
        self.lstm = nn.LSTM(
            own,
            self.features // 2,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=given["dropout"] if layers > 1 else 0.0,
        )
        self.attention = SliceScore(self.features, bias=False)  # the softmax does not see a bias
        self.annotated = SliceScore(self.features)

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        along, _ = self.lstm(slice_features(self.backbone, stacks, self.slices_at_once))
        weights = self.attention(along).softmax(dim=1)
        return (weights[..., None] * along).sum(dim=1), self.annotated(along)


class SliceBags(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level.

    In training a mapping: `severity` is that, `annotated_slice` (B, L, T) a score of every slice, those of all views
    one after the other, and of several views `views` (B, L, V, conditions, 3), what each says alone.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        given = read_arguments(spec, {"hidden": ("even", None), "layers": ("whole", 2), "dropout": ("share", 0.1)})
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.encoders = nn.ModuleList(BagEncoder(spec, channels, given) for channels in channels_of(spec))
        self.each = (task.num_conditions, len(SEVERITIES))
        features, answers = int(self.encoders[0].features), task.num_conditions * len(SEVERITIES)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(given["dropout"])
        self.head = nn.Linear(features * len(self.views), answers)
        self.view_head = nn.Linear(features, answers) if len(self.views) > 1 else None

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        pairs = encoded(self.encoders, self.encoder_of_view, self.views, views)
        bags = self.dropout(torch.stack([bag for bag, _ in pairs], dim=1))  # (B · L, V, F)
        levels = seen.shape[:2]
        logits = self.head(bags.flatten(1)).unflatten(-1, self.each).unflatten(0, levels)
        if not self.training:
            return logits
        beside = {"annotated_slice": torch.cat([scores for _, scores in pairs], dim=1).unflatten(0, levels)}
        if self.view_head is not None:
            beside["views"] = self.view_head(bags).unflatten(-1, self.each).unflatten(0, levels)
        return {"severity": logits, **beside}


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return SliceBags(spec)
