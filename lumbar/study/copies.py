"""Series of one study that hold the same pictures, whatever their headers say."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from lumbar.dicom.series import Series, Slice
from lumbar.geometry import FloatArray

#: Share of a series' images that must be another's, too, to call it a copy.
COPIED: Final = 0.5
#: Pixels of a picture that are compared, a side.
SIDE_PX: Final = 64
#: Correlation of two pictures that are one, their values perhaps in other units; noise alone makes that of two scans of
#: one place smaller.
SAME_PICTURE: Final = 0.9995


class Pictures:
    """The pictures of a series by their shape: slices, and of each some pixels (N, P) of mean 0 and length 1."""

    def __init__(self, series: Series) -> None:
        lots: dict[tuple[int, int], list[Slice]] = {}
        for item in series.slices:
            lots.setdefault(item.shape, []).append(item)
        self.of_shape = {shape: (lot, _standardised(lot)) for shape, lot in lots.items()}


def shared_pictures(one: Pictures, other: Pictures) -> tuple[list[Slice], list[Slice]]:
    """The slices of either series whose picture is in the other one, too."""
    found: tuple[list[Slice], list[Slice]] = ([], [])
    for shape in set(one.of_shape) & set(other.of_shape):
        (first, flat), (second, others) = one.of_shape[shape], other.of_shape[shape]
        alike = np.abs(flat @ others.T) >= SAME_PICTURE
        for place, lot in enumerate((first, second)):
            found[place].extend(item for item, same in zip(lot, alike.any(axis=1 - place), strict=True) if same)
    return found


def repeated_pictures(pictures: Pictures) -> list[Slice]:
    """The slices whose picture an earlier slice of the series has, too."""
    found = []
    for shape in set(pictures.of_shape):
        lot, flat = pictures.of_shape[shape]
        alike = np.tril(np.abs(flat @ flat.T) >= SAME_PICTURE, k=-1)
        found += [item for item, same in zip(lot, alike.any(axis=1), strict=True) if same]
    return found


def _standardised(slices: Sequence[Slice]) -> FloatArray:
    """Some pixels of each picture (N, P), of mean 0 and length 1; all 0 where they are one value."""
    rows, columns = (max(1, side // SIDE_PX) for side in slices[0].shape)
    flat = np.stack([item.pixels[::rows, ::columns].ravel() for item in slices]).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat /= np.where(length > 0, length, 1)
    return flat
