"""The grey values of a detector's stack as its spec has them. No torch."""

import numpy as np
from numpy.typing import NDArray

from lumbar.recipe.detector import DetectorSpec
from lumbar.study.standardise import between, grey_ends, standardise


def as_seen(pixels: NDArray[np.float32], there: NDArray[np.bool_], spec: DetectorSpec) -> NDArray[np.float32]:
    """Slices (T, S, S), those that are `there` (T,), as the network sees them; the others stay zero.

    Standardised over the stack, slices that are not there take part, as the ninth place has it; else each scope is
    that of the slices that are there.
    """
    if spec.plain:
        return standardise(pixels)
    out = np.zeros_like(pixels)
    scopes = [np.flatnonzero(there)] if spec.scope == "stack" else np.flatnonzero(there)[:, None]
    for own in scopes:
        if len(own):
            out[own] = _scaled(pixels[own], spec)
    return out


def _scaled(values: NDArray[np.float32], spec: DetectorSpec) -> NDArray[np.float32]:
    if spec.intensity == "standard":
        return standardise(values)
    return between(values, grey_ends(values, spec.intensity, spec.percentiles))
