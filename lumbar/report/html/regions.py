"""The regions of a study for the report, exactly as the networks saw them, with what in them moved the networks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Slice
from lumbar.grading.regions import Region, Regions
from lumbar.labels import LEVELS, Condition
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View
from lumbar.report.html import images
from lumbar.report.html.cells import ORDER
from lumbar.report.html.saliency import graded_views
from lumbar.report.html.slices import Shown

VIEW_TITLES: Final[dict[View, str]] = {
    "sagittal_t2": "Sagittal T2",
    "sagittal_t1_left": "Sagittal T1, left",
    "sagittal_t1_right": "Sagittal T1, right",
    "axial_left": "Axial T2, left",
    "axial_right": "Axial T2, right",
    "axial_middle": "Axial T2, middle",
    "sagittal_t1": "Sagittal T1, both sides",
    "sagittal_t2_left": "Sagittal T2, left",
    "sagittal_t2_right": "Sagittal T2, right",
    "sagittal_series": "Sagittal",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """The regions of one kind of input, and maps of what in them moved the members that see them."""

    spec: GraderSpec
    regions: Regions
    maps: Mapping[tuple[Condition, View, int], np.ndarray]


def region_views(seen: Sequence[Seen], shown: Shown) -> list[dict[str, Any]]:
    """Every region for JSON, a condition's own view first; boxes in mm of the slices as `shown` has them."""
    return [
        _view(part, region, row, column, shown)
        for row, level in enumerate(LEVELS)
        for column, condition in enumerate(ORDER)
        for view in dict.fromkeys(view for part in seen for view in graded_views(condition, part.spec))
        for part in seen
        if view in graded_views(condition, part.spec) and (region := part.regions.cuts.get((view, level))) is not None
    ]


def _view(part: Seen, region: Region, row: int, column: int, shown: Shown) -> dict[str, Any]:
    shown_slices = slice(1, None, 3) if part.spec.region_of(region.view).neighbours else slice(None)
    slices, boxes = region.slices[shown_slices], region.boxes[shown_slices]
    frames = [_frame(item, part.spec) if item is not None else None for item in slices]
    first = next(frame for frame in frames if frame is not None)
    edges = geometry.edge_letters(first)
    saliency = part.maps.get((ORDER[column], region.view, row))
    return {
        "row": row,
        "column": column,
        "series": str(region.series_id),
        "title": VIEW_TITLES[region.view],
        "size": region.pixels.shape[2],
        "tall": region.pixels.shape[1],
        "mm": _millimetres(region),
        "edges": edges[::-1] if region.mirrored else edges,
        "mirrored": region.mirrored,
        "padded": region.padded,
        "repeated": region.repeated,
        "slices": [
            None if item is None or box is None or frame is None
            else {"instance": item.instance, "name": item.name}
            | _box(item, box, region.turn, frame, region.series_id, shown)
            for item, box, frame in zip(slices, boxes, frames, strict=True)
        ],
        "image": images.region_film(region.pixels[shown_slices]),
        "map": None if saliency is None else images.map_film(saliency),
    }  # fmt: skip


def _millimetres(region: Region) -> float | str:
    """Side of the box, or height and width."""
    tall, wide = (round(side, 1) for side in region.size_mm)
    return tall if tall == wide else f"{tall:g} × {wide:g}"


def _frame(item: Slice, spec: GraderSpec) -> geometry.FloatArray:
    """The affine of a slice as the network sees it."""
    if spec.preprocessing.orientation == "stored":
        return item.affine
    return geometry.canonical(item.pixels, item.affine, item.plane)[1]


def _box(
    item: Slice, box: tuple[int, int, int, int], turn: float, frame: geometry.FloatArray, series_id: int, shown: Shown
) -> dict[str, list[Any]]:
    """What is drawn of a box, in mm of the shown slice: `box` (x, y, width, height) around its corners and, where it is
    turned around its middle, the `corners` themselves. Box ends are excluded, pixel centres lie at whole numbers."""
    (x1, x2), (y1, y2) = ((start - 0.5, end - 0.5) for start, end in (box[::2], box[1::2]))
    rows, columns = geometry.spacing_mm(frame)  # mm a pixel, along them the turn is meant
    cos, sin, x, y = math.cos(turn), math.sin(turn), (x1 + x2) / 2, (y1 + y2) / 2
    around = [((left - x) * columns, (top - y) * rows) for left, top in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    corners_px = [(x + (cos * dx - sin * dy) / columns, y + (sin * dx + cos * dy) / rows) for dx, dy in around]
    places = [shown.place(series_id, item.instance, geometry.to_patient(frame, corner)) for corner in corners_px]
    corners = np.array([place for place in places if place is not None])
    low, high = corners.min(axis=0), corners.max(axis=0)
    drawn: dict[str, list[Any]] = {"box": np.round([*low, *(high - low)], 2).tolist()}
    return drawn | {"corners": np.round(corners, 2).tolist()} if turn else drawn
