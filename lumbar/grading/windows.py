"""Which slices a region shows: around a place of the series, around its point, or all of its level. No torch."""

import math

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.grading.points import Point, Points, foramen_point
from lumbar.labels import KEYPOINT_SERIES, LEVELS, Level
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.region import Region
from lumbar.recipe.views import View, series_of, side_of_view
from lumbar.study.canal import canal_mm, moved_middle_mm
from lumbar.study.keypoint import SlicePlace
from lumbar.study.levels import Slices, level_slices
from lumbar.study.slices import Window, axial_window, find_slice, index_at, playing_series, sagittal_window, window_of
from lumbar.study.study import Study

#: Two places as far from the middle as this share of a slice count as equally far.
_TIE = 1e-6


def spread(count: int, num: int) -> np.ndarray:
    """Indices (num,) of `num` slices out of `count` at equal steps, both ends among them; repeated where there are
    fewer. Halves go towards the middle, so that a mirrored series gives the mirrored slices."""
    if num == 1:
        return np.array([(count - 1) // 2], np.intp)
    places, middle = np.linspace(0, count - 1, num), (count - 1) / 2
    off = places - middle
    nearer = np.sign(off) * np.maximum(np.ceil(np.abs(off) + middle - 0.5 - _TIE) - middle, 0)
    rounded = np.where(np.abs(off) < _TIE, math.floor(middle), np.rint(middle + nearer))
    return np.clip(rounded, 0, count - 1).astype(np.intp)


def inner_from(count: int, share: float) -> int:
    """How many of `count` slices are left out at either end, so that at least the share in the middle stays."""
    return math.floor(count * (1 - share) / 2 + _TIE)


def sagittal_slices(
    study: Study, series: Series, view: View, level: Level, point: Point | None, keypoints: Points, spec: GraderSpec
) -> Window | None:
    """The slices of a sagittal region, side by side from the patient's right to left.

    With `side_order="medial"` those of the right side run the other way, so that both sides look alike.
    """
    prep, region, side = spec.preprocessing, spec.region_of(view), side_of_view(view)
    offset = 0.0
    if side is not None and region.around in (None, "offset"):
        offset = geometry.LEFTWARDS[side] * spec.t1_offsets_mm[LEVELS.index(level)]
    if region.around == "level":
        return _all_of(study, series, view, keypoints, spec)
    if region.around == "point":
        place: float | None = _own_place(series, view, level, point, keypoints, region)
        if place is None:
            return None
    elif view == "sagittal_t2":
        place = moved_middle_mm(study, series, keypoints, prep)
    else:
        place = canal_mm(study, series, keypoints, prep, level if side is not None else None)
    if not (region.neighbours or region.half) and region.slice_mm is None:
        window = sagittal_window(series, region.slices, offset, prep, place)
        turned = side == "right" and prep.side_order == "medial" and offset == 0
        return Window(window.series, window.slices[::-1], window.repeated) if turned else window
    if place is None:
        middle = (len(series) - 1) / 2 + offset / (series.spacing_mm or 1.0)
    else:
        middle = index_at(series, place + offset)
    step = 1.0 if region.slice_mm is None else region.slice_mm / (series.spacing_mm or region.slice_mm)
    if region.half:  # from the point outwards, on both sides
        assert side is not None
        outwards = geometry.LEFTWARDS[side] * np.rint(np.arange(region.slices) * step).astype(np.intp)
        indices = np.clip(_nearest(middle, len(series)) + outwards, 0, len(series) - 1)
        return window_of(series, _with_neighbours(indices, region, range(len(series)), backwards=side == "right"), prep)
    indices = _steps(middle, region, step, len(series), prep)
    backwards = side == "right" and prep.side_order == "medial"
    if backwards:
        indices = indices[::-1]
    return window_of(series, _with_neighbours(indices, region, range(len(series)), backwards=backwards), prep)


def _own_place(
    series: Series, view: View, level: Level, point: Point | None, keypoints: Points, region: Region
) -> float | None:
    """Where along the normal the point of a sagittal region lies, or a share of the way from there to the foramen."""
    foramen = foramen_point(view, level, keypoints) if region.towards_foramen else point
    if point is None or foramen is None:
        return None
    normal = geometry.common_normal(series.affines, 0)
    own, other = (float(np.asarray(each.mm) @ normal) for each in (point, foramen))
    return own + region.towards_foramen * (other - own)


def axial_slices_of(
    study: Study, level: Level, point: Point, keypoints: Points, spec: GraderSpec, view: View
) -> Window | None:
    """The slices of an axial region: around the point's own, or all of its level."""
    prep, region = spec.preprocessing, spec.region_of(view)
    if region.around == "level":
        return _of_level(study, level, point, keypoints, spec, region)
    found = find_slice(study, point.series_id, point.instance)
    if found is None:
        return None
    if not region.neighbours and region.slice_mm is None:
        return axial_window(*found, region.slices, prep)
    series, item = found
    ordered = series.ordered(prep.order)
    centre = next(place for place, one in enumerate(ordered) if one is item)
    slab = [place for place, number in enumerate(series.slabs) if number == series.slabs[centre]]
    spacing = _spacing(series, slab)
    step = 1.0 if region.slice_mm is None or spacing is None else region.slice_mm / spacing
    indices = _steps(centre - slab[0], region, step, len(slab), prep) + slab[0]
    return window_of(series, _with_neighbours(indices, region, range(slab[0], slab[-1] + 1)), prep)


def _all_of(study: Study, series: Series, view: View, keypoints: Points, spec: GraderSpec) -> Window:
    """All slices of a sagittal series, its inner ones, or a side's half from outside in, at equal steps."""
    prep, region, side = spec.preprocessing, spec.region_of(view), side_of_view(view)
    count = len(series)
    first = inner_from(count, region.inner)
    last = count - 1 - first
    if region.half:
        place = canal_mm(study, series, keypoints, prep)
        middle = (count - 1) / 2 if place is None else min(max(index_at(series, place), 0), count - 1)
        first, last = (math.ceil(middle - 0.25), last) if side == "left" else (first, math.floor(middle + 0.25))
    padded = region.pad and last - first < region.slices
    steps = np.arange(last - first + 1) if padded else spread(last - first + 1, region.slices)
    # one side counts from the other end, so that both choose alike where halves are rounded
    if region.half:
        backwards = side == "left"
        indices = last - steps if backwards else first + steps
    else:
        backwards = side == "right" and prep.side_order == "medial"
        indices = last - steps if side == "right" else first + steps
        if side == "right" and not backwards:
            indices = indices[::-1]
    frames = _with_neighbours(indices, region, range(count), backwards=backwards)
    return window_of(series, np.pad(frames, (0, region.frames - len(frames)), constant_values=-1), prep)


def whole_series(study: Study, view: View, spec: GraderSpec) -> Window | None:
    """All slices of a series, a sagittal one's from the patient's right to left, or of all axial series, the lowest
    first; empty ones follow where there are fewer than the region has, equal steps are taken where there are more."""
    prep, count = spec.preprocessing, spec.region_of(view).slices
    if view.startswith("axial"):
        series = sorted(study.series.get("axial_t2", ()), key=_height_mm)
    else:
        playing = playing_series(study, series_of(view), prep)
        series = [] if playing is None else [playing]
    slices = [item for one in series for item in one.ordered(prep.order)]
    if not slices:
        return None
    chosen: list[Slice | None] = [slices[place] for place in spread(len(slices), min(count, len(slices)))]
    return Window(series[0], (*chosen, *[None] * (count - len(chosen))), repeated=False)


def _height_mm(series: Series) -> float:
    """How high in the patient a series lies, by the middles of its slices."""
    return float(np.mean([geometry.centre_mm(item.affine, item.shape)[2] for item in series.slices]))


def _of_level(
    study: Study, level: Level, point: Point, keypoints: Points, spec: GraderSpec, region: Region
) -> Window | None:
    slices = _by_level(study, keypoints, spec, region).get(level, [])
    if not slices:
        return None
    counts: dict[int, int] = {}
    for series, _ in slices:
        counts[series.series_id] = counts.get(series.series_id, 0) + 1
    chosen = point.series_id if point.series_id in counts else max(counts, key=lambda number: counts[number])
    series = next(series for series, _ in slices if series.series_id == chosen)
    own = {id(item) for one, item in slices if one is series}
    places = [place for place, item in enumerate(series.ordered(spec.preprocessing.order)) if id(item) in own]
    indices = np.array(places)[spread(len(places), region.slices)]
    return window_of(series, _with_neighbours(indices, region, places), spec.preprocessing)


def _by_level(study: Study, keypoints: Points, spec: GraderSpec, region: Region) -> dict[Level, Slices]:
    """The axial slices of each level, by the canal's points or by the slices of the axial ones."""
    canal = {
        level: np.asarray(point.mm)
        for (condition, level), point in keypoints.items()
        if condition == "spinal_canal_stenosis"
    }
    places = [
        SlicePlace(*name, point.series_id, point.instance, 1.0)
        for name, point in keypoints.items()
        if KEYPOINT_SERIES[name[0]] == "axial_t2"
    ]
    return level_slices(study, canal, region.levels_by or "segments", spec.preprocessing, places=places)


def _steps(middle: float, region: Region, step: float, count: int, prep: Preprocessing) -> np.ndarray:
    """Indices (num,) `step` apart around a place; the nearest slices, halves towards the middle of the series.

    With `window_end="inside"` the place moves inwards until all of them, and the neighbours that they bring, are there;
    where there are too few, to the middle.
    """
    num = region.slices
    if prep.window_end == "inside":
        reach = (num - 1) / 2 * step + (1 if region.neighbours else 0)
        middle = min(max(middle, reach), count - 1 - reach) if 2 * reach <= count - 1 else (count - 1) / 2
    return _nearest(middle + (np.arange(num) - (num - 1) / 2) * step, count)


def _nearest(places: "float | np.ndarray", count: int) -> np.ndarray:
    """The slices of `count` nearest to some places; midway between two the one nearer to the middle of the series."""
    lean = np.sign((count - 1) / 2 - np.asarray(places)) * 1e-3
    return np.clip(np.floor(places + lean + 0.5), 0, count - 1).astype(np.intp)


def _with_neighbours(
    indices: np.ndarray, region: Region, within: "range | list[int]", *, backwards: bool = False
) -> np.ndarray:
    """With every slice the one before and the one after, inside of `within`; `backwards`: in the series' other order,
    as the window runs."""
    if not region.neighbours:
        return indices
    before, after = (1, -1) if backwards else (-1, 1)
    three = np.stack([indices + before, indices, indices + after], axis=1)
    return np.clip(three, within[0], within[-1]).reshape(-1)


def _spacing(series: Series, slab: list[int]) -> float | None:
    places = geometry.positions_mm(series.affines[slab], 2)
    return float(np.median(np.abs(np.diff(places)))) if len(places) > 1 else None
