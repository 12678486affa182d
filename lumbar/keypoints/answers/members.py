"""Several members' answers as one, whether they are NumPy arrays or tensors. No torch is loaded for it."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


def library_of(array: Any) -> Any:
    """NumPy, or torch where the array is a tensor."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def finite(answer: Any, keep: int) -> Any:
    """Whether each part of an answer holds numbers only; parts are what the first `keep` axes name.

    Bool with as many axes as the answer, 1 long behind the first `keep`.
    """
    own = library_of(answer).isfinite(answer)
    return own.reshape(*own.shape[:keep], -1).all(-1).reshape(*own.shape[:keep], *[1] * (own.ndim - keep))


def joined(raw: Sequence[Any], sound: Sequence[Any], how: str) -> Any:
    """Mean or median of answers of one shape over those that are `sound` (bool, broadcast); NaN where none is.

    The median of an even number is the mean of the middle two.
    """
    library = library_of(raw[0])
    counted = library.zeros_like(sound[0], dtype=library.float32)
    if how == "mean":
        total = library.zeros_like(raw[0])
        for answer, good in zip(raw, sound, strict=True):
            total, counted = total + library.where(good, answer, library.zeros_like(answer)), counted + good
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            return total / counted
    for good in sound:
        counted = counted + good
    nothing = library.full_like(raw[0], float("inf"))  # behind all that counts
    values = library.stack([library.where(good, answer, nothing) for answer, good in zip(raw, sound, strict=True)])
    places = library.broadcast_to(counted, raw[0].shape)[None]
    lower, upper = ((places - 1) // 2, places // 2)
    if library is np:
        values = np.sort(values, axis=0)
        low, high = (np.take_along_axis(values, at.clip(0, len(raw) - 1).astype(np.int64), 0) for at in (lower, upper))
    else:
        values = values.sort(dim=0).values
        low, high = (library.take_along_dim(values, at.clip(0, len(raw) - 1).long(), 0) for at in (lower, upper))
    return library.where(places[0] > 0, ((low + high) / 2)[0], library.full_like(raw[0], float("nan")))
