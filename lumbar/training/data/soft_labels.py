"""Labels that are shares of the severities: a table of probabilities beside what a reader said. In training only."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, SEVERITIES, Condition
from lumbar.metric import UNLABELLED, prediction_array, read_predictions


class SoftLabels:
    """A table of probabilities, and how much of it counts where there is a label, too."""

    def __init__(self, path: Path | str, studies: Iterable[int], share: float) -> None:
        """`share` of the table in a row that is labelled. Raises InputError where the table holds none of `studies`."""
        names = np.array(sorted(set(studies)), np.int64)
        table = prediction_array(read_predictions(path), names)  # NaN where a row is absent
        table = table / table.sum(-1, keepdims=True)
        if not len(names) or np.isnan(table).all():
            raise InputError(f"{path}: soft_labels has a row of none of the studies; give a table of this data")
        self.share = share
        self.table = dict(zip(names.tolist(), table.astype(np.float32), strict=True))

    def of(self, study: int, conditions: Sequence[Condition], level: int) -> np.ndarray:
        """(C, 3) shares of the severities, NaN where the table says nothing."""
        return self.table[study][[CONDITIONS.index(name) for name in conditions], level]

    def targets(self, labels: np.ndarray, soft: np.ndarray) -> np.ndarray:
        """What training asks for: labels (…, C) and soft ones (…, C, 3) as shares; zero where neither is known."""
        hard = np.eye(len(SEVERITIES), dtype=np.float32)[np.maximum(labels, 0)]
        told, guessed = (labels != UNLABELLED)[..., None], np.isfinite(soft).all(-1, keepdims=True)
        share = np.where(guessed, np.where(told, self.share, 1.0), 0.0)
        mixed = share * np.where(guessed, soft, 0) + (1 - share) * np.where(told, hard, 0)
        return mixed.astype(np.float32)
