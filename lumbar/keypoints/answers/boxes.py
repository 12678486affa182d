"""Keypoints with a size, as a detector of objects says them: best cell of a map, offset, width, height. No torch.

Five channels a name: score (0 to 1), offset x and y of the point from the middle of the cell (pixels of the map), width
and height (pixels of the image).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumbar.keypoints.answers import heatmaps
from lumbar.keypoints.answers.members import finite, joined
from lumbar.keypoints.answers.reading import Reading
from lumbar.recipe.detector import DetectorSpec

#: Channels of a name.
CHANNELS = ("score", "offset_x", "offset_y", "width", "height")


def shape(spec: DetectorSpec) -> tuple[int, ...]:
    """(K, 5, s, s)."""
    return spec.num_classes, len(CHANNELS), spec.map_size, spec.map_size


def join(raw: Sequence[Any], how: str = "mean", *, every: bool = False) -> Any:
    """Mean or median of members' maps (N, K, 5, s, s), cell by cell, see `registry.Answer`.

    A name whose score is flat (see `heatmaps.RAISED`) or whose maps hold anything but numbers says nothing.
    """
    sound = [finite(maps, 2) for maps in raw]
    if not every:
        sound = [good & heatmaps.raised(maps[:, :, :1]) for good, maps in zip(sound, raw, strict=True)]
    return joined(raw, sound, how)


def read(spec: DetectorSpec, raw: np.ndarray) -> Reading:
    """Maps (N, K, 5, s, s) float32 as the point and size of the first cell with the highest score, its confidence."""
    maps = np.asarray(raw, np.float64)
    silent = ~np.isfinite(maps).reshape(*maps.shape[:2], -1).all(-1)
    flat = np.where(silent[..., None, None], 0.0, maps.reshape(*maps.shape[:3], -1))  # (N, K, 5, cells)
    best = flat[:, :, 0].argmax(-1)
    score, offset_x, offset_y, width, height = np.moveaxis(
        np.take_along_axis(flat, best[..., None, None], axis=-1)[..., 0], -1, 0
    )
    row, column = np.divmod(best, maps.shape[-1])
    xy = np.stack([column + offset_x, row + offset_y], axis=-1)
    points = np.concatenate([(xy + 0.5) * spec.stride - 0.5, np.full((*best.shape, 1), np.nan)], axis=-1)
    size = np.stack([width, height], axis=-1)
    points[silent], size[silent] = np.nan, np.nan
    sure = np.where(silent, 0.0, np.clip(score, 0.0, 1.0))
    return Reading(points, sure, score, np.full(best.shape, np.nan), size)
