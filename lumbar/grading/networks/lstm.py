"""The sixth place's grader: a bi-LSTM along the slices, its mean and its maximum side by side, a linear layer.

`network_args`: hidden, features of the LSTM a direction (a quarter of the backbone's); dropout before the answers (0);
sides: the canal is answered from the middle slice and `delta` (2) on either side of it, the patient's right from the
first slice to the middle one, the left from there to the last, each by an LSTM and a layer of its own. Such a member
sees sagittal views of both sides, whose slices run from the patient's right to left.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.grading.networks.slices import channels_of, encoded, slice_features
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import SEVERITIES, Condition, side_of
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View, side_of_view

#: Which slices of a region one LSTM sees.
Part = Literal["all", "middle", "left", "right"]


class Along(nn.Module):
    """Features of slices (N, T, F) → (N, 4 · hidden): a bi-LSTM along them, its mean, then its maximum."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        along, _ = self.lstm(slices)
        return torch.cat([along.mean(dim=1), along.amax(dim=1)], dim=-1)


class PartEncoder(nn.Module):
    """(N, T, C, H, W) slices → the features of each part of them, (N, 4 · hidden) each.

    Of `delta` slices on either side of the middle one, of those from there to the patient's left or right, or of all.
    """

    def __init__(self, spec: GraderSpec, channels: int, given: Mapping[str, Any], parts: Sequence[Part]) -> None:
        super().__init__()
        self.backbone = create_backbone(spec, channels)
        self.slices_at_once: int | None = None
        features = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.hidden, self.parts, self.delta = given["hidden"] or max(features // 4, 1), tuple(parts), given["delta"]
        self.along = nn.ModuleList(Along(features, self.hidden) for _ in self.parts)

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor, ...]:
        slices = slice_features(self.backbone, stacks, self.slices_at_once)
        middle = slices.shape[1] // 2
        shown = {
            "all": slices,
            "middle": slices[:, max(middle - self.delta, 0) : middle + self.delta + 1],
            "left": slices[:, middle:],
            "right": slices[:, : middle + 1],
        }
        return tuple(along(shown[part]) for along, part in zip(self.along, self.parts, strict=True))


class LstmGrader(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level."""

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        known: Any = {"hidden": ("whole", None), "dropout": ("share", 0.0), "sides": ("flag", False)}
        given = read_arguments(spec, known | {"delta": ("whole", 2)})
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        answered = _answered(task.samples[0].conditions, sides=given["sides"])
        for view in self.views if given["sides"] else ():
            _refuse_without_sides(spec, view, given["delta"])
        self.encoders = nn.ModuleList(PartEncoder(spec, channels, given, [*answered]) for channels in channels_of(spec))
        features = 4 * int(self.encoders[0].hidden) * len(self.views)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(given["dropout"])
        self.heads = nn.ModuleList(nn.Linear(features, len(own) * len(SEVERITIES)) for own in answered.values())
        places = [place for own in answered.values() for place in own]
        self.order = [places.index(place) for place in range(len(places))]

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        found = encoded(self.encoders, self.encoder_of_view, self.views, views)
        by_part = [torch.cat(own, dim=-1) for own in zip(*found, strict=True)]  # (B · L, V · 4 · hidden) each
        said = [head(self.dropout(part)) for head, part in zip(self.heads, by_part, strict=True)]
        logits = torch.cat(said, dim=-1).unflatten(-1, (-1, len(SEVERITIES)))[:, self.order]
        return logits.unflatten(0, seen.shape[:2])


def _answered(conditions: Sequence[Condition], *, sides: bool) -> dict[Part, list[int]]:
    """The places of the conditions that each part answers."""
    if not sides:
        return {"all": list(range(len(conditions)))}
    found: dict[Part, list[int]] = {"middle": [], "left": [], "right": []}
    for place, name in enumerate(conditions):
        found[side_of(name) or "middle"].append(place)
    return {part: places for part, places in found.items() if places}


def _refuse_without_sides(spec: GraderSpec, view: View, delta: int) -> None:
    """InputError where the slices of a view do not tell left from right, or have no middle."""
    if view.startswith("axial") or side_of_view(view) is not None:
        raise InputError(f"network_args sides need a sagittal view of both sides, and {view} is none; leave them out")
    count = spec.region_of(view).slices
    if count % 2 == 0 or count < 2 * delta + 1:
        raise InputError(
            f"network_args sides count from the middle one of {count} slices, {delta} either way for the canal; make "
            f"slices odd, and {2 * delta + 1} or more"
        )


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return LstmGrader(spec)
