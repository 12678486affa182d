"""Which severities a phantom study has: drawn so that every label column follows the real rates.

A Gaussian copula ties the 25 labels of a study together (a worn spine is worn at several levels and on both sides), and
each label's latent value also says how far its narrowing has gone within the class, so that neighbouring classes touch.
Rates: counts per column of the RSNA 2024 training labels. The correlations are round numbers, chosen so that
about 18 % of studies have a severe spinal canal stenosis at some level, as in reality.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import norm

from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SEVERITIES

#: Counts of normal or mild, moderate, severe: rows as `CONDITIONS`, columns as `LEVELS`.
REAL_COUNTS: Final[np.ndarray] = np.array(
    [
        [(1886, 67, 21), (1770, 151, 53), (1622, 230, 122), (1482, 237, 255), (1904, 51, 19)],
        [(1908, 63, 2), (1791, 171, 11), (1522, 411, 40), (1204, 629, 140), (1247, 520, 206)],
        [(1891, 63, 13), (1793, 168, 6), (1512, 414, 41), (1208, 629, 130), (1281, 496, 190)],
        [(1690, 93, 28), (1555, 255, 83), (1324, 454, 194), (887, 624, 461), (1408, 409, 147)],
        [(1680, 110, 24), (1577, 243, 73), (1322, 454, 197), (891, 622, 460), (1399, 396, 173)],
    ],
    dtype=np.float64,
)
#: Variance of the latent value shared by a whole study, by one level, by one condition group, by one level of a group.
_SHARED_STUDY, _SHARED_LEVEL, _SHARED_GROUP, _SHARED_GROUP_LEVEL = 0.25, 0.20, 0.10, 0.15
#: Correlation of the level's share between neighbouring levels.
_LEVEL_CORRELATION = 0.5
#: Chance that a reader calls a moderate or severe region one class off, and a normal one moderate.
_READER_SLIP: Final[dict[str, float]] = {"spinal": 0.10, "foraminal": 0.15, "subarticular": 0.20}


@dataclass(frozen=True)
class Grades:
    """The true state of one study, arrays shaped (5 conditions, 5 levels).

    `narrowing` runs from 0 (wide open) over 1 (mild ends, moderate begins) and 2 (severe begins) to 3;
    `severity` is its class 0, 1, 2 and what the anatomy shows; `label` is what the table says (a reader's slip apart,
    the same).
    """

    narrowing: np.ndarray
    severity: np.ndarray
    label: np.ndarray

    def words(self) -> dict[str, str]:
        """The labels by column of `train.csv`, in the table's words."""
        titles = dict(zip(SEVERITIES, ("Normal/Mild", "Moderate", "Severe"), strict=True))
        flat = self.label.reshape(-1)
        return {column: titles[SEVERITIES[value]] for column, value in zip(LABEL_COLUMNS, flat, strict=True)}


def group_of(condition_index: int) -> int:
    """0 spinal, 1 foraminal, 2 subarticular."""
    return (0, 1, 1, 2, 2)[condition_index]


def _covariance() -> np.ndarray:
    """Covariance of the 25 latent values, (25, 25), unit diagonal."""
    level = np.tile(np.arange(len(LEVELS)), len(CONDITIONS))
    group = np.repeat([group_of(index) for index in range(len(CONDITIONS))], len(LEVELS))
    near = _LEVEL_CORRELATION ** np.abs(level[:, None] - level[None, :])
    same = (group[:, None] == group[None, :]).astype(float)
    shared = _SHARED_STUDY + _SHARED_LEVEL * near + _SHARED_GROUP * same + _SHARED_GROUP_LEVEL * same * near
    own = 1 - _SHARED_STUDY - _SHARED_LEVEL - _SHARED_GROUP - _SHARED_GROUP_LEVEL
    return shared + own * np.eye(len(level))


_FACTOR = np.linalg.cholesky(_covariance())
_RATES = np.cumsum(REAL_COUNTS, axis=-1) / REAL_COUNTS.sum(axis=-1, keepdims=True)


def draw_grades(rng: np.random.Generator, label_noise: bool = False) -> Grades:
    """Draw a study's 25 severities; `label_noise` adds reader's slips to the labels and leaves the anatomy alone."""
    latent = (_FACTOR @ rng.standard_normal(len(LABEL_COLUMNS))).reshape(len(CONDITIONS), len(LEVELS))
    quantile = norm.cdf(latent)
    severity = (quantile[..., None] >= _RATES[..., :2]).sum(axis=-1)
    lower = np.concatenate([np.zeros((5, 5, 1)), _RATES], axis=-1)
    start = np.take_along_axis(lower, severity[..., None], axis=-1)[..., 0]
    end = np.take_along_axis(lower, severity[..., None] + 1, axis=-1)[..., 0]
    within = 2 * (quantile - start) / (end - start) - 1
    # Most regions lie in the middle of their class; few at its border, where readers would disagree.
    narrowing = severity + 0.5 + 0.5 * np.sign(within) * np.abs(within) ** 1.5
    slips = rng.random((5, 5, 2))  # drawn in any case, so that the anatomy does not depend on the option
    label = _slipped(severity, slips) if label_noise else severity.copy()
    return Grades(narrowing=narrowing, severity=severity, label=label)


def _slipped(severity: np.ndarray, slips: np.ndarray) -> np.ndarray:
    """Labels as a reader who is sometimes one class off would give them."""
    chance = np.array([list(_READER_SLIP.values())[group_of(index)] for index in range(len(CONDITIONS))])[:, None]
    chance = np.where(severity == 0, chance / 4, chance)
    step = np.where(severity == 0, 1, np.where(severity == 2, -1, np.where(slips[..., 1] < 0.5, -1, 1)))
    return np.where(slips[..., 0] < chance, severity + step, severity)
