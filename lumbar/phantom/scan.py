"""The scanner's part: which series a study has, where their slices lie and in which order they are numbered."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.spine import Spine
from lumbar.phantom.tissue import Weighting
from lumbar.phantom.vertebrae import FIRST

#: Shares of real studies (counts among 1,975): first sagittal instance on the left; more than one axial series;
#: L1/L2 outside the axial series.
LEFT_FIRST: Final = 0.64
TWO_AXIAL: Final = 335 / 1975
MISSES_L1_L2: Final = 144 / 1975


@dataclass(frozen=True)
class Plane:
    """One slice: position of its first pixel's centre (LPS mm), row and column directions, pixels and their size."""

    position: np.ndarray  # (3,)
    row: np.ndarray  # (3,) direction in which the column number grows
    column: np.ndarray  # (3,) direction in which the row number grows
    pixels: tuple[int, int]  # rows, columns
    spacing: float  # mm, square

    @property
    def normal(self) -> np.ndarray:
        """Unit normal, row × column."""
        return np.cross(self.row, self.column)

    def to_pixel(self, point: np.ndarray) -> tuple[float, float, float]:
        """Column, row and distance along the normal (mm) of a patient point (3,)."""
        away = point - self.position
        return away @ self.row / self.spacing, away @ self.column / self.spacing, float(away @ self.normal)


@dataclass(frozen=True)
class SeriesPlan:
    """One series; `planes` are in the order of `instances`."""

    description: str  # of the series table
    weighting: Weighting
    planes: tuple[Plane, ...]
    instances: tuple[int, ...]
    thickness: float
    gap: float | None  # spacing between slices, mm

    @cached_property
    def _geometry(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and normals of the planes, (n, 3) each."""
        return np.array([p.position for p in self.planes]), np.array([p.normal for p in self.planes])

    def nearest(self, point: np.ndarray) -> tuple[int, float]:
        """Index of the plane nearest to a patient point and its distance, mm."""
        positions, normals = self._geometry
        distances = np.abs(np.einsum("pi,pi->p", point - positions, normals))
        best = int(np.argmin(distances))
        return best, float(distances[best])


def _numbers(rng: np.random.Generator, count: int, kind: str | None) -> tuple[int, ...]:
    """Instance numbers of a series."""
    kind = kind or str(rng.choice(["plain", "offset", "gapped"], p=[0.8, 0.12, 0.08]))
    start = 1 if kind == "plain" else int(rng.integers(2, 5000))
    steps = rng.integers(1, 4, count) if kind == "gapped" else np.ones(count, int)
    return tuple(int(value) for value in start + np.cumsum(steps) - steps[0])


def _stack(
    centre: np.ndarray, row: np.ndarray, column: np.ndarray, offsets: np.ndarray, field: float, matrix: int, rows: int
) -> list[Plane]:
    """Parallel planes: `offsets` (mm) along the normal from `centre`, which lies in the middle of the picture."""
    spacing = round(field / matrix, 6)
    row = row / np.linalg.norm(row)
    column = column - row * (row @ column)
    column = column / np.linalg.norm(column)
    corner = centre - row * spacing * (matrix - 1) / 2 - column * spacing * (rows - 1) / 2
    normal = np.cross(row, column)
    return [Plane(corner + normal * offset, row, column, (rows, matrix), spacing) for offset in offsets]


def plan_sagittal(
    rng: np.random.Generator, spine: Spine, options: PhantomOptions, weighting: Weighting, left_first: bool
) -> SeriesPlan:
    """A sagittal series over the lumbar spine, roughly along its middle."""
    count = int(rng.integers(options.sagittal_slices[0], options.sagittal_slices[1] + 1))
    need = 2 * (spine.foramen[FIRST + 4] + 7)
    thickness = float(rng.choice([3.0, 3.5, 4.0, 4.0, 4.5, 5.0]))
    step = round(float(max(thickness * rng.uniform(1.05, 1.25), need / (count - 1))), 3)
    matrix = int(rng.choice(options.matrices))
    field = float(rng.choice([220, 240, 260, 260, 280, 300]))
    axis = spine.origin[FIRST + 5] - spine.origin[FIRST - 1]
    lean = 0.6 * np.arctan2(axis[0], -axis[2]) + rng.normal(0, 0.012)
    turn = 0.6 * np.mean([np.arctan2(left[1], left[0]) for left in spine.left[FIRST : FIRST + 5]]) + rng.normal(0, 0.02)
    row = np.array([-np.sin(turn), np.cos(turn), 0.0])
    column = np.array([np.sin(lean), 0.0, -np.cos(lean)])
    canal = np.mean([spine.canal_point(plane) for plane in range(FIRST, FIRST + 5)], axis=0)
    centre = canal + np.array([rng.normal(0, 1.5), rng.normal(-18, 12) * field / 280, rng.normal(8, 8)])
    offsets = (np.arange(count) - (count - 1) / 2) * step
    planes = _stack(centre, row, column, offsets, field, matrix, matrix)  # the normal points to the right
    if not left_first:
        planes.reverse()
    description = "Sagittal T1" if weighting == "T1" else "Sagittal T2/STIR"
    numbers = _numbers(rng, count, options.numbering)
    return SeriesPlan(description, weighting, tuple(planes), numbers, thickness, step)


def plan_axial(rng: np.random.Generator, spine: Spine, options: PhantomOptions) -> list[SeriesPlan]:
    """One or two axial series: straight blocks, or stacks angled to the discs."""
    two = rng.random() < TWO_AXIAL if options.two_axial is None else options.two_axial
    drawn = rng.random() < MISSES_L1_L2
    misses = drawn if options.axial_misses_level is None else options.axial_misses_level
    kind = options.axial_kind or str(rng.choice(["block", "angled"]))
    top = FIRST + 1 if misses else FIRST
    if misses and kind == "angled" and rng.random() < 0.3:
        top += 1
    spans = [(top, FIRST + 4)]
    if two:
        split = int(rng.integers(top + 1, FIRST + 4))
        spans = [(top, split), (split, FIRST + 4)]
        if rng.random() < 0.5:
            spans.reverse()
    return [_axial_series(rng, spine, options, kind, first, last) for first, last in spans]


def _axial_series(
    rng: np.random.Generator, spine: Spine, options: PhantomOptions, kind: str, first: int, last: int
) -> SeriesPlan:
    matrix = int(rng.choice(options.matrices))
    field = float(rng.choice([160, 180, 180, 200, 200, 220]))
    thickness = float(rng.choice([3.5, 4.0, 4.0, 4.5]))
    step = thickness * rng.uniform(1.0, 1.2)
    rows = matrix if rng.random() < 0.7 else int(matrix * rng.uniform(0.75, 0.95) / 8) * 8
    lead = np.array([rng.normal(0, 3), rng.normal(2, 8), 0.0])
    planes: list[Plane] = []
    if kind == "angled":
        for plane in range(first, last + 1):
            count = int(rng.integers(options.stack_slices[0], options.stack_slices[1] + 1))
            tilt = spine.back[plane] + rng.normal(0, 0.03, 3)
            row = np.array([1.0, 0.6 * spine.left[plane][1], 0.6 * spine.left[plane][2]])
            offsets = ((count - 1) / 2 - np.arange(count)) * step + rng.normal(0, 0.8)
            centre = spine.origin[plane] + lead[0] * spine.left[plane] + lead[1] * spine.back[plane]
            planes += _stack(centre, row, tilt, offsets, field, matrix, rows)
    else:
        column = np.mean(spine.back[first : last + 1], axis=0) * np.array([0, 1, rng.uniform(0, 0.8)])
        row = np.array([1.0, 0.5 * spine.left[first][1], 0.0])
        normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
        centre = (spine.origin[first] + spine.origin[last]) / 2 + lead
        heights = (spine.origin[[first, last]] - centre) @ normal
        above, below = rng.uniform(3, 12), rng.uniform(4, 15)
        count = int(np.ceil((heights[0] - heights[1] + above + below) / step)) + 1
        offsets = heights[0] + above - np.arange(count) * step
        planes = _stack(centre, row, column, offsets, field, matrix, rows)
    if rng.random() < 0.12:  # most scanners count from head to foot
        planes.reverse()
    numbers = _numbers(rng, len(planes), options.numbering)
    gap = round(float(step), 3) if rng.random() < 0.95 else None
    return SeriesPlan("Axial T2", "T2", tuple(planes), numbers, thickness, gap)


def plan_study(rng: np.random.Generator, spine: Spine, options: PhantomOptions) -> list[SeriesPlan]:
    """All series of a study: sagittal T1, sagittal T2 or STIR, axial T2."""
    drawn_left, drawn_stir, shared = rng.random() < LEFT_FIRST, rng.random() < 0.07, rng.random() < 0.7
    left_first = drawn_left if options.order is None else options.order == "left"
    stir = drawn_stir if options.stir is None else options.stir
    t2 = plan_sagittal(rng, spine, options, "STIR" if stir else "T2", left_first)
    t1 = plan_sagittal(rng, spine, options, "T1", left_first)
    if shared:  # both sagittal series are usually planned in one go
        t1 = SeriesPlan("Sagittal T1", "T1", t2.planes, t2.instances, t2.thickness, t2.gap)
    axial = plan_axial(rng, spine, options)
    kept = ([] if options.without_t2 else [t2]) + ([] if options.without_t1 else [t1])
    return [*kept, *axial]
