"""From what detectors read off stacks to keypoints and slices: joined over members, the surest series for each name.

No torch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lumbar import geometry
from lumbar.keypoints.answers.reading import Reading
from lumbar.keypoints.places import Known
from lumbar.keypoints.spans import Span, nearest_index
from lumbar.keypoints.stacks import Stack, channel_names
from lumbar.labels import LABEL_COLUMNS, LEVELS, side_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Keypoint, Name, SliceFrom, SlicePlace
from lumbar.study.study import Study


@dataclass(frozen=True, eq=False)
class Candidate:
    """What one group of detectors says of a name on one series.

    `mm` (3,) and `xy_px` (2,) of its slice, NaN where it says no place; `index` counts slices of the span, None where
    it says no slice.
    """

    name: Name
    span: Span
    instance: int
    slice_from: SliceFrom
    xy_px: np.ndarray
    mm: np.ndarray
    index: float | None
    confidence: float
    peak: float
    spread_px: float
    size_mm: tuple[float, float] | None
    trail: tuple[tuple[int, float, float], ...] | None = None
    front_mm: tuple[float, float, float] | None = None

    @property
    def series_id(self) -> int:
        """The series on which it lies."""
        return self.span.series.series_id

    @property
    def placed(self) -> bool:
        """Whether it says a place in its slice."""
        return bool(np.isfinite(self.mm).all())

    @property
    def inside(self) -> bool:
        """Whether the slice that it says, if it says one, is one of its series."""
        return self.index is None or -0.5 < self.index < len(self.span.slices) - 0.5

    @property
    def found(self) -> bool:
        """Whether it says anything."""
        return self.placed or self.index is not None

    def keypoint(self) -> Keypoint:
        """As a keypoint, without a place where it says none."""
        x, y = self.xy_px.tolist()
        return Keypoint(
            *self.name,
            self.series_id,
            self.instance,
            (x, y),
            tuple(self.mm.tolist()),  # type: ignore[arg-type]
            self.peak,
            self.spread_px,
            self.confidence,
            slice_from=self.slice_from,
            size_mm=self.size_mm,
            trail=self.trail,
            front_mm=self.front_mm,
        )

    def slice_place(self) -> SlicePlace:
        """As the slice of its name."""
        return SlicePlace(*self.name, self.series_id, self.instance, self.confidence)


def candidates(stacks: Sequence[Stack], reading: Reading, spec: DetectorSpec, known: Known) -> list[Candidate]:
    """What a reading says of every name that the stacks show, stack by stack, in the order of names.

    A place lies on the slice that the answer itself names, else on the one that is `known` of its name where an earlier
    detector found it in the series, else on the stack's own.
    """
    found = []
    for row, stack in enumerate(stacks):
        stored, mm = stack.to_slice(reading.points[row, :, :2])
        for channel, name in enumerate(channel_names(spec, stack.side, stack.level)):
            span = stack.span(name) if name is not None else None
            if name is None or span is None:
                continue
            place = float(reading.points[row, channel, 2])
            at_place = span.index_beyond if spec.beyond == "usual" else span.index_at
            index = at_place(place) if np.isfinite(place) else None
            xy, at = stored[channel], mm[channel]
            instance, slice_from = stack.centre.instance, stack.slice_from
            before = known.slices.get(name)
            number = (
                None if before is None or before.series_id != span.series.series_id else span.index_of(before.instance)
            )
            if index is not None:
                item, slice_from = span.nearest(index), "answer"
                instance, at = item.instance, span.between(reading.points[row, channel, :2], index)
                xy = geometry.to_pixel(item.affine, at)[:2]
            elif spec.depth or spec.answer == "slices":
                slice_from = "answer"  # which says nothing
            elif number is not None:
                instance, slice_from = span.slices[number].instance, "found"
                if instance != stack.centre.instance:
                    xy, at = span.on_slice(reading.points[row, channel, :2], span.slices[number])
            elif span.series is not stack.series:  # the one beside: its own middle
                item = span.nearest((len(span.slices) - 1) / 2)
                instance, (xy, at) = item.instance, span.on_slice(reading.points[row, channel, :2], item)
            front = None
            if spec.ends and np.isfinite(ahead := reading.points[row, channel + len(LEVELS), :2]).all():
                item = span.slices[number] if number is not None else stack.centre
                front = tuple(span.on_slice(ahead, item)[1].tolist())
            sure = float(reading.confidence[row, channel])
            peak, spread = float(reading.peak[row, channel]), float(reading.spread_px[row, channel])
            found.append(
                Candidate(
                    name,
                    span,
                    instance,
                    slice_from,
                    xy,
                    at,
                    index,
                    sure,
                    peak if np.isfinite(peak) else sure,
                    spread if np.isfinite(spread) else 0.0,
                    _size_mm(stack, reading, row, channel),
                    _trail(span, reading, row, channel, instance),
                    front,  # type: ignore[arg-type]
                )
            )
    return found


def surest(study: Study, groups: Sequence[Sequence[Candidate]], how: Literal["mean", "median"]) -> list[Candidate]:
    """One candidate a name, in the order in which they come: joined over groups, then the surest of all series.

    Series that share no frame of reference with the one whose candidates are surest, all together, are left out.
    """
    by_series: dict[int, list[Candidate]] = {}
    for series_id in dict.fromkeys(each.series_id for group in groups for each in group):
        own = [[each for each in group if each.series_id == series_id] for group in groups]
        by_series[series_id] = _joined([_one_a_name(group) for group in own if group], how)
    if len(by_series) == 1:
        return next(iter(by_series.values()))
    total = {key: sum(each.confidence for each in found if each.found) for key, found in by_series.items()}
    best = study.series_by_id(max(total, key=total.__getitem__, default=0))
    kept = [
        each
        for key, found in by_series.items()
        if best is None or ((series := study.series_by_id(key)) is not None and study.share_frame(series, best))
        for each in found
    ]
    return _one_a_name(kept)


def within_series(found: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """The same candidates, those whose slice lies beyond the end of its series on the usual slice of their name; and
    which these are. The place in the picture stays.

    The first place's rule: slices of n that run from the patient's right to left, the canal in the middle, the right
    foramen at n // 3; the left one as far from the other end, where the original has 2 (n // 3): sides mirror each
    other.
    """
    kept, moved = [], []
    for each in found:
        count = len(each.span.slices)
        if not each.inside:
            third = count // 3
            usual = {"right": float(third), "left": float(count - 1 - third), None: (count - 1) / 2}
            moved.append(_on_slice(each, usual[side_of(each.name[0])]))
        kept.append(moved[-1] if moved and moved[-1].name == each.name else each)
    return kept, moved


def _on_slice(each: Candidate, index: float) -> Candidate:
    item, mm, xy = each.span.nearest(index), each.mm, each.xy_px
    if each.placed:
        mm = _between(each.span, each.mm, index)
        xy = geometry.to_pixel(item.affine, mm)[:2]
    return replace(each, index=index, instance=item.instance, mm=mm, xy_px=xy, confidence=0.0, trail=None)


def in_order_of_labels(points: Iterable[Keypoint]) -> list[Keypoint]:
    """Keypoints in the order of `labels`."""
    return sorted(points, key=lambda point: LABEL_COLUMNS.index(f"{point.condition}_{point.level}"))


def _one_a_name(found: Sequence[Candidate]) -> list[Candidate]:
    """The surest of each name; of equals the first, and one that says anything before one that does not."""
    best: dict[Name, Candidate] = {}
    for each in found:
        other = best.get(each.name)
        if other is None or (each.found, each.confidence) > (other.found, other.confidence):
            best[each.name] = each
    return list(best.values())


def _joined(groups: Sequence[Sequence[Candidate]], how: Literal["mean", "median"]) -> list[Candidate]:
    """One candidate a name of one series over groups of detectors; those that say nothing are left out, and those whose
    slice is none of the series, where others say one that is."""
    if len(groups) == 1:
        return list(groups[0])
    average: Callable[..., np.ndarray] = np.mean if how == "mean" else np.median
    by_name: dict[Name, list[Candidate]] = {}
    for group in groups:
        for each in group:
            by_name.setdefault(each.name, []).append(each)
    told = [[each for each in own if each.found] or own[:1] for own in by_name.values()]
    return [_average([each for each in own if each.inside] or own, average) for own in told]


def _average(own: Sequence[Candidate], average: Callable[..., np.ndarray]) -> Candidate:
    """Mean or median of candidates of one name and series: of places in mm, of slices in numbers of slices."""
    placed = [each for each in own if each.placed]
    numbers = [each.index for each in own if each.index is not None]
    first = (placed or own)[0]
    if len(own) == 1:
        return first
    span = first.span
    index = float(average(numbers)) if numbers else None
    mm = average([each.mm for each in placed], axis=0) if placed else first.mm
    instance, slice_from = first.instance, first.slice_from
    if index is not None:
        instance, slice_from = span.slices[nearest_index(index, len(span.slices))].instance, "answer"
    elif placed:
        away = [abs(geometry.to_pixel(item.affine, mm)[2]) for item in span.slices]
        told = {each.instance for each in placed}
        instance = instance if len(told) == 1 else span.slices[int(np.argmin(away))].instance
    number = span.index_of(instance)
    assert number is not None
    item = span.slices[number]
    xy = first.xy_px
    if placed:
        xy = geometry.to_pixel(item.affine, mm)[:2]
        on_slice = geometry.to_patient(item.affine, xy)
        mm = on_slice if index is None else _between(span, mm, index)
    sizes = [each.size_mm for each in own if each.size_mm is not None]
    fronts = [each.front_mm for each in own if each.front_mm is not None]
    return Candidate(
        first.name,
        span,
        instance,
        slice_from,
        xy,
        mm,
        index,
        float(np.mean([each.confidence for each in own])),
        float(np.mean([each.peak for each in own])),
        float(np.mean([each.spread_px for each in own])),
        tuple(average(sizes, axis=0).tolist()) if sizes else None,  # type: ignore[arg-type]
        front_mm=tuple(average(fronts, axis=0).tolist()) if fronts else None,  # type: ignore[arg-type]
    )


def _between(span: Span, mm: np.ndarray, index: float) -> np.ndarray:
    """A patient point (3,) moved along the slices' normal to a place between two of them."""
    low = int(np.clip(np.floor(index), 0, len(span.slices) - 1))
    high, share = min(low + 1, len(span.slices) - 1), float(np.clip(index - low, 0, 1))
    feet = [
        geometry.to_patient(affine, geometry.to_pixel(affine, mm)[:2])
        for affine in (span.slices[low].affine, span.slices[high].affine)
    ]
    return np.asarray((1 - share) * feet[0] + share * feet[1])


def _trail(
    span: Span, reading: Reading, row: int, channel: int, own: int
) -> tuple[tuple[int, float, float], ...] | None:
    """Where a name lies on slices of its series beside its `own`, see `Keypoint`; one slice once."""
    if reading.trail is None:
        return None
    found: dict[int, tuple[int, float, float]] = {}
    for x, y, place in reading.trail[row, channel].tolist():
        if np.isfinite(place):
            item = span.nearest(span.index_at(place))
            column, down = span.on_slice(np.array([x, y]), item)[0].tolist()
            found.setdefault(item.instance, (item.instance, column, down))
    found.pop(own, None)
    return tuple(found.values()) or None


def _size_mm(stack: Stack, reading: Reading, row: int, channel: int) -> tuple[float, float] | None:
    """Width and height in mm of a size in pixels of the network's image."""
    if reading.size_px is None or not np.isfinite(reading.size_px[row, channel]).all():
        return None
    between_rows, between_columns = geometry.spacing_mm(stack.frame)
    rows, columns = stack.shape
    width, height = (reading.size_px[row, channel] / stack.pixels.shape[-1]).tolist()
    return width * columns * between_columns, height * rows * between_rows
