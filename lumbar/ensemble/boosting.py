"""LightGBM and XGBoost as stackers: small trees that correct the logits of `scaling`, one model a group of conditions.

Shallow trees, large leaves and a strong penalty keep the correction small; inner folds stop it early, and the models of
the inner folds are averaged. Trees see each row alone and not the any-severe term: a last `scaling` on the inner folds'
held-out answers brings the level of the canal back to what the official score wants.
"""

from typing import Any, Final

import numpy as np

from lumbar.ensemble import linear
from lumbar.ensemble.cells import GROUPS, Cells, context, deviations
from lumbar.ensemble.cells import speakers as speakers_of
from lumbar.ensemble.fit import Fit, inner_folds
from lumbar.ensemble.objective import softmax
from lumbar.ensemble.prior import with_prior
from lumbar.ensemble.trees import added, library
from lumbar.labels import LEVELS, SEVERITIES, SEVERITY_WEIGHTS
from lumbar.metric import UNLABELLED

ROUNDS, PATIENCE, INNER, RATE = 150, 15, 3, 0.04
_ROW_WEIGHTS: Final = np.array([SEVERITY_WEIGHTS[severity] for severity in SEVERITIES])
_CLASSES: Final = len(SEVERITIES)
#: Rows (n, F), labels, logits to correct (n, 3).
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def fit(cells: Cells, codes: np.ndarray, seed: int, name: str) -> Fit:
    """`INNER` models a group, each stopped on studies that it did not see; `name`: lightgbm or xgboost."""
    seed %= 2**31  # LightGBM's has a sign
    train_model = {"lightgbm": _train_lightgbm, "xgboost": _train_xgboost}[name]
    members = speakers_of(cells)
    features = [_features(cells, group, members[group]) for group in range(len(GROUPS))]
    suffix = "txt" if name == "lightgbm" else "json"
    held_logits = np.zeros((*codes.shape, _CLASSES))
    files: dict[str, bytes] = {}
    for number, (train, held_out) in enumerate(inner_folds(len(codes), INNER, seed)):
        base = linear.logits(linear.fit_scaling(cells.take(train), codes[train], seed), cells)
        for group, places in enumerate(GROUPS):
            sets = [_rows(features[group], codes, base, group, studies) for studies in (train, held_out)]
            if not all(len(np.unique(part[1])) for part in sets):
                continue
            model = train_model(library(name), sets[0], sets[1], seed)
            files[f"{name}_{group}_{number}.{suffix}"] = model
            own = base[held_out][:, list(places)]
            held_logits[held_out, places[0] : places[-1] + 1] = own + added(name, model, features[group][held_out])
    held = Cells(softmax(held_logits)[:, None], cells.prior)
    known = np.where(cells.spoken, codes, UNLABELLED)
    params = {
        "scaling": dict(linear.fit_scaling(cells, codes, seed).params),
        "last": dict(linear.fit_scaling(held, known, seed).params),
        "members": members,
    }
    return Fit(name, params, files)


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3): the mean correction of the models of each group, then the last scaling."""
    params = fitted.params
    out = linear.logits(Fit("scaling", params["scaling"]), cells)
    for group, places in enumerate(GROUPS):
        models = [data for file, data in sorted(fitted.files.items()) if file.startswith(f"{fitted.method}_{group}_")]
        features = _features(cells, group, params["members"][group])
        for model in models:
            out[:, list(places)] += added(fitted.method, model, features) / len(models)
    last = linear.logits(Fit("scaling", params["last"]), Cells(softmax(out)[:, None], cells.prior))
    return with_prior(softmax(last), cells.spoken, cells.prior)


def _features(cells: Cells, group: int, members: list[int]) -> np.ndarray:
    """(N, conditions, 5, F): members, context, and the level's number."""
    parts = [deviations(cells, group, members), context(cells, group)]
    level = np.broadcast_to(np.arange(len(LEVELS), dtype=np.float64)[:, None], (*parts[0].shape[:-1], 1))
    return np.concatenate([*parts, level], axis=-1)


def _rows(features: np.ndarray, codes: np.ndarray, base: np.ndarray, group: int, studies: np.ndarray) -> Rows:
    places = list(GROUPS[group])
    truth = codes[studies][:, places]
    known = truth != UNLABELLED
    return features[studies][known], truth[known], base[studies][:, places][known]


def _train_lightgbm(lightgbm: Any, train: Rows, held_out: Rows, seed: int) -> bytes:
    options = {
        "objective": "multiclass", "num_class": _CLASSES, "learning_rate": RATE, "num_leaves": 4, "lambda_l2": 20.0,
        "min_data_in_leaf": min(200, max(5, len(train[1]) // 20)), "feature_fraction": 0.5, "bagging_fraction": 0.7,
        "bagging_freq": 1, "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": seed, "verbose": -1,
    }  # fmt: skip
    first, second = (
        lightgbm.Dataset(x, y, weight=_ROW_WEIGHTS[y], init_score=base.ravel(order="F"))
        for x, y, base in (train, held_out)
    )
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    model = lightgbm.train(options, first, ROUNDS, valid_sets=[second], callbacks=[stop])
    return model.model_to_string(num_iteration=model.best_iteration).encode()


def _train_xgboost(xgboost: Any, train: Rows, held_out: Rows, seed: int) -> bytes:
    options = {
        "objective": "multi:softprob", "num_class": _CLASSES, "eta": RATE, "max_depth": 2, "lambda": 20.0,
        "min_child_weight": min(50, max(2, len(train[1]) // 50)), "colsample_bytree": 0.5, "subsample": 0.7,
        "nthread": 1, "seed": seed, "base_score": 0.5, "eval_metric": "mlogloss", "tree_method": "hist",
    }  # fmt: skip
    first, second = (
        xgboost.DMatrix(x, y, weight=_ROW_WEIGHTS[y], base_margin=base, nthread=1) for x, y, base in (train, held_out)
    )
    model = xgboost.train(
        options, first, ROUNDS, evals=[(second, "held_out")], early_stopping_rounds=PATIENCE, verbose_eval=False
    )
    return bytes(model[: model.best_iteration + 1].save_raw("json"))
