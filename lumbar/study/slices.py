"""Which series and which of its slices a network sees, by the options of `Preprocessing`. For both stages, no torch."""

from dataclasses import dataclass

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.labels import SeriesType
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.study import Study, choose_series

#: With `missing="zeros"` the two sagittal types stand in for each other, as in the original.
_STAND_IN: dict[SeriesType, SeriesType] = {"sagittal_t1": "sagittal_t2", "sagittal_t2": "sagittal_t1"}


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive slices of a series in the order that the network sees; None where a slice is filled with zeros.

    `repeated`: the window reached past an end of the series (or stack) and the border slice stands there again.
    """

    series: Series
    slices: tuple[Slice | None, ...]
    repeated: bool

    @property
    def centre(self) -> Slice | None:
        """The slice nearest to the middle of the window, None where all are filled with zeros."""
        middle = len(self.slices) // 2
        there = [place for place, item in enumerate(self.slices) if item is not None]
        return self.slices[min(there, key=lambda place: abs(place - middle))] if there else None


def playing_series(study: Study, series_type: SeriesType, preprocessing: Preprocessing) -> Series | None:
    """The series that plays a part, by the options `series` and `missing`; None where there is none."""
    series = choose_series(study, series_type, preprocessing.series)
    if series is None and preprocessing.missing == "zeros" and series_type in _STAND_IN:
        series = choose_series(study, _STAND_IN[series_type], preprocessing.series)
    return series


def candidate_series(study: Study, series_type: SeriesType, preprocessing: Preprocessing) -> list[Series]:
    """The series that a detector looks at, one after the other; more than one only with `series="all"`."""
    if preprocessing.series == "all" and study.series.get(series_type):
        return list(study.series[series_type])
    series = playing_series(study, series_type, preprocessing)
    return [] if series is None else [series]


def sagittal_window(
    series: Series, num: int, offset_mm: float, preprocessing: Preprocessing, from_mm: float | None = None
) -> Window:
    """`num` slices of a sagittal series around the place `offset_mm` to the patient's left of its middle.

    With `from_mm`, a position along the series' normal (see `canal.canal_mm`), they are those nearest to the place
    `offset_mm` to the left of that. A negative offset lies to the right. Slices run from the patient's right to left;
    with `side_order="medial"` those of the right side run outwards, too.
    """
    ordered = series.ordered(preprocessing.order)
    spacing = series.spacing_mm if preprocessing.spacing == "positions" else series.spacing_tag
    indices = geometry.window_indices(
        len(ordered),
        num,
        center_index=None if from_mm is None else index_at(series, from_mm + offset_mm),
        offset_mm=(offset_mm or None) if from_mm is None else None,
        spacing_mm=spacing,
        center_rule=preprocessing.window_center,
        end_rule=preprocessing.window_end,
    )
    if offset_mm < 0 and preprocessing.side_order == "medial":
        indices = indices[::-1]
    return _window(series, ordered, indices)


def window_of(series: Series, indices: np.ndarray, preprocessing: Preprocessing) -> Window:
    """The slices of those places in a series; -1 stands for one filled with zeros."""
    return _window(series, series.ordered(preprocessing.order), indices)


def axial_window(series: Series, centre: Slice, num: int, preprocessing: Preprocessing) -> Window:
    """`num` slices around one of an axial series; by position the window stays inside the slice's stack."""
    ordered = series.ordered(preprocessing.order)
    index = next(place for place, item in enumerate(ordered) if item is centre)
    slabs = series.slabs if preprocessing.order == "position" else (0,) * len(ordered)
    indices = geometry.slab_window(slabs, index, num, preprocessing.window_center, preprocessing.window_end)
    return _window(series, ordered, indices)


def middle_slice(series: Series, preprocessing: Preprocessing, from_mm: float | None = None) -> Slice:
    """The slice of a sagittal T2 series on which canal keypoints lie; `from_mm`: the one nearest to that position.

    file: the middle one in natural file order, whichever way the files run, as in the original.
    """
    if preprocessing.order == "file":
        return sorted(series.slices, key=lambda item: item.file_order)[len(series) // 2]
    centre = sagittal_window(series, 1, 0.0, preprocessing, from_mm).centre
    assert centre is not None  # a series is never empty
    return centre


def find_slice(study: Study, series_id: int, instance: int) -> tuple[Series, Slice] | None:
    """The series and slice of those numbers, or None."""
    series = study.series_by_id(series_id)
    if series is None:
        return None
    return next(((series, item) for item in series.slices if item.instance == instance), None)


def index_at(series: Series, place_mm: float) -> float:
    """The place of a position along the normal among the slices, in slices; beyond an end it goes on in equal steps."""
    away = place_mm - geometry.positions_mm(series.affines, 0)
    nearest = int(np.argmin(np.abs(away)))
    steps = float(away[nearest]) / (series.spacing_mm or 1.0)
    in_gap = abs(steps) > 0.5 + 1e-6 and nearest != (0 if steps < 0 else len(series) - 1)
    return nearest + (float(np.sign(steps)) * 0.49 if in_gap else steps)  # in a gap the nearest slice stays nearest


def _window(series: Series, ordered: tuple[Slice, ...], indices: np.ndarray) -> Window:
    slices = tuple(ordered[index] if index >= 0 else None for index in indices)
    filled = indices[indices >= 0]
    return Window(series, slices, repeated=len(np.unique(filled)) < len(filled))
