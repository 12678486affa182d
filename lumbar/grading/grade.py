"""Stage 2 at work: a study's regions through one member, all levels and samples in one batch."""

from collections.abc import Sequence

import numpy as np
import torch

from lumbar.compute.forward import Inputs, Network, in_halves, is_out_of_memory, moved
from lumbar.ensemble.average import SMALLEST
from lumbar.grading.regions import Regions
from lumbar.grading.tasks import Sample, task_of
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW

Rows = list[tuple[int, Sample]]
#: Batches of one study's regions that lie on a device, by what distinguishes members that see the same regions.
Batches = dict[tuple[str, bool], Inputs]


def grade(
    regions: Regions,
    spec: GraderSpec,
    network: Network,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
    batches: Batches | None = None,
) -> np.ndarray:
    """Logits (5 conditions, 5 levels, 3 severities) float64; NaN where the member stays silent (see `speaks`).

    `softmax` makes probabilities of them. The network is in evaluation mode on `device`; `amp` is the autocast type on
    an accelerator (None: float32). `batches` keeps what was moved to the device for the next member that sees the same
    regions.
    """
    device = torch.device(device)
    logits = np.full((len(CONDITIONS), len(LEVELS), len(SEVERITIES)), np.nan)
    rows: Rows = [
        (level, sample)
        for level in range(len(LEVELS))
        for sample in task_of(spec).samples
        if any(speaks(regions, spec, sample, condition, level) for condition in sample.conditions)
    ]
    if not rows:
        return logits
    batch = batched(regions, rows, spec) if batches is None else _kept(batches, regions, rows, spec, device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        found = in_halves(network, batch, device)  # (B, 1, C, 3)
    for (level, sample), answer in zip(rows, found[:, 0].cpu().double().numpy(), strict=True):
        for condition, severities in zip(sample.conditions, answer, strict=True):
            if speaks(regions, spec, sample, condition, level):
                logits[CONDITIONS.index(condition), level] = severities
    return logits


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


def batched(regions: Regions, rows: Rows, spec: GraderSpec) -> Inputs:
    """Each row's views by the names of the task's first sample, (B, 1, T, 1, H, W), and which of them are there.

    A view lies in one piece: it is filled once and moved as it is.
    """
    names = task_of(spec).samples[0].views
    views: dict[str, torch.Tensor] = {
        name: torch.from_numpy(np.stack([regions.tensors[sample.views[place]][level] for level, sample in rows]))[
            :, None, :, None
        ]
        for place, name in enumerate(names)
    }
    seen = [[bool(regions.present[view][level]) for view in sample.views] for level, sample in rows]
    return views, torch.tensor(seen)[:, None]


def _kept(batches: Batches, regions: Regions, rows: Rows, spec: GraderSpec, device: torch.device) -> Inputs:
    """The batch on the device, moved there once; where the device has no room for it, as it is."""
    key = spec.task, spec.view_dropout > 0  # which rows speak depends on nothing else
    if key not in batches:
        batch = batched(regions, rows, spec)
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
    `missing="zeros"`, the original's way, it always does.
    """
    if spec.preprocessing.missing == "zeros" or bool(regions.present[OWN_VIEW[condition]][level]):
        return True
    return spec.view_dropout > 0 and any(bool(regions.present[view][level]) for view in sample.views)


def unanswered(regions: Regions, spec: GraderSpec, logits: np.ndarray) -> np.ndarray:
    """(5 conditions, 5 levels) bool: where a member should have spoken and gave no number (see `grade`).

    Half precision can overflow.
    """
    silent = np.zeros((len(CONDITIONS), len(LEVELS)), bool)
    probabilities = softmax(logits)
    for level in range(len(LEVELS)):
        for sample in task_of(spec).samples:
            for condition in sample.conditions:
                place = CONDITIONS.index(condition), level
                silent[place] |= (
                    speaks(regions, spec, sample, condition, level) and not np.isfinite(probabilities[place]).all()
                )
    return silent
