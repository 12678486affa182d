"""How good a blend is on studies that it was not fitted on: nested cross-validation and bootstrap over studies.

Everything that is fitted, the prior included, is fitted on the other folds; early stopping splits those once more. The
held-out fold's labels enter nowhere but in the score.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from lumbar.ensemble import methods
from lumbar.ensemble.cells import GROUPS, Cells
from lumbar.ensemble.fit import Fit, inner_folds
from lumbar.ensemble.method_names import PACE, MethodName
from lumbar.ensemble.objective import ROW_WEIGHTS, SEVERE
from lumbar.metric import EPSILON, UNLABELLED, Score, prior_of_codes, score_arrays

#: Fewer labelled studies than this fit no blend: the plain mean stands.
ENOUGH_STUDIES: Final = 200
DRAWS: Final = 1000


@dataclass(frozen=True)
class Comparison:
    """A method's nested score, its standard error, and the difference to the plain mean with its 95 % interval."""

    method: str
    score: Score
    standard_error: float
    difference: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "method": self.method, **asdict(self.score), "standard_error": self.standard_error,
            "difference_to_mean": self.difference, "interval_95": list(self.interval),
        }  # fmt: skip


def random_folds(studies: int, count: int, seed: int) -> np.ndarray:
    """A fold number for each study (N,)."""
    folds = np.zeros(studies, dtype=np.int64)
    for number, (_, held_out) in enumerate(inner_folds(studies, count, seed)):
        folds[held_out] = number
    return folds


def training_studies(folds: np.ndarray, fold: object) -> np.ndarray:
    """Which studies may teach a blend that will meet `fold`: those of the other folds; mask (N,)."""
    return folds != fold


def cells_for(members: np.ndarray, codes: np.ndarray) -> Cells:
    """Members (N, M, 5, 5, 3) with the weighted prior of labels (N', 5, 5)."""
    return Cells(members, prior_of_codes(codes, 0.5))


def nested(
    name: str,
    members: np.ndarray,
    codes: np.ndarray,
    folds: np.ndarray,
    seed: int = 0,
    given: Fit | None = None,
    pace: float = PACE,
) -> np.ndarray:
    """Out-of-fold blend (N, 5, 5, 3): each fold's by a fit on the others. `folds` (N,): the fold of each study.

    `given`: set by hand, it stands in the place of every fit; the prior comes from the other folds all the same.
    `pace`: as of `methods.fit`.
    """
    out = np.full((len(codes), *members.shape[2:]), np.nan)
    for fold in np.unique(folds):
        train, held_out = training_studies(folds, fold), folds == fold
        cells = cells_for(members, codes[train])
        fitted = given or methods.fit(name, cells.take(train), codes[train], seed, pace)
        out[held_out] = methods.predict(fitted, cells.take(held_out))
    return out


def scored_codes(members: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Labels of the rows that some table predicts; the others become `UNLABELLED` and are not scored."""
    return np.where(Cells(members, np.empty(0)).spoken, codes, UNLABELLED)


def compare(tables: Mapping[str, np.ndarray], codes: np.ndarray, seed: int = 0, draws: int = DRAWS) -> list[Comparison]:
    """Score every table (N, 5, 5, 3) and compare it with the table `mean`, by the same draws of studies for all."""
    rng = np.random.default_rng(seed)
    sums = {name: study_sums(table, codes) for name, table in tables.items()}
    times = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=draws).astype(np.float64)  # (D, N)
    drawn = {name: totals(loss, weight, times) for name, (loss, weight) in sums.items()}
    plain = score_arrays(codes, tables["mean"]).total
    rows = []
    for name, table in tables.items():
        score = score_arrays(codes, table)
        low, high = np.nanpercentile(drawn[name] - drawn["mean"], [2.5, 97.5])
        error = float(np.nanstd(drawn[name]))
        rows.append(Comparison(name, score, error, score.total - plain, (float(low), float(high))))
    return rows


def study_sums(table: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each study's share of the score: weighted losses and weights of the four parts, both (N, 4)."""
    rows = table / table.sum(axis=-1, keepdims=True)
    labelled, row_weights = codes != UNLABELLED, ROW_WEIGHTS[codes]
    said = np.take_along_axis(rows, np.maximum(codes, 0)[..., None], axis=-1)[..., 0]
    loss = np.where(labelled, -np.log(np.clip(said, EPSILON, 1 - EPSILON)), 0.0) * row_weights
    canal = GROUPS[0][0]
    severe = np.where(labelled[:, canal], rows[:, canal, :, SEVERE], 0.0).max(axis=1)
    worst = codes[:, canal].max(axis=1)
    binary = -np.log(np.clip(np.where(worst == SEVERE, severe, 1 - severe), EPSILON, 1 - EPSILON))
    parts = [(loss[:, list(places)], row_weights[:, list(places)]) for places in GROUPS]
    losses = [*(part.sum(axis=(1, 2)) for part, _ in parts), binary * ROW_WEIGHTS[worst]]
    weights = [*(part.sum(axis=(1, 2)) for _, part in parts), ROW_WEIGHTS[worst]]
    return np.stack(losses, axis=1), np.stack(weights, axis=1)


def totals(losses: np.ndarray, weights: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Official scores of draws of studies; `times` (D, N): how often each was drawn. NaN where a part is empty."""
    below = times @ weights
    parts = np.where(below > 0, times @ losses / np.where(below > 0, below, 1.0), np.nan)
    return parts.mean(axis=1)


def choose(rows: list[Comparison], studies: int) -> tuple[str, str]:
    """A method and, in one sentence, why: the lowest nested score whose paired interval lies below the plain mean's.

    Where no interval does, or fewer than `ENOUGH_STUDIES` are labelled, it is the plain mean: what chance chose is not
    kept, so the choice is never worse than the mean by more than its standard error.
    """
    if studies < ENOUGH_STUDIES:
        return "mean", f"{studies} labelled studies are fewer than {ENOUGH_STUDIES}, so the blend is the plain mean"
    plain = next(row for row in rows if row.method == "mean")
    better = [row for row in rows if row.interval[1] < 0]
    best = min(better, key=lambda row: row.score.total, default=plain)
    if best is plain:
        return "mean", f"no method is surely better than the plain mean (nested score {plain.score.total:.4f})"
    low, high = best.interval
    return best.method, (
        f"{best.method} has the best nested score, {best.score.total:.4f} against {plain.score.total:.4f} of the plain "
        f"mean (difference {low:+.4f} to {high:+.4f})"
    )


def chosen(
    names: tuple[MethodName, ...], members: np.ndarray, codes: np.ndarray, folds: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Out-of-fold blend by a method that is itself chosen anew for each fold, on the other folds only.

    The honest score of "take the best": the choice never sees the fold that it is scored on. Also the choices by fold.
    """
    out, picked = np.full((len(codes), *members.shape[2:]), np.nan), []
    for fold in np.unique(folds):
        train, held_out = training_studies(folds, fold), folds == fold
        own: dict[str, np.ndarray] = {
            name: nested(name, members[train], codes[train], folds[train], seed) for name in names
        }
        rows = compare(own, scored_codes(members[train], codes[train]), seed)
        best = choose(rows, int(train.sum()))[0]
        cells = cells_for(members, codes[train])
        fitted = methods.fit(best, cells.take(train), codes[train], seed)
        out[held_out] = methods.predict(fitted, cells.take(held_out))
        picked.append(best)
    return out, picked
