"""What a stack looks like in the mirror: which maps change places, and which axis is turned."""

import numpy as np

from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SIDES
from lumbar.labels import mirrored as other_side
from lumbar.recipe.detector import DetectorSpec


def mirror_stack(
    image: np.ndarray, points: np.ndarray, flip: float, spec: DetectorSpec
) -> tuple[np.ndarray, np.ndarray]:
    """A stack (C, S, S) and its keypoints (K, 2) as the mirrored study would give them.

    Sagittal: slices in opposite order; a side's stack that runs from the middle outwards is that of the mirrored
    study's other side as it is. Axial: columns flipped (column x becomes `flip` - x). Maps change sides by name.
    """
    moved = points[mirrored_maps(spec)].copy()
    if spec.series_type == "axial_t2":
        moved[:, 0] = flip - moved[:, 0]
        return image[..., ::-1].copy(), moved
    return (image[::-1].copy() if _turned(spec) else image), moved


def mirror_slices(slices: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """The places (K,) of the keypoints' slices in a stack as the mirrored study would give them."""
    moved = slices[mirrored_maps(spec)]
    return spec.in_chans - 1 - moved if _turned(spec) else moved


def _turned(spec: DetectorSpec) -> bool:
    """Whether the slices of a stack change their order in the mirror."""
    of_a_side = spec.series_type == "sagittal_t1" and spec.placed in ("offset", "found")
    return spec.series_type != "axial_t2" and not (of_a_side and spec.preprocessing.side_order == "medial")


def mirrored_maps(spec: DetectorSpec) -> list[int]:
    """For each map of a detector, the map that shows the same place of the mirrored study.

    Two maps are left and right; ten the levels of the left, then of the right; 25 are all conditions with all levels;
    five are the levels of either side.
    """
    if spec.num_classes == len(SIDES):
        return [1, 0]
    if spec.num_classes == len(LABEL_COLUMNS):
        return [CONDITIONS.index(other_side(name)) * len(LEVELS) + k for name in CONDITIONS for k in range(len(LEVELS))]
    names = list(range(spec.num_classes))
    return [*names[len(LEVELS) :], *names[: len(LEVELS)]] if len(names) == len(SIDES) * len(LEVELS) else names
