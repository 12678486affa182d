"""1D convolutions along what slices answered: the eighth place's second network, in its manner.

Slices that are not there are masked before and behind every convolution, so that it is all the same how many of them
stand at either end.
"""

from collections.abc import Sequence

import torch
from torch import nn

from lumbar.compute.layers import Pool
from lumbar.labels import SEVERITIES


class AlongView(nn.Module):
    """Numbers of slices (B, T, N), and which are there (B, T) → features (B, hidden)."""

    def __init__(self, numbers: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.into = nn.Linear(numbers, hidden)
        self.layers = nn.ModuleList(nn.Conv1d(hidden, hidden, 3, padding=1) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.pool = Pool(hidden)

    def forward(self, told: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        mask = there[..., None].to(told.dtype)
        rows = self.into(told) * mask
        for layer, norm in zip(self.layers, self.norms, strict=True):
            along = layer(rows.transpose(1, 2)).transpose(1, 2)
            rows = (rows + nn.functional.gelu(norm(along))) * mask
        found: torch.Tensor = self.pool(rows, there)
        return found


class AlongAnswers(nn.Module):
    """Of each view numbers of slices (B, T_v, N), and which are there (B, T_v) → logits (B, answers · 3)."""

    def __init__(self, views: int, numbers: int, hidden: int, layers: int, dropout: float, answers: int) -> None:
        super().__init__()
        self.of_view = nn.ModuleList(AlongView(numbers, hidden, layers) for _ in range(views))
        self.answer = nn.Sequential(nn.Dropout(dropout), nn.Linear(views * hidden, answers * len(SEVERITIES)))

    def forward(self, told: Sequence[torch.Tensor], there: Sequence[torch.Tensor]) -> torch.Tensor:
        each = [view(*own) for view, own in zip(self.of_view, zip(told, there, strict=True), strict=True)]
        logits: torch.Tensor = self.answer(torch.cat(each, dim=-1))
        return logits
