"""Corrections of the average linear in what they look at, fitted on the official score and shrunk towards none.

logits = average · temperature of the group + bias of the group and level + features · weights of the group

`temperature` has only the first term, `scaling` the first two (a factor a class and level), `neighbours` all three.
Sides share their numbers, so a study and its mirror image get the same answer.
"""

from typing import Any, Final

import numpy as np
from scipy.optimize import minimize

from lumbar.ensemble.cells import GROUP_OF, GROUPS, Cells, Scale, context, deviations, speakers
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.objective import loss_and_gradient, softmax
from lumbar.ensemble.prior import with_prior
from lumbar.labels import LEVELS, SEVERITIES

#: Penalties on the mean square of the biases and on the sum of squares of temperatures and weights. The weights' one is
#: for 1,580 studies; fewer studies are shrunk more.
BIAS, TEMPERATURE, RIDGE, RIDGE_STUDIES = 1e-2, 1e-3, 2e-2, 1580
_SHAPE: Final = (len(GROUPS), len(LEVELS), len(SEVERITIES))


def fit_temperature(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    """One temperature a group."""
    return _fit("temperature", cells, codes, bias=False, features=False)


def fit_scaling(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    """One temperature a group and one factor a class of each group and level."""
    return _fit("scaling", cells, codes, bias=True, features=False)


def fit_neighbours(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    """Scaling, and a ridge regression on the members, the neighbouring levels, the other side and the whole study."""
    return _fit("neighbours", cells, codes, bias=True, features=True)


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3)."""
    return with_prior(softmax(logits(fitted, cells)), cells.spoken, cells.prior)


def logits(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3), before the softmax."""
    params = fitted.params
    out = cells.logits() * np.asarray(params["temperature"])[GROUP_OF][:, None, None]
    out += np.asarray(params["bias"])[GROUP_OF]
    for group, stored in enumerate(params["weights"]):
        features = Scale.read(params["scales"][group])(_features(cells, group, params["members"][group]))
        out[:, list(GROUPS[group])] += features @ np.asarray(stored)
    return out


def _features(cells: Cells, group: int, members: list[int]) -> np.ndarray:
    return np.concatenate([deviations(cells, group, members), context(cells, group)], axis=-1)


def _fit(name: str, cells: Cells, codes: np.ndarray, *, bias: bool, features: bool) -> Fit:
    """Minimise score + penalties by L-BFGS; codes (N, 5, 5) with no label where nobody speaks."""
    base = cells.logits()
    members = speakers(cells)
    raw = [_features(cells, group, members[group]) for group in range(len(GROUPS))] if features else []
    scales = [Scale.of(part) for part in raw]
    seen = [scale(part) for scale, part in zip(scales, raw, strict=True)]
    sizes = [part.shape[-1] * len(SEVERITIES) for part in seen]
    ridge = RIDGE * RIDGE_STUDIES / len(codes)

    def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        free = np.split(x, np.cumsum([len(GROUPS), int(np.prod(_SHAPE))]))
        parts = np.split(free[2], np.cumsum(sizes)[:-1]) if sizes else []
        return free[0], free[1].reshape(_SHAPE), [part.reshape(-1, len(SEVERITIES)) for part in parts]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        log_t, b, weights = unpack(x)
        scaled = base * np.exp(log_t)[GROUP_OF][:, None, None]
        z = scaled + b[GROUP_OF]
        for group, places in enumerate(GROUPS[: len(seen)]):
            z[:, list(places)] += seen[group] @ weights[group]
        value, slope = loss_and_gradient(z, codes)
        value += BIAS * np.mean(b**2) + TEMPERATURE * np.sum(log_t**2) + ridge * sum(np.sum(w**2) for w in weights)
        by_t, by_b, by_w = 2 * TEMPERATURE * log_t, 2 * BIAS * b / b.size, []
        for group, places in enumerate(GROUPS):
            part = slope[:, list(places)]
            by_t[group] += np.sum(part * scaled[:, list(places)])
            by_b[group] += part.sum(axis=(0, 1))
            if seen:
                flat = seen[group].reshape(-1, seen[group].shape[-1])
                by_w.append((flat.T @ part.reshape(-1, len(SEVERITIES)) + 2 * ridge * weights[group]).ravel())
        return value, np.concatenate([by_t, by_b.ravel() * bias, *by_w])

    start = np.zeros(len(GROUPS) + int(np.prod(_SHAPE)) + sum(sizes))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 80, "ftol": 1e-10})
    log_t, b, weights = unpack(found.x)
    params: dict[str, Any] = {
        "temperature": np.exp(log_t).tolist(),
        "bias": b.tolist(),
        "weights": [part.tolist() for part in weights],
        "scales": [scale.store() for scale in scales],
        "members": members,
    }
    return Fit(name, params)
