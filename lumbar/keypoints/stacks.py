"""What a detector sees: stacks of whole slices, resized and standardised, and the way back to the patient. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.issues import InputError, Issue
from lumbar.keypoints.grey import as_seen
from lumbar.keypoints.spans import Span, window_span
from lumbar.labels import CONDITIONS, KEYPOINT_SERIES, LEVELS, SIDES, Level, SeriesType, Side, level_title, side_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.canal import Places, canal_mm, moved_middle_mm, off_centre
from lumbar.study.keypoint import Keypoint, Name, SliceFrom
from lumbar.study.levels import axial_slices, nearest_slice
from lumbar.study.slices import (
    Window,
    axial_window,
    candidate_series,
    middle_slice,
    sagittal_window,
)
from lumbar.study.standardise import resize, slice_values
from lumbar.study.study import Study


@dataclass(frozen=True, eq=False)
class Stack:
    """One input of a detector.

    `pixels` (C, S, S) float32: slices, standardised, and planes of their `distances` where its detector sees some;
    `centre` the slice on which its keypoints lie where nothing says otherwise, `slice_from` how it was chosen; `side`
    of a stack of one side, `level` of an axial one of one level.
    `frame` is the affine of the centre slice as the network sees it (turned or stored) and `shape` its (rows, columns)
    before resizing. `spans` tell which slices of its series it shows, and of the one beside it where that is there.
    """

    pixels: np.ndarray
    window: Window
    centre: Slice
    frame: np.ndarray
    shape: tuple[int, int]
    side: Side | None = None
    level: Level | None = None
    slice_from: SliceFrom = "middle"
    spans: Mapping[SeriesType, Span] = field(default_factory=dict)

    def span(self, name: Name) -> Span | None:
        """The slices on which a keypoint shows, those of its type of series; None where they are missing."""
        return self.spans.get(KEYPOINT_SERIES[name[0]])

    @property
    def series(self) -> Series:
        """The series that the slices come from."""
        return self.window.series

    def to_slice(self, xy_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (..., 2) of the network's image → (column, row) of the centre slice as stored, and patient mm.

        A column c of the network's image is column c / S x columns of the slice, the original's convention.
        """
        framed = np.asarray(xy_px, np.float64) / self.pixels.shape[-1] * self.shape[::-1]
        mm = geometry.to_patient(self.frame, framed)
        if np.array_equal(self.frame, self.centre.affine):
            return framed, mm
        return geometry.to_pixel(self.centre.affine, mm)[..., :2], mm

    def from_patient(self, mm: np.ndarray) -> np.ndarray:
        """Patient points (..., 3) in mm → (column, row) of the network's image, along the centre slice's normal."""
        framed = geometry.to_pixel(self.frame, mm)[..., :2]
        return framed * self.pixels.shape[-1] / np.asarray(self.shape[::-1], np.float64)

    def from_keypoint(self, point: Keypoint) -> np.ndarray:
        """A keypoint (3,) as a network should say it: column and row of its image, and the place in the stack.

        On the keypoint's own slice where the stack's series has it, else where its place in the patient lies among the
        slices. All NaN where its series is missing or does not reach so far; the place is NaN where the stack does not
        show that slice.
        """
        span, mm = self.span(point.name), np.asarray(point.mm)
        if span is None:
            return np.full(3, np.nan)
        own = span.index_of(point.instance) if span.series.series_id == point.series_id else None
        index = span.index_near(mm) if own is None else own
        if index is None:
            return np.full(3, np.nan)
        return np.array([*span.from_patient(mm, span.nearest(index)), span.place_of(index)])


def channel_names(spec: DetectorSpec, side: Side | None = None, level: Level | None = None) -> tuple[Name | None, ...]:
    """The keypoint that each name of a detector's answer means on a stack; None for one that has no meaning there.

    stack: the five levels of a sagittal stack (T1: of its `side`), left and right of an axial stack (of its `level`;
    of those one alone where the stack has a `side`).
    series: all that its type of series shows, condition by condition, then those of the series beside it. every: all
    conditions with all levels. `ends`: five more, the front ends of the discs, which are no keypoints. Raises
    InputError where `num_classes` does not fit.
    """
    own = [condition for condition in CONDITIONS if KEYPOINT_SERIES[condition] in spec.types]
    here = [
        (condition, each)
        for condition in own
        if side in (None, side_of(condition))
        for each in (LEVELS if level is None else (level,))
    ]
    of_level = spec.series_type == "axial_t2" and level is not None
    listed = {
        "stack": [(condition, level) for condition in own] if of_level else here,
        "series": [(condition, each) for condition in own for each in LEVELS],
        "every": [(condition, each) for condition in CONDITIONS for each in LEVELS],
    }[spec.shows]
    if spec.num_classes != len(listed) + (len(LEVELS) if spec.ends else 0):
        fits = sorted({spec.names_of(points) for points in ("stack", "series", "every")})
        known = fits if spec.points is None else [len(listed)]
        raise InputError(
            f"a detector for {spec.series_type} with num_classes = {spec.num_classes} has no meaning; "
            f"set it to {' or '.join(map(str, known))}"
        )
    fronts = (None,) * len(LEVELS) if spec.ends else ()
    return (*(name if name in here else None for name in listed), *fronts)


def sagittal_stacks(study: Study, spec: DetectorSpec, points: Places | None = None) -> tuple[list[Stack], list[Issue]]:
    """The stacks of a sagittal detector: one around the middle, or left and right beside it; for each series that it
    looks at, none where that is missing.

    `points`, found before or labelled, may tell where T1's lie (see `canal.canal_mm`).
    """
    stacks: list[Stack] = []
    issues: list[Issue] = []
    for series in candidate_series(study, spec.series_type, spec.preprocessing):
        made, found = _sagittal_stacks(study, series, spec, points)
        stacks += made
        issues += [issue for issue in found if issue not in issues]
    return stacks, issues


def _sagittal_stacks(
    study: Study, series: Series, spec: DetectorSpec, points: Places | None
) -> tuple[list[Stack], list[Issue]]:
    sides: tuple[Side | None, ...] = SIDES if spec.placed == "offset" else (None,)
    stacks, issues = [], []
    if spec.series_type == "sagittal_t1":
        canal = canal_mm(study, series, points or {}, spec.preprocessing)
        issues = off_centre(study, spec.preprocessing, canal)
    else:
        canal = moved_middle_mm(study, series, {}, spec.preprocessing)  # T2 is looked at before any point is known
    for side in sides:
        offset = 0.0 if side is None else geometry.LEFTWARDS[side] * spec.offset_mm
        window = sagittal_window(series, spec.in_chans, offset, spec.preprocessing, canal)
        centre = middle_slice(series, spec.preprocessing, canal) if side is None else window.centre
        if centre is None:
            centre = series.ordered(spec.preprocessing.order)[-1]
        chosen: SliceFrom = spec.placed if canal is None else "canal"  # type: ignore[assignment]
        stacks.append(make_stack(window, centre, spec, side=side, slice_from=chosen))
        issues += repeated(study, window, f"the {side or 'middle'} slices of {spec.series_type}")
    return stacks, issues


def axial_stacks(
    study: Study, canal_mm: Mapping[Level, np.ndarray], spec: DetectorSpec
) -> tuple[list[Stack], list[Issue]]:
    """One stack a level around the axial plane nearest to that level's canal point (3,) in mm.

    A level whose nearest plane is farther than `spec.max_plane_distance_mm` has no stack but an Issue.
    """
    slices = axial_slices(study, spec.preprocessing)
    if not slices:
        return [], []
    stacks, issues = [], []
    for level, point in canal_mm.items():
        found, distance = nearest_slice(slices, point, spec.max_plane_distance_mm)
        if found is None:
            detail = f"{level_title(level)}: the nearest axial slice is {distance:.1f} mm away"
            issues.append(Issue("no_axial_slice", study.study_id, None, detail))
            continue
        series, centre = found
        window = axial_window(series, centre, spec.in_chans, spec.preprocessing)
        stacks.append(make_stack(window, centre, spec, level=level, slice_from="plane"))
        issues += repeated(study, window, f"the axial slices of {level_title(level)}")
    return stacks, issues


def make_stack(
    window: Window,
    centre: Slice,
    spec: DetectorSpec,
    *,
    side: Side | None = None,
    level: Level | None = None,
    slice_from: SliceFrom = "middle",
) -> Stack:
    """Resize the slices of a window and give them the grey values of the spec; slices that are None stay zero."""
    pixels = np.zeros((len(window.slices), spec.image_size, spec.image_size), np.float32)
    seen = None
    for place, item in enumerate(window.slices):
        if item is not None:
            image, frame = slice_values(item, spec.preprocessing)
            pixels[place] = resize(image, spec.image_size)
            seen = (image, frame) if item is centre else seen
    image, frame = seen or slice_values(centre, spec.preprocessing)
    rows, columns = image.shape
    spans = {spec.series_type: window_span(window, spec)}
    there = np.array([item is not None for item in window.slices])
    return Stack(as_seen(pixels, there, spec), window, centre, frame, (rows, columns), side, level, slice_from, spans)


def repeated(study: Study, window: Window, what: str) -> list[Issue]:
    """An Issue where the border slice of a series stands in for slices that it lacks."""
    if not window.repeated:
        return []
    detail = f"{what} reach past the end of the series; its border slice was repeated for keypoints"
    return [Issue("window_repeated", study.study_id, window.series.series_id, detail)]
