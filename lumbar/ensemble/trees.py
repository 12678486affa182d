"""Trees of LightGBM and XGBoost as stored: what a model adds to logits, whatever it was fitted for.

A model is read once and kept: it is asked again for every study.
"""

import functools
import importlib
from typing import Any, Final

import numpy as np

from lumbar.ensemble.lightgbm_text import check_text
from lumbar.ensemble.xgboost_json import checked_json
from lumbar.issues import InputError
from lumbar.labels import SEVERITIES

_CLASSES: Final = len(SEVERITIES)


def library(name: str) -> Any:
    """The module of that name; InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the blend needs {name}, which is not installed; pip install -r requirements.txt, or choose another method"
        ) from error


def added(name: str, model: bytes, features: np.ndarray, *, alone: bool = False) -> np.ndarray:
    """What a stored model adds to the logits: (…, F) to (…, 3). `alone`: it was fitted to add to nothing.

    Features may be NaN. ValueError where the model cannot be used.
    """
    rows = features.reshape(-1, features.shape[-1])
    tool = library(name)
    if name == "lightgbm":
        try:
            found = _lightgbm(model).predict(rows, raw_score=True, num_threads=1)
        except tool.basic.LightGBMError as error:
            raise ValueError(f"a LightGBM model cannot be used ({error})") from error
    else:
        start = None if alone else np.zeros((len(rows), _CLASSES))  # alone it begins with the scores that it stores
        try:
            data = tool.DMatrix(rows, base_margin=start, nthread=1)
            found = _xgboost(model, rows.shape[1]).predict(data, output_margin=True)
        except tool.core.XGBoostError as error:
            raise ValueError(f"an XGBoost model cannot be used ({str(error).splitlines()[0]})") from error
    return np.asarray(found, dtype=np.float64).reshape(*features.shape[:-1], _CLASSES)


@functools.lru_cache(maxsize=32)
def _lightgbm(model: bytes) -> Any:
    text = model.decode()
    check_text(text, _CLASSES)
    return library("lightgbm").Booster(model_str=text)


@functools.lru_cache(maxsize=32)
def _xgboost(model: bytes, features: int) -> Any:
    booster = library("xgboost").Booster({"nthread": 1})
    booster.load_model(bytearray(checked_json(model, features, _CLASSES)))
    return booster
