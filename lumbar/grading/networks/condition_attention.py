"""The fourth place's grader: one transformer over the slices of all views, and attention of its own for each condition.

Mean and maximum of the last maps of each slice make its token. Tokens know their place in the row; post-norm
transformer layers (Vaswani et al. 2017) let them look at each other; each condition then weighs them by itself. A view
that is not there has no tokens, nor has a slice without contrast, as padding has none.

`network_args`, the defaults its first form (exp076), in brackets its second (exp107): `encoders`: `planes`, one for
sagittal and one for axial views ("one"; or "views", one a kind of view); `positions`: "all" counts slices through all
views ("view": in each view from 0); `weights`: "token", one number a slice ("feature": one a feature of it);
`auxiliary`: "own", what each condition's own views say before the transformer, is asked in training, too ("all" views;
or "none"); `hidden` (256) features, `layers` (2), `heads` (8) and `inner` features (1024) of the transformer;
`token_dropout` (0.1): the most of a batch's tokens that is left out in training; `dropout` before the answers (0.2).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from lumbar.backbones import channels_first, create_backbone
from lumbar.compute.layers import Block
from lumbar.grading.networks.slices import slice_features, tell
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import SEVERITIES, Condition
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW, View, kind_of, own_views, series_of

_KNOWN: Final[Mapping[str, tuple[Kind, Any]]] = {
    "encoders": ("word", "planes"),
    "positions": ("word", "all"),
    "weights": ("word", "token"),
    "auxiliary": ("word", "own"),
    "hidden": ("even", 256),
    "layers": ("whole", 2),
    "heads": ("whole", 8),
    "inner": ("whole", 1024),
    "token_dropout": ("share", 0.1),
    "dropout": ("share", 0.2),
}
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "encoders": ("planes", "one", "views"),
    "positions": ("all", "view"),
    "weights": ("token", "feature"),
    "auxiliary": ("own", "all", "none"),
}
#: Wave lengths of places grow to this many times 2 pi (Vaswani et al. 2017).
_LONGEST: Final = 10_000.0


class LastMaps(nn.Module):
    """(N, C, H, W) images → mean, then maximum of each one's last maps (N, 2 F): one tensor, as engines want it."""

    def __init__(self, spec: GraderSpec, channels: int) -> None:
        super().__init__()
        self.maps = create_backbone(spec, channels, features_only=True)
        self.features = 2 * int(self.maps.feature_info.channels()[-1])  # type: ignore[operator, union-attr]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = channels_first(self.maps, self.maps(images)[-1])
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


class MapsEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of each (N, T, 2 F), see `LastMaps`."""

    def __init__(self, spec: GraderSpec, channels: int) -> None:
        super().__init__()
        self.backbone = LastMaps(spec, channels)
        self.features = self.backbone.features
        self.slices_at_once: int | None = None

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        return slice_features(self.backbone, stacks, self.slices_at_once)


class TokenDropout(nn.Module):
    """Which tokens there are (N, T) → of those a random share less, in training; the share is new for each batch."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, there: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.most):
            return there
        share = torch.rand((), device=there.device) * self.most
        return there & (torch.rand(there.shape, device=there.device) >= share)


class ConditionHeads(nn.Module):
    """Tokens (N, T, F) → severities (N, C, 3): each condition weighs those that are `there` for it (N, T, 1 or C)."""

    def __init__(self, features: int, conditions: int, *, by_feature: bool, dropout: float) -> None:
        super().__init__()
        self.each = (conditions, len(SEVERITIES))
        self.score = nn.Linear(features, conditions * (features if by_feature else 1))
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(features, conditions * len(SEVERITIES))

    def forward(self, tokens: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        scores = self.score(tokens).unflatten(-1, (self.each[0], -1)).float()  # (N, T, C, 1 or F)
        seen = there[..., None]
        weights = scores.masked_fill(~seen, torch.finfo(torch.float32).min).softmax(dim=1) * seen
        pooled = self.dropout((weights.to(tokens.dtype) * tokens[:, :, None]).sum(dim=1))  # (N, C, F)
        weight, bias = self.answer.weight.view(*self.each, -1), self.answer.bias.view(self.each)
        found = torch.einsum("ncf,csf->ncs", pooled, weight)
        return found + bias.to(found.dtype)  # as a linear layer adds it under autocast


class ConditionAttention(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level.

    In training a mapping: `severity` is that, `auxiliary` the same from the tokens as the encoders give them.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        args = _arguments(spec)
        task, hidden = task_of(spec), args["hidden"]
        self.views, self.kind_of_view = task.samples[0].views, task.encoders
        self.encoder_of_view = _shared(self.views, args["encoders"])
        channels = _channels(spec, self.views, self.encoder_of_view)
        self.encoders = nn.ModuleList(MapsEncoder(spec, own) for own in channels)
        kinds = dict(zip(self.kind_of_view, self.encoder_of_view, strict=True))
        self.necks = nn.ModuleList(
            nn.Sequential(nn.Linear(int(self.encoders[at].features), hidden), nn.GELU(), nn.LayerNorm(hidden))  # type: ignore[arg-type]
            for _, at in sorted(kinds.items())
        )
        self.through, self.drop = args["positions"] == "all", TokenDropout(args["token_dropout"])
        self.blocks = nn.ModuleList(Block(hidden, args["heads"], args["inner"], nn.GELU) for _ in range(args["layers"]))
        conditions = task.samples[0].conditions
        form: Any = {"by_feature": args["weights"] == "feature", "dropout": args["dropout"]}
        self.heads = ConditionHeads(hidden, len(conditions), **form)
        self.beside = ConditionHeads(hidden, len(conditions), **form) if args["auxiliary"] != "none" else None
        everywhere = args["auxiliary"] != "own"
        #: Whether what a view says before the transformer counts for a condition, view by view.
        self.counts_for = [
            [everywhere or view in _read_on(name, self.views) for name in conditions] for view in self.views
        ]

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        tokens, there = self._tokens([views[name].flatten(0, 1) for name in self.views], seen.flatten(0, 1))
        counts = [views[name].shape[2] for name in self.views]
        kept = self.drop(there)
        kept = kept | ~kept.any(-1, keepdim=True)  # something must be looked at
        places = [sum(counts)] if self.through else counts
        code = torch.cat([_sines(count, tokens) for count in places])
        slices = tokens * kept[..., None] + code
        for block in self.blocks:
            slices = block(slices, kept)
        logits = self.heads(slices, kept[..., None]).unflatten(0, seen.shape[:2])
        if not self.training:
            return logits
        found = {"severity": logits}
        if self.beside is not None:
            counts_for = torch.tensor(self.counts_for, device=there.device)
            own = torch.cat([one.expand(count, -1) for one, count in zip(counts_for, counts, strict=True)])
            found["auxiliary"] = self.beside(tokens, there[..., None] & own).unflatten(0, seen.shape[:2])
        return found

    def _tokens(self, stacks: Sequence[torch.Tensor], seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of all slices, view after view (N, T, F), and which of them there are (N, T)."""
        found: dict[int, torch.Tensor] = {}
        for index, encoder in enumerate(self.encoders):
            places = [place for place, at in enumerate(self.encoder_of_view) if at == index]
            counts = [stacks[place].shape[1] for place in places]
            maps = encoder(torch.cat([stacks[place] for place in places], dim=1)).split(counts, dim=1)
            for place, own in zip(places, maps, strict=True):
                tell(self.views[place], own)
            found |= {place: self.necks[self.kind_of_view[place]](own) for place, own in zip(places, maps, strict=True)}
        there = [
            (stack.amax((2, 3, 4)) > stack.amin((2, 3, 4))) & seen[:, [place]] for place, stack in enumerate(stacks)
        ]
        return torch.cat([found[place] for place in sorted(found)], dim=1), torch.cat(there, dim=1)


def _sines(count: int, like: torch.Tensor) -> torch.Tensor:
    """What tokens at places 0 … count - 1 are told of them (count, F): sines, then cosines, of growing wave lengths."""
    half = like.shape[-1] // 2
    rates = torch.exp(torch.arange(half, device=like.device) * (-math.log(_LONGEST) / half))
    angles = torch.arange(count, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)


def _read_on(condition: Condition, views: Sequence[View]) -> list[View]:
    """The views on which a condition is graded by a reader, of its side or of both; else all that show it."""
    shown = own_views(condition, views)
    return [view for view in shown if series_of(view) == series_of(OWN_VIEW[condition])] or list(shown)


def _shared(views: Sequence[View], how: str) -> list[int]:
    """Which encoder sees each view."""
    keys = ["" if how == "one" else view.partition("_")[0] if how == "planes" else kind_of(view) for view in views]
    known = list(dict.fromkeys(keys))
    return [known.index(key) for key in keys]


def _channels(spec: GraderSpec, views: Sequence[View], encoder_of_view: Sequence[int]) -> list[int]:
    """Channels of each encoder's slices. Raises InputError where its views differ in them or in size."""
    found: list[int] = []
    for index in range(max(encoder_of_view) + 1):
        own = [view for view, at in zip(views, encoder_of_view, strict=True) if at == index]
        forms = {(spec.region_of(view).channels, *spec.region_of(view).size) for view in own}
        if len(forms) > 1:
            raise InputError(
                f"one encoder sees {', '.join(own)}, whose regions differ in size or channels; make them alike, or set "
                'network_args encoders = "views"'
            )
        found.append(forms.pop()[0])
    return found


def _arguments(spec: GraderSpec) -> dict[str, Any]:
    """The network's arguments, checked."""
    args = read_arguments(spec, _KNOWN)
    for key, words in _WORDS.items():
        if args[key] not in words:
            known = ", ".join(f'"{word}"' for word in words)
            raise InputError(f"network_args {key} = {args[key]!r:.40} cannot be used; give one of {known}")
    if args["hidden"] % args["heads"]:
        raise InputError(
            f"network_args hidden = {args['hidden']} cannot be shared by {args['heads']} heads; correct one"
        )
    return args


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where views of one encoder differ."""
    return ConditionAttention(spec)
