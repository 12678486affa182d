"""The official score of the competition and its four parts; label and prediction tables; the weighted prior.

The score is the plain mean of four weighted log losses: one for each group of conditions, levels and sides pooled,
and `any_severe_spinal`, which asks once a study whether any level of the canal is severe (as a loss to learn by:
`ensemble.objective`, `training.loop.shared_losses`). A row weighs 1, 2 or 4 by its label. Written anew in numpy: the
host's code aligns rows by position, and scikit-learn's `log_loss` changed its mind about rows not summing to 1. Here
rows are joined on `row_id`, renormalised and clipped; rows without a label are not scored, and a table whose labels
all agree has a score like any other. Nothing here imports torch.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from lumbar.files.read import read_table, whole_numbers
from lumbar.issues import InputError, cut, few
from lumbar.labels import (
    CONDITION_GROUPS,
    CONDITIONS,
    LABEL_COLUMNS,
    LEVELS,
    SEVERITIES,
    SEVERITY_LABELS,
    SEVERITY_WEIGHTS,
    SUBMISSION_COLUMNS,
    row_id,
    row_ids,
    split_row_id,
)

#: Probabilities are clipped to [EPSILON, 1 - EPSILON] like scikit-learn's float64 ones, so that no row costs infinity.
EPSILON: Final = float(np.finfo(np.float64).eps)
#: What `label_codes` writes where the label is empty.
UNLABELLED: Final = -1

_SEVERE: Final = SEVERITIES.index("severe")
_WEIGHTS: Final = np.array([SEVERITY_WEIGHTS[severity] for severity in SEVERITIES])
_SHAPE: Final = (len(CONDITIONS), len(LEVELS))
#: A label cell in the words of `train.csv` or in this project's own, in small letters, to its place in `SEVERITIES`.
_CODES: Final = {word.casefold(): SEVERITIES.index(severity) for word, severity in SEVERITY_LABELS.items()} | {
    severity: code for code, severity in enumerate(SEVERITIES)
}


@dataclass(frozen=True, slots=True)
class Score:
    """The official score (`total`, the mean of the other four) and its parts; lower is better.

    A part without a single label is NaN, and so is then the total.
    """

    total: float
    spinal: float
    foraminal: float
    subarticular: float
    any_severe_spinal: float

    def __str__(self) -> str:
        return "\n".join(f"{name:<18}{value:.4f}" for name, value in asdict(self).items())

    def to_json(self) -> str:
        """One JSON object with the five numbers; ValueError where one is NaN."""
        return json.dumps(asdict(self), allow_nan=False)


def score(labels: pd.DataFrame, predictions: pd.DataFrame) -> Score:
    """The official score of a submission against labels in the layout of `train.csv`, joined on `row_id`.

    Studies without labels are not scored. InputError where a labelled row has no prediction, a table is malformed, or
    one of the three groups of conditions has no label at all, so that the score is not defined.
    """
    studies, codes = label_codes(labels)
    probabilities = prediction_array(predictions, studies)
    absent = (codes != UNLABELLED) & np.isnan(probabilities).any(axis=-1)
    if absent.any():
        study, condition, level = np.argwhere(absent)[0]
        first = f"{studies[study]}_{CONDITIONS[condition]}_{LEVELS[level]}"
        raise InputError(f"the predictions lack {absent.sum()} labelled row(s), the first is {first}; predict them too")
    for group in CONDITION_GROUPS:
        if (codes[:, _group_slice(group)] == UNLABELLED).all():
            raise InputError(f"the labels hold none for the {group} conditions, so the score is not defined")
    return score_arrays(codes, probabilities)


def score_arrays(codes: np.ndarray, probabilities: np.ndarray) -> Score:
    """The official score from arrays: `codes` (N, 5, 5) as of `label_codes`, `probabilities` (N, 5, 5, 3).

    Probabilities may be NaN where there is no label. A part without labels is NaN, so that a member that grades one
    group can be scored on it. ValueError where shapes differ or a labelled row holds no distribution.
    """
    if codes.shape[1:] != _SHAPE or probabilities.shape != (*codes.shape, len(SEVERITIES)):
        raise ValueError(
            f"codes {codes.shape} and probabilities {probabilities.shape} are not (N, 5, 5) and (N, 5, 5, 3)"
        )
    labelled = codes != UNLABELLED
    rows = np.asarray(probabilities, dtype=np.float64)[labelled]  # (n, 3)
    if not np.isfinite(rows).all() or (rows < 0).any() or (rows.sum(axis=-1) <= 0).any():
        raise ValueError("a labelled row holds a negative, missing or infinite probability, or zeros only")
    normalised = np.full((*codes.shape, len(SEVERITIES)), np.nan)
    normalised[labelled] = rows / rows.sum(axis=-1, keepdims=True)
    parts = [
        _group_loss(codes[:, _group_slice(group)], normalised[:, _group_slice(group)]) for group in CONDITION_GROUPS
    ]
    spinal = _group_slice("spinal")
    parts.append(_any_severe_loss(codes[:, spinal].reshape(len(codes), -1), normalised[:, spinal, :, _SEVERE]))
    return Score(float(np.mean(parts)), *parts)


def label_codes(labels: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Labels as numbers: study ids (N,) and codes (N, 5 conditions, 5 levels), places in `SEVERITIES`, -1 where empty.

    `labels`: `study_id` as a column or the index, the 25 `LABEL_COLUMNS`, in the words of `train.csv` or of
    `SEVERITIES`, whatever their case and the spaces around; other columns are ignored. InputError names a missing
    column, an unknown word or a study listed twice.
    """
    frame = labels.set_index("study_id") if "study_id" in labels.columns else labels
    if missing := [column for column in LABEL_COLUMNS if column not in frame.columns]:
        raise InputError(f"the label table lacks the column(s) {few(missing, 5)}")
    if frame.index.has_duplicates:
        raise InputError(f"the label table lists study {frame.index[frame.index.duplicated()][0]} more than once")
    words = frame[list(LABEL_COLUMNS)].astype(object)
    empty = words.isna().to_numpy()
    plain = words.apply(lambda column: column.astype(str).str.strip().str.casefold())
    codes = plain.apply(lambda column: column.map(_CODES)).to_numpy(dtype=np.float64, na_value=np.nan)
    if (unknown := np.isnan(codes) & ~empty).any():
        row, column = np.argwhere(unknown)[0]
        word = cut(str(words.iat[row, column]))
        raise InputError(
            f"unknown label {word!r} for study {frame.index[row]}, column {LABEL_COLUMNS[column]}; "
            f"known: {', '.join(SEVERITY_LABELS)}, or empty"
        )
    codes = np.where(empty, UNLABELLED, codes).astype(np.int64)
    return frame.index.to_numpy(dtype=np.int64), codes.reshape(-1, *_SHAPE)


def prediction_array(predictions: pd.DataFrame, studies: np.ndarray) -> np.ndarray:
    """Predictions as an array (N studies, 5, 5, 3), NaN where a row is absent; joined on `row_id`, in any order.

    InputError names a missing column, a row id listed twice, or a row that holds no distribution.
    """
    if missing := [column for column in SUBMISSION_COLUMNS if column not in predictions.columns]:
        raise InputError(f"the prediction table lacks the column(s) {', '.join(missing)}")
    frame = predictions.set_index("row_id")[list(SEVERITIES)]
    if frame.index.has_duplicates:
        raise InputError(f"the prediction table lists row {frame.index[frame.index.duplicated()][0]} more than once")
    values = frame.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    with np.errstate(over="ignore"):  # what overflows is found by its sum
        sums = values.sum(axis=1)
    bad = ~np.isfinite(sums) | (values < 0).any(axis=1) | ~(sums > 0)
    if bad.any():
        raise InputError(
            f"the prediction of row {frame.index[bad][0]} is no distribution: three finite numbers wanted, "
            "none negative, not all zero, with a finite sum"
        )
    place = frame.index.get_indexer([name for study in studies for name in row_ids(int(study))])
    found = np.full((len(place), len(SEVERITIES)), np.nan)
    found[place >= 0] = values[place[place >= 0]]
    return found.reshape(len(studies), *_SHAPE, len(SEVERITIES))


def weighted_prior(labels: pd.DataFrame, smoothing: float = 0.0) -> np.ndarray:
    """Share of each severity in each label column, rows weighted 1/2/4: (5 conditions, 5 levels, 3), rows sum to 1.

    The constant with the lowest loss for each group of conditions, and so the answer where an image says nothing.
    `smoothing` is added to each count before weighting; give 0.5 where the prior will meet other studies, so that a
    severity which a small table happens to lack is not ruled out. A column without labels takes its group's counts, or
    uniform ones. InputError as `label_codes`.
    """
    _, codes = label_codes(labels)
    return prior_of_codes(codes, smoothing)


def prior_of_codes(codes: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """`weighted_prior` of labels given as codes (N, 5, 5)."""
    counts = np.stack([(codes == code).sum(axis=0) for code in range(len(SEVERITIES))], axis=-1).astype(np.float64)
    for group in CONDITION_GROUPS:
        part = counts[_group_slice(group)]  # a view (conditions, levels, 3)
        pooled = part.sum(axis=(0, 1))
        part[part.sum(axis=-1) == 0] = pooled if pooled.any() else 1.0 / _WEIGHTS
    weighted = (counts + smoothing) * _WEIGHTS
    return weighted / weighted.sum(axis=-1, keepdims=True)


def read_labels(path: Path | str) -> pd.DataFrame:
    """Read a label table in the layout of `train.csv`: index `study_id`, the 25 `LABEL_COLUMNS`, checked.

    Cells keep the words of the file, NaN where empty. InputError names the file and what is wrong in it.
    """
    frame = read_table(path, ["study_id", *LABEL_COLUMNS], text=["study_id", *LABEL_COLUMNS])
    if frame.empty:
        raise InputError(f"{path} lists no study; is it the right table?")
    frame["study_id"] = whole_numbers(frame["study_id"], path)
    frame = frame.set_index("study_id")[list(LABEL_COLUMNS)]
    try:
        label_codes(frame)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return frame


def read_predictions(path: Path | str) -> pd.DataFrame:
    """Read a table in the layout of the submission, `SUBMISSION_COLUMNS` only, checked.

    InputError names the file and the first row id that is malformed or repeated or holds no distribution.
    """
    frame = read_table(path, SUBMISSION_COLUMNS, text=["row_id"])[list(SUBMISSION_COLUMNS)].copy()
    try:
        frame["row_id"] = [row_id(*split_row_id(str(name))) for name in frame["row_id"]]  # 0044 is 44
        prediction_array(frame, np.empty(0, dtype=np.int64))
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    return frame


def _group_slice(group: str) -> slice:
    """Where a group's conditions lie in `CONDITIONS`, which keeps them together."""
    conditions = CONDITION_GROUPS[group]
    first = CONDITIONS.index(conditions[0])
    return slice(first, first + len(conditions))


def _log_loss(probabilities: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean of −ln p over the probabilities (n,) given to what is true; NaN where there is none."""
    if not len(probabilities):
        return float("nan")
    return float(np.average(-np.log(np.clip(probabilities, EPSILON, 1 - EPSILON)), weights=weights))


def _group_loss(codes: np.ndarray, probabilities: np.ndarray) -> float:
    """Log loss of one group: codes (N, conditions, levels), probabilities (…, 3), pooled."""
    labelled = codes != UNLABELLED
    truth = codes[labelled]
    return _log_loss(np.take_along_axis(probabilities[labelled], truth[:, None], axis=1)[:, 0], _WEIGHTS[truth])


def _any_severe_loss(codes: np.ndarray, severe: np.ndarray) -> float:
    """Binary log loss of "any level of the canal is severe", once a study; codes (N, 5), severe (N, 1, 5).

    A study's weight is its largest row weight, its prediction the largest severe probability of its labelled levels.
    """
    labelled = codes != UNLABELLED
    studies = labelled.any(axis=1)
    severe = np.where(labelled, severe.reshape(codes.shape), 0.0)[studies].max(axis=1)
    worst = codes[studies].max(axis=1)  # -1 is below every label
    return _log_loss(np.where(worst == _SEVERE, severe, 1 - severe), _WEIGHTS[worst])
