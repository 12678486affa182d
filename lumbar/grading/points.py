"""The points that regions lie around, and what lies between them. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lumbar import geometry
from lumbar.labels import LEVELS, SIDES, Condition, Level
from lumbar.recipe.region import Region
from lumbar.recipe.views import OWN_VIEW, View, side_of_view
from lumbar.study.slices import Window, find_slice
from lumbar.study.study import Study

_CONDITION_OF: dict[View, Condition] = {view: condition for condition, view in OWN_VIEW.items()}
_CANAL: Condition = "spinal_canal_stenosis"
_FORAMINA, _RECESSES = "sagittal_t1", "axial"


class Point(Protocol):
    """What this stage needs of a keypoint: where it lies, in its slice as stored and in the patient."""

    @property
    def series_id(self) -> int: ...
    @property
    def instance(self) -> int: ...
    @property
    def xy_px(self) -> tuple[float, float]: ...
    @property
    def mm(self) -> tuple[float, float, float]: ...
    @property
    def repaired(self) -> bool: ...


Points = Mapping[tuple[Condition, Level], Point]


@dataclass(frozen=True)
class _Centre:
    """The middle between several points, standing on the slice of the first."""

    series_id: int
    instance: int
    xy_px: tuple[float, float]
    mm: tuple[float, float, float]
    repaired: bool = False


def view_point(study: Study, view: View, level: Level, keypoints: Points, *, half: bool = False) -> Point | None:
    """The point in the middle of a region, None where it is unknown or not finite.

    `half`: of the whole region that a side's axial one is the half of.
    """
    side = side_of_view(view)
    if view in _CONDITION_OF and not (half and view.startswith("axial")):
        return _known(keypoints, _CONDITION_OF[view], level)
    if side is not None and not view.startswith("axial"):
        return _known(keypoints, _CANAL, level)
    if view == "sagittal_series":
        return _known(keypoints, _CANAL, level) or view_point(study, "sagittal_t1", level, keypoints)
    there = [point for point in pair(view, level, keypoints) if point is not None]
    return _middle(study, there) if there else None


def region_point(study: Study, view: View, level: Level, keypoints: Points, region: Region) -> Point | None:
    """The point around which a region lies: the canal's where it asks for that and it is known, else `view_point`."""
    canal = _known(keypoints, _CANAL, level) if region.point == "canal" else None
    if canal is None and region.point == "middle":
        return _halfway(study, [point for point in pair(view, level, keypoints) if point is not None])
    return canal or view_point(study, view, level, keypoints, half=region.half)


def disc_ends(keypoints: Points, level: Level) -> tuple[np.ndarray, np.ndarray] | None:
    """Back and front end (3,) of a level's disc in patient mm; None where no detector or table tells both."""
    back = _known(keypoints, _CANAL, level)
    front = getattr(back, "front_mm", None)
    return None if back is None or front is None else (np.asarray(back.mm), np.asarray(front))


def foramen_point(view: View, level: Level, keypoints: Points) -> Point | None:
    """The foramen of a side's view, None where it is unknown."""
    side = side_of_view(view)
    return None if side is None else _known(keypoints, _CONDITION_OF[f"{_FORAMINA}_{side}"], level)  # type: ignore[index]


def trail_on(point: Point, window: Window) -> dict[int, tuple[float, float]]:
    """(column, row) as stored by the instance of slices of the window on which a detector shows the point, too."""
    if point.series_id != window.series.series_id:
        return {}
    return {int(instance): (x, y) for instance, x, y in getattr(point, "trail", None) or ()}


def pair(view: View, level: Level, keypoints: Points) -> tuple[Point | None, Point | None]:
    """The left and the right point of a view that shows both sides."""
    kind = _RECESSES if view.startswith("axial") else _FORAMINA
    left, right = (_known(keypoints, _CONDITION_OF[f"{kind}_{side}"], level) for side in SIDES)  # type: ignore[index]
    return left, right


def chain(study: Study, view: View, keypoints: Points) -> dict[Level, np.ndarray]:
    """The points of a view at all levels, (3,) in patient mm."""
    found = {level: view_point(study, view, level, keypoints) for level in LEVELS}
    return {level: np.asarray(point.mm, np.float64) for level, point in found.items() if point is not None}


def _known(keypoints: Points, condition: Condition, level: Level) -> Point | None:
    point = keypoints.get((condition, level))
    return point if point is not None and np.isfinite(point.xy_px).all() else None


def _halfway(study: Study, points: list[Point]) -> Point | None:
    """The mean place of left and right, on the slice halfway between theirs, so that the mirrored study gets it, too.

    Of two in the middle it is the one nearer to the feet; of points on two series that of the lower number.
    """
    if not points:
        return None
    points = sorted(points, key=lambda point: point.series_id)
    middle, first = _middle(study, points), points[0]
    series = study.series_by_id(first.series_id)
    if series is None or len({(point.series_id, point.instance) for point in points}) == 1:
        return middle
    ordered = sorted(series.slices, key=lambda item: float(item.affine[2, 3]))
    numbers = [item.instance for item in ordered]
    own = [numbers.index(point.instance) for point in points if point.series_id == first.series_id]
    item = ordered[sum(own) // len(own)]
    x, y = (float(value) for value in geometry.to_pixel(item.affine, middle.mm)[:2])
    return _Centre(first.series_id, item.instance, (x, y), middle.mm)


def _middle(study: Study, points: list[Point]) -> Point:
    """The mean place of points, on the slice of the first; pixels are compared as shares of their images."""
    first = points[0]
    if len(points) == 1:
        return first
    own = [find_slice(study, point.series_id, point.instance) for point in points]
    sizes = np.array([found[1].shape[::-1] if found is not None else (1, 1) for found in own], np.float64)
    scales = sizes[0] / sizes  # 1 where all images have one size
    x, y = np.mean(np.array([point.xy_px for point in points]) * scales, axis=0)
    mm = np.mean([point.mm for point in points], axis=0)
    return _Centre(first.series_id, first.instance, (float(x), float(y)), (float(mm[0]), float(mm[1]), float(mm[2])))
