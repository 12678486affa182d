"""What a stack looks like in the mirror: which maps change places, and which axis is turned."""

from typing import Literal

import numpy as np

from lumbar.labels import CONDITIONS, KEYPOINT_SERIES, LEVELS
from lumbar.labels import mirrored as other_side
from lumbar.recipe.detector import DetectorSpec


def mirrored_axis(spec: DetectorSpec) -> Literal["columns", "slices"] | None:
    """Which axis of a stack the mirror turns: columns of axial images, the slices of sagittal series.

    None: a stack of one side whose slices run from the middle outwards is that of the mirrored study's other side.
    """
    if spec.series_type == "axial_t2":
        return "columns"
    one_side = spec.series_type == "sagittal_t1" and spec.placed in ("offset", "found")
    return None if one_side and spec.preprocessing.side_order == "medial" else "slices"


def mirror_stack(
    image: np.ndarray, points: np.ndarray, flip: float, spec: DetectorSpec
) -> tuple[np.ndarray, np.ndarray]:
    """A stack (C, S, S) and its keypoints (K, 2) as the mirrored study would give them.

    Sagittal: slices in opposite order; a side's stack that runs from the middle outwards is that of the mirrored
    study's other side as it is. Axial: columns flipped (column x becomes `flip` - x). Maps change sides by name.
    """
    moved, axis = points[mirrored_maps(spec)].copy(), mirrored_axis(spec)
    if axis == "columns":
        moved[:, 0] = flip - moved[:, 0]
        return image[..., ::-1].copy(), moved
    if axis is None:
        return image, moved
    return reverse_slices(image, spec), moved


def reverse_slices(image: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """A stack (C, S, S) with its slices in opposite order, those that `spec.pad` appends still at the end."""
    end, count = filled(image, spec), spec.in_chans
    order = [*range(end)[::-1], *range(end, count)]
    return image[[first + place for first in range(0, spec.channels, count) for place in order]]


def mirror_slices(slices: np.ndarray, image: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """The places (K,) of the keypoints' slices in a stack (C, S, S) as the mirrored study would give them."""
    moved = slices[mirrored_maps(spec)]
    return filled(image, spec) - 1 - moved if mirrored_axis(spec) == "slices" else moved


def mirror_scores(scores: np.ndarray, image: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """Scores (K, T) of the slices of a stack (C, S, S) as the mirrored study would give them."""
    moved = scores[mirrored_maps(spec)]
    return reverse_scores(moved, image, spec) if mirrored_axis(spec) == "slices" else moved


def reverse_scores(scores: np.ndarray, image: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """Scores (K, T) of slices in opposite order, those that `spec.pad` appends still at the end."""
    end = filled(image, spec)
    return scores[:, [*range(end)[::-1], *range(end, spec.in_chans)]]


def filled(image: np.ndarray, spec: DetectorSpec) -> int:
    """How many slices of a stack (C, S, S) are not those that `spec.pad` appends."""
    there = np.flatnonzero(image[: spec.in_chans].any((1, 2))) if spec.pad else np.zeros(0, int)
    return int(there[-1]) + 1 if len(there) else spec.in_chans


def mirrored_maps(spec: DetectorSpec) -> list[int]:
    """For each name of a detector's answer, the one that means the same place of the mirrored study.

    Left and right of an axial level change places, and all names that stand in the answer with their other side; the
    five levels of a side's stack are those of either side.
    """
    if spec.shows == "stack" and spec.series_type == "axial_t2":
        return [1, 0]
    if spec.shows == "stack":
        return list(range(spec.num_classes))
    listed = [name for name in CONDITIONS if spec.shows == "every" or KEYPOINT_SERIES[name] in spec.types]
    return [listed.index(other_side(name)) * len(LEVELS) + level for name in listed for level in range(len(LEVELS))]
