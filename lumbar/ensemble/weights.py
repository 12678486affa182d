"""Weights of the members, one set a group of conditions, fitted on the official score."""

from collections.abc import Callable

import numpy as np

from lumbar.ensemble.average import BlendMethod
from lumbar.ensemble.cells import FAINT, GROUPS, Cells, speakers
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.objective import ROW_WEIGHTS, any_severe, softmax, weight_sums
from lumbar.metric import UNLABELLED


def fit(cells: Cells, codes: np.ndarray, method: str, average: BlendMethod, optimizer: str) -> Fit:
    """Weights by group that minimise the score; `optimizer`: "Nelder-Mead" or "SLSQP". codes (N, 5, 5)."""
    from scipy.optimize import minimize

    count = cells.members.shape[1]
    weights = np.ones((len(GROUPS), count))
    for group, members in enumerate(speakers(cells)):
        if len(members) < 2:
            continue
        loss = _loss(cells, codes, group, members, average)
        if optimizer == "SLSQP":
            equal = np.full(len(members), 1 / len(members))
            total = {"type": "eq", "fun": lambda w: w.sum() - 1}
            found = minimize(loss, equal, method="SLSQP", bounds=[(0, 1)] * len(members), constraints=[total]).x
        else:  # weights as a softmax: no bounds needed, and the first member's logit may stay 0

            def unbound(free: np.ndarray, loss: Callable[[np.ndarray], float] = loss) -> float:
                return loss(_softmax(free))

            start = np.zeros(len(members) - 1)
            options = {"xatol": 1e-3, "fatol": 1e-7, "maxfev": 60 * len(members)}
            found = _softmax(minimize(unbound, start, method="Nelder-Mead", options=options).x)
        weights[group] = 0.0
        weights[group, members] = np.maximum(found, 1e-6)  # a member that alone speaks is heard, whatever its weight
    return Fit(method, {"average": average, "weights": weights.tolist()})


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3)."""
    return weighted(cells, fitted.params["average"], np.asarray(fitted.params["weights"]))


def weighted(cells: Cells, average: BlendMethod, weights: np.ndarray) -> np.ndarray:
    """Average with a row of weights (groups, M) for each group: (N, 5, 5, 3)."""
    out = np.empty((len(cells.members), *cells.prior.shape))
    for places, row in zip(GROUPS, weights, strict=True):
        part = list(places)
        out[:, part] = Cells(cells.members[:, :, part], cells.prior[part]).average(average, row)
    return out


def _loss(
    cells: Cells, codes: np.ndarray, group: int, members: list[int], average: BlendMethod
) -> Callable[[np.ndarray], float]:
    """The group's parts of the score as a function of its members' weights; no cell is averaged that is not needed."""
    part = list(GROUPS[group])
    said = cells.members[:, members][:, :, part]  # (N, m, C, 5, 3)
    speaks = ~np.isnan(said).all(axis=-1, keepdims=True)
    values = np.where(speaks, np.log(np.maximum(said, FAINT)) if average == "mean_logits" else said, 0.0)
    truth, sums = codes[:, part], weight_sums(codes)
    known = truth != UNLABELLED
    row_weights = ROW_WEIGHTS[truth[known]]

    def loss(weights: np.ndarray) -> float:
        share = (np.maximum(weights, 0.0) + 1e-6)[:, None, None, None] * speaks
        p = (share * values).sum(axis=1) / np.maximum(share.sum(axis=1), 1e-12)
        p = softmax(p) if average == "mean_logits" else p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-12)
        own = np.take_along_axis(p[known], truth[known][:, None], axis=1)[:, 0]
        value = float(-(row_weights * np.log(np.maximum(own, 1e-9))).sum() / max(row_weights.sum(), 1e-9))
        if group == 0 and sums[3] > 0:
            value += any_severe(p[:, 0], truth[:, 0], 1 / sums[3])[0]
        return value

    return loss


def _softmax(free: np.ndarray) -> np.ndarray:
    return softmax(np.concatenate([[0.0], free]))
