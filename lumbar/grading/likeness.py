"""Out-of-distribution score of a region: how far its features lie from those of regions that training saw.

Mahalanobis distance (Lee et al. 2018) of a backbone's features, the mean over a view's slices, to their mean, by a
shrunk covariance (Ledoit and Wolf 2004) of which the strongest directions are kept and the others share one variance.
A member has a likeness of each kind of view on which it grades a condition: left and right are one kind, so that a
mirrored study gets mirrored scores. What a score is: its distance as a share of the bar, which `BEYOND` of the regions
that a fit had left out pass.

T1 in T2's place looks like a spine again. What tells it is learnt from it (outlier exposure, Hendrycks et al. 2019):
Fisher's linear discriminant (1936) between regions as they are and those of studies whose T1 and T2 are exchanged.
The weighting is a series' and no level's, so that the mean over a study's regions of a kind is what is compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from lumbar.grading.tasks import heard, task_of
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.metric import UNLABELLED
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View, kind_of, own_views

#: A region as a backbone describes it: the view, the level's index, features (F,).
Region = tuple[View, int, np.ndarray]
#: Those of one study.
Features = list[Region]
#: Directions that are kept of a kind's features.
DIRECTIONS: Final = 24
#: Share of the regions left out of a fit that lie beyond its bar.
BEYOND: Final = 0.01
#: Studies are left out of a fit in so many parts, each in turn, to find the bar.
PARTS: Final = 5
#: Kinds of views that T1 and T2 in each other's place change; what sees any sagittal series is not among them.
WEIGHTED: Final = ("sagittal_t1", "sagittal_t2")
#: Least variance, and least bar, where features never change.
FLOOR: Final = 1e-18
#: Of fewer studies nothing is learnt, and of more regions no more.
LEAST_STUDIES, MOST_REGIONS = 10, 2000
#: Studies that training grades once more, T1 and T2 exchanged.
MOST_EXCHANGED: Final = 200


@dataclass(frozen=True)
class Likeness:
    """What the regions of one kind that training saw look like to a backbone."""

    mean: np.ndarray  # (F,)
    directions: np.ndarray  # (K, F), of length 1, at right angles
    variances: np.ndarray  # (K + 1,): along each direction, and along all that are not kept
    bar: float  # the distance that `BEYOND` of regions pass
    #: (F,): how far a study's mean lies towards the other weighting, in bars; None where nothing tells.
    weighting: np.ndarray | None = None

    def shares(self, features: np.ndarray) -> np.ndarray:
        """Distances of a study's regions, features (N, F), as shares of the bar (N,)."""
        off = features - self.mean
        along = off @ self.directions.T
        beside = np.maximum((off**2).sum(1) - (along**2).sum(1), 0.0)
        squares = (along**2 / self.variances[:-1]).sum(1) + beside / self.variances[-1]
        shares: np.ndarray = np.sqrt(squares) / self.bar
        return shares if self.weighting is None else np.maximum(shares, off.mean(0) @ self.weighting)


#: By kind of view, see `kind_of`.
Likenesses = Mapping[str, Likeness]


def strangeness(
    features: Mapping[str, Features], graders: Mapping[str, GraderSpec], known: Mapping[str, Likenesses]
) -> np.ndarray:
    """(5 conditions, 5 levels): how strange the regions are on which members grade each, their mean; NaN where none
    can tell. All by the members' names."""
    tables = [of_member(features[name], graders[name], known[name]) for name in known if name in features]
    told = np.stack([np.full((len(CONDITIONS), len(LEVELS)), np.nan), *tables])
    counts = np.isfinite(told).sum(axis=0)
    return np.where(counts > 0, np.nansum(told, axis=0) / np.maximum(counts, 1), np.nan)


def of_member(features: Features, spec: GraderSpec, known: Likenesses) -> np.ndarray:
    """(5 conditions, 5 levels): how strange the regions are on which a member grades each, above 1 beyond the bar.

    NaN where it saw none. Of several regions of a view (sets of keypoints, several series) the mean counts, of several
    views the strangest. Raises InputError where a likeness is of another network's features.
    """
    found: dict[tuple[View, int], list[float]] = {}
    for kind, rows in _by_kind(features).items():
        if kind not in known:
            continue
        table = np.stack([row for _, _, row in rows])
        if table.shape[1] != len(known[kind].mean):
            raise InputError(
                f"the likeness of {kind} is of {len(known[kind].mean)} features, and the network has {table.shape[1]}; "
                "make it again with train_utils.py likeness"
            )
        for (view, level, _), share in zip(rows, known[kind].shares(table), strict=True):
            found.setdefault((view, level), []).append(float(share))
    strange = np.full((len(CONDITIONS), len(LEVELS)), np.nan)
    for sample in task_of(spec).samples:
        for condition in sample.conditions:
            own = own_views(condition, sample.views) if condition in heard(spec) else ()
            for level in range(len(LEVELS)):
                shares = [np.mean(found[view, level]) for view in own if (view, level) in found]
                if shares:
                    strange[CONDITIONS.index(condition), level] = max(shares)
    return strange


def learn(studies: Sequence[Features], spec: GraderSpec, exchanged: Sequence[Features] = ()) -> dict[str, Likeness]:
    """What the regions of some studies look like, by kind of those views on which the member grades a condition.

    Best of studies that it was not trained on. `exchanged`: of studies with T1 and T2 in each other's place, from which
    it learns what the other weighting looks like. A kind that fewer than `LEAST_STUDIES` studies show has none.
    """
    rows, others = _rows(studies, spec), _rows(exchanged, spec)
    return {
        kind: one for kind, found in rows.items() for one in _learnt(found, others[kind] if kind in WEIGHTED else [])
    }


def _rows(studies: Sequence[Features], spec: GraderSpec) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Regions (number of the study, features) by the kinds on which a member grades, at most `MOST_REGIONS` of each."""
    rows: dict[str, list[tuple[int, np.ndarray]]] = {kind: [] for kind in graded_on(spec)}
    for number, features in enumerate(studies):
        for kind, found in _by_kind(features).items():
            if kind in rows:
                rows[kind] += [(number, row) for _, _, row in found]
    return {kind: _thinned(found) for kind, found in rows.items()}


def _thinned(rows: list[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    places = np.unique(np.linspace(0, len(rows) - 1, MOST_REGIONS).astype(int)) if rows else []
    return [rows[place] for place in places]


def learns_from(spec: GraderSpec, codes: np.ndarray) -> bool:
    """Whether a study's labels (5 conditions, 5 levels) teach the member anything: it learns from no other region."""
    return any((codes[CONDITIONS.index(condition)] != UNLABELLED).any() for condition in heard(spec))


def tells_weighting(spec: GraderSpec) -> bool:
    """Whether a member grades on a view that T1 and T2 in each other's place change."""
    return any(kind in WEIGHTED for kind in graded_on(spec))


def graded_on(spec: GraderSpec) -> list[str]:
    """The kinds of views on which a member grades the conditions that it speaks for."""
    views = [
        view
        for sample in task_of(spec).samples
        for condition in sample.conditions
        if condition in heard(spec)
        for view in own_views(condition, sample.views)
    ]
    return sorted({kind_of(view) for view in views})


def _learnt(rows: Sequence[tuple[int, np.ndarray]], exchanged: Sequence[tuple[int, np.ndarray]]) -> Iterator[Likeness]:
    """The likeness of regions (study, features), if there are enough."""
    names, table, part = _parted(rows)
    if len(names) < LEAST_STUDIES:
        return
    left_out = [_fitted(table[part != one]).shares(table[part == one]) for one in range(PARTS)]
    fitted = _fitted(table, max(float(np.quantile(np.concatenate(left_out), 1 - BEYOND)), FLOOR))
    yield replace(fitted, weighting=_towards(rows, exchanged))


def _parted(rows: Sequence[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The studies' numbers, features (N, F), and of each row the part in which its study is left out (N,)."""
    numbers = np.array([number for number, _ in rows])
    names = np.unique(numbers)
    table = np.stack([row for _, row in rows]).astype(np.float64) if rows else np.zeros((0, 0))
    return names, table, np.searchsorted(names, numbers) % PARTS


def _towards(rows: Sequence[tuple[int, np.ndarray]], exchanged: Sequence[tuple[int, np.ndarray]]) -> np.ndarray | None:
    """The discriminant (F,) towards the exchanged weighting, as long as its bar of studies left out is 1.

    The bar lies half way to the other weighting, as Fisher's does, or farther, so that `BEYOND` of studies pass.
    """
    (names, table, part), (others, other, apart) = _parted(rows), _parted(exchanged)
    if min(len(names), len(others)) < LEAST_STUDIES:
        return None
    means: list[float] = []
    away: list[float] = []
    for one in range(PARTS):
        middle, direction = table[part != one].mean(0), _discriminant(table[part != one], other[apart != one])
        for found, each, left_out in ((means, rows, part == one), (away, exchanged, apart == one)):
            numbers, features = np.array([number for number, _ in each])[left_out], np.stack([row for _, row in each])
            along = (features[left_out] - middle) @ direction
            found += [float(along[numbers == name].mean()) for name in np.unique(numbers)]
    bar = max(float(np.quantile(means, 1 - BEYOND)), float(np.mean(away)) / 2)
    return _discriminant(table, other) / bar if bar > FLOOR else None


def _discriminant(table: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Fisher's discriminant (F,) from features (N, F) to others (M, F), by their shrunk covariances' mean."""
    from sklearn.covariance import ledoit_wolf

    within = (ledoit_wolf(table)[0] + ledoit_wolf(other)[0]) / 2
    within += max(1e-6 * float(within.trace()) / len(within), FLOOR) * np.eye(len(within))
    direction: np.ndarray = np.linalg.solve(within, other.mean(0) - table.mean(0))
    return direction


def _fitted(table: np.ndarray, bar: float = 1.0) -> Likeness:
    """The likeness of features (N, F)."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(table)
    values, vectors = np.linalg.eigh(covariance)  # the strongest direction last
    kept = min(DIRECTIONS, len(values) - 1)
    variances = np.append(values[len(values) - kept :][::-1], values[: len(values) - kept].mean())
    return Likeness(table.mean(0), vectors[:, len(values) - kept :].T[::-1], np.maximum(variances, FLOOR), bar)


def _by_kind(features: Features) -> dict[str, Features]:
    found: dict[str, Features] = {}
    for region in features:
        found.setdefault(kind_of(region[0]), []).append(region)
    return found
