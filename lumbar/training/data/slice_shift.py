"""How far windows of slices are shifted in training: as the recipe says, or as far as the run's own detectors err."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from lumbar.labels import KEYPOINT_SERIES, SeriesType
from lumbar.recipe.settings import Training
from lumbar.training.data.packs import read_header
from lumbar.training.setup import Setup

#: Probabilities of 0, ±1, ±2, … slices.
Shares = tuple[float, ...]
#: With "own": farther errors count as so many slices.
OWN_REACH: Final = 2


def reach(training: Training) -> int:
    """Slices that a window may be shifted by, either way."""
    if training.slice_shift == "own":
        return OWN_REACH
    return max(0, len(training.slice_shift) - 1)


def draw(rng: np.random.Generator, shares: Shares) -> int:
    """How far one window is shifted, in slices; either way is as likely."""
    far = int(rng.choice(len(shares), p=np.array(shares) / sum(shares)))
    return -far if rng.random() < 0.5 else far


def shares_of(errors: Sequence[int]) -> Shares:
    """Probabilities of 0, ±1 and ±2 slices by errors in slices, whichever way; no shift where there is no error."""
    far = np.minimum(np.abs(np.array(errors, np.int64)), OWN_REACH)
    counts = np.bincount(far, minlength=OWN_REACH + 1)
    return tuple((counts / counts.sum()).tolist()) if counts.sum() else (1.0,)


def own_shares(setup: Setup, studies: Sequence[int], number: int = 0) -> dict[SeriesType, Shares]:
    """For each series type: how far found keypoints of these studies lie from their labels, out of fold, in slices.

    `number` of the set of keypoints.

    Counted where both lie on one series, in its order of slices.
    """
    folds = setup.recipe.folds.train
    found, told = setup.folder.keypoints_by_set(folds)[number], setup.folder.labelled_keypoints(folds)
    errors: dict[SeriesType, list[int]] = {}
    for study in studies:
        places = _places(setup, study)
        labelled = {(point.condition, point.level): point for point in told.get(study, ())}
        for point in found.get(study, ()):
            label = labelled.get((point.condition, point.level))
            if label is None or label.series_id != point.series_id:
                continue
            order = places.get(point.series_id, {})
            if point.instance in order and label.instance in order:
                error = order[point.instance] - order[label.instance]
                errors.setdefault(KEYPOINT_SERIES[point.condition], []).append(error)
    return {series_type: shares_of(values) for series_type, values in errors.items()}


def _places(setup: Setup, study: int) -> Mapping[int, Mapping[int, int]]:
    """Place in its series of every instance, by series."""
    header = read_header(setup.packs.path(study)) or {}
    return {
        entry["series_id"]: {row["instance"]: place for place, row in enumerate(entry["slices"])}
        for group in header.get("series", {}).values()
        for entry in group
    }
