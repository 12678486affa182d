"""Every way to blend, by name: how it is fitted, how a fit predicts. A fit is data (see `fit`), whatever the method.

A new method has its name in `method_names` too, which recipes and manifests read without any of this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from lumbar.ensemble import boosting, by_hand, cellwise, factors, linear, mlp, mlp_raw, raw_trees, weights
from lumbar.ensemble.average import BLEND_METHODS
from lumbar.ensemble.cells import FAINT, Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.method_names import PACE, PACED, WEIGHTED, MethodName
from lumbar.ensemble.objective import softmax
from lumbar.ensemble.prior import with_prior
from lumbar.metric import UNLABELLED

#: What `stack` averages, in logits: correctors that err differently, both fitted on the whole official score.
STACKED: Final[tuple[MethodName, ...]] = ("neighbours", "mlp")
#: What `stack_raw` averages, in probabilities: all that the fourth place is told to have stacked. How it mixed them is
#: not known.
STACKED_RAW: Final[tuple[MethodName, ...]] = ("nelder_mead", "mlp_raw", "lightgbm_raw", "xgboost_raw")


@dataclass(frozen=True)
class Method:
    """`fit(cells, codes, seed)` learns from labels (N, 5, 5), those in `PACED` by a `pace`; `predict(fit, cells)` gives
    (N, 5, 5, 3)."""

    fit: Callable[..., Fit]
    predict: Callable[[Fit, Cells], np.ndarray]


def fit(name: str, cells: Cells, codes: np.ndarray, seed: int = 0, pace: float = PACE) -> Fit:
    """Fit a method. `codes` (N, 5, 5) as of `label_codes`; rows on which no member speaks teach nothing. `pace`: see
    `raw_trees`.

    ValueError for an unknown name; InputError where the method's library is not installed.
    """
    if name not in METHODS:
        raise ValueError(f"unknown blend method {name!r}; known: {', '.join(METHODS)}")
    options = {"pace": pace} if name in PACED else {}
    return METHODS[name].fit(cells, np.where(cells.spoken, codes, UNLABELLED), seed, **options)


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """The blend of a fit: (N, 5, 5, 3), rows sum to 1; the prior where no member speaks."""
    return METHODS[fitted.method].predict(fitted, cells)


def spoken(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5), True where a member speaks that the blend listens to."""
    return by_hand.spoken(fitted, cells) if fitted.method == WEIGHTED else cells.spoken


def _average(name: str) -> Method:
    def fit_nothing(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
        return Fit(name)

    return Method(fit_nothing, lambda fitted, cells: cells.average(name, fitted.params.get("weights")))


def _weights(name: str, average: Literal["mean", "mean_logits"], optimizer: str) -> Method:
    return Method(lambda cells, codes, seed: weights.fit(cells, codes, name, average, optimizer), weights.predict)


def _fit_stack(cells: Cells, codes: np.ndarray, seed: int, pace: float = PACE, *, name: str) -> Fit:
    stacked = STACKED if name == "stack" else STACKED_RAW
    parts = {part: fit(part, cells, codes, seed, pace) for part in stacked}
    files = {f"{part}.{file}": data for part, fitted in parts.items() for file, data in fitted.files.items()}
    return Fit(name, {"parts": {part: dict(fitted.params) for part, fitted in parts.items()}}, files)


def _predict_stack(fitted: Fit, cells: Cells) -> np.ndarray:
    said = []
    for name, params in fitted.params["parts"].items():
        own = {file.removeprefix(f"{name}."): d for file, d in fitted.files.items() if file.startswith(f"{name}.")}
        said.append(predict(Fit(name, params, own), cells))
    if fitted.method == "stack":
        logits = sum(np.log(np.maximum(table, FAINT)) / len(said) for table in said)
        return with_prior(softmax(np.asarray(logits)), cells.spoken, cells.prior)
    return with_prior(np.mean(said, axis=0), cells.spoken, cells.prior)


def _refuse_to_fit(cells: Cells, codes: np.ndarray, seed: int) -> Fit:
    raise ValueError("the weights of this blend are set by hand, in a recipe; see `by_hand.weighted`")


METHODS: Final[dict[str, Method]] = {
    **{name: _average(name) for name in BLEND_METHODS},
    "nelder_mead": _weights("nelder_mead", "mean", "Nelder-Mead"),
    "slsqp": _weights("slsqp", "mean", "SLSQP"),
    "slsqp_logits": _weights("slsqp_logits", "mean_logits", "SLSQP"),
    "temperature": Method(linear.fit_temperature, linear.predict),
    "scaling": Method(linear.fit_scaling, linear.predict),
    "neighbours": Method(linear.fit_neighbours, linear.predict),
    "mlp": Method(mlp.fit, mlp.predict),
    "cells": Method(cellwise.fit, cellwise.predict),
    "lightgbm": Method(partial(boosting.fit, name="lightgbm"), boosting.predict),
    "xgboost": Method(partial(boosting.fit, name="xgboost"), boosting.predict),
    "stack": Method(partial(_fit_stack, name="stack"), _predict_stack),
    "multipliers": Method(partial(factors.fit, name="multipliers"), factors.predict),
    "severe_scaled": Method(partial(factors.fit, name="severe_scaled"), factors.predict),
    "mlp_raw": Method(mlp_raw.fit, mlp_raw.predict),
    "lightgbm_raw": Method(partial(raw_trees.fit, name="lightgbm"), raw_trees.predict),
    "xgboost_raw": Method(partial(raw_trees.fit, name="xgboost"), raw_trees.predict),
    "stack_raw": Method(partial(_fit_stack, name="stack_raw"), _predict_stack),
    WEIGHTED: Method(_refuse_to_fit, by_hand.predict),
}
