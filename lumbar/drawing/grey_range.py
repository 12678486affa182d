"""Which brightness is black and which is white where people look at images: the grey-value range of a display."""

import numpy as np
from numpy.typing import NDArray

#: Per cent of the values that may saturate: below black, above white. Of a part of a slice, and of a whole series.
OF_A_PART, OF_A_SERIES = (1.0, 99.5), (0.5, 99.7)


def grey_range(values: NDArray[np.floating], per_cent: tuple[float, float]) -> tuple[float, float]:
    """The values (any shape) shown black and white, so that the rest of vessels and skin fat may saturate."""
    low, high = np.percentile(values, per_cent)
    return float(low), float(high if high > low else low + 1)
