"""LightGBM and XGBoost on raw probabilities, as the fourth place's stackers: one model a group of conditions.

A row is a cell of a study: the three probabilities of every member that speaks on the group, and the level. Sides share
a model. A probability that is missing stays missing: trees send it the way that cost least. As many models a group as
there are inner folds, each stopped early on the fold that it did not see; their probabilities are averaged. Trees see
a row alone, with its weight in the official score, and not the any-severe term. The settings are the published ones.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from lumbar.ensemble.cells import GROUPS, Cells
from lumbar.ensemble.cells import speakers as speakers_of
from lumbar.ensemble.fit import Fit, inner_folds
from lumbar.ensemble.method_names import PACE
from lumbar.ensemble.objective import ROW_WEIGHTS, softmax
from lumbar.ensemble.prior import with_prior
from lumbar.ensemble.trees import added, library
from lumbar.labels import LEVELS, SEVERITIES
from lumbar.metric import UNLABELLED

#: The original's five folds, each of which stops a model here, too, but inside of the studies that it is fitted on.
INNER: Final = 5
_CLASSES: Final = len(SEVERITIES)
Settings = Mapping[str, float]
#: By group: spinal, foraminal, subarticular. The original's canal has no L1 penalty: its name is misspelt there.
LIGHTGBM: Final[tuple[Settings, ...]] = (
    {"min_data_in_leaf": 5, "lambda_l2": 9.8687, "min_split_gain": 0.2444, "bagging_fraction": 0.5365,
     "bagging_freq": 9, "feature_fraction": 0.5004},
    {"min_data_in_leaf": 3, "lambda_l1": 5.2e-8, "lambda_l2": 1.3901, "min_split_gain": 7e-8,
     "bagging_fraction": 0.5181, "bagging_freq": 1, "feature_fraction": 0.5591},
    {"min_data_in_leaf": 9, "lambda_l1": 5.2e-5, "lambda_l2": 4e-6, "min_split_gain": 3e-8,
     "bagging_fraction": 0.6021, "bagging_freq": 9, "feature_fraction": 0.5086},
)  # fmt: skip
LIGHTGBM_RATE, LIGHTGBM_ROUNDS, LIGHTGBM_PATIENCE = 0.02, 50_000, 500
XGBOOST: Final[tuple[Settings, ...]] = (
    {"min_child_weight": 6.105, "gamma": 0.0036, "subsample": 0.644, "alpha": 0.0083, "lambda": 0.00365,
     "colsample_bytree": 0.527, "colsample_bylevel": 0.501, "colsample_bynode": 0.5},
    {"min_child_weight": 9.019, "gamma": 0.365, "subsample": 0.982, "alpha": 0.497, "lambda": 4.064,
     "colsample_bytree": 0.67, "colsample_bylevel": 0.61, "colsample_bynode": 0.517},
    {"min_child_weight": 9.174, "gamma": 0.0191, "subsample": 0.9996, "alpha": 0.0, "lambda": 9.526,
     "colsample_bytree": 0.521, "colsample_bylevel": 0.576, "colsample_bynode": 0.532},
)  # fmt: skip
XGBOOST_RATE, XGBOOST_ROUNDS, XGBOOST_PATIENCE = 0.001, 10_000, 1000
_DEPTH: Final = 3
#: Rows (n, F), labels (n,), weights (n,).
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def fit(cells: Cells, codes: np.ndarray, seed: int, name: str, pace: float = PACE) -> Fit:
    """`INNER` models a group; `name`: lightgbm or xgboost. Codes (N, 5, 5).

    `pace`: XGBoost learns at so many times the published rate, in so many times fewer rounds.
    """
    seed %= 2**31  # LightGBM's has a sign
    members = speakers_of(cells)
    files: dict[str, bytes] = {}
    for number, studies in enumerate(inner_folds(len(codes), INNER, seed)):
        for group in range(len(GROUPS)):
            seen, held_out = (_rows(cells, codes, group, members[group], part) for part in studies)
            if not members[group] or not len(seen[1]) or not len(held_out[1]):
                continue
            if name == "lightgbm":
                found = train_lightgbm(seen, held_out, group, seed)
                model = found.model_to_string(num_iteration=found.best_iteration).encode()
            else:
                found = train_xgboost(seen, held_out, group, seed, pace)
                model = bytes(found[: found.best_iteration + 1].save_raw("json"))
            files[f"{name}_raw_{group}_{number}.{'txt' if name == 'lightgbm' else 'json'}"] = model
    return Fit(f"{name}_raw", {"members": members}, files)


def predict(fitted: Fit, cells: Cells) -> np.ndarray:
    """(N, 5, 5, 3): the mean of the models of each group; the plain mean of the members where it has none."""
    out = cells.average()
    for group, places in enumerate(GROUPS):
        own = [data for file, data in sorted(fitted.files.items()) if file.startswith(f"{fitted.method}_{group}_")]
        if own:
            features = features_of(cells, group, fitted.params["members"][group])
            name = fitted.method.removesuffix("_raw")
            said = [softmax(added(name, model, features, alone=True)) for model in own]
            out[:, list(places)] = np.mean(said, axis=0)
    return with_prior(out, cells.spoken, cells.prior)


def features_of(cells: Cells, group: int, members: list[int]) -> np.ndarray:
    """(N, conditions, 5, 3 × members + 1): probabilities, member by member, NaN where silent; the level's number."""
    said = np.moveaxis(cells.members[:, members][:, :, list(GROUPS[group])], 1, 3)  # (N, C, 5, M, 3)
    level = np.broadcast_to(np.arange(len(LEVELS), dtype=np.float64)[:, None], (*said.shape[:3], 1))
    return np.concatenate([said.reshape(*said.shape[:3], len(SEVERITIES) * len(members)), level], axis=-1)


def train_lightgbm(seen: Rows, held_out: Rows, group: int, seed: int, patience: int = LIGHTGBM_PATIENCE) -> Any:
    """A booster that was stopped early, its last column a category; it answers with its best rounds."""
    lightgbm = library("lightgbm")
    options = {
        "objective": "multiclass", "num_class": _CLASSES, "learning_rate": LIGHTGBM_RATE, "max_depth": _DEPTH,
        "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": seed, "verbose": -1, **LIGHTGBM[group],
    }  # fmt: skip
    level = [seen[0].shape[1] - 1]
    first = lightgbm.Dataset(seen[0], seen[1], weight=seen[2], categorical_feature=level)
    second = lightgbm.Dataset(held_out[0], held_out[1], weight=held_out[2], categorical_feature=level, reference=first)
    stop = lightgbm.early_stopping(patience, verbose=False)
    return lightgbm.train(options, first, LIGHTGBM_ROUNDS, valid_sets=[second], callbacks=[stop])


def train_xgboost(seen: Rows, held_out: Rows, group: int, seed: int, pace: float = PACE) -> Any:
    """A booster with all rounds that it was trained for; the best ends with round `best_iteration`."""
    xgboost = library("xgboost")
    options = {
        "objective": "multi:softprob", "num_class": _CLASSES, "eta": XGBOOST_RATE * pace, "max_depth": _DEPTH,
        "nthread": 1, "seed": seed, "eval_metric": "mlogloss", **XGBOOST[group],
    }  # fmt: skip
    first, second = (
        xgboost.DMatrix(rows, labels, weight=weights, nthread=1) for rows, labels, weights in (seen, held_out)
    )
    return xgboost.train(
        options,
        first,
        max(1, round(XGBOOST_ROUNDS / pace)),
        evals=[(second, "held_out")],
        early_stopping_rounds=max(1, round(XGBOOST_PATIENCE / pace)),
        verbose_eval=False,
    )


def _rows(cells: Cells, codes: np.ndarray, group: int, members: list[int], studies: np.ndarray) -> Rows:
    truth = codes[studies][:, list(GROUPS[group])]
    known = truth != UNLABELLED
    labels = truth[known]
    return features_of(cells.take(studies), group, members)[known], labels, ROW_WEIGHTS[labels]
