"""How large a region's box is, where it lies and how it is turned, whatever its unit. No torch."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar import geometry
from lumbar.grading.points import Point, Points, chain, disc_ends, pair
from lumbar.labels import LEVELS, Level
from lumbar.recipe.region import AXIAL_HALF, UNION, Box, Region
from lumbar.recipe.views import View, side_of_view
from lumbar.study.study import Study

#: Places along the canal's line among which the one nearest to a level is sought.
_SAMPLES: Final = 100
#: Sum of squared distances, px², by which columns, and rows, may miss the points.
_SMOOTH: Final = 1.0


@dataclass(frozen=True)
class Placed:
    """A box on a slice: height and width, how far its middle lies from the point (x, y), both in mm; and by how much
    it is turned, radians from the image's columns to its rows (clockwise as displayed)."""

    size_mm: tuple[float, float]
    shift_mm: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0


def placed(
    study: Study,
    view: View,
    level: Level,
    point: Point | None,
    keypoints: Points,
    region: Region,
    shape: tuple[int, int],
    frame: geometry.FloatArray,
) -> Placed | None:
    """The box of a region on a slice of `shape` with the affine `frame`; None where its unit, or (but for the whole
    image) its point is not known there."""
    spacing = geometry.spacing_mm(frame)
    if region.box == "whole":
        return Placed((shape[0] * spacing[0], shape[1] * spacing[1]))
    if point is None:
        return None
    image_mm = shape[0] * spacing[0], shape[1] * spacing[1]
    tall, wide = (_unit(study, view, level, point, keypoints, region, image_mm, box, frame) for box in region.units)
    if tall is None or wide is None or region.extent is None:
        return None
    unit = tall[0], wide[1]
    x, y = region.shift_l5_s1 if level == "l5_s1" and region.shift_l5_s1 is not None else region.shift
    axial, side = view.startswith("axial"), side_of_view(view)
    height, width = region.extent[0] * unit[0], region.extent[1] * unit[1]
    x, y = x * unit[1], y * unit[0]
    if region.half and axial:
        x, width = x + width * (1 - AXIAL_HALF) / 2, width * AXIAL_HALF
    box = Placed((height, width), (-x if axial and side == "right" else x, y))
    if region.box == "pair" and side is None:
        return replace(box, turn=_pair_turn(level, keypoints, frame))
    if region.rotate == "disc" and not axial:
        return replace(box, turn=_disc_turn(level, keypoints, frame))
    if region.rotate == "canal" and not axial:  # members of tasks cut views that they do not see
        line = chain(study, "sagittal_t2", keypoints)
        line = line if len(line) > 2 else chain(study, view, keypoints)
        return replace(box, turn=canal_turn([geometry.to_pixel(frame, mm)[:2] for mm in line.values()], frame, point))
    return box


def _unit(
    study: Study,
    view: View,
    level: Level,
    point: Point,
    keypoints: Points,
    region: Region,
    image_mm: tuple[float, float],
    box: Box,
    frame: geometry.FloatArray,
) -> tuple[float, float] | None:
    """Millimetres of one unit `box` along height and width; None where it is not known."""
    if box == "mm":
        return 1.0, 1.0
    if box == "share":
        return image_mm
    if box == "disc":
        long = disc_mm(keypoints, level if region.span == "neighbours" else None)
        return None if long is None else (long, long)
    if box == "union":
        return _union(view, level, keypoints, image_mm, frame)
    if box == "own":
        size = getattr(point, "size_mm", None)
        if size is None or not np.isfinite(size).all():
            return None
        return min(float(size[1]), image_mm[0]), min(float(size[0]), image_mm[1])
    if box == "pair":
        left, right = pair(view, level, keypoints)
        if left is None or right is None:
            return None
        apart = float(np.linalg.norm(np.subtract(left.mm, right.mm)))
        return (apart, apart) if apart > 0 else None
    own = level if region.span == "neighbours" else None
    apart = neighbour_mm(chain(study, view, keypoints), own, median=region.span == "median")
    return (apart, apart) if apart > 0 else None


def _union(
    view: View, level: Level, keypoints: Points, image_mm: tuple[float, float], frame: geometry.FloatArray
) -> tuple[float, float] | None:
    """Height and width of the upright box around left and right: second place's, whose boxes reach a thirtieth of the
    image from their point each way."""
    left, right = pair(view, level, keypoints)
    if left is None or right is None:
        return None
    rows, columns = geometry.spacing_mm(frame)
    dx, dy = np.abs(geometry.to_pixel(frame, left.mm) - geometry.to_pixel(frame, right.mm))[:2]
    return float(dy) * rows + image_mm[0] * 2 * UNION, float(dx) * columns + image_mm[1] * 2 * UNION


def disc_mm(keypoints: Points, level: Level | None) -> float | None:
    """How long the disc of a level is from back to front, the median of all where it is not told or none is named."""
    long = {each: float(np.linalg.norm(np.subtract(*ends))) for each in LEVELS if (ends := disc_ends(keypoints, each))}
    known = [value for value in long.values() if value > 0]
    if not known:
        return None
    own = long.get(level, 0.0) if level is not None else 0.0
    return own or float(np.median(known))


def neighbour_mm(points: dict[Level, np.ndarray], level: Level | None, *, median: bool = False) -> float:
    """Mean distance of a level to those next above and below it (None: of all neighbours, or their median), 0 where
    there is none.

    Where a level between is missing, the distance to the next is shared by the steps.
    """
    known = [each for each in LEVELS if each in points]
    steps = {}
    for above, below in pairwise(known):
        apart = float(np.linalg.norm(points[below] - points[above]))
        steps[above, below] = apart / (LEVELS.index(below) - LEVELS.index(above))
    own = [length for ends, length in steps.items() if level is None or level in ends]
    return float(np.median(own) if median else np.mean(own)) if own else 0.0


def canal_turn(line_px: "list[np.ndarray]", frame: geometry.FloatArray, point: Point) -> float:
    """By how much the canal leans at a point, radians, see `Placed`: third place's rule.

    Quadratic smoothing splines of columns and of rows through the levels' points on the slice, along the lengths
    between them; a second pair through a hundred places of these gives the direction at the place nearest to the point.
    Upright with fewer than three points apart, and where the line has no direction.
    """
    apart = [place for number, place in enumerate(line_px) if not number or np.any(place != line_px[number - 1])]
    if len(apart) < 3:
        return 0.0
    return spline_turn(np.array(apart), geometry.to_pixel(frame, point.mm)[:2])


def spline_turn(points: NDArray[np.float64], at: NDArray[np.float64]) -> float:
    """See `canal_turn`; points (N, 2) and the place (2,) are (column, row)."""
    along, samples = spline(points)
    nearest = int(np.argmin(np.linalg.norm(samples - at, axis=1)))
    dx, dy = (float(value) for value in _splined(along, samples, along[nearest : nearest + 1], slope=True)[0])
    if not math.isfinite(dx + dy) or not (dx or dy):
        return 0.0
    return math.atan2(-dx, dy) if dy > 0 else math.atan2(dx, -dy)


def spline(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths (100,) along the line through points (N, 2), and its places (100, 2) there."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    along = np.linspace(0, lengths[-1], _SAMPLES)
    return along, _splined(lengths, points, along)


def _splined(
    lengths: NDArray[np.float64], points: NDArray[np.float64], along: NDArray[np.float64], *, slope: bool = False
) -> NDArray[np.float64]:
    """Columns and rows (N, 2) of the smoothed line at some lengths, or how they change there."""
    from scipy.interpolate import splev, splrep  # takes a second to load, and few members need it

    # quiet: of points all over the place the smoothest line that was found will do
    lines = [splrep(lengths, values, k=2, s=_SMOOTH, full_output=1, quiet=1)[0] for values in points.T]
    return np.stack([splev(along, line, der=int(slope)) for line in lines], axis=1)


def _pair_turn(level: Level, keypoints: Points, frame: geometry.FloatArray) -> float:
    """The angle of the line from the right recess, at the image's left, to the left one."""
    left, right = pair("axial_middle", level, keypoints)
    assert left is not None
    assert right is not None
    rows, columns = geometry.spacing_mm(frame)
    dx, dy = (geometry.to_pixel(frame, left.mm) - geometry.to_pixel(frame, right.mm))[:2]
    return math.atan2(dy * rows, dx * columns)


def _disc_turn(level: Level, keypoints: Points, frame: geometry.FloatArray) -> float:
    """The angle of the line from the disc's front, at the image's left, to its back; 0 where its ends are not told."""
    ends = disc_ends(keypoints, level)
    if ends is None:
        return 0.0
    rows, columns = geometry.spacing_mm(frame)
    dx, dy = (geometry.to_pixel(frame, ends[0]) - geometry.to_pixel(frame, ends[1]))[:2]
    return math.atan2(dy * rows, dx * columns)


def middle_px(centre: tuple[float, float], box: Placed, spacing: tuple[float, float]) -> tuple[float, float]:
    """(column, row) of a box's middle whose point is `centre`; the shift turns with the box."""
    x, y = box.shift_mm
    cos, sin = math.cos(box.turn), math.sin(box.turn)
    return centre[0] + (cos * x - sin * y) / spacing[1], centre[1] + (sin * x + cos * y) / spacing[0]


def matrix(
    middle: tuple[float, float], box: Placed, size: tuple[int, int], spacing: tuple[float, float]
) -> NDArray[np.float64]:
    """(2, 3): from a pixel (column, row) of the region to one of the slice; pixel centres are whole numbers."""
    height, width = box.size_mm
    cos, sin = math.cos(box.turn), math.sin(box.turn)
    across, down = width / size[1], height / size[0]  # mm a pixel
    linear = np.array([[cos * across, -sin * down], [sin * across, cos * down]]) / [[spacing[1]], [spacing[0]]]
    offset = np.array(middle) - linear @ [(size[1] - 1) / 2, (size[0] - 1) / 2]
    return np.column_stack([linear, offset])


def turned_crop(
    image: NDArray[np.float32], placing: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], bool]:
    """The region (H, W) that a `matrix` places on an image, cubic, its border repeated; and whether it leaves it."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(image, placing, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    corners = np.array([[x, y, 1] for x in (0, size[1] - 1) for y in (0, size[0] - 1)]) @ placing.T
    outside = (corners < -0.5).any() or (corners > np.array(image.shape[::-1]) - 0.5).any()
    return part, bool(outside)
