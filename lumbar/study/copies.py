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


def shared_pictures(one: Series, other: Series) -> tuple[list[Slice], list[Slice]]:
    """The slices of either series whose picture is in the other one, too."""
    shapes = {item.shape for item in one.slices} & {item.shape for item in other.slices}
    found: tuple[list[Slice], list[Slice]] = ([], [])
    for shape in shapes:
        lots = [[item for item in each.slices if item.shape == shape] for each in (one, other)]
        alike = np.abs(_standardised(lots[0]) @ _standardised(lots[1]).T) >= SAME_PICTURE
        for place, lot in enumerate(lots):
            found[place].extend(item for item, same in zip(lot, alike.any(axis=1 - place), strict=True) if same)
    return found


def repeated_pictures(series: Series) -> list[Slice]:
    """The slices whose picture an earlier slice of the series has, too."""
    found = []
    for shape in {item.shape for item in series.slices}:
        lot = [item for item in series.slices if item.shape == shape]
        flat = _standardised(lot)
        alike = np.tril(np.abs(flat @ flat.T) >= SAME_PICTURE, k=-1)
        found += [item for item, same in zip(lot, alike.any(axis=1), strict=True) if same]
    return found


def _standardised(slices: Sequence[Slice]) -> FloatArray:
    """Some pixels of each picture (N, P), of mean 0 and length 1; all 0 where they are one value."""
    rows, columns = (max(1, side // SIDE_PX) for side in slices[0].shape)
    flat = np.stack([item.pixels[::rows, ::columns].ravel().astype(np.float64) for item in slices])
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 0, length, 1)
