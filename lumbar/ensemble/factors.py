"""The second place's factors, fitted: of each severity around the plain mean, and of the canal's worst level.

`multipliers`: every severity of a group of conditions times a factor, then the row is divided by its sum.
`severe_scaled`: the same, then the level of a study's canal that is most probably severe gets that probability times a
factor of its own. Both are fitted on the official score, the latter behind the former; the original tuned them by hand
on the rows that it scored (1, 1.8 and 5 for the canal; 1.25), which a recipe can set: see `by_hand`.
"""

from typing import Any, Final

import numpy as np

from lumbar.ensemble import by_hand
from lumbar.ensemble.cells import FAINT, GROUP_OF, GROUPS, Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.objective import loss_and_gradient
from lumbar.labels import CONDITION_GROUPS, SEVERITIES

#: Logarithms of factors lie within this, factors between 1/1000 and 1000 as in a recipe.
_REACH: Final = float(np.log(1000))
#: The canal's factor is looked for between a quarter and four.
_CANAL_REACH: Final = float(np.log(4))


def fit(cells: Cells, codes: np.ndarray, seed: int, name: str) -> Fit:
    """Two factors a group, that of normal or mild being 1; with `severe_scaled` the canal's, too. codes (N, 5, 5)."""
    from scipy.optimize import minimize, minimize_scalar

    logits = np.log(np.maximum(cells.average(), FAINT))

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        added = np.concatenate([np.zeros((len(GROUPS), 1)), free.reshape(len(GROUPS), -1)], axis=1)
        value, slope = loss_and_gradient(logits + added[GROUP_OF][:, None], codes)
        by_group = [slope[:, list(places)].sum(axis=(0, 1, 2))[1:] for places in GROUPS]
        return value, np.concatenate(by_group)

    count = len(GROUPS) * (len(SEVERITIES) - 1)
    found = minimize(loss, np.zeros(count), jac=True, method="L-BFGS-B", bounds=[(-_REACH, _REACH)] * count).x
    factors = np.exp(found).reshape(len(GROUPS), -1)
    multipliers: dict[Any, list[float]] = {
        group: [1.0, *row] for group, row in zip(CONDITION_GROUPS, factors.tolist(), strict=True)
    }
    scaled = 1.0
    if name == "severe_scaled":
        table, spoken = by_hand.multiplied(cells.average(), multipliers, cells.spoken), cells.spoken

        def canal_loss(log_factor: float) -> float:
            moved = by_hand.worst_scaled(table, float(np.exp(log_factor)), spoken)
            return loss_and_gradient(np.log(np.maximum(moved, FAINT)), codes)[0]

        best = minimize_scalar(canal_loss, bounds=(-_CANAL_REACH, _CANAL_REACH), method="bounded")
        scaled = float(np.exp(best.x)) if best.fun < canal_loss(0.0) else 1.0
    return Fit(name, {"multipliers": multipliers, "severe_scaled": scaled})


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3)."""
    table = by_hand.multiplied(cells.average(), fitted.params["multipliers"], cells.spoken)
    return by_hand.worst_scaled(table, float(fitted.params["severe_scaled"]), cells.spoken)
