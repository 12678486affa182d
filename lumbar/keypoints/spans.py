"""Where the slices of a stack stand in their series: from places in the stack to slices and the patient, and back.

No torch.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.slices import Window
from lumbar.study.standardise import slice_frame


@dataclass(frozen=True, eq=False)
class Span:
    """The slices of one series that a stack shows.

    `slices`: all of the series, in the order of `preprocessing`; `source` (T,): which of them each place of the stack
    shows, counted from 0, between two where they are mixed, NaN where it is empty; `size`: pixels of a side of the
    network's image.
    """

    series: Series
    slices: tuple[Slice, ...]
    source: np.ndarray
    size: int
    preprocessing: Preprocessing

    def index_at(self, place: float) -> float:
        """The place among the series' slices of a place in the stack, which may lie between two."""
        there = np.flatnonzero(np.isfinite(self.source))
        return float(np.interp(place, there, self.source[there]))

    def index_beyond(self, place: float) -> float:
        """The same, where a place before the first slice or behind the last goes on counting in slices."""
        there = np.flatnonzero(np.isfinite(self.source))
        return self.index_at(place) + max(0.0, place - there[-1]) + min(0.0, place - there[0])

    def place_of(self, index: float) -> float:
        """The place in the stack of a place among the series' slices: of those that show just that one the innermost,
        else between its neighbours; NaN half a slice beyond those that the stack shows."""
        there = np.flatnonzero(np.isfinite(self.source))
        shown = self.source[there]
        if not len(there) or not shown.min() - 0.5 <= index <= shown.max() + 0.5:
            return float("nan")
        middle = there.mean()
        values = np.unique(shown)
        places = [min(there[shown == value], key=lambda place: abs(place - middle)) for value in values]
        return float(np.interp(index, values, places))

    def index_near(self, mm: np.ndarray) -> float | None:
        """The place among the slices of a patient point (3,); None where it lies more than half a step from all."""
        away = np.array([geometry.to_pixel(item.affine, mm)[2] for item in self.slices])
        near = int(np.argmin(np.abs(away)))
        step = self.series.spacing_mm
        if step is not None and abs(away[near]) > step / 2 + 1e-3:
            return None
        for other in (near - 1, near + 1):
            if 0 <= other < len(away) and away[other] * away[near] < 0:
                share = abs(away[near]) / (abs(away[near]) + abs(away[other]))
                return float(near + (other - near) * share)
        return float(near)

    def nearest(self, index: float) -> Slice:
        """The slice nearest to a place among them; midway between two the one nearer to the middle of the series."""
        return self.slices[nearest_index(index, len(self.slices))]

    def on_slice(self, xy_px: np.ndarray, item: Slice) -> tuple[np.ndarray, np.ndarray]:
        """A point (2,) of the network's image on one of the slices → (column, row) as stored, and patient mm (3,)."""
        affine, shape = slice_frame(item, self.preprocessing)
        mm = geometry.to_patient(affine, np.asarray(xy_px, np.float64) / self.size * shape[::-1])
        return geometry.to_pixel(item.affine, mm)[..., :2], mm

    def between(self, xy_px: np.ndarray, index: float) -> np.ndarray:
        """A point (2,) of the network's image at a place among the slices → patient mm (3,)."""
        low = int(np.clip(np.floor(index), 0, len(self.slices) - 1))
        share = float(np.clip(index - low, 0, 1)) if low + 1 < len(self.slices) else 0.0
        below = self.on_slice(xy_px, self.slices[low])[1]
        return below if not share else (1 - share) * below + share * self.on_slice(xy_px, self.slices[low + 1])[1]

    def from_patient(self, mm: np.ndarray, item: Slice) -> np.ndarray:
        """Patient mm (3,) → (column, row) of the network's image, along a slice's normal."""
        affine, shape = slice_frame(item, self.preprocessing)
        return geometry.to_pixel(affine, mm)[..., :2] * self.size / np.asarray(shape[::-1], np.float64)

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {item.instance: index for index, item in enumerate(self.slices)}

    def index_of(self, instance: int) -> int | None:
        """The place among the slices of the one with that number."""
        return self._numbers.get(instance)


def nearest_index(index: float, count: int) -> int:
    """The whole number nearest to a place among `count` slices; midway between two the one nearer to their middle."""
    low = np.floor(index)
    up = index - low > 0.5 or (index - low == 0.5 and low + 0.5 < (count - 1) / 2)
    return int(np.clip(low + up, 0, count - 1))


def window_span(window: Window, spec: DetectorSpec) -> Span:
    """The span of a run of slices."""
    ordered = window.series.ordered(spec.preprocessing.order)
    number = {id(item): index for index, item in enumerate(ordered)}
    source = [np.nan if item is None else number[id(item)] for item in window.slices]
    return Span(window.series, ordered, np.array(source, np.float64), spec.image_size, spec.preprocessing)


def whole_span(series: Series, spec: DetectorSpec) -> Span:
    """The span of a whole series, brought to `spec.in_chans` slices as `resample`, `pad` and `slice_mm` say."""
    ordered = series.ordered(spec.preprocessing.order)
    count, wanted = len(ordered), spec.in_chans
    if spec.pad:
        wanted = min(_as_long(series, count, spec.slice_mm), wanted)
    source = np.full(spec.in_chans, np.nan)
    if spec.resample == "nearest":
        source[:wanted] = np.arange(wanted) * count // wanted
    elif spec.resample == "nearest-exact":
        source[:wanted] = _middles(count, wanted)
    else:
        source[:wanted] = np.clip((np.arange(wanted) + 0.5) * count / wanted - 0.5, 0, count - 1)
    return Span(series, ordered, source, spec.image_size, spec.preprocessing)


def _middles(count: int, wanted: int) -> np.ndarray:
    """(wanted,) slices out of `count`: those in which the middles of as many equal parts lie; where one lies between
    two slices, the slice nearer to the middle of the series, so that a mirrored series gives the mirrored slices."""
    doubled = (2 * np.arange(wanted) + 1) * count
    found, rest = np.divmod(doubled, 2 * wanted)
    return found - ((rest == 0) & (doubled > wanted * count))


def _as_long(series: Series, count: int, slice_mm: float | None) -> int:
    """How many slices `slice_mm` apart are as long as a series of `count`; rounded down, as the seventh place does."""
    if slice_mm is None or series.spacing_mm is None:
        return count
    return max(1, int(count * abs(series.spacing_mm) / slice_mm + 1e-3))
