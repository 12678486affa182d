"""Layers that networks of both stages are built of: attention over slices, a transformer block, a generalised mean."""

import torch
import torch.nn.functional as nnf
from torch import nn

#: What a map counts at least in the generalised mean, whose power takes no negative numbers.
_LEAST = 1e-6


class Pool(nn.Module):
    """(…, T, F) → (…, F): the sum over T by softmax weights; what `there` (…, T) leaves out has none."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(features, features), nn.Tanh(), nn.Linear(features, 1, bias=False))

    def forward(self, values: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        scores = self.score(values).squeeze(-1).float()
        if there is None:
            weights = scores.softmax(dim=-1)
        else:  # the mask need not leave anything
            exact = (scores - scores.amax(dim=-1, keepdim=True)).exp() * there
            weights = exact / exact.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        return (weights.to(values.dtype).unsqueeze(-1) * values).sum(dim=-2)


class Gem(nn.Module):
    """(N, F, h, w) maps → (N, F): (mean of x^p)^(1/p) of what is positive; p is learnt."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), power))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        raised = maps.float().clamp_min(_LEAST).pow(self.p.float()).mean((-2, -1))  # half numbers would overflow
        return raised.pow(1 / self.p.float()).to(maps.dtype)


class Block(nn.Module):
    """A post-norm transformer block over (N, T, F), without places: slices that are not `there` (N, T) are not seen."""

    def __init__(self, features: int, heads: int, inner: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.heads = heads
        self.into, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.forwards = nn.Sequential(nn.Linear(features, inner), activation(), nn.Linear(inner, features))
        self.norm_attention, self.norm_forwards = nn.LayerNorm(features), nn.LayerNorm(features)
        nn.init.xavier_uniform_(self.into.weight)  # as torch's own attention begins
        nn.init.zeros_(self.into.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, slices: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        query, key, value = self.into(slices).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nnf.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        slices = self.norm_attention(slices + self.out(seen.transpose(1, 2).flatten(-2)))
        found: torch.Tensor = self.norm_forwards(slices + self.forwards(slices))
        return found
