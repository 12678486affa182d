"""What a region looks like in the mirror: left and right change places by name, and the picture is turned."""

import numpy as np

from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View


def mirror_view(region: np.ndarray, view: View, spec: GraderSpec) -> np.ndarray:
    """The region (T, H, W) of the mirrored study's `view`, made from the region of `MIRROR_VIEW[view]`."""
    if view == "sagittal_t2" or (view.startswith("sagittal") and spec.preprocessing.side_order == "patient"):
        return region[::-1]
    if view == "axial_middle" or (view.startswith("axial") and not spec.mirror_right):
        return region[..., ::-1]
    return region
