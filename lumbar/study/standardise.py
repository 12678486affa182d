"""From a slice's stored pixels to the numbers that a network sees. Torch-free, shared by both stages."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar import geometry
from lumbar.dicom.bits import is_padding
from lumbar.dicom.series import Slice
from lumbar.dicom.values import turning_point
from lumbar.recipe.preprocessing import Preprocessing


def slice_values(item: Slice, preprocessing: Preprocessing) -> tuple[NDArray[np.float32], geometry.FloatArray]:
    """A slice's image (H, W) and the affine that belongs to it, by the options `values` and `orientation`.

    modality: stored x slope + intercept, where MONOCHROME1 pixels are first turned over within the range that their
    bits can hold; padding outside the range of the image becomes its smallest value. stored: the decoded pixels as they
    are.
    """
    wide = item.pixels.dtype.itemsize > 2  # float32 holds 16 bits, not 32
    values: NDArray[np.floating] = item.pixels.astype(np.float64) if wide else item.pixels.astype(np.float32)
    if preprocessing.values == "modality":
        if item.inverted:
            values = np.asarray(turning_point(item.stored_range), values.dtype) - values
        if (item.slope, item.intercept) != (1.0, 0.0):
            values = values * np.float64(item.slope) + item.intercept
        if item.padding is not None:
            _darken(values, is_padding(item.pixels, item.padding))
    affine = item.affine
    if preprocessing.orientation == "canonical":
        values, affine = geometry.canonical(values, affine, item.plane)
    return np.ascontiguousarray(values, np.float32), affine


def slice_frame(item: Slice, preprocessing: Preprocessing) -> tuple[geometry.FloatArray, tuple[int, int]]:
    """The affine and the (rows, columns) of a slice's image as `slice_values` gives it, without its values."""
    pixels, affine = item.pixels, item.affine
    if preprocessing.orientation == "canonical":
        pixels, affine = geometry.canonical(pixels, affine, item.plane)
    rows, columns = pixels.shape
    return affine, (rows, columns)


def _darken(values: NDArray[np.floating], padded: NDArray[np.bool_]) -> None:
    """Give padding the smallest value of the image, in place.

    Where the image itself takes values on both sides of it, as with 0 in noise around 0, padding is left as it is.
    """
    image = values[~padded]
    low, high = image.min(), image.max()
    values[padded & ((values < low) | (values > high))] = low


def resize(image: NDArray[np.float32], size: int | tuple[int, int]) -> NDArray[np.float32]:
    """The image (H, W) resized to (height, width): cubic, no smoothing first, aspect ratio not kept."""
    height, width = (size, size) if isinstance(size, int) else size
    return cv2.resize(np.ascontiguousarray(image, np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def crop(
    image: NDArray[np.float32], box: tuple[int, int, int, int], border: Literal["edge", "zeros"] = "edge"
) -> tuple[NDArray[np.float32] | None, bool]:
    """The part (y2 - y1, x2 - x1) of an image inside (x1, y1, x2, y2), and whether the box leaves the image.

    edge: what lies outside repeats the border pixels; zeros: a box that leaves the image gives None, which the
    original system takes for a region of zeros.
    """
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"empty box {box}: expected (x1, y1, x2, y2) with x1 < x2 and y1 < y2")
    height, width = image.shape
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return image[y1:y2, x1:x2], False
    if border == "zeros":
        return None, True
    rows = np.clip(np.arange(y1, y2), 0, height - 1)
    columns = np.clip(np.arange(x1, x2), 0, width - 1)
    return image[np.ix_(rows, columns)], True


def grey_ends(
    values: NDArray[np.float32], intensity: Literal["percentile", "minmax"], percentiles: tuple[float, float]
) -> tuple[float, float]:
    """The values that become black and white: two percentiles, or the least and the largest."""
    if intensity == "minmax":
        return float(values.min()), float(values.max())
    low, high = np.percentile(values, percentiles)
    return float(low), float(high)


def between(values: NDArray[np.float32], ends: tuple[float, float]) -> NDArray[np.float32]:
    """Values from black to white as 0 to 1, others clipped; all 0 where the ends do not differ."""
    low, high = ends
    if not high > low:
        return np.zeros_like(values)
    return np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)


def standardise(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """(x - mean) / std over all values of the stack together (population std); unchanged where std is 0."""
    wide = stack.astype(np.float64)
    mean = wide.mean()
    wide -= mean
    std = np.sqrt(np.square(wide, out=wide).mean())
    if std == 0:
        return stack.astype(np.float32, copy=False)
    values = np.subtract(stack, np.float32(mean), dtype=np.float32)
    values /= np.float32(std)
    return values
