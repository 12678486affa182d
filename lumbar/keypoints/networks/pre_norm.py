"""Scores of slices by one pre-norm transformer layer along them, as the fifth place's axial pointer.

The fifth place takes RoBERTa-PreLayerNorm (Ott et al. 2019; embeddings, one layer, a last norm): the same here, without
words and pooler, with one learnt vector a place in the stack.
"""

from typing import Final

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.issues import InputError

#: Of all norms (RoBERTa's); how far vectors of places begin from zero.
_EPS: Final = 1e-12
_START: Final = 0.02
#: Features between the two linear layers of the block, as a multiple of those around it.
_WIDER: Final = 4


class PreNormAlong(nn.Module):
    """(B, T, F) features of slices → (B, K, T) scores; slices that are not `there` (B, T) are not looked at."""

    def __init__(self, features: int, hidden: int, slices: int, heads: int, dropout: float, answers: int) -> None:
        super().__init__()
        if hidden % heads:
            raise InputError(
                f"pointer_hidden = {hidden} cannot be shared by {heads} heads; set pointer_heads to a number that "
                "divides it"
            )
        self.heads = heads
        self.into = nn.Linear(features, hidden)
        self.places = nn.Parameter(torch.randn(slices, hidden) * _START)
        self.norm_places = nn.LayerNorm(hidden, _EPS)
        self.norm_attention, self.norm_forwards = nn.LayerNorm(hidden, _EPS), nn.LayerNorm(hidden, _EPS)
        self.attention, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.forwards = nn.Sequential(
            nn.Linear(hidden, _WIDER * hidden), nn.GELU(), nn.Linear(_WIDER * hidden, hidden), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(hidden, _EPS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, answers))

    def forward(self, features: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        slices = self.dropout(self.norm_places(self.into(features) + self.places))
        query, key, value = (
            self.attention(self.norm_attention(slices)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        looked = there | ~there.any(-1, keepdim=True)  # something must be looked at
        seen = nnf.scaled_dot_product_attention(query, key, value, attn_mask=looked[:, None, None])
        slices = slices + self.dropout(self.out(seen.transpose(1, 2).flatten(-2)))
        slices = self.norm(slices + self.forwards(self.norm_forwards(slices)))
        found: torch.Tensor = self.head(slices).transpose(1, 2)
        return found
