"""The views of a level: which kinds of region a grader may see, what each shows, and what each is in the mirror."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from lumbar.labels import Condition

View = Literal["sagittal_t2", "sagittal_t1_left", "sagittal_t1_right", "axial_left", "axial_right", "axial_middle"]
VIEWS: Final[tuple[View, ...]] = get_args(View)
#: The view on which a condition is graded by a reader; a member that does not see it stays silent.
OWN_VIEW: Final[dict[Condition, View]] = {
    "spinal_canal_stenosis": "sagittal_t2",
    "left_neural_foraminal_narrowing": "sagittal_t1_left",
    "right_neural_foraminal_narrowing": "sagittal_t1_right",
    "left_subarticular_stenosis": "axial_left",
    "right_subarticular_stenosis": "axial_right",
}
#: The view that takes a view's place in the mirrored study.
MIRROR_VIEW: Final[Mapping[View, View]] = {
    "sagittal_t2": "sagittal_t2",
    "sagittal_t1_left": "sagittal_t1_right",
    "sagittal_t1_right": "sagittal_t1_left",
    "axial_left": "axial_right",
    "axial_right": "axial_left",
    "axial_middle": "axial_middle",
}
