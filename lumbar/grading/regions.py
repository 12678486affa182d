"""Regions of interest: around each point a box through several slices, as the member's `RegionSpec` has it. No torch.

A region depends on the study, the keypoints and the member's inputs (`region_key`), not on its network; members with
equal inputs share their regions. Which slices it shows is decided in `windows`, where its box lies in `boxes`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.grading import boxes
from lumbar.grading.intensity import Scales, as_seen
from lumbar.grading.points import Point, Points, region_point, trail_on, view_point
from lumbar.grading.tasks import task_of
from lumbar.grading.windows import axial_slices_of, sagittal_slices, whole_series
from lumbar.issues import Issue
from lumbar.labels import LEVELS, Level, level_title
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.region import Region as Wanted
from lumbar.recipe.views import TASK_VIEWS, View, series_of
from lumbar.study.slices import Window, find_slice, playing_series
from lumbar.study.standardise import crop, resize, slice_values
from lumbar.study.study import Study

Box = tuple[int, int, int, int]
Values = Callable[[Slice], tuple[np.ndarray, np.ndarray]]
#: Fields of a grader's spec that decide what its regions look like.
_REGION_FIELDS = {
    "image_size",
    "roi_mm",
    "slices",
    "t1_offsets_mm",
    "mirror_right",
    "preprocessing",
    "region",
    "regions",
}


@dataclass(frozen=True, eq=False)
class Region:
    """One region: its slices in the order that the network sees (None: zeros) and the box on each.

    Boxes are (x1, y1, x2, y2), ends excluded, in pixels of the slice as the network sees it (turned or stored, see
    `Preprocessing.orientation`), upright: the region is turned around the box's middle by `turn` radians, clockwise as
    displayed. `pixels` (T, H, W) float32, as the network sees them, mirrored where `mirrored` says so; of slices with
    their neighbours T counts every slice's three. `size_mm` is the box's height and width.
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
    size_mm: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0

    @property
    def filled(self) -> int:
        """Slices that hold image, not zeros."""
        return sum(box is not None for box in self.boxes)


@dataclass(frozen=True, eq=False)
class Regions:
    """All regions of a study for one kind of input.

    `tensors[view]` (5 levels, T, H, W) float32, zeros where absent, of whole series (1, T, H, W); `present[view]` (5,)
    bool; `cuts` for pictures.
    """

    tensors: Mapping[View, np.ndarray]
    present: Mapping[View, np.ndarray]
    cuts: Mapping[tuple[View, Level], Region] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()
    #: The same views from other series, where every series is a sample of its own.
    others: tuple["Regions", ...] = ()

    def without_cuts(self) -> "Regions":
        """The same without what holds on to the study's slices."""
        return replace(self, cuts={}, others=tuple(other.without_cuts() for other in self.others))


def region_key(spec: GraderSpec) -> str:
    """Equal for members whose regions are equal."""
    fields = spec.model_dump(mode="json", include=_REGION_FIELDS)
    if spec.task is None:  # members of tasks share all their views
        fields["views"] = sorted(views_of(spec))
    return json.dumps(fields, sort_keys=True)


def views_of(spec: GraderSpec) -> tuple[View, ...]:
    """The views of which regions are cut: a member's own and their twins'; with a task those of all tasks."""
    return task_of(spec).views if spec.task is None else TASK_VIEWS


def cut_regions(study: Study, keypoints: Points, spec: GraderSpec) -> Regions:
    """Cut the regions of all views and levels; what is missing stays zero and is not `present`, with the reason.

    T2 windows lie around the middle of the series, T1 ones beside it or the canal (see `canal.canal_mm`), axial ones
    around the slice of the keypoint; axial_middle is centred between left and right. Where every sagittal series is a
    sample of its own, those after the first are `others`.
    """
    values = _remembered(spec.preprocessing)
    every: list[Series | None] = [None]
    if "sagittal_series" in spec.views:
        every = [*study.series.get("sagittal_t2", ()), *study.series.get("sagittal_t1", ())] or [None]
    first, *others = [_cut_views(study, keypoints, spec, values, series) for series in every]
    return replace(first, others=tuple(others))


def _cut_views(study: Study, keypoints: Points, spec: GraderSpec, values: "_Values", series: Series | None) -> Regions:
    views = views_of(spec)
    regions = {view: spec.region_of(view) for view in views}
    once = spec.levels == "study"
    shapes = {view: (1 if once else len(LEVELS), one.frames, *one.size) for view, one in regions.items()}
    tensors = {view: np.zeros(shape, np.float32) for view, shape in shapes.items()}
    present = {view: np.zeros(len(LEVELS), bool) for view in views}
    cuts: dict[tuple[View, Level], Region] = {}
    for view in views:
        for index, level in enumerate(LEVELS[: len(tensors[view])]):
            region = cut_region(study, view, level, keypoints, spec, values, series)
            if region is not None and region.filled:
                tensors[view][index] = region.pixels
                present[view][index] = True
                cuts[view, level] = region
        if once and (view, LEVELS[0]) in cuts:  # all levels are seen on it
            present[view][:] = True
            cuts |= {(view, level): replace(cuts[view, LEVELS[0]], level=level) for level in LEVELS}
    return Regions(tensors, present, cuts, tuple(_issues(study.study_id, cuts, spec)))


def cut_all_regions(study: Study, keypoints: Points, specs: Iterable[GraderSpec]) -> dict[str, Regions]:
    """The regions that members see, by `region_key`: cut once for all that see the same."""
    by_key = {region_key(spec): spec for spec in specs}
    return {key: cut_regions(study, keypoints, spec) for key, spec in by_key.items()}


def cut_region(
    study: Study,
    view: View,
    level: Level,
    keypoints: Points,
    spec: GraderSpec,
    values: Values | None = None,
    series: Series | None = None,
) -> Region | None:
    """One region, or None where the series, the keypoint or its slice is missing; a whole series needs no keypoint.

    `values` gives the image and affine of a slice; by default `standardise.slice_values`, as the member wants it.
    `series`: a sagittal one in place of the one that plays the view's part.
    """
    point = region_point(study, view, level, keypoints, spec.region_of(view))
    if series is not None and series in study.series.get("sagittal_t1", ()):
        point = view_point(study, "sagittal_t1", level, keypoints) or point
    window = view_window(study, view, level, point, keypoints, spec, series)
    if window is None or (point is None and spec.region_of(view).around != "series"):
        return None
    if values is None:
        values = _remembered(spec.preprocessing)
    given = values if isinstance(values, _Values) else _Values(values)
    return _cut(study, window, point, view, level, keypoints, spec, given)


def view_window(
    study: Study,
    view: View,
    level: Level,
    point: Point | None,
    keypoints: Points,
    spec: GraderSpec,
    series: Series | None = None,
) -> Window | None:
    """The slices of a region, None where there is no series or, on axial ones, no slice for the keypoint."""
    if spec.region_of(view).around == "series":
        return whole_series(study, view, spec)
    if view.startswith("axial"):
        return None if point is None else axial_slices_of(study, level, point, keypoints, spec, view)
    if series is None:
        series = playing_series(study, series_of(view), spec.preprocessing)
    return None if series is None else sagittal_slices(study, series, view, level, point, keypoints, spec)


def _cut(
    study: Study,
    window: Window,
    point: Point | None,
    view: View,
    level: Level,
    keypoints: Points,
    spec: GraderSpec,
    values: "_Values",
) -> Region | None:
    prep, wanted = spec.preprocessing, spec.region_of(view)
    pixels = np.zeros((wanted.frames, *wanted.size), np.float32)
    found: list[Box | None] = [None] * wanted.frames
    parts: dict[int, tuple[np.ndarray, Box, bool] | None] = {}
    padded, box = False, None
    centre = _stored_centre(study, window, point) if point is not None and prep.orientation == "stored" else None
    shown = trail_on(point, window) if point is not None and wanted.follow else {}
    for place, item in enumerate(window.slices):
        if item is None:
            continue
        if id(item) not in parts:
            image, frame = values(item)
            if box is None:  # as large on every slice
                shape = image.shape[0], image.shape[1]
                box = boxes.placed(study, view, level, point, keypoints, wanted, shape, frame)
                if box is None:
                    return None
            own = None if point is None else point.mm
            mm = geometry.to_patient(item.affine, shown[item.instance]) if item.instance in shown else own
            at = centre if centre is not None else (0.0, 0.0) if mm is None else geometry.to_pixel(frame, mm)[:2]
            spacing = (item.pixel_spacing if prep.orientation == "stored" else None) or geometry.spacing_mm(frame)
            parts[id(item)] = _part(image, (float(at[0]), float(at[1])), box, wanted, spacing, prep)
        part = parts[id(item)]
        if part is None:
            break  # the original stops here: this slice and the rest stay zero
        pixels[place], found[place] = part[0], part[1]
        padded |= part[2]
    pixels = as_seen(pixels, window.slices, window.series, wanted, values.scales)
    mirrored = view == "axial_right" and spec.mirror_right
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    series_id, (size, turn) = window.series.series_id, ((0.0, 0.0), 0.0) if box is None else (box.size_mm, box.turn)
    return Region(
        view, level, series_id, window.slices, tuple(found), pixels, padded, window.repeated, mirrored, size, turn
    )


def _part(
    image: np.ndarray,
    at: tuple[float, float],
    box: boxes.Placed,
    wanted: Wanted,
    spacing: tuple[float, float],
    prep: Preprocessing,
) -> tuple[np.ndarray, Box, bool] | None:
    """One slice's part (H, W), its box, upright, and whether it leaves the image; None where nothing of it is there."""
    if wanted.box == "whole":
        return resize(image, wanted.size), (0, 0, image.shape[1], image.shape[0]), False
    middle = boxes.middle_px(at, box, spacing)
    half = 0.5 if prep.box_origin == "centre" else 0.0
    x1, y1, x2, y2 = geometry.box_px((middle[0] + half, middle[1] + half), box.size_mm, spacing)
    upright = x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)  # a point's own size may be next to nothing
    if not _overlap(upright, image.shape):
        return None
    if box.turn:
        part, outside = boxes.turned_crop(image, boxes.matrix(middle, box, wanted.size, spacing), wanted.size)
        return part, upright, outside
    cut, outside = crop(image, upright, prep.border)
    return None if cut is None else (resize(cut, wanted.size), upright, outside)


def _stored_centre(study: Study, window: Window, point: Point) -> tuple[float, float]:
    """The original's centre: the keypoint's share of its image, taken of the window's first image."""
    first = next((item for item in window.slices if item is not None), None)
    own = find_slice(study, point.series_id, point.instance)
    if first is None or own is None or own[1].shape == first.shape:
        return point.xy_px
    (rows, columns), (own_rows, own_columns) = first.shape, own[1].shape
    return point.xy_px[0] / own_columns * columns, point.xy_px[1] / own_rows * rows


def _overlap(box: Box, shape: tuple[int, ...]) -> bool:
    return box[0] < shape[1] and box[1] < shape[0] and box[2] > 0 and box[3] > 0


class _Values:
    """`slice_values` that turns and rescales each slice once, and the grey ranges of slices and series."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.scales = Scales(lambda item: self(item)[0])

    def __call__(self, item: Slice) -> tuple[np.ndarray, np.ndarray]:
        if id(item) not in self._known:
            self._known[id(item)] = self._values(item)
        return self._known[id(item)]


def _remembered(preprocessing: Preprocessing) -> _Values:
    return _Values(lambda item: slice_values(item, preprocessing))


def _issues(study_id: int, cuts: Mapping[tuple[View, Level], Region], spec: GraderSpec) -> list[Issue]:
    """One Issue a kind, view and series, with the levels that it concerns."""
    levels: dict[tuple[str, View, int], list[str]] = {}
    for (view, level), region in cuts.items():
        repeated = region.repeated and not spread_out(spec, view)
        for code, holds in (("region_padded", region.padded), ("window_repeated", repeated)):
            if holds:
                levels.setdefault((code, view, region.series_id), []).append(level_title(level))
    what = {
        "region_padded": f"the {spec.roi_mm:g} mm region reaches past the image; its border was repeated",
        "window_repeated": f"the {spec.slices} slices reach past the end; the border slice was repeated",
    }
    if spec.task is None:
        what["region_padded"] = "the region reaches past the image; its border was repeated"
    return [
        Issue(code, study_id, series_id, f"{view.replace('_', ' ')} {', '.join(names)}: {what[code]}")
        for (code, view, series_id), names in levels.items()
    ]


def spread_out(spec: GraderSpec, view: View) -> bool:
    """Whether slices are chosen at steps of their own, so that some may well stand there twice."""
    region = spec.region_of(view)
    return region.neighbours or region.slice_mm is not None or region.around == "level"
