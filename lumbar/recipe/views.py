"""The views of a level: which kinds of region a grader may see, what each shows, and what each is in the mirror."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from lumbar.labels import SIDES, Condition, SeriesType, Side, side_of

#: Slices of a series around a point. With a side they lie beside the middle, or around the recess of that side; without
#: one in the middle, `axial_middle` between both recesses. `sagittal_t1` lies around the middle of both foramina,
#: `sagittal_t2_left` and `_right` around the canal's point. Of `sagittal_series` every sagittal series, T1 or T2 alike,
#: is one of its own.
View = Literal[
    "sagittal_t2",
    "sagittal_t1_left",
    "sagittal_t1_right",
    "axial_left",
    "axial_right",
    "axial_middle",
    "sagittal_t1",
    "sagittal_t2_left",
    "sagittal_t2_right",
    "sagittal_series",
]
VIEWS: Final[tuple[View, ...]] = get_args(View)
#: Those that members of a task see.
TASK_VIEWS: Final[tuple[View, ...]] = VIEWS[:6]
#: The view on which a condition is graded by a reader; a member that does not see it stays silent.
OWN_VIEW: Final[dict[Condition, View]] = {
    "spinal_canal_stenosis": "sagittal_t2",
    "left_neural_foraminal_narrowing": "sagittal_t1_left",
    "right_neural_foraminal_narrowing": "sagittal_t1_right",
    "left_subarticular_stenosis": "axial_left",
    "right_subarticular_stenosis": "axial_right",
}


def side_of_view(view: View) -> Side | None:
    """The patient's side that a view shows; None where it shows both."""
    return next((side for side in SIDES if view.endswith(f"_{side}")), None)


def _mirrored(view: View) -> View:
    other: dict[Side | None, str] = {"left": "right", "right": "left"}
    side = side_of_view(view)
    return view if side is None else view.removesuffix(side) + other[side]  # type: ignore[return-value]


#: The view that takes a view's place in the mirrored study.
MIRROR_VIEW: Final[Mapping[View, View]] = {view: _mirrored(view) for view in VIEWS}


def kind_of(view: View) -> str:
    """A view without its side: left and right of a kind are alike, and one encoder sees both."""
    side = side_of_view(view)
    return view if side is None else view.removesuffix(f"_{side}")


def series_of(view: View) -> SeriesType:
    """The series type that a view is cut from; of `sagittal_series` the first of two."""
    if view.startswith("axial"):
        return "axial_t2"
    return "sagittal_t1" if view.startswith("sagittal_t1") else "sagittal_t2"


def own_views(condition: Condition, views: Sequence[View]) -> tuple[View, ...]:
    """Of a sample's views those on which it sees a condition: its own one, else any that is not of the other side."""
    if OWN_VIEW[condition] in views:
        return (OWN_VIEW[condition],)
    sides = {None, side_of(condition)} if side_of(condition) is not None else {None, *SIDES}
    return tuple(view for view in views if side_of_view(view) in sides)
