"""A bi-LSTM along the slices and attention over them, one of each a group of conditions; the second place's.

Canal, foramina and recesses each have an LSTM of their own over the same slices' features, what it says squashed (mish
+ sigmoid + tanh) and normed, attention (Bahdanau et al., 2015) and one linear layer that answers the conditions of the
group. Of a grader of a single group that is one. A slice without contrast, as padding has none, is not attended to;
the slices of several views stand in a row, those of a view that is not there as zeros. `network_args`: hidden, what
comes out of the LSTM (the backbone's features); dropout of the slices' features (0.05).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.backbones import create_backbone, pooled_features
from lumbar.compute.layers import Pool
from lumbar.grading.networks.slices import channels_of, encoded, slice_features
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import CONDITION_GROUPS, SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec


class SliceEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of each (N, T, F), and which of them show something (N, T)."""

    def __init__(self, spec: GraderSpec, channels: int) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        self.slices_at_once: int | None = None
        self.features = pooled_features(self.backbone)

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        there = stacks.amax((2, 3, 4)) > stacks.amin((2, 3, 4))
        return slice_features(self.backbone, stacks, self.slices_at_once), there


class AttentionLstm(nn.Module):
    """(N, T, F) features of slices → (N, hidden), as those say that are `there` (N, T)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden // 2, batch_first=True, bidirectional=True)
        self.norm, self.pool = nn.LayerNorm(hidden), Pool(hidden)

    def forward(self, slices: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        along, _ = self.lstm(slices)
        found: torch.Tensor = self.pool(self.norm(nnf.mish(along) + along.sigmoid() + along.tanh()), there)
        return found


class GroupLstm(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level."""

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        given = read_arguments(spec, {"hidden": ("even", None), "dropout": ("share", 0.05)})
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.encoders = nn.ModuleList(SliceEncoder(spec, channels) for channels in channels_of(spec))
        features = int(self.encoders[0].features)  # type: ignore[arg-type]
        hidden = given["hidden"] or features
        if hidden % 2:
            raise InputError(f"backbone {spec.backbone!r} gives {hidden} features; set an even hidden in network_args")
        conditions = task.samples[0].conditions
        groups = [[name for name in conditions if name in own] for own in CONDITION_GROUPS.values()]
        groups = [own for own in groups if own]
        self.dropout = nn.Dropout(given["dropout"])
        self.along = nn.ModuleList(AttentionLstm(features, hidden) for _ in groups)
        self.heads = nn.ModuleList(nn.Linear(hidden, len(own) * len(SEVERITIES)) for own in groups)
        answered = [name for own in groups for name in own]
        self.order = [answered.index(name) for name in conditions]

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        found = encoded(self.encoders, self.encoder_of_view, self.views, views)
        flat = seen.flatten(0, 1)  # (N, V); N is B · L
        shown = [there & flat[:, [place]] for place, (_, there) in enumerate(found)]
        own = [slices * flat[:, [place], None] for place, (slices, _) in enumerate(found)]
        slices, there = self.dropout(torch.cat(own, dim=1)), torch.cat(shown, dim=1)
        said = [head(along(slices, there)) for along, head in zip(self.along, self.heads, strict=True)]
        logits = torch.cat(said, dim=-1).unflatten(-1, (-1, len(SEVERITIES)))[:, self.order]
        return logits.unflatten(0, seen.shape[:2])


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where its features cannot be halved."""
    return GroupLstm(spec)
