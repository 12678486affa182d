"""The fifth place's grader: a crop a condition, an LSTM along its slices, and one along the conditions of a level.

One 2D backbone sees every slice of every crop. A bi-LSTM runs along a crop's slices, attention (Bahdanau et al., 2015)
pools them, a second bi-LSTM runs along the conditions of the level, in the order in which they are named; each group of
conditions (canal, foramina, recesses) has a linear head. Each condition is seen on its own view. A view that is not
there has features of zero.

`network_args`: `sequence`: features, as above (the original's version 1); skip, the pooled features are added to what
the second LSTM gives (version 2); slices, one LSTM along all slices of the level's conditions, no second one (version
3). `dropout` before each group's head, one rate or one a group (0.2).
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.compute.layers import Pool
from lumbar.grading.networks.slices import showing, slice_features, stacked
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import CONDITION_GROUPS, SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import own_views

_SEQUENCES: Final = ("features", "skip", "slices")
#: The original's rate in most of its members.
_DROPOUT: Final = 0.2


class CropEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of each slice (N, T, F)."""

    def __init__(self, spec: GraderSpec, channels: int) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        self.slices_at_once: int | None = None
        self.features = int(self.backbone.num_features)  # type: ignore[arg-type]

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        return slice_features(self.backbone, stacks, self.slices_at_once)


class ConditionSequence(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level."""

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        task = task_of(spec)
        sample = task.samples[0]
        args = read_arguments(spec, {"sequence": ("word", "features"), "dropout": ("shares", (_DROPOUT,))})
        self.sequence = args["sequence"]
        groups = [[at for at, name in enumerate(sample.conditions) if name in own] for own in CONDITION_GROUPS.values()]
        groups = [places for places in groups if places]
        _refuse(spec, self.sequence, len(args["dropout"]), len(groups))
        self.views = tuple(own_views(name, sample.views)[0] for name in sample.conditions)
        self.groups, order = groups, [place for places in groups for place in places]
        self.back = [order.index(place) for place in range(len(order))]
        self.encoders = nn.ModuleList([CropEncoder(spec, spec.region_of(self.views[0]).channels)])
        own = int(self.encoders[0].features)  # type: ignore[arg-type]
        features = own + own % 2
        self.along = nn.LSTM(own, features // 2, batch_first=True, bidirectional=True)
        self.pool = Pool(features)
        self.across = (
            None
            if self.sequence == "slices"
            else nn.LSTM(features, features // 2, batch_first=True, bidirectional=True)
        )
        rates = list(args["dropout"]) * (len(groups) if len(args["dropout"]) == 1 else 1)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Dropout(rate), nn.Linear(features, len(SEVERITIES))) for rate in rates
        )
        self.places = [sample.views.index(view) for view in self.views]

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        there = seen.flatten(0, 1)[:, self.places, None]  # (N, C, 1); N is B · L, C counts conditions
        crops = stacked(views, self.views).flatten(0, 1)
        with showing(self.views):
            slices = self.encoders[0](crops).unflatten(0, (len(there), -1))  # (N, C, T, F)
        if self.sequence == "slices":
            slices = slices * there[..., None]
            along = self.along(slices.flatten(1, 2))[0].unflatten(1, slices.shape[1:3]).flatten(0, 1)
        else:
            along = self.along(slices.flatten(0, 1))[0]  # (N · C, T, F)
        features = self.pool(along).unflatten(0, (len(there), -1)) * there  # (N, C, F)
        if self.across is not None:
            across = self.across(features)[0]
            features = across + features if self.sequence == "skip" else across
        said = [head(features[:, places]) for head, places in zip(self.heads, self.groups, strict=True)]
        return torch.cat(said, dim=1)[:, self.back].unflatten(0, seen.shape[:2])


def _refuse(spec: GraderSpec, sequence: str, rates: int, groups: int) -> None:
    """InputError where these views or arguments make no sequence of crops."""
    if sequence not in _SEQUENCES:
        raise InputError(f"sequence = {sequence!r:.40} is none of {', '.join(_SEQUENCES)}; name one of them")
    if rates not in (1, groups):
        raise InputError(
            f"dropout names {rates} rates for the heads of {groups} groups of conditions; give 1 or {groups}"
        )
    sample = task_of(spec).samples[0]
    looked = {own_views(name, sample.views)[0] for name in sample.conditions}
    if idle := [view for view in sample.views if view not in looked]:
        raise InputError(f"{spec.network} sees each condition on its own view, and none on {idle[0]}; leave that out")
    forms = {view: (one.size, one.slices, one.channels) for view in looked for one in [spec.region_of(view)]}
    if len(set(forms.values())) > 1:
        raise InputError(
            f"one backbone of {spec.network} sees all views; give their regions one size and so many slices"
        )


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where views or arguments do not suit it."""
    return ConditionSequence(spec)
