"""Attention over the slices of every view and over the views that are there; one level alone, or five in a row.

A 2D backbone sees every slice. Attention (Bahdanau et al., 2015) picks the slices of a view, and again the views of a
level; a view that was not seen has no weight, and where none was seen the level's features are zero. With five levels a
bidirectional LSTM runs from level to level. `network_args`: `hidden` features of a slice (128), `dropout` before heads
(0.1).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.compute.layers import Pool
from lumbar.grading.networks.slices import channels_of, showing, slice_features
from lumbar.grading.tasks import task_of
from lumbar.labels import LEVELS, SEVERITIES
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.grader import GraderSpec


class ViewEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of each slice (N, T, hidden)."""

    def __init__(self, spec: GraderSpec, channels: int, hidden: int) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        self.slices_at_once: int | None = None
        features: Any = self.backbone.num_features
        self.neck = nn.Sequential(nn.Linear(features, hidden), nn.LayerNorm(hidden), nn.GELU())

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.neck(slice_features(self.backbone, stacks, self.slices_at_once))
        return found


class AttentionGrader(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3).

    In training a mapping: `severity` is that; `slices` (B, L, T, conditions, 3) the same of every slice, those of all
    views one after the other, and `slice_scores` once more, for losses that ask all slices or the annotated ones;
    `level` (B, L, 5), which level it is.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        width: Kind = "even" if spec.levels == "all" else "whole"
        given = read_arguments(spec, {"hidden": (width, 128), "dropout": ("share", 0.1)})
        task, hidden = task_of(spec), given["hidden"]
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.encoders = nn.ModuleList(ViewEncoder(spec, channels, hidden) for channels in channels_of(spec))
        self.of_view = nn.Parameter(torch.randn(len(self.views), hidden) * 0.02)
        self.slice_pool = nn.ModuleList(Pool(hidden) for _ in self.encoders)
        self.view_pool = Pool(hidden)
        self.along = (
            nn.LSTM(hidden, hidden // 2, batch_first=True, bidirectional=True) if spec.levels == "all" else None
        )
        self.dropout = nn.Dropout(given["dropout"])
        self.conditions = task.num_conditions
        self.head = nn.Linear(hidden, self.conditions * len(SEVERITIES))
        self.slice_head = nn.Linear(hidden, self.conditions * len(SEVERITIES))
        self.level_head = nn.Linear(hidden, len(LEVELS))

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        B, L = seen.shape[:2]
        slices, pooled = [], []
        for place, (name, at) in enumerate(zip(self.views, self.encoder_of_view, strict=True)):
            with showing([name]):
                found = self.encoders[at](views[name].flatten(0, 1)) + self.of_view[place]  # (B · L, T, hidden)
            slices.append(found)
            pooled.append(self.slice_pool[at](found))
        level = self.view_pool(torch.stack(pooled, dim=1), seen.flatten(0, 1)).unflatten(0, (B, L))
        if self.along is not None:
            level = level + self.along(level)[0]
        each = (self.conditions, len(SEVERITIES))
        logits = self.head(self.dropout(level)).unflatten(-1, each)
        if not self.training:
            return logits
        every = self.slice_head(self.dropout(torch.cat(slices, dim=1))).unflatten(-1, each).unflatten(0, (B, L))
        return {"severity": logits, "slices": every, "slice_scores": every, "level": self.level_head(level)}


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return AttentionGrader(spec)
