"""The stacks of a detector, wherever its spec says that it looks: one function for training and for detection.

No torch.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lumbar.dicom.series import Series, Slice
from lumbar.issues import Issue
from lumbar.keypoints.distances import distance_planes
from lumbar.keypoints.frames import carried
from lumbar.keypoints.grey import as_seen
from lumbar.keypoints.spans import Span, nearest_index, whole_span
from lumbar.keypoints.stacks import (
    Stack,
    axial_stacks,
    channel_names,
    make_stack,
    repeated,
    sagittal_stacks,
)
from lumbar.labels import (
    KEYPOINT_SERIES,
    LEVELS,
    SIDES,
    Level,
    SeriesType,
    Side,
    condition_title,
    level_title,
)
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Keypoint, Name, SlicePlace
from lumbar.study.levels import level_slices
from lumbar.study.slices import Window, axial_window, candidate_series, find_slice
from lumbar.study.standardise import resize, slice_frame, slice_values
from lumbar.study.study import Study


@dataclass(frozen=True)
class Known:
    """What is known of a study before a detector looks at it.

    `points` by name, `slices` by name where a detector found slices only. `labelled`: they are those of the label
    table, so that axial stacks lie around the labelled slices themselves. `left`: the levels that are still looked for
    on axial planes, None for all.
    """

    points: Mapping[Name, Keypoint] = field(default_factory=dict)
    slices: Mapping[Name, SlicePlace] = field(default_factory=dict)
    labelled: bool = False
    left: Collection[Level] | None = None

    def place(self, name: Name) -> SlicePlace | None:
        """The slice on which a name shows, as far as it is known: no foramen shows on the middle one of a series, on
        which the points of whole series stand where nobody named their slices."""
        if name in self.slices:
            return self.slices[name]
        point = self.points.get(name)
        if point is None or (point.slice_from == "middle" and KEYPOINT_SERIES[name[0]] == "sagittal_t1"):
            return None
        return SlicePlace(*name, point.series_id, point.instance, point.confidence)


def stacks_for(study: Study, spec: DetectorSpec, known: Known) -> tuple[list[Stack], list[Issue]]:
    """The stacks that a detector sees of a study, and Issues for what had to be done without.

    middle, offset: of each series that it looks at. plane: one a level, around the axial slice of the level by
    `spec.levels_by`; where `known` is labelled, around every slice that bears a label of the level. whole: each series
    as one stack; with `spec.canal_distances` none where no canal point is known. found: around the slices of `known`:
    one stack a study on T2, one a side on T1, one a level on axial series. Nothing known gives no stack, or one where
    `spec.unfound` says so.
    """
    if spec.placed == "whole":
        return _whole_stacks(study, spec, known), []
    if spec.placed == "found":
        return _found_stacks(study, spec, known)
    if spec.placed != "plane":
        return sagittal_stacks(study, spec, known.points)
    if known.labelled:
        return _labelled_planes(study, spec, known), []
    canal = {
        level: point
        for level, point in canal_points(known.points.values()).items()
        if known.left is None or level in known.left
    }
    if spec.levels_by == "segments":
        return _segment_stacks(study, spec, canal_points(known.points.values()), canal.keys())
    if spec.preprocessing.series != "all":
        return axial_stacks(study, canal, spec)
    return _planes_of_all(study, spec, canal)


def canal_points(points: Iterable[Keypoint], least: float = 0.0) -> dict[Level, np.ndarray]:
    """Patient mm (3,) of the spinal canal by level: the canal keypoint, else the midpoint between both foramina.

    Points below the confidence `least` that were not repaired are left out.
    """
    usable = [point for point in points if point.repaired or point.confidence >= least]
    by_name = {(point.condition, point.level): np.asarray(point.mm) for point in usable}
    canal: dict[Level, np.ndarray] = {}
    for level in LEVELS:
        left = by_name.get(("left_neural_foraminal_narrowing", level))
        right = by_name.get(("right_neural_foraminal_narrowing", level))
        if ("spinal_canal_stenosis", level) in by_name:
            canal[level] = by_name["spinal_canal_stenosis", level]
        elif left is not None and right is not None:
            canal[level] = (left + right) / 2
    return canal


def _whole_stacks(study: Study, spec: DetectorSpec, known: Known) -> list[Stack]:
    """A stack for each series that the detector looks at, in the slots of `spec.in_chans`, with the one beside it, or
    with its slices' distances from the canal points in its frame of reference, where there are some."""
    stacks = []
    others = [] if spec.beside is None else candidate_series(study, spec.beside, spec.preprocessing)[:1]
    found = candidate_series(study, spec.series_type, spec.preprocessing)
    if not found and others:  # the other one alone: its own channels stay empty
        found = [None]  # type: ignore[list-item]
    for series in found:
        spans: dict[SeriesType, Span] = {} if series is None else {spec.series_type: whole_span(series, spec)}
        if spec.beside is not None and others:
            spans[spec.beside] = whole_span(others[0], spec)
        empty = np.zeros((spec.in_chans, spec.image_size, spec.image_size), np.float32)
        parts = [_resampled(spans[kind], spec) if kind in spans else empty for kind in spec.types]
        span = next(iter(spans.values()))
        if spec.canal_distances:
            canal = canal_points(carried(study, known.points.values(), span.series))
            if not canal:
                continue
            parts.append(distance_planes(span, canal))
        centre = span.nearest(span.index_at((np.isfinite(span.source).sum() - 1) / 2))
        shown = tuple(None if np.isnan(at) else span.nearest(float(at)) for at in span.source)
        frame, shape = slice_frame(centre, spec.preprocessing)
        window = Window(span.series, shown, repeated=False)
        stacks.append(Stack(np.concatenate(parts), window, centre, frame, shape, slice_from="middle", spans=spans))
    return stacks


def _resampled(span: Span, spec: DetectorSpec) -> np.ndarray:
    """(T, S, S) float32 of the slices of a span, with the grey values of the spec; places without one stay zero."""
    there = np.isfinite(span.source)
    low = np.floor(span.source[there]).astype(int)
    share = (span.source[there] - low).astype(np.float32)
    high = np.minimum(low + 1, len(span.slices) - 1)
    wanted = sorted({*low.tolist(), *high[share > 0].tolist()})
    images = {at: resize(slice_values(span.slices[at], span.preprocessing)[0], span.size) for at in wanted}
    pixels = np.zeros((len(span.source), span.size, span.size), np.float32)
    shown = [
        images[a] if not part else (1 - part) * images[a] + part * images[b]
        for a, b, part in zip(low.tolist(), high.tolist(), share, strict=True)
    ]
    pixels[there] = as_seen(np.stack(shown), np.ones(len(shown), bool), spec)
    return pixels


def _found_stacks(study: Study, spec: DetectorSpec, known: Known) -> tuple[list[Stack], list[Issue]]:
    stacks, issues = [], []
    lost: list[Name] = []
    usable = {each.series_id: each for each in study.series.get(spec.series_type, ())}
    for each in candidate_series(study, spec.series_type, spec.preprocessing):
        usable[each.series_id] = each  # one that stands in
    for side, level in _parts(spec, known):
        names = [name for name in channel_names(spec, side, level) if name is not None]
        places = [place for name in names if (place := known.place(name)) is not None]
        places = [place for place in places if place.series_id in usable]
        if not places:
            instead = [] if known.labelled or spec.unfound == "none" else _unfound_stacks(study, spec, known, side)
            stacks += instead
            issues += [_guessed(study, stack, names) for stack in instead]
            lost += names if usable and not instead else []
            continue
        series = usable[_surest_series(places)]
        centre = _middle_of(series, [place for place in places if place.series_id == series.series_id], spec)
        window = _outwards(axial_window(series, centre, spec.in_chans, spec.preprocessing), side, spec)
        stacks.append(make_stack(window, centre, spec, side=side, level=level, slice_from="found"))
        issues += repeated(study, window, f"the slices around those found on {spec.series_type}")
    return stacks, [*dict.fromkeys(issues), *_without_slice(study, lost)]


def _unfound_stacks(study: Study, spec: DetectorSpec, known: Known, side: Side | None) -> list[Stack]:
    """Where a detector looks that needs no slices found before; of several series on the first alone."""
    usual = spec.model_copy(update={"place": "middle" if side is None else "offset"})
    stacks, _ = sagittal_stacks(study, usual, known.points)
    return [stack for stack in stacks if stack.side == side][:1]


def _guessed(study: Study, stack: Stack, names: Collection[Name]) -> Issue:
    titles = " and ".join(dict.fromkeys(condition_title(condition) for condition, _ in names))
    where = "in the middle of the series" if stack.side is None else "beside the middle of the series"
    what = f"{titles}: no detector found a slice; keypoints were looked for {where}"
    return Issue("slice_guessed", study.study_id, stack.series.series_id, what)


def _parts(spec: DetectorSpec, known: Known) -> list[tuple[Side | None, Level | None]]:
    """Which stacks `found` makes on a type of series: (side, level) of each."""
    if spec.series_type == "axial_t2":
        return [(side, level) for level in LEVELS for side in _sides(spec, known, level)]
    return [(side, None) for side in SIDES] if spec.series_type == "sagittal_t1" else [(None, None)]


def _sides(spec: DetectorSpec, known: Known, level: Level) -> tuple[Side | None, ...]:
    """The stacks of an axial level: one for both sides, or (`apart`) one a side where they show on different slices."""
    names = [name for name in channel_names(spec, None, level) if name is not None]
    places = [known.place(name) for name in names] if spec.apart else []
    slices = {(place.series_id, place.instance) for place in places if place is not None}
    return SIDES if len(slices) > 1 else (None,)


def _surest_series(places: Collection[SlicePlace]) -> int:
    """The series of which the places are surest, all together; of equals the first."""
    total: dict[int, float] = {}
    for place in places:
        total[place.series_id] = total.get(place.series_id, 0.0) + place.confidence
    return max(total, key=total.__getitem__)


def _middle_of(series: Series, places: Collection[SlicePlace], spec: DetectorSpec) -> Slice:
    """The slice at the median of several places of one series."""
    ordered = series.ordered(spec.preprocessing.order)
    number = {item.instance: index for index, item in enumerate(ordered)}
    return ordered[nearest_index(float(np.median([number[place.instance] for place in places])), len(ordered))]


def _outwards(window: Window, side: Side | None, spec: DetectorSpec) -> Window:
    """The slices of a side's stack in the order in which its detector sees them, see `Preprocessing.side_order`."""
    if side != "right" or spec.preprocessing.side_order != "medial":
        return window
    return Window(window.series, window.slices[::-1], window.repeated)


def _without_slice(study: Study, names: Collection[Name]) -> list[Issue]:
    levels: dict[str, list[str]] = {}
    for condition, level in names:
        levels.setdefault(condition_title(condition), []).append(level_title(level))
    why = "no keypoint, since no slice of theirs was found before"
    return [
        Issue("keypoint_missing", study.study_id, None, f"{title} {', '.join(each)}: {why}")
        for title, each in levels.items()
    ]


def _labelled_planes(study: Study, spec: DetectorSpec, known: Known) -> list[Stack]:
    """A stack around every axial slice that bears a label, once for each level."""
    planes: dict[tuple[Level, int, int], tuple[Series, Slice]] = {}
    for (condition, level), point in known.points.items():
        found = find_slice(study, point.series_id, point.instance)
        if KEYPOINT_SERIES[condition] == spec.series_type and found and found[0] in study.series.get("axial_t2", ()):
            planes[level, point.series_id, point.instance] = found
    return [_plane_stack(series, item, spec, level) for (level, _, _), (series, item) in planes.items()]


def _segment_stacks(
    study: Study, spec: DetectorSpec, canal_mm: Mapping[Level, np.ndarray], wanted: Collection[Level]
) -> tuple[list[Stack], list[Issue]]:
    """A stack around the middle one of each level's slices, of the series that has most of them, or of each."""
    found = level_slices(study, canal_mm, "segments", spec.preprocessing)
    stacks, issues = [], []
    for level in wanted:
        if level not in found:
            if study.series.get("axial_t2"):
                detail = f"{level_title(level)}: no axial slice cuts its segment of the canal"
                issues.append(Issue("no_axial_slice", study.study_id, None, detail))
            continue
        groups: dict[int, list[tuple[Series, Slice]]] = {}
        for series, item in found[level]:
            groups.setdefault(series.series_id, []).append((series, item))
        largest = max(groups.values(), key=len)
        for group in groups.values() if spec.preprocessing.series == "all" else (largest,):
            stacks.append(_plane_stack(*group[len(group) // 2], spec, level))
            issues += repeated(study, stacks[-1].window, f"the axial slices of {level_title(level)}")
    return stacks, issues


def _planes_of_all(
    study: Study, spec: DetectorSpec, canal_mm: Mapping[Level, np.ndarray]
) -> tuple[list[Stack], list[Issue]]:
    """A stack around the nearest plane of each axial series; an Issue where none is in reach of a level."""
    stacks: list[Stack] = []
    told: list[Issue] = []
    for series in study.series.get("axial_t2", ()):
        alone = Study(study.study_id, {"axial_t2": (series,)})
        made, issues = axial_stacks(alone, canal_mm, spec)
        stacks += made
        told += [issue for issue in issues if issue.code != "no_axial_slice"]
    reached = {stack.level for stack in stacks}
    _, issues = axial_stacks(study, {level: at for level, at in canal_mm.items() if level not in reached}, spec)
    return stacks, [*dict.fromkeys(told), *issues]


def _plane_stack(series: Series, item: Slice, spec: DetectorSpec, level: Level) -> Stack:
    window = axial_window(series, item, spec.in_chans, spec.preprocessing)
    return make_stack(window, item, spec, level=level, slice_from="plane")
