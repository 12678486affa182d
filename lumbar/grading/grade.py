"""Stage 2 at work: a study's regions through one member, all levels and samples in one batch."""

import numpy as np
import torch

from lumbar.compute.faults import Network, in_halves
from lumbar.grading.regions import Regions
from lumbar.grading.tasks import OWN_VIEW, TASKS, Sample
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition
from lumbar.member import GraderSpec


def grade(
    regions: Regions,
    spec: GraderSpec,
    network: Network,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
) -> np.ndarray:
    """Probabilities (5 conditions, 5 levels, 3 severities) float64; NaN where the member stays silent (see `speaks`).

    The network is in evaluation mode on `device`; `amp` is the autocast type on an accelerator (None: float32).
    """
    device = torch.device(device)
    probabilities = np.full((len(CONDITIONS), len(LEVELS), len(SEVERITIES)), np.nan)
    rows = [
        (level, sample)
        for level in range(len(LEVELS))
        for sample in TASKS[spec.task].samples
        if any(speaks(regions, spec, sample, condition, level) for condition in sample.conditions)
    ]
    if not rows:
        return probabilities
    views = np.stack([np.stack([regions.tensors[view][level] for view in sample.views]) for level, sample in rows])
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        logits = in_halves(network, torch.from_numpy(views), device)  # (B, C, 3)
    answers = torch.softmax(logits.double(), dim=-1).cpu().numpy()
    for (level, sample), answer in zip(rows, answers, strict=True):
        for condition, severities in zip(sample.conditions, answer, strict=True):
            if speaks(regions, spec, sample, condition, level):
                probabilities[CONDITIONS.index(condition), level] = severities
    return probabilities


def speaks(regions: Regions, spec: GraderSpec, sample: Sample, condition: Condition, level: int) -> bool:
    """Whether a member grades a condition of a level (an index of `LEVELS`).

    It does where it sees the condition's own view, or any of its views when it was trained with views left out; with
    `missing="zeros"`, the original's way, it always does.
    """
    if spec.preprocessing.missing == "zeros" or bool(regions.present[OWN_VIEW[condition]][level]):
        return True
    return spec.view_dropout > 0 and any(bool(regions.present[view][level]) for view in sample.views)
