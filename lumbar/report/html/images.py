"""Images as text for the report: WebP in base64, small enough that one file holds a study list."""

import base64
from typing import Final

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from lumbar.dicom.series import Series
from lumbar.drawing import style
from lumbar.drawing.grey_range import OF_A_SERIES, grey_range
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.standardise import slice_values

#: Rescaled and upright, whatever the networks see.
DISPLAY: Final = Preprocessing()
#: Longest side of a slice, pixels; finer than most lumbar images are.
LONGEST_PX: Final = 640
#: Pixels of all slices of a study: about 3 MB of WebP. Studies of more slices get smaller ones.
STUDY_PX: Final = 24_000_000
QUALITY, LOSSLESS = 78, 101  # 101 is OpenCV's word for lossless
#: Saliency maps are smooth; more pixels a side hold nothing.
MAP_PX: Final = 48


def encode(image: NDArray[np.uint8], quality: int = QUALITY) -> str:
    """WebP in base64 of grey (H, W) or RGBA (H, W, 4) pixels."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA)
    _, data = cv2.imencode(".webp", np.ascontiguousarray(image), [cv2.IMWRITE_WEBP_QUALITY, quality])
    return base64.b64encode(data.tobytes()).decode("ascii")


def display_range(series: Series) -> tuple[float, float]:
    """Display range of all slices of a series, so that brightness does not jump from slice to slice."""
    sample = np.concatenate([slice_values(item, DISPLAY)[0][::3, ::3].ravel() for item in series.slices])
    return grey_range(sample, OF_A_SERIES)


def to_grey(image: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """0 to 255 from `low` to `high`."""
    return np.round(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def shrink(image: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """The image no longer than `LONGEST_PX` a side, and by `share` (of its sides, at most 1) smaller."""
    height, width = image.shape
    scale = min(share, LONGEST_PX / max(height, width))
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def film(stack: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Slices (T, H, W[, 4]) side by side (H, T × W[, 4])."""
    return np.concatenate(list(stack), axis=1)


def region_film(pixels: NDArray[np.float32]) -> str:
    """What a network sees (T, S, S) as one picture without loss, from its smallest value (black) to its largest."""
    low, high = float(pixels.min()), float(pixels.max())
    return encode(film(to_grey(pixels, low, max(high, low + 1e-6))), LOSSLESS)


def map_film(saliency: NDArray[np.float32]) -> str:
    """A saliency map (T, S, S) as one picture: colour says which way, opacity how much beside the largest value."""
    small = np.stack([cv2.resize(one, (MAP_PX, MAP_PX), interpolation=cv2.INTER_AREA) for one in saliency])
    peak = float(np.abs(small).max())
    share = small / peak if peak > 0 else small
    rgba = np.empty((*small.shape, 4), np.uint8)
    rgba[..., :3] = np.where(
        small[..., None] > 0, np.multiply(to_rgb(style.RAISES), 255), np.multiply(to_rgb(style.LOWERS), 255)
    ).round()
    rgba[..., 3] = np.round(np.abs(share) * 255)
    return encode(film(rgba), LOSSLESS)
