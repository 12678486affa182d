"""Stage 2 at work: a study's regions through one member, all levels and samples in one batch."""

import numpy as np
import torch

from lumbar.compute.forward import Network, in_halves, is_out_of_memory, moved
from lumbar.grading.regions import Regions
from lumbar.grading.tasks import OWN_VIEW, TASKS, Sample
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition
from lumbar.recipe.grader import GraderSpec

Rows = list[tuple[int, Sample]]
#: Batches of one study's regions that lie on a device, by what distinguishes members that see the same regions.
Batches = dict[tuple[str, bool], torch.Tensor]


def grade(
    regions: Regions,
    spec: GraderSpec,
    network: Network,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
    batches: Batches | None = None,
) -> np.ndarray:
    """Probabilities (5 conditions, 5 levels, 3 severities) float64; NaN where the member stays silent (see `speaks`).

    The network is in evaluation mode on `device`; `amp` is the autocast type on an accelerator (None: float32).
    `batches` keeps what was moved to the device for the next member that sees the same regions.
    """
    device = torch.device(device)
    probabilities = np.full((len(CONDITIONS), len(LEVELS), len(SEVERITIES)), np.nan)
    rows: Rows = [
        (level, sample)
        for level in range(len(LEVELS))
        for sample in TASKS[spec.task].samples
        if any(speaks(regions, spec, sample, condition, level) for condition in sample.conditions)
    ]
    if not rows:
        return probabilities
    batch = _batched(regions, rows) if batches is None else _kept(batches, regions, rows, spec, device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        logits = in_halves(network, batch, device)  # (B, C, 3)
    answers = torch.softmax(logits.cpu().double(), dim=-1).numpy()
    for (level, sample), answer in zip(rows, answers, strict=True):
        for condition, severities in zip(sample.conditions, answer, strict=True):
            if speaks(regions, spec, sample, condition, level):
                probabilities[CONDITIONS.index(condition), level] = severities
    return probabilities


def _batched(regions: Regions, rows: Rows) -> torch.Tensor:
    """(B, V, T, S, S): the views of each row."""
    return torch.from_numpy(
        np.stack([np.stack([regions.tensors[view][level] for view in sample.views]) for level, sample in rows])
    )


def _kept(batches: Batches, regions: Regions, rows: Rows, spec: GraderSpec, device: torch.device) -> torch.Tensor:
    """The batch on the device, moved there once; where the device has no room for it, as it is."""
    key = spec.task, spec.view_dropout > 0  # which rows speak depends on nothing else
    if key not in batches:
        batch = _batched(regions, rows)
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


def is_unanswered(regions: Regions, spec: GraderSpec, probabilities: np.ndarray) -> bool:
    """Whether a member that should have spoken gave no number anywhere (`unanswered`): half precision can overflow."""
    return bool(unanswered(regions, spec, probabilities).any())


def unanswered(regions: Regions, spec: GraderSpec, probabilities: np.ndarray) -> np.ndarray:
    """(5 conditions, 5 levels) bool: where a member should have spoken and gave no number (see `grade`)."""
    silent = np.zeros((len(CONDITIONS), len(LEVELS)), bool)
    for level in range(len(LEVELS)):
        for sample in TASKS[spec.task].samples:
            for condition in sample.conditions:
                place = CONDITIONS.index(condition), level
                silent[place] |= (
                    speaks(regions, spec, sample, condition, level) and not np.isfinite(probabilities[place]).all()
                )
    return silent
