"""Stage 2 at work: a study's regions through one member, all levels and samples in one batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from lumbar.compute.forward import Inputs, Network, in_halves, is_out_of_memory, moved
from lumbar.ensemble.average import SMALLEST
from lumbar.grading.likeness import Features, Region
from lumbar.grading.networks.slices import listening
from lumbar.grading.regions import Regions
from lumbar.grading.tasks import Sample, heard, task_of
from lumbar.grading.turns import Look, looks, turned
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition, mirrored
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import own_views


@dataclass(frozen=True)
class Row:
    """One sample of a batch: its regions (those of one series where there are several), its levels, its views."""

    regions: Regions
    levels: tuple[int, ...]
    sample: Sample


#: Where a network's answers stand beside its features by view.
_ANSWERS: Final = "severity"
#: Batches of one study's regions that lie on a device, by what distinguishes members that see the same regions.
Batches = dict[tuple[object, ...], Inputs]


def grade(
    regions: Regions,
    spec: GraderSpec,
    network: Network,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
    batches: Batches | None = None,
    features: Features | None = None,
) -> np.ndarray:
    """Logits (5 conditions, 5 levels, 3 severities) float64; NaN where the member stays silent (see `speaks`).

    `softmax` makes probabilities of them. Where several samples answer for the same, as the series of `sagittal_series`
    or the turned looks of `tta`, they are averaged. The network is in evaluation mode on `device`; `amp` is the
    autocast type on an accelerator (None: float32). `batches` keeps what was moved to the device for the next member
    that sees the same regions. `features` gets what backbones say of the regions as they are, where the network offers
    it (see `networks.slices`).
    """
    device = torch.device(device)
    logits = np.zeros((len(CONDITIONS), len(LEVELS), len(SEVERITIES)))
    counts = np.zeros(logits.shape[:2])
    for turns in looks(spec):
        every = [regions, *regions.others]
        look = [turned(part, turns, spec) for part in every] if turns else every
        rows = [row for part in look for row in rows_of(part, spec)]
        if not rows:
            continue
        batch = batched(rows, spec) if batches is None else _kept(batches, rows, spec, turns, device)
        listens = features is not None and not turns and spec.levels != "study"
        with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            answers = in_halves(_with_features(network) if listens else network, batch, device)
        if features is not None and listens:
            described = {view: one.cpu().double().numpy() for view, one in answers.items()}
            features += _described(rows, described, spec)
            answers = answers[_ANSWERS]
        answers = as_shares(answers.cpu().double(), spec).numpy()  # (B, L, C, 3)
        for row, answer in zip(rows, answers, strict=True):
            for place, level in enumerate(row.levels):
                for condition, severities in zip(row.sample.conditions, answer[place], strict=True):
                    if speaks(row.regions, spec, row.sample, condition, level):
                        own = mirrored(condition) if "mirror" in turns else condition
                        logits[CONDITIONS.index(own), level] += severities
                        counts[CONDITIONS.index(own), level] += 1
    return np.where(counts[..., None] > 0, logits / np.maximum(counts, 1)[..., None], np.nan)


def _with_features(network: Network) -> Callable[..., Any]:
    """The network, its answers beside what its backbones say of each view, by the view's name."""

    def ask(views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> dict[str, torch.Tensor]:
        with listening() as heard:
            return {_ANSWERS: network(views, seen), **heard}

    return ask


def _described(rows: Sequence[Row], found: Mapping[str, np.ndarray], spec: GraderSpec) -> Iterator[Region]:
    """The regions of some rows that were there, each with its features; `found` (B · L, F) by view."""
    for place, name in enumerate(task_of(spec).samples[0].views):
        if name in found:
            each = found[name].reshape(len(rows), -1, found[name].shape[-1])
            for row, by_level in zip(rows, each, strict=True):
                view = row.sample.views[place]
                for level, own in zip(row.levels, by_level, strict=True):
                    if row.regions.present[view][level]:
                        yield view, level, own


def as_shares(said: torch.Tensor, spec: GraderSpec) -> torch.Tensor:
    """What a network says (…, 3) as logits whose softmax are the probabilities, see `GraderSpec.says`."""
    return torch.nn.functional.logsigmoid(said) if spec.says == "odds" else said


def rows_of(regions: Regions, spec: GraderSpec) -> list[Row]:
    """The samples of some regions for which a member speaks about anything."""
    levels = [(level,) for level in range(len(LEVELS))] if spec.levels == "one" else [tuple(range(len(LEVELS)))]
    return [
        Row(regions, some, sample)
        for some in levels
        for sample in task_of(spec).samples
        if any(speaks(regions, spec, sample, condition, level) for condition in sample.conditions for level in some)
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (…, 3) in float64; NaN where a logit is no finite number."""
    probabilities: np.ndarray = torch.softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
    return probabilities


def averaged(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Logits (5, 5, 3) of a member's answers on several sets of keypoints: of the mean probability where it speaks.

    A single answer is passed on as it is.
    """
    if len(answers) == 1:
        return answers[0]
    probabilities = softmax(np.stack(answers))
    speaks = np.isfinite(probabilities).all(axis=-1, keepdims=True)
    total = np.where(speaks, probabilities, 0.0).sum(axis=0)
    count = speaks.sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    logits: np.ndarray = np.log(np.maximum(mean, SMALLEST))
    return logits


def batched(rows: Sequence[Row], spec: GraderSpec) -> Inputs:
    """Each row's views by the names of the task's first sample, (B, L, T, C, H, W), and which of them are there; of a
    whole study L is 1.

    A view lies in one piece: it is filled once and moved as it is.
    """
    views: dict[str, torch.Tensor] = {}
    shown = [list(row.levels) if spec.levels != "study" else [0] for row in rows]
    for place, name in enumerate(task_of(spec).samples[0].views):
        stack = np.stack(
            [row.regions.tensors[row.sample.views[place]][levels] for row, levels in zip(rows, shown, strict=True)]
        )
        views[name] = torch.from_numpy(stack).unflatten(2, (-1, spec.region_of(name).channels))
    seen = [
        [[bool(row.regions.present[v][level]) for v in row.sample.views] for level in levels]
        for row, levels in zip(rows, shown, strict=True)
    ]
    return views, torch.tensor(seen)


def _kept(batches: Batches, rows: list[Row], spec: GraderSpec, turns: tuple[Look, ...], device: torch.device) -> Inputs:
    """The batch on the device, moved there once; where the device has no room for it, as it is."""
    # Which rows speak depends on nothing else.
    key = (spec.task, spec.views, spec.conditions, spec.speaks_for, spec.levels, spec.view_dropout > 0, turns)
    if key not in batches:
        batch = batched(rows, spec)
        try:
            batches[key] = moved(batch, device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return batch
    return batches[key]


def speaks(regions: Regions, spec: GraderSpec, sample: Sample, condition: Condition, level: int) -> bool:
    """Whether a member grades a condition of a level (an index of `LEVELS`).

    It does where it sees the condition's own view, or any of its views when it was trained with views left out; with
    `missing="zeros"`, the original's way, it always does. Never for what `speaks_for` leaves out.
    """
    if spec.speaks_for and condition not in heard(spec):
        return False
    if spec.preprocessing.missing == "zeros":
        return True
    views = sample.views if spec.view_dropout > 0 else own_views(condition, sample.views)
    return any(bool(regions.present[view][level]) for view in views)


def sees(regions: Regions, spec: GraderSpec) -> np.ndarray:
    """(5 conditions, 5 levels) bool: where a member sees a condition's own view, whether it speaks for it or not."""
    seen = np.zeros((len(CONDITIONS), len(LEVELS)), bool)
    for part in (regions, *regions.others):
        for sample in task_of(spec).samples:
            for condition in sample.conditions:
                for view in own_views(condition, sample.views):
                    seen[CONDITIONS.index(condition)] |= part.present[view]
    return seen


def unanswered(regions: Regions, spec: GraderSpec, logits: np.ndarray) -> np.ndarray:
    """(5 conditions, 5 levels) bool: where a member should have spoken and gave no number (see `grade`).

    Half precision can overflow.
    """
    asked = np.zeros((len(CONDITIONS), len(LEVELS)), bool)
    for part in (regions, *regions.others):
        for row in rows_of(part, spec):
            for condition in row.sample.conditions:
                for level in row.levels:
                    asked[CONDITIONS.index(condition), level] |= speaks(part, spec, row.sample, condition, level)
    return asked & ~np.isfinite(softmax(logits)).all(axis=-1)
