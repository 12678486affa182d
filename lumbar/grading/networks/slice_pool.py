"""A 2D backbone per slice, the slices of each view pooled into one, a linear layer; second and fourth place.

`network_args`: `features`, how a slice's maps become its features: "avg", the backbone's own pooling (fourth place,
second place's axial member); "gem", a generalised mean; "mean", of all cells or tokens, without the backbone's pooling
(both the second place's third author); "max_mean", the maximum beside the mean, without the norm that some networks
have behind their last stage (second place's MIL). `pool`, how slices become one: "mean"; "linear", attention by one
linear layer (fourth place); "mish", by two with Mish between, "gated", gated and of its own for every severity, which
sees no other (CLAM, Lu et al. 2021; both the third author's); "max_mean", of the first half of the features the
maximum, of the second the mean (MIL; needs features = "max_mean"). `dropout` before the answers (0), and within
attention of more than one layer `inner_dropout` (0). A view that is not there is zeros in place of its features.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from lumbar.backbones import channels_first, create_backbone, leave_out_head_norm, pooled_features
from lumbar.compute.layers import Gem
from lumbar.grading.networks.slices import channels_of, encoded, slice_features
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import SEVERITIES
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.grader import GraderSpec

_KNOWN: Final[Mapping[str, tuple[Kind, Any]]] = {
    "features": ("word", "avg"),
    "pool": ("word", "linear"),
    "dropout": ("share", 0.0),
    "inner_dropout": ("share", 0.0),
}
_FEATURES: Final = ("avg", "gem", "mean", "max_mean")
_POOLS: Final = ("mean", "linear", "mish", "gated", "max_mean")


class Attention(nn.Module):
    """(N, T, F) slices → (N, K, F): K sums over T, by weights that a softmax of scores over the slices gives."""

    def __init__(self, features: int, word: str, answers: int, dropout: float) -> None:
        super().__init__()
        self.gate: nn.Module | None = None
        if word == "linear":
            self.score: nn.Module = nn.Linear(features, 1, bias=False)  # the softmax does not see a bias
        elif word == "mish":
            layers = nn.Linear(features, features), nn.Mish(), nn.Dropout(dropout), nn.Linear(features, 1, bias=False)
            self.score = nn.Sequential(*layers)
        else:
            self.value = nn.Sequential(nn.Linear(features, features), nn.Tanh(), nn.Dropout(dropout))
            self.gate = nn.Sequential(nn.Linear(features, features), nn.Sigmoid(), nn.Dropout(dropout))
            self.score = nn.Linear(features, answers, bias=False)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        scores = self.score(slices if self.gate is None else self.value(slices) * self.gate(slices))  # (N, T, K)
        return scores.softmax(dim=1).transpose(1, 2) @ slices


class ExtremePool(nn.Module):
    """(N, T, F) slices → (N, 1, F): the maximum over T of the first half of the features, the mean of the second."""

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        most, mean = slices.chunk(2, dim=-1)
        return torch.cat([most.amax(dim=1, keepdim=True), mean.mean(dim=1, keepdim=True)], dim=-1)


class MeanPool(nn.Module):
    """(N, T, F) slices → (N, 1, F)."""

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        return slices.mean(dim=1, keepdim=True)


class PoolEncoder(nn.Module):
    """(N, T, C, H, W) slices → pooled features (N, 1, F); with gated attention (N, answers, F)."""

    def __init__(self, spec: GraderSpec, channels: int, args: Mapping[str, Any], answers: int) -> None:
        super().__init__()
        self.kind = args["features"]
        self.backbone = create_backbone(spec, channels, **({} if self.kind == "avg" else {"global_pool": ""}))
        if self.kind == "max_mean":
            leave_out_head_norm(self.backbone)
        self.gem = Gem() if self.kind == "gem" else None
        self.slices_at_once: int | None = None
        self.features = pooled_features(self.backbone) * (2 if self.kind == "max_mean" else 1)
        word = args["pool"]
        if word in ("mean", "max_mean"):
            self.pool: nn.Module = MeanPool() if word == "mean" else ExtremePool()
        else:
            self.pool = Attention(self.features, word, answers, args["inner_dropout"])

    def _of_images(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.backbone(images)
        if self.kind == "avg":
            return found
        maps = channels_first(self.backbone, found)
        if self.gem is not None:
            return self.gem(maps)  # type: ignore[no-any-return]
        mean = maps.mean((2, 3))
        return torch.cat([maps.amax((2, 3)), mean], dim=1) if self.kind == "max_mean" else mean

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.pool(slice_features(self._of_images, stacks, self.slices_at_once)),)


class SlicePool(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level."""

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        args, task = _arguments(spec), task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.each = (task.num_conditions, len(SEVERITIES))
        answers = task.num_conditions * len(SEVERITIES)
        self.encoders = nn.ModuleList(PoolEncoder(spec, channels, args, answers) for channels in channels_of(spec))
        self.dropout = nn.Dropout(args["dropout"])
        self.head = nn.Linear(int(self.encoders[0].features) * len(self.views), answers)  # type: ignore[arg-type]

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        pooled = [own for (own,) in encoded(self.encoders, self.encoder_of_view, self.views, views)]
        there = seen.flatten(0, 1)[:, :, None, None]  # (B · L, V, 1, 1)
        bags = self.dropout((torch.stack(pooled, dim=1) * there).transpose(1, 2).flatten(2))  # (B · L, 1 or K, V · F)
        if bags.shape[1] == 1:
            logits = self.head(bags[:, 0])
        else:  # each answer from the slices that it chose itself
            logits = torch.einsum("nkf,kf->nk", bags, self.head.weight)
            logits = logits + self.head.bias.to(logits.dtype)  # as a linear layer adds it under autocast
        return logits.unflatten(-1, self.each).unflatten(0, seen.shape[:2])


def _arguments(spec: GraderSpec) -> dict[str, Any]:
    """The network's arguments, checked."""
    args = read_arguments(spec, _KNOWN)
    for key, words in (("features", _FEATURES), ("pool", _POOLS)):
        if args[key] not in words:
            known = ", ".join(f'"{word}"' for word in words)
            raise InputError(f"network_args {key} = {args[key]!r:.40} cannot be used; give one of {known}")
    if args["pool"] == "max_mean" and args["features"] != "max_mean":
        raise InputError("network_args pool = 'max_mean' needs features = 'max_mean'; set both, or choose another pool")
    return args


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return SlicePool(spec)
