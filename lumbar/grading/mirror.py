"""What a region looks like in the mirror: left and right change places by name, and the picture is turned."""

from collections.abc import Mapping

import numpy as np

from lumbar.grading.tasks import View
from lumbar.recipe.grader import GraderSpec

#: The view that takes a view's place in the mirrored study.
MIRROR_VIEW: Mapping[View, View] = {
    "sagittal_t2": "sagittal_t2",
    "sagittal_t1_left": "sagittal_t1_right",
    "sagittal_t1_right": "sagittal_t1_left",
    "axial_left": "axial_right",
    "axial_right": "axial_left",
    "axial_middle": "axial_middle",
}


def mirror_view(region: np.ndarray, view: View, spec: GraderSpec) -> np.ndarray:
    """The region (T, S, S) of the mirrored study's `view`, made from the region of `MIRROR_VIEW[view]`."""
    if view == "sagittal_t2" or (view.startswith("sagittal") and spec.preprocessing.side_order == "patient"):
        return region[::-1]
    if view == "axial_middle" or (view.startswith("axial") and not spec.mirror_right):
        return region[..., ::-1]
    return region
