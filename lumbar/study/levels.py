"""Which axial slices, of which series, belong to a level: the rule that detectors and graders share. No torch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.labels import LEVELS, Level
from lumbar.recipe.preprocessing import LevelsBy, Preprocessing
from lumbar.study.keypoint import SlicePlace
from lumbar.study.study import Study

Slices = list[tuple[Series, Slice]]


def level_slices(
    study: Study,
    canal_mm: Mapping[Level, np.ndarray],
    by: LevelsBy,
    preprocessing: Preprocessing,
    *,
    reach_mm: float = 5.0,
    places: Collection[SlicePlace] = (),
) -> dict[Level, Slices]:
    """The slices of each level, of all axial series, in the order of the tables and of `preprocessing`.

    `canal_mm` holds canal points (3,) in patient mm. nearest: the one slice whose plane is nearest to the level's
    point, none beyond `reach_mm`. segments: every slice whose plane cuts the level's segment of the canal (see
    `segments`); it belongs to the first such level, and to none where it cuts no segment (third place's rule). found:
    the slices around the `places` that a detector found for a level's axial keypoints, series by series, as far as
    halfway to those of the levels beside it (seventh place's rule, see `level_groups`). Levels without a slice are left
    out.
    """
    slices = axial_slices(study, preprocessing)
    out: dict[Level, Slices] = {}
    if by == "found":
        return _around_found(study, places, preprocessing)
    if by == "nearest":
        for level, point in canal_mm.items() if slices else ():
            found, _ = nearest_slice(slices, point, reach_mm)
            if found is not None:
                out[level] = [found]
        return out
    cut = segments(canal_mm)
    for series, item in slices:
        for level in [level for level, ends in cut.items() if _cuts(item.affine, *ends)][:1]:
            out.setdefault(level, []).append((series, item))
    return {level: out[level] for level in LEVELS if level in out}


def segments(canal_mm: Mapping[Level, np.ndarray]) -> dict[Level, tuple[np.ndarray, np.ndarray]]:
    """Upper and lower end (3,) of each level's part of the canal, in patient mm, from head to foot.

    Neighbouring levels meet midway between their points; the first and the last part reach as far outwards as inwards.
    Where points between are missing, each neighbour takes half of what would be its step. A single point has no
    direction, hence no segment.
    """
    known = [level for level in LEVELS if level in canal_mm]
    points = {level: np.asarray(canal_mm[level], np.float64) for level in known}
    upper: dict[Level, np.ndarray] = {}
    lower: dict[Level, np.ndarray] = {}
    for above, below in pairwise(known):
        half = (points[below] - points[above]) / (2 * (LEVELS.index(below) - LEVELS.index(above)))
        lower[above], upper[below] = points[above] + half, points[below] - half
    if len(known) < 2:
        return {}
    upper[known[0]] = 2 * points[known[0]] - lower[known[0]]
    lower[known[-1]] = 2 * points[known[-1]] - upper[known[-1]]
    return {level: (upper[level], lower[level]) for level in known}


def level_groups(places: Sequence[float], count: int) -> list[tuple[int, int]]:
    """First and last slice, both included, around each of several places in a series of `count` slices.

    `places` are those of neighbouring levels, head to foot or foot to head. A group reaches halfway to the next place
    on either side, and beyond the outermost as far as inwards; ends are rounded half to even. One place alone is its
    nearest slice.
    """
    at = np.asarray(places, np.float64)
    halves = np.abs(np.diff(at)) / 2
    if not len(halves):
        halves = np.zeros(1)
    before, after = np.concatenate([halves[:1], halves]), np.concatenate([halves, halves[-1:]])
    if len(at) == 1:
        before, after = halves, halves
    if at[0] > at[-1]:
        before, after = after, before
    first = np.clip(np.rint(at - before), 0, count - 1).astype(int)
    last = np.clip(np.rint(at + after), 0, count - 1).astype(int)
    return [(int(low), int(high)) for low, high in zip(first, last, strict=True)]


def _around_found(study: Study, places: Collection[SlicePlace], preprocessing: Preprocessing) -> dict[Level, Slices]:
    out: dict[Level, Slices] = {}
    for series in study.series.get("axial_t2", ()):
        ordered = series.ordered(preprocessing.order)
        own = [place for place in places if place.series_id == series.series_id]
        number = {item.instance: index for index, item in enumerate(ordered)}
        at = {level: [number[each.instance] for each in own if each.level == level] for level in LEVELS}
        means = {level: float(np.mean(found)) for level, found in at.items() if found}
        groups = level_groups(list(means.values()), len(ordered)) if means else []
        for level, (first, last) in zip(means, groups, strict=True):
            out.setdefault(level, []).extend((series, item) for item in ordered[first : last + 1])
    return {level: out[level] for level in LEVELS if level in out}


def _cuts(affine: np.ndarray, start: np.ndarray, end: np.ndarray) -> bool:
    """Whether a slice's plane cuts the way from one point to another."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    along = float(normal @ (end - start))
    return along != 0 and 0 <= float(normal @ (affine[:3, 3] - start)) / along <= 1


def axial_slices(study: Study, preprocessing: Preprocessing) -> list[tuple[Series, Slice]]:
    """Every slice of every axial series, series in table order: the planes among which the nearest is sought."""
    return list(_axial_slices(study, preprocessing))


def nearest_slice(
    slices: Sequence[tuple[Series, Slice]], point_mm: np.ndarray, reach_mm: float
) -> tuple[tuple[Series, Slice] | None, float]:
    """The axial slice that serves a level: of all series the one whose plane is nearest to the level's point (3,).

    None where it is farther than `reach_mm`; and its distance in mm. Of equal ones the first.
    """
    affines = np.stack([item.affine for _, item in slices])
    index, distance = geometry.nearest_plane(affines, point_mm, reach_mm)
    return None if index is None else slices[index], distance


def _axial_slices(study: Study, preprocessing: Preprocessing) -> Iterator[tuple[Series, Slice]]:
    for series in study.series.get("axial_t2", ()):
        slices = series.slices
        if preprocessing.order == "file":
            slices = tuple(sorted(slices, key=lambda item: item.file_order))
        for item in slices:
            yield series, item
