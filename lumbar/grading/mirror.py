"""What a region looks like in the mirror: left and right change places by name, and the picture is turned."""

import numpy as np

from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View, side_of_view


def mirror_view(region: np.ndarray, view: View, spec: GraderSpec) -> np.ndarray:
    """The region (…, T, H, W) of the mirrored study's `view`, made from the region of `MIRROR_VIEW[view]`.

    A view of both sides shows its other side first: sagittal slices in opposite order, axial images with opposite
    columns. Of a side's views both sides look alike, where the spec has them so.
    """
    side = side_of_view(view)
    if view.startswith("axial"):
        return region if side is not None and spec.mirror_right else region[..., ::-1]
    alike = side is not None and (spec.region_of(view).half or spec.preprocessing.side_order == "medial")
    if alike:
        return region
    may_end_empty = spec.region_of(view).pad or spec.region_of(view).around == "series"
    return _turned(region) if may_end_empty else region[..., ::-1, :, :]


def _turned(region: np.ndarray) -> np.ndarray:
    """Slices (…, T, H, W) in opposite order; those without contrast at the end, which are empty, stay there."""
    there = region.max((-2, -1)) > region.min((-2, -1))
    places = np.arange(there.shape[-1])
    count = np.where(there, places + 1, 0).max(-1, keepdims=True)
    order = np.where(places < count, count - 1 - places, places)
    return np.take_along_axis(region, order[..., None, None], -3)
