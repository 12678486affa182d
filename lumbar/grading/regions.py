"""Regions of interest: around each keypoint a box of so many millimetres through several slices. No torch.

A region depends on the study, the keypoints and the member's inputs (`region_key`), not on its network; members with
equal inputs share their regions. Where its window of slices lies is decided here, which slices that takes in
`study.slices`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Slice
from lumbar.issues import Issue
from lumbar.labels import LEVELS, Condition, Level, level_title
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.views import OWN_VIEW, VIEWS, View
from lumbar.study.canal import canal_mm, moved_middle_mm
from lumbar.study.slices import Window, axial_window, find_slice, playing_series, sagittal_window
from lumbar.study.standardise import crop, resize, slice_values, standardise
from lumbar.study.study import Study

Box = tuple[int, int, int, int]
Values = Callable[[Slice], tuple[np.ndarray, np.ndarray]]
_CONDITION_OF: dict[View, Condition] = {view: condition for condition, view in OWN_VIEW.items()}
#: Fields of a grader's spec that decide what its regions look like.
_REGION_FIELDS = {"image_size", "roi_mm", "slices", "t1_offsets_mm", "mirror_right", "preprocessing"}


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


@dataclass(frozen=True, eq=False)
class Region:
    """One region: its slices in the order that the network sees (None: zeros) and the box on each.

    Boxes are (x1, y1, x2, y2), ends excluded, in pixels of the slice as the network sees it (turned or stored, see
    `Preprocessing.orientation`). `pixels` (T, S, S) float32, standardised, mirrored where `mirrored` says so.
    """

    view: View
    level: Level
    series_id: int
    slices: tuple[Slice | None, ...]
    boxes: tuple[Box | None, ...]
    pixels: np.ndarray
    padded: bool
    repeated: bool
    mirrored: bool

    @property
    def filled(self) -> int:
        """Slices that hold image, not zeros."""
        return sum(box is not None for box in self.boxes)


@dataclass(frozen=True, eq=False)
class Regions:
    """All regions of a study for one kind of input.

    `tensors[view]` (5 levels, T, S, S) float32, zeros where absent; `present[view]` (5,) bool; `cuts` for pictures.
    """

    tensors: Mapping[View, np.ndarray]
    present: Mapping[View, np.ndarray]
    cuts: Mapping[tuple[View, Level], Region] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()


@dataclass(frozen=True)
class _Centre:
    """The middle between several points, standing on the slice of the first."""

    series_id: int
    instance: int
    xy_px: tuple[float, float]
    mm: tuple[float, float, float]
    repaired: bool = False


def region_key(spec: GraderSpec) -> str:
    """Equal for members whose regions are equal."""
    return json.dumps(spec.model_dump(mode="json", include=_REGION_FIELDS), sort_keys=True)


def cut_regions(study: Study, keypoints: Points, spec: GraderSpec) -> Regions:
    """Cut the regions of all views and levels; what is missing stays zero and is not `present`, with the reason.

    T2 windows lie around the middle of the series, T1 ones beside it or the canal (see `canal.canal_mm`), axial ones
    around the slice of the keypoint; axial_middle is centred between left and right.
    """
    size = (len(LEVELS), spec.slices, spec.image_size, spec.image_size)
    tensors = {view: np.zeros(size, np.float32) for view in VIEWS}
    present = {view: np.zeros(len(LEVELS), bool) for view in VIEWS}
    cuts: dict[tuple[View, Level], Region] = {}
    values = _remembered(spec.preprocessing)
    for view in VIEWS:
        for index, level in enumerate(LEVELS):
            region = cut_region(study, view, level, keypoints, spec, values)
            if region is not None and region.filled:
                tensors[view][index] = region.pixels
                present[view][index] = True
                cuts[view, level] = region
    return Regions(tensors, present, cuts, tuple(_issues(study.study_id, cuts, spec)))


def cut_all_regions(study: Study, keypoints: Points, specs: Iterable[GraderSpec]) -> dict[str, Regions]:
    """The regions that members see, by `region_key`: cut once for all that see the same."""
    by_key = {region_key(spec): spec for spec in specs}
    return {key: cut_regions(study, keypoints, spec) for key, spec in by_key.items()}


def cut_region(
    study: Study, view: View, level: Level, keypoints: Points, spec: GraderSpec, values: Values | None = None
) -> Region | None:
    """One region, or None where the series, the keypoint or its slice is missing.

    `values` gives the image and affine of a slice; by default `standardise.slice_values`, as the member wants it.
    """
    point = view_point(study, view, level, keypoints, spec.preprocessing)
    window = view_window(study, view, level, point, keypoints, spec)
    if point is None or window is None:
        return None
    return _cut(study, window, point, view, level, spec, values or _remembered(spec.preprocessing))


def view_point(study: Study, view: View, level: Level, keypoints: Points, preprocessing: Preprocessing) -> Point | None:
    """The point in the middle of a region, None where it is unknown or not finite."""
    if view != "axial_middle":
        point = keypoints.get((_CONDITION_OF[view], level))
        return point if point is not None and np.isfinite(point.xy_px).all() else None
    both = [view_point(study, side, level, keypoints, preprocessing) for side in ("axial_left", "axial_right")]
    there = [point for point in both if point is not None]
    return _middle(study, there) if there else None


def view_window(
    study: Study, view: View, level: Level, point: Point | None, keypoints: Points, spec: GraderSpec
) -> Window | None:
    """The slices of a region, None where there is no series or, on axial ones, no slice for the keypoint."""
    prep = spec.preprocessing
    if view.startswith("axial"):
        found = find_slice(study, point.series_id, point.instance) if point is not None else None
        return axial_window(*found, spec.slices, prep) if found is not None else None
    series = playing_series(study, "sagittal_t2" if view == "sagittal_t2" else "sagittal_t1", prep)
    if series is None:
        return None
    if view == "sagittal_t2":
        return sagittal_window(series, spec.slices, 0.0, prep, moved_middle_mm(study, series, keypoints, prep))
    side = geometry.LEFTWARDS["left" if view == "sagittal_t1_left" else "right"]
    offset = side * spec.t1_offsets_mm[LEVELS.index(level)]
    return sagittal_window(series, spec.slices, offset, prep, canal_mm(study, series, keypoints, prep, level))


def _cut(
    study: Study, window: Window, point: Point, view: View, level: Level, spec: GraderSpec, values: Values
) -> Region:
    prep = spec.preprocessing
    pixels = np.zeros((spec.slices, spec.image_size, spec.image_size), np.float32)
    boxes: list[Box | None] = [None] * spec.slices
    padded = False
    centre = _stored_centre(study, window, point) if prep.orientation == "stored" else None
    for place, item in enumerate(window.slices):
        if item is None:
            continue
        image, frame = values(item)
        x, y = centre if centre is not None else geometry.to_pixel(frame, point.mm)[:2]
        half = 0.5 if prep.box_origin == "centre" else 0.0
        spacing = item.pixel_spacing if prep.orientation == "stored" else None
        box = geometry.box_px((x + half, y + half), spec.roi_mm, spacing or geometry.spacing_mm(frame))
        part, outside = crop(image, box, prep.border)
        if part is None or not _overlap(box, image.shape):
            break  # the original stops here: this slice and the rest stay zero
        pixels[place], boxes[place] = resize(part, spec.image_size), box
        padded |= outside
    pixels = standardise(pixels)
    mirrored = view == "axial_right" and spec.mirror_right
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    series_id = window.series.series_id
    return Region(view, level, series_id, window.slices, tuple(boxes), pixels, padded, window.repeated, mirrored)


def _stored_centre(study: Study, window: Window, point: Point) -> tuple[float, float]:
    """The original's centre: the keypoint's share of its image, taken of the window's first image."""
    first = next((item for item in window.slices if item is not None), None)
    own = find_slice(study, point.series_id, point.instance)
    if first is None or own is None or own[1].shape == first.shape:
        return point.xy_px
    (rows, columns), (own_rows, own_columns) = first.shape, own[1].shape
    return point.xy_px[0] / own_columns * columns, point.xy_px[1] / own_rows * rows


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


def _overlap(box: Box, shape: tuple[int, ...]) -> bool:
    return box[0] < shape[1] and box[1] < shape[0] and box[2] > 0 and box[3] > 0


def _remembered(preprocessing: Preprocessing) -> Values:
    """`slice_values` that turns and rescales each slice once."""
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def values(item: Slice) -> tuple[np.ndarray, np.ndarray]:
        if id(item) not in known:
            known[id(item)] = slice_values(item, preprocessing)
        return known[id(item)]

    return values


def _issues(study_id: int, cuts: Mapping[tuple[View, Level], Region], spec: GraderSpec) -> list[Issue]:
    """One Issue a kind, view and series, with the levels that it concerns."""
    levels: dict[tuple[str, View, int], list[str]] = {}
    for (view, level), region in cuts.items():
        for code, holds in (("region_padded", region.padded), ("window_repeated", region.repeated)):
            if holds:
                levels.setdefault((code, view, region.series_id), []).append(level_title(level))
    what = {
        "region_padded": f"the {spec.roi_mm:g} mm region reaches past the image; its border was repeated",
        "window_repeated": f"the {spec.slices} slices reach past the end; the border slice was repeated",
    }
    return [
        Issue(code, study_id, series_id, f"{view.replace('_', ' ')} {', '.join(names)}: {what[code]}")
        for (code, view, series_id), names in levels.items()
    ]
