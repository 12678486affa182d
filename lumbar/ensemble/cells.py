"""What a fitted blend looks at: the members' probabilities of many studies, and features made from them.

A silent member never becomes a number that it did not say: averages go over those that speak, a deviation from the
average is zero where a member says nothing, and where nobody speaks the weighted prior stands in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lumbar.ensemble.average import blend
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, LEVELS, mirrored

#: Where each group's conditions lie, in the order of `CONDITION_GROUPS`.
GROUPS: Final[tuple[tuple[int, ...], ...]] = tuple(
    tuple(CONDITIONS.index(condition) for condition in conditions) for conditions in CONDITION_GROUPS.values()
)
#: The group of each condition.
GROUP_OF: Final = np.array([next(g for g, places in enumerate(GROUPS) if c in places) for c in range(len(CONDITIONS))])
#: For each condition, the same one on the other side.
MIRROR: Final = [CONDITIONS.index(mirrored(condition)) for condition in CONDITIONS]
#: For each condition, those of the same level in the order: own other side, then the other groups, own side first.
#: A condition in the middle has no side: of each other group it sees the mean and the difference of the sides.
_NEAR: Final = {1: (2, 0, 3, 4), 2: (1, 0, 4, 3), 3: (4, 0, 1, 2), 4: (3, 0, 2, 1)}
#: Probabilities below this say no more than this: one overconfident member must not decide a regression.
FAINT: Final = 1e-6


@dataclass(frozen=True)
class Cells:
    """Probabilities of N studies by M members (N, M, 5, 5, 3), NaN where silent, and the prior (5, 5, 3)."""

    members: np.ndarray
    prior: np.ndarray

    def take(self, studies: np.ndarray) -> "Cells":
        """The same for some studies, by mask or place."""
        return Cells(self.members[studies], self.prior)

    @property
    def spoken(self) -> np.ndarray:
        """(N, 5, 5), True where a member speaks."""
        return ~np.isnan(self.members).all(axis=-1).all(axis=1)

    def average(self, method: Any = "mean", weights: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        """`blend` of every study: (N, 5, 5, 3)."""
        prior = np.broadcast_to(self.prior, (len(self.members), *self.prior.shape))
        return blend(np.moveaxis(self.members, 1, 0), prior, method, weights)[0]

    def logits(self) -> np.ndarray:
        """Logarithms of the geometric mean of those that speak: (N, 5, 5, 3)."""
        raised = Cells(np.maximum(self.members, FAINT), self.prior)
        return np.log(raised.average("mean_logits"))

    def mirrored(self) -> "Cells":
        """The studies as seen in a mirror: left and right change places."""
        return Cells(self.members[:, :, MIRROR], self.prior[MIRROR])


def ratios(logits: np.ndarray) -> np.ndarray:
    """Moderate and severe against normal or mild: (…, 3) to (…, 2)."""
    return logits[..., 1:] - logits[..., :1]


def speakers(cells: Cells) -> list[list[int]]:
    """For each group the members that speak on it at all."""
    said = ~np.isnan(cells.members).all(axis=-1)  # (N, M, 5, 5)
    return [np.flatnonzero(said[:, :, list(places)].any(axis=(0, 2, 3))).tolist() for places in GROUPS]


def deviations(cells: Cells, group: int, members: Sequence[int]) -> np.ndarray:
    """How far each of `members` is from the average, on a group: (N, conditions, 5, 2 × members); 0 where silent."""
    places = list(GROUPS[group])
    middle = ratios(cells.logits())[:, places]
    parts = [np.zeros((*middle.shape[:-1], 0))]
    for member in members:
        said = ratios(np.log(np.maximum(cells.members[:, member][:, places], FAINT)))
        parts.append(np.where(np.isnan(said), 0.0, said - middle))
    return np.concatenate(parts, axis=-1)


def context(cells: Cells, group: int) -> np.ndarray:
    """What surrounds each cell of a group, from the average: (N, conditions, 5, F).

    Own probabilities, the levels above and below (a level without a neighbour takes its own place), the other side, the
    other conditions of the same level, the mean and the worst of the study, and how far the worst level is.
    """
    logits = cells.logits()
    ratio, probability = ratios(logits), np.exp(logits)
    above, below = ratio[:, :, [0, *range(len(LEVELS) - 1)]], ratio[:, :, [*range(1, len(LEVELS)), len(LEVELS) - 1]]
    study = [
        np.repeat(figure(ratio[:, list(places)], axis=(1, 2))[:, None], len(LEVELS), axis=1)
        for places in GROUPS
        for figure in (np.mean, np.max)
    ]
    rows = []
    for place in GROUPS[group]:
        own = ratio[:, place]
        if place in _NEAR:
            near = [ratio[:, other] for other in _NEAR[place]]
        else:
            sides = [(ratio[:, left], ratio[:, right]) for left, right in GROUPS[1:]]
            near = [part for left, right in sides for part in ((left + right) / 2, np.abs(left - right))]
        parts = [own, probability[:, place, :, 1:], above[:, place], below[:, place], *near, *study]
        rows.append(np.concatenate([*parts, own - own.max(axis=1, keepdims=True)], axis=-1))
    return np.stack(rows, axis=1)


@dataclass(frozen=True)
class Scale:
    """Mean and spread of features in training: what makes them comparable."""

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Scale":
        """From features (…, F)."""
        flat = features.reshape(-1, features.shape[-1])
        return cls(flat.mean(axis=0), flat.std(axis=0))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Scale":
        """From what `store` wrote."""
        return cls(np.asarray(stored["mean"], dtype=np.float64), np.asarray(stored["spread"], dtype=np.float64))

    def store(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"mean": self.mean.tolist(), "spread": self.spread.tolist()}

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features in units of their spread; one that never varied is zero."""
        varies = self.spread > 1e-9
        return np.where(varies, (features - self.mean) / np.where(varies, self.spread, 1.0), 0.0)
