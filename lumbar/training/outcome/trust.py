"""How far a run's figures can be trusted: their spread over studies, by fold and condition, and what flatters them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from lumbar.ensemble.nested import study_sums
from lumbar.ensemble.objective import ROW_WEIGHTS
from lumbar.issues import few
from lumbar.labels import CONDITION_GROUPS, CONDITIONS
from lumbar.metric import EPSILON, UNLABELLED
from lumbar.recipe.recipe import Recipe

#: The parts of the official score in the order of `study_sums`.
PARTS: Final = (*CONDITION_GROUPS, "any_severe_spinal")
#: Draws of studies behind a standard error, and their seed: equal studies, equal draws for every member.
DRAWS, SEED = 1000, 0


def spoken(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Labels (N, 5, 5) of the rows of a table (N, 5, 5, 3) that hold an answer; the others are `UNLABELLED`."""
    return np.where(np.isnan(table).any(-1), UNLABELLED, codes)


def spreads(codes: np.ndarray, table: np.ndarray, draws: int = DRAWS) -> dict[str, float | None]:
    """Standard error of the official score and its parts, by drawing studies anew (bootstrap).

    None for a part that has no answers.
    """
    losses, weights = study_sums(np.nan_to_num(table, nan=1 / 3), spoken(codes, table))
    times = _drawn(len(codes), draws)
    parts = _ratios(times @ losses, times @ weights)  # (D, 4)
    found = dict(zip(PARTS, parts.T, strict=True)) | {"total": parts.mean(axis=1)}
    return {name: _deviation(values) for name, values in found.items()}


def paired(codes: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, dict[str, Any] | None]:
    """The official score and its parts of two tables over the rows that both answer, with their standard errors and
    their difference with its 95 % interval, by the same draws of studies; None for a part that has no answers."""
    both = spoken(spoken(codes, first), second)
    times = _drawn(len(codes), DRAWS)
    whole: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    for table in (first, second):
        losses, weights = study_sums(np.nan_to_num(table, nan=1 / 3), both)
        for found, counts in ((whole, np.ones((1, len(codes)))), (drawn, times)):
            parts = _ratios(counts @ losses, counts @ weights)  # (D, 4)
            found.append(np.concatenate([parts, parts.mean(axis=1, keepdims=True)], axis=1))
    rows: dict[str, dict[str, Any] | None] = {}
    for place, part in enumerate((*PARTS, "total")):
        values, draws = ([one[:, place] for one in found] for found in (whole, drawn))
        if np.isnan(values).any():
            rows[part] = None
            continue
        low, high = np.nanpercentile(draws[1] - draws[0], [2.5, 97.5])
        rows[part] = {
            "first": float(values[0][0]),
            "first_standard_error": _deviation(draws[0]),
            "second": float(values[1][0]),
            "second_standard_error": _deviation(draws[1]),
            "difference": float(values[1][0] - values[0][0]),
            "interval_95": [float(low), float(high)],
        }
    return rows


def by_condition(codes: np.ndarray, table: np.ndarray, draws: int = DRAWS) -> dict[str, tuple[float, float] | None]:
    """Weighted log loss of each condition, all levels together, and its standard error; None where nobody answers."""
    own = spoken(codes, table)
    labelled, weights = own != UNLABELLED, ROW_WEIGHTS[own]  # (N, 5, 5)
    said = np.take_along_axis(np.nan_to_num(table, nan=1.0), np.maximum(own, 0)[..., None], axis=-1)[..., 0]
    losses = np.where(labelled, -np.log(np.clip(said, EPSILON, 1 - EPSILON)), 0.0) * weights
    times = _drawn(len(codes), draws)
    drawn = _ratios(times @ losses.sum(-1), times @ weights.sum(-1))  # (D, 5)
    whole = _ratios(losses.sum((0, 2)), weights.sum((0, 2)))  # (5,)
    found: dict[str, tuple[float, float] | None] = {}
    for place, condition in enumerate(CONDITIONS):
        error = _deviation(drawn[:, place])
        found[condition] = None if error is None or np.isnan(whole[place]) else (float(whole[place]), error)
    return found


def by_fold(codes: np.ndarray, table: np.ndarray, folds: Sequence[int] | np.ndarray) -> dict[int, float | None]:
    """The official score of the studies that each fold held out; `folds` (N,). None where a part has no answer."""
    numbers, losses, weights = np.asarray(folds), *study_sums(np.nan_to_num(table, nan=1 / 3), spoken(codes, table))
    scores: dict[int, float | None] = {}
    for fold in np.unique(numbers):
        total = float(_ratios(losses[numbers == fold].sum(0), weights[numbers == fold].sum(0)).mean())
        scores[int(fold)] = None if np.isnan(total) else total
    return scores


def flattered(recipe: Recipe) -> Iterator[str]:
    """What makes a run's figures better than those of new studies will be, a sentence each."""
    members = recipe.members()
    chosen = [name for name, member in members.items() if member.training.best_by != "last"]
    if chosen:
        yield (
            f"the epochs of {few(chosen)} were chosen on the studies that are scored here, so that these figures are a "
            "little better than new studies' will be; best_by = 'last' chooses none"
        )
    soft = [name for name, member in members.items() if member.training.soft_labels]
    if soft:
        yield (
            f"{few(soft)} learnt from a table of soft labels; where the networks behind it had seen the studies that "
            "are scored here, these figures are too good"
        )
    if recipe.leave_out:
        yield (
            "labels were left out of training by a table; if it was made by looking at these studies' own answers, the "
            "others' figures know of them"
        )
    if len(recipe.folds.train) < recipe.folds.count:
        trained = f"{len(recipe.folds.train)} of {recipe.folds.count}"
        yield f"only {trained} folds are scored: other studies may be easier or harder"


def _drawn(studies: int, draws: int) -> np.ndarray:
    """How often each study is drawn, (D, N)."""
    share = np.full(studies, 1 / studies)
    return np.random.default_rng(SEED).multinomial(studies, share, size=draws).astype(np.float64)


def _ratios(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean losses; NaN where nothing has weight."""
    return np.where(weights > 0, losses / np.where(weights > 0, weights, 1.0), np.nan)


def _deviation(values: np.ndarray) -> float | None:
    """Standard deviation over the draws that have the part; None where none has."""
    known = values[~np.isnan(values)]
    return float(np.std(known)) if len(known) else None
