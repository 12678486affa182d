"""The ninth place's grader: a 2D backbone per slice, a GRU along the slices, the mean over slices, a linear layer.

Slices, and views that share an encoder, are folded into the batch: the same numbers as a loop over slices (to 2e-6),
2.7 times faster on a CPU. `network_args`: bidirectional, the GRU goes both ways along the slices; dropout before the
linear layer (0); the seventh place's has both (true, 0.2).
"""

from collections.abc import Mapping

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.grading.networks.slices import channels_of, showing, slice_features, stacked
from lumbar.grading.tasks import task_of
from lumbar.labels import SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec


class SliceEncoder(nn.Module):
    """(N, T, C, H, W) stacks of slices → (N, hidden) features, of both ways twice as many."""

    def __init__(self, spec: GraderSpec, channels: int = 1, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        self.slices_at_once: int | None = None
        self.rnn = nn.GRU(
            self.backbone.num_features, spec.rnn_hidden, spec.rnn_layers, batch_first=True, bidirectional=bidirectional
        )
        self.features = spec.rnn_hidden * (2 if bidirectional else 1)

    def slice_features(self, stacks: torch.Tensor) -> torch.Tensor:
        """(N, T, C, H, W) → (N, T, F): the backbone's pooled features of every slice."""
        return slice_features(self.backbone, stacks, self.slices_at_once)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.rnn(self.slice_features(stacks))  # (N, T, hidden)
        return hidden.mean(dim=1)


class GruGrader(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level.

    The head's outputs are ordered severity-major (index = severity × C + condition), as the original's are.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        given = read_arguments(spec, {"bidirectional": ("flag", False), "dropout": ("share", 0.0)})
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.num_conditions = task.num_conditions
        encoders = [
            SliceEncoder(spec, channels, bidirectional=given["bidirectional"]) for channels in channels_of(spec)
        ]
        self.encoders = nn.ModuleList(encoders)
        self.dropout = nn.Dropout(given["dropout"])
        self.head = nn.Linear(encoders[0].features * len(task.encoders), len(SEVERITIES) * self.num_conditions)

    def features(self, views: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, L, T, C, H, W) by name → (B · L, V, hidden): one feature vector a view."""
        pooled: dict[int, torch.Tensor] = {}
        for index, encoder in enumerate(self.encoders):
            places = [place for place, of_view in enumerate(self.encoder_of_view) if of_view == index]
            alike = stacked(views, [self.views[place] for place in places])
            with showing([self.views[place] for place in places]):
                encoded = encoder(alike.flatten(0, 1)).reshape(len(alike), len(places), -1)
            for slot, place in enumerate(places):
                pooled[place] = encoded[:, slot]
        return torch.stack([pooled[place] for place in sorted(pooled)], dim=1)

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.dropout(self.features(views).flatten(1)))
        return logits.reshape(*seen.shape[:2], len(SEVERITIES), self.num_conditions).transpose(2, 3)


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return GruGrader(spec)
