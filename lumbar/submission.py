"""Probabilities to submission rows: 25 a study, rounded and validated. Nothing here imports torch."""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import pandas as pd

from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, SUBMISSION_COLUMNS, row_ids

#: No severity is ever ruled out: a softmax that underflowed to zero would cost a severe row 4 × 36 nats, this 4 × 13.8.
FLOOR: Final = 1e-6
#: Decimals of a run's submission. Sums of other batches or threads differ by some 1e-8; what is written does not. What
#: rounds to nothing keeps half a unit.
DECIMALS: Final = 4
#: How far a row's sum may lie from 1.
SUM_TOLERANCE: Final = 1e-9
#: Rows per study.
ROWS: Final = len(CONDITIONS) * len(LEVELS)


def to_rows(study_ids: Sequence[int], probabilities: np.ndarray) -> pd.DataFrame:
    """The submission table: study by study as given, rows in the order of `LABEL_COLUMNS`.

    `probabilities`: (N, 5 conditions, 5 levels, 3 severities). Rows are raised to `FLOOR` and renormalised in float64.
    ValueError where the shape is wrong or a cell is no distribution (a silent cell must have got its prior before).
    """
    array = np.asarray(probabilities, dtype=np.float64)
    if array.shape != (len(study_ids), len(CONDITIONS), len(LEVELS), len(SEVERITIES)):
        raise ValueError(f"probabilities {array.shape} are not ({len(study_ids)} studies, 5, 5, 3)")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("a probability is negative, missing or infinite")
    if (np.abs(array.sum(axis=-1) - 1) > 1e-3).any():  # half precision keeps a softmax's sum to about this
        raise ValueError("the three probabilities of a cell do not sum to 1; are they logits?")
    rows = np.maximum(array.reshape(-1, len(SEVERITIES)), FLOOR)
    rows = rows / rows.sum(axis=1, keepdims=True)
    frame = pd.DataFrame(rows, columns=list(SEVERITIES))
    frame.insert(0, "row_id", [name for study in study_ids for name in row_ids(study)])
    return frame


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """A submission table in `DECIMALS` decimals; a row's largest probability takes what is then missing from 1.

    The result depends on nothing but the rounded numbers.
    """
    rows = np.maximum(np.round(frame[list(SEVERITIES)].to_numpy(dtype=np.float64), DECIMALS), 0.5 * 10**-DECIMALS)
    place = np.arange(len(rows)), rows.argmax(axis=1)
    rows[place] = np.round(1 - (rows.sum(axis=1) - rows[place]), DECIMALS + 1)
    return frame.assign(**dict(zip(SEVERITIES, rows.T, strict=True)))


def shown_shares(probabilities: np.ndarray) -> np.ndarray:
    """One study's probabilities (5 conditions, 5 levels, 3 severities) with the digits that a submission gives them."""
    rows = rounded(to_rows([0], probabilities[None]))[list(SEVERITIES)].to_numpy(dtype=np.float64)
    return rows.reshape(probabilities.shape)


def validate(frame: pd.DataFrame, study_ids: Sequence[int], *, prior_studies: Collection[int] = ()) -> None:
    """Check a submission before it is written; InputError says in one sentence what is wrong.

    Wanted: the columns and exactly the rows of these studies, in any order; probabilities finite, positive, summing to
    1; and, where two or more studies were graded from their images (all but `prior_studies`), not the same numbers for
    all of them, the mark of a pipeline that looks at nothing.
    """
    if tuple(frame.columns) != SUBMISSION_COLUMNS:
        raise InputError(f"the submission's columns are {list(frame.columns)}; wanted {list(SUBMISSION_COLUMNS)}")
    wanted = [name for study in study_ids for name in row_ids(study)]
    _check_names(frame["row_id"].tolist(), wanted)
    values = frame.set_index("row_id").loc[wanted, list(SEVERITIES)].to_numpy(dtype=np.float64)  # (N * 25, 3)
    _check_values(values, wanted)
    from_images = [study not in prior_studies for study in study_ids]
    graded = values.reshape(len(study_ids), ROWS, len(SEVERITIES))[from_images]
    if len(graded) > 1 and (graded == graded[0]).all():
        raise InputError(
            f"all {len(graded)} studies have the same 25 predictions, as if no image had been read; check the weights"
        )


def _check_names(names: list[str], wanted: list[str]) -> None:
    """InputError where the row ids are not exactly the wanted ones, once each."""
    if len(set(wanted)) != len(wanted):
        twice = next(name for place, name in enumerate(wanted) if name in wanted[:place])
        raise InputError(f"row {twice} is wanted twice; list its study once in the table of studies")
    if missing := sorted(set(wanted) - set(names)):
        raise InputError(
            f"the submission lacks {len(missing)} row(s), the first is {missing[0]}; grade every study of the table"
        )
    if unknown := sorted(set(names) - set(wanted)):
        raise InputError(
            f"the submission has {len(unknown)} row(s) of no wanted study, the first is {unknown[0]}; take them out"
        )
    if len(names) != len(wanted):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"the submission has row {twice} more than once; keep one")


def _check_values(values: np.ndarray, names: list[str]) -> None:
    """InputError naming the first row (n, 3) that is not a distribution of three positive finite numbers."""
    faults = {
        "holds a number that is missing or infinite": ~np.isfinite(values).all(axis=1),
        "holds a probability that is zero or negative": (values <= 0).any(axis=1),
        "does not sum to 1": ~(np.abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise InputError(f"the submission's row {names[int(np.argmax(rows))]} {fault}; check the weights")
