"""The seventh place's graders: the slices of a sagittal region are the channels of one image.

One backbone sees the regions of all sagittal views; for each condition the features of its own view pass to one head.
With five levels a bi-LSTM along them is added to the features. Where axial views stand beside, each of their slices
passes a backbone of its own, a GRU goes both ways along them (`rnn_hidden`, `rnn_layers`), and one linear layer answers
from the features of all views. A view that was not seen has no features.

`network_args`: hidden (512) features of a region; gate (false): they are multiplied by what the condition's name says,
so that one view can answer for several; features (128) of each condition beside axial views; fuse = "add" (default):
that linear layer's answer is added to what the sagittal regions answer alone; "join": it alone counts, and axial views
have as few features; dropout (0.1); axial_backbone, axial_args: a backbone of another name for axial slices.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.grading.networks.gru import SliceEncoder
from lumbar.grading.networks.slices import showing, slice_features, stacked
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, SEVERITIES, Condition, side_of
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.region import Region
from lumbar.recipe.views import OWN_VIEW, View

_NAMED: Final = "'slice_channels'"
#: How many numbers a condition's name is, before the gate's layers.
_NAME: Final = 64


class RegionEncoder(nn.Module):
    """(N, T, C, H, W) slices → (N, hidden) features; of more or fewer slices than it knows the nearest are taken."""

    def __init__(self, spec: GraderSpec, region: Region, hidden: int) -> None:
        super().__init__()
        self.slices = region.slices
        self.backbone = create_backbone(spec, region.frames)
        self.slices_at_once: int | None = None
        features: Any = self.backbone.num_features
        self.neck = nn.Linear(features, hidden)

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        count = regions.shape[1]
        if count != self.slices:
            regions = regions[:, [place * count // self.slices for place in range(self.slices)]]
        images = regions.flatten(1, 2).unsqueeze(1)  # (N, 1, T · C, H, W)
        found: torch.Tensor = self.neck(slice_features(self.backbone, images, self.slices_at_once)[:, 0])
        return found


class Gate(nn.Module):
    """Conditions (K,) by number → how much each feature of theirs counts (K, hidden), 0 … 1."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.names = nn.Embedding(len(CONDITIONS), _NAME)
        widths = [_NAME, max(hidden // 4, 1), max(hidden // 2, 1), hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, conditions: torch.Tensor) -> torch.Tensor:
        return self.layers(self.names(conditions)).sigmoid()


class ChannelGrader(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3)."""

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        width: Kind = "even" if spec.levels == "all" else "whole"
        known: Any = {"hidden": (width, 512), "gate": ("flag", False), "features": ("whole", 128)}
        known |= {"fuse": ("word", "add"), "dropout": ("share", 0.1)}
        given = read_arguments(spec, known | {"axial_backbone": ("word", ""), "axial_args": ("table", {})})
        hidden, sample = given["hidden"], task_of(spec).samples[0]
        self.views, self.conditions = sample.views, len(sample.conditions)
        self.axial = [view for view in self.views if view.startswith("axial")]
        self.sagittal, self.view_of = _sagittal(sample.views, sample.conditions, gate=given["gate"])
        self.encoders = nn.ModuleList([RegionEncoder(spec, _region(spec, self.sagittal), hidden)])
        self.gate = Gate(hidden) if given["gate"] else None
        numbers = torch.tensor([CONDITIONS.index(name) for name in sample.conditions])
        self.register_buffer("numbers", numbers, persistent=False)
        self.along = _along(hidden, spec.rnn_layers) if spec.levels == "all" else None
        self.dropout = nn.Dropout(given["dropout"])
        self.fuse, answers = _fuse(spec, given["fuse"], axial=bool(self.axial)), len(SEVERITIES)
        self.head = _two_layers(hidden, hidden, answers) if self.fuse != "join" else None
        if self.axial:
            encoder = SliceEncoder(_of_axial(spec, given), _region(spec, self.axial).channels, bidirectional=True)
            self.encoders.append(encoder)
            self.features = _two_layers(hidden, hidden, given["features"])
            axial = given["features"] if self.fuse == "join" else encoder.features
            self.axial_features = _two_layers(encoder.features, hidden, axial) if self.fuse == "join" else None
            total = self.conditions * given["features"] + len(self.axial) * axial
            self.fused = nn.Linear(total, self.conditions * answers)

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        there = self._seen(seen, [self.sagittal[place] for place in self.view_of])
        each = self.dropout(self._of_conditions(views, there, seen.shape[:2]))
        logits = self.head(each) if self.head is not None else None
        if self.axial:
            bags = stacked(views, self.axial)
            with showing(self.axial):
                found = self.encoders[1](bags.flatten(0, 1)).unflatten(0, bags.shape[:2])  # (B · L, views, 2 · hidden)
            if self.axial_features is not None:
                found = self.axial_features(self.dropout(found))
            found = found * self._seen(seen, self.axial)
            told = torch.cat([(self.features(each) * there).flatten(1), found.flatten(1)], dim=1)
            fused = self.fused(told).unflatten(1, (self.conditions, -1))
            logits = fused if logits is None else logits * there + fused
        assert logits is not None
        return logits.unflatten(0, seen.shape[:2])

    def _of_conditions(
        self, views: Mapping[str, torch.Tensor], there: torch.Tensor, samples: Sequence[int]
    ) -> torch.Tensor:
        """The features (B · L, K, hidden) of each condition, from views that are `there` (B · L, K, 1).

        `samples`: B and L.
        """
        regions = stacked(views, self.sagittal)
        with showing(self.sagittal):
            found = self.encoders[0](regions.flatten(0, 1)).unflatten(0, regions.shape[:2])
        each: torch.Tensor = found[:, self.view_of]
        if self.gate is not None:
            each = each * self.gate(self.numbers)
        each = each * there  # a level that was not seen says nothing to the others
        if self.along is not None:
            rows = each.unflatten(0, samples).transpose(1, 2)  # (B, K, L, hidden)
            rows = rows + self.along(rows.flatten(0, 1))[0].unflatten(0, rows.shape[:2])
            each = rows.transpose(1, 2).flatten(0, 1)
        return each

    def _seen(self, seen: torch.Tensor, names: Sequence[View]) -> torch.Tensor:
        """Which of these views are there, (B · L, names, 1)."""
        return seen.flatten(0, 1)[:, [self.views.index(name) for name in names], None]


def _along(hidden: int, layers: int) -> nn.Module:
    return nn.LSTM(hidden, hidden // 2, layers, batch_first=True, bidirectional=True)


def _two_layers(inward: int, hidden: int, outward: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inward, hidden), nn.LeakyReLU(), nn.Linear(hidden, outward))


def _sagittal(views: Sequence[View], conditions: Sequence[Condition], *, gate: bool) -> tuple[list[View], list[int]]:
    """The sagittal views that conditions are graded on, and the place in these of each condition's.

    Raises InputError where a condition has none, or shares its view without a gate.
    """
    of_condition: list[View] = []
    for condition in conditions:
        found = next((view for view in _preferred(condition) if view in views), None)
        if found is None:
            raise InputError(f"network {_NAMED} sees no sagittal view of {condition}; add one, or name network 'gru'")
        if found in of_condition and not gate:
            raise InputError(
                f"network {_NAMED} would answer several conditions of {found} alike; set network_args gate = true"
            )
        of_condition.append(found)
    sagittal = list(dict.fromkeys(of_condition))
    idle = [view for view in views if view not in sagittal and not view.startswith("axial")]
    if idle:
        raise InputError(f"network {_NAMED} grades no condition on {', '.join(idle)}; leave it out of its views")
    return sagittal, [sagittal.index(view) for view in of_condition]


def _preferred(condition: Condition) -> list[View]:
    """The sagittal views that show a condition, the best one first: T1 foramina, T2 all else."""
    side, planes = side_of(condition), ("sagittal_t2", "sagittal_t1")
    if OWN_VIEW[condition].startswith("sagittal_t1"):
        planes = planes[::-1]
    sided = [name for plane in planes for name in (f"{plane}_{side}", plane)]
    return [*sided, "sagittal_series"]  # type: ignore[list-item]


def _region(spec: GraderSpec, views: Sequence[View]) -> Region:
    """The region that all these views have. Raises InputError where they differ: one backbone sees them."""
    regions = [spec.region_of(view) for view in views]
    if len({(region.size, region.frames) for region in regions}) > 1:
        raise InputError(
            f"network {_NAMED} sees {', '.join(views)} by one backbone; give them the same size, slices and neighbours"
        )
    return regions[0]


def _of_axial(spec: GraderSpec, given: Mapping[str, Any]) -> GraderSpec:
    """The spec with the backbone that sees axial slices."""
    if not given["axial_backbone"]:
        return spec
    return spec.model_copy(update={"backbone": given["axial_backbone"], "backbone_args": given["axial_args"]})


def _fuse(spec: GraderSpec, word: str, *, axial: bool) -> str:
    if word not in ("add", "join"):
        raise InputError(f'network_args fuse = {word!r} is no way to fuse; write "add" or "join"')
    if "fuse" in spec.network_args and not axial:
        raise InputError("network_args 'fuse' joins sagittal with axial views; add one of these, or leave it out")
    if {"axial_backbone", "axial_args"} & spec.network_args.keys() and not axial:
        raise InputError("network_args 'axial_backbone' sees axial views; add one of these, or leave it out")
    if "axial_args" in spec.network_args and "axial_backbone" not in spec.network_args:
        raise InputError("network_args 'axial_args' are those of an axial_backbone; name one, or leave them out")
    return word


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return ChannelGrader(spec)
