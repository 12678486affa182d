"""A 2D backbone per slice, a bi-LSTM along the slices, gated attention that picks the slices.

The region is a bag of slices of which only some show the disease (multiple-instance learning): gated attention (Ilse
et al., 2018) weighs them. In training each slice is also asked alone: the output `slices`, for the loss of that word.
The first place's own form of it is `slice_bags`.
"""

from collections.abc import Mapping

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.grading.networks.slices import channels_of, encoded, slice_features
from lumbar.grading.tasks import task_of
from lumbar.labels import SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec


class GatedAttention(nn.Module):
    """(N, T, F) → (N, F): the sum over T by weights that softmax(w · (tanh(V f) * sigmoid(U f))) gives."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.weight = nn.Linear(hidden, 1, bias=False)  # the softmax does not see a bias

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        scores = self.weight(torch.tanh(self.value(slices)) * torch.sigmoid(self.gate(slices)))  # (N, T, 1)
        return (scores.softmax(dim=1) * slices).sum(dim=1)


class BagEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of each slice (N, T, 2 · hidden) and of the bag (N, 2 · hidden)."""

    def __init__(self, spec: GraderSpec, channels: int = 1) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        self.slices_at_once: int | None = None
        self.rnn = nn.LSTM(
            self.backbone.num_features, spec.rnn_hidden, spec.rnn_layers, batch_first=True, bidirectional=True
        )
        self.attention = GatedAttention(2 * spec.rnn_hidden, spec.rnn_hidden)

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slices, _ = self.rnn(slice_features(self.backbone, stacks, self.slices_at_once))
        return slices, self.attention(slices)


class MilGrader(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level.

    In training a mapping: `severity` is that, `slices` (B, L, T, conditions, 3) the same of every slice.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.num_conditions = task.num_conditions
        self.encoders = nn.ModuleList(BagEncoder(spec, channels) for channels in channels_of(spec))
        features, answers = 2 * spec.rnn_hidden * len(task.encoders), self.num_conditions * len(SEVERITIES)
        self.head, self.slice_head = nn.Linear(features, answers), nn.Linear(features, answers)

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        slices, bags = self._encoded(views)
        each = (self.num_conditions, len(SEVERITIES))
        logits = self.head(bags).unflatten(-1, each).unflatten(0, seen.shape[:2])
        if not self.training:
            return logits
        return {"severity": logits, "slices": self.slice_head(slices).unflatten(-1, each).unflatten(0, seen.shape[:2])}

    def _encoded(self, views: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of each slice (B · L, T, V · F) and of the bags (B · L, V · F), views side by side."""
        pairs = encoded(self.encoders, self.encoder_of_view, self.views, views)
        return torch.cat([slices for slices, _ in pairs], dim=-1), torch.cat([bags for _, bags in pairs], dim=-1)


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where it has `network_args`, which are none here."""
    read_arguments(spec, {})
    return MilGrader(spec)
