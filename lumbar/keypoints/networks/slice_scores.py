"""Which slice: every slice with its two neighbours through a backbone, a sequence along them; second and fourth place.

`network_args`: `along`, how slices learn of each other: "lstm", a bidirectional one (fourth place), or "transformer",
post-norm layers without places, which do not look at slices without contrast, as padding has none (second place's third
author), or "alone", each slice by itself (second place's second author); `features` of a slice: "avg", the backbone's
own pooling, or "gem", a generalised mean; `distances`: in training also how far each slice lies from the right one, as
a share of those that are there; layers (1 of the LSTM, 2 of the transformer), dropout before the answers (0); of the
LSTM hidden (the backbone's features), of the transformer heads (16) and its inner features (the backbone's). Where the
spec has `canal_distances`, each slice's five of them, written sixteen times, follow the backbone's features.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from lumbar.backbones import channels_first, create_backbone, pooled_features
from lumbar.compute.layers import Block, Gem
from lumbar.issues import InputError
from lumbar.keypoints.answers import slices
from lumbar.keypoints.distances import rows_of_levels
from lumbar.keypoints.networks.gives import AlongSlices, refuse_other_answers, slices_there, with_neighbours
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.detector import DetectorSpec

_KNOWN: Final[Mapping[str, tuple[Kind, Any]]] = {
    "along": ("word", "lstm"),
    "features": ("word", "avg"),
    "layers": ("whole", None),
    "dropout": ("share", 0.0),
    "hidden": ("whole", None),
    "heads": ("whole", 16),
    "inner": ("whole", None),
    "distances": ("flag", False),
}
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "along": ("lstm", "transformer", "alone"),
    "features": ("avg", "gem"),
}
#: How often distances stand among a slice's features, which are hundreds.
_REPEATED: Final = 16
#: What the one sequence has and the other lacks.
_OF_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "lstm": ("heads", "inner"),
    "transformer": ("hidden",),
    "alone": ("hidden", "layers", "heads", "inner"),
}


class AlongTransformer(nn.Module):
    """(B, T, F) features of slices → (B, K, T) scores; slices that are not `there` (B, T) are not looked at."""

    def __init__(self, features: int, layers: int, heads: int, inner: int, head: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(features, heads, inner, nn.GELU) for _ in range(layers))
        self.head = head

    def forward(self, features: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        there = there | ~there.any(-1, keepdim=True)  # something must be looked at
        for block in self.blocks:
            features = block(features, there)
        found: torch.Tensor = self.head(features).transpose(1, 2)
        return found


class Alone(nn.Module):
    """(B, T, F) features of slices → (B, K, T) scores; no slice knows of another."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(features).transpose(1, 2)
        return found


class SliceScores(nn.Module):
    """Stacks (B, T, S, S), with planes of distances (B, 2 T, S, S), → scores (B, K, T) of every slice for every name,
    raw; in training by name where there are `distances` (B, K, T), too."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.series, self.slices = len(spec.types), spec.in_chans
        args = _arguments(spec)
        self.encoder = create_backbone(
            spec, 3 * self.series, **({"global_pool": ""} if args["features"] == "gem" else {})
        )
        self.gem = Gem() if args["features"] == "gem" else None
        self.rows = rows_of_levels(spec.image_size) if spec.canal_distances else []
        features, answers = pooled_features(self.encoder) + _REPEATED * len(self.rows), slices.shape(spec)[0]
        self.distances = answers if args["distances"] else 0
        answers += self.distances
        dropout = nn.Dropout(args["dropout"])
        if args["along"] == "lstm":
            hidden = args["hidden"] or features
            first = nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden), nn.ELU()
            head = nn.Sequential(*first, dropout, nn.Linear(hidden, answers))
            self.along: nn.Module = AlongSlices(features, hidden, head, args["layers"] or 1)
        elif args["along"] == "alone":
            self.along = Alone(nn.Sequential(dropout, nn.Linear(features, answers)))
        else:
            heads = args["heads"]
            if features % heads:
                raise InputError(
                    f"encoder {spec.encoder!r} gives {features} features, which {heads} heads cannot share; set heads "
                    "in network_args to a number that divides them"
                )
            head = nn.Sequential(dropout, nn.Linear(features, answers))
            self.along = AlongTransformer(features, args["layers"] or 2, heads, args["inner"] or features, head)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        said = self._scores(stacks)
        if not self.distances:
            return said
        scores, distances = said.split(said.shape[1] - self.distances, dim=1)
        return {"answer": scores, "distances": distances} if self.training else scores

    def _scores(self, stacks: torch.Tensor) -> torch.Tensor:
        seen = stacks[:, : self.series * self.slices]
        features = self.encoder(with_neighbours(seen, self.series))
        if self.gem is not None:
            features = self.gem(channels_first(self.encoder, features))
        features = features.unflatten(0, (-1, self.slices))
        if self.rows:
            distances = stacks[:, -self.slices :, self.rows, 0]  # (B, T, 5)
            features = torch.cat([features, distances.repeat(1, 1, _REPEATED)], -1)
        if isinstance(self.along, AlongSlices):
            return self.along(features)  # type: ignore[no-any-return]
        return self.along(features, slices_there(seen, self.series))  # type: ignore[no-any-return]


def _arguments(spec: DetectorSpec) -> dict[str, Any]:
    """The network's arguments, checked."""
    args = read_arguments(spec, _KNOWN)
    for key, words in _WORDS.items():
        if args[key] not in words:
            known = " or ".join(f'"{word}"' for word in words)
            raise InputError(f"network_args {key} = {args[key]!r:.40} cannot be used; give {known}")
    for key in _OF_OTHERS[args["along"]]:
        if key in spec.network_args:
            raise InputError(f'network_args {key!r} is nothing of along = "{args["along"]}"; leave it out')
    return args


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"slices": (False,)}, canal_distances=True)
    return SliceScores(spec)
