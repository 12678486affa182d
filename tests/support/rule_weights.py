"""Weights that follow from a tensor's name and shape alone, so that recorded outputs need no weight files.

Every value is drawn from a seed made of a tag and the key, then rounded to half precision; numpy only. Three systems of
records differ in a few leaves: see `rule_weight`.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Which leaves have a mean of their own: as records of the 4th to 6th place say, and those of the 1st to 3rd.
EXTENDED, OTHER = "extended", "other"


def rule_weight(
    key: str, shape: Sequence[int], tag: str, kind: str = "", gain: Mapping[str, Any] | None = None
) -> np.ndarray:
    """The tensor of a key: float32 that half precision holds exactly, or int64 zeros for counters.

    `kind`: "", `EXTENDED` or `OTHER`. `gain`: four-dimensional weights below `prefixes` are multiplied by `factor`.
    """
    shape, leaf = tuple(shape), key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == OTHER and leaf == "p" and shape == (1,):
        return np.full(shape, 3.0, np.float32)
    z = np.random.RandomState(zlib.crc32(f"{tag}:{key}".encode()) & 0xFFFFFFFF).standard_normal(shape)
    value = _halved(_leaf(z, key, leaf, shape, kind))
    if gain and len(shape) == 4 and key.startswith(tuple(gain["prefixes"])):
        value = _halved(value * np.float32(gain["factor"]))
    return value


def _leaf(z: np.ndarray, key: str, leaf: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
    flat = len(shape) == 1
    if kind == OTHER and leaf == "temperature":
        return 1.0 + 0.1 * z
    if kind == EXTENDED and (leaf == "logit_scale" or (leaf == "scale" and flat)):
        return (2.0 if leaf == "logit_scale" else 1.0) + 0.1 * z
    if leaf == "running_mean":
        return 0.1 * z
    if leaf == "running_var":
        return np.exp(0.2 * z)
    if leaf == "gamma" or (kind == OTHER and leaf.startswith("gamma") and flat):
        return 0.5 + 0.1 * z
    if leaf == "relative_position_bias_table":
        return 0.5 * z
    if flat:
        return 1.0 + 0.1 * z if leaf == "weight" else 0.05 * z
    value = z / np.sqrt(float(np.prod(shape[1:])))
    return 8.0 * value if key.endswith("classifier.weight") else value


def _halved(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float16).astype(np.float32)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def uniform(seed: int, *shape: int) -> np.ndarray:
    """From 0 to 1."""
    return np.random.RandomState(seed).random_sample(shape).astype(np.float32)


def whole(seed: int, *shape: int) -> np.ndarray:
    """Grey values from 0 to 255."""
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.float32)


def ramp(seed: int, *shape: int, axis: int = 1) -> np.ndarray:
    """Standard normal whose spread and mean grow along an axis."""
    form = [1] * len(shape)
    form[axis] = shape[axis]
    share = (np.arange(shape[axis]) / max(shape[axis] - 1, 1)).reshape(form)
    drawn = np.random.RandomState(seed).standard_normal(shape) * (0.25 + 1.75 * share) + (share - 0.5)
    return drawn.astype(np.float32)


MAKERS = {"normal": normal, "standard_normal": normal, "uniform": uniform, "bytes": whole, "uint8": whole, "ramp": ramp}
