"""The slices of a study for the report, upright, and where a patient point lies on each, in mm of the slice."""

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from lumbar import geometry
from lumbar.dicom.series import Series
from lumbar.issues import printable
from lumbar.keypoints.repair import LOW_CONFIDENCE
from lumbar.labels import LEVELS, SERIES_TYPES, SeriesType, level_title, side_of
from lumbar.prediction.result import StudyResult
from lumbar.report.html import cells, images
from lumbar.report.pictures import sureness
from lumbar.study.keypoint import Keypoint
from lumbar.study.standardise import slice_values
from lumbar.study.study import Study

SERIES_TITLES: Final[dict[SeriesType, str]] = {
    "sagittal_t1": "Sagittal T1",
    "sagittal_t2": "Sagittal T2",
    "axial_t2": "Axial T2",
}
#: The series with the canal comes first.
_TAB_ORDER: Final[tuple[SeriesType, ...]] = ("sagittal_t2", "sagittal_t1", "axial_t2")


class Shown:
    """A study's slices as the report shows them: turned to the usual display, never mirrored."""

    def __init__(self, study: Study) -> None:
        pixels = sum(math.prod(item.shape) for listed in study.series.values() for one in listed for item in one.slices)
        self._share = min(1.0, math.sqrt(images.STUDY_PX / max(pixels, 1)))
        self._affines: dict[tuple[int, int], geometry.FloatArray] = {}
        #: For JSON, series by series.
        self.series: list[dict[str, Any]] = []
        for kind in sorted(SERIES_TYPES, key=_TAB_ORDER.index):
            listed = study.series.get(kind, ())
            for series in listed:
                title = SERIES_TITLES[kind] + (f" ({series.series_id})" if len(listed) > 1 else "")
                self.series.append({"kind": kind, **self._series(series, title)})

    def place(self, series_id: int, instance: int, mm: ArrayLike) -> list[float] | None:
        """(x, y) in mm from the slice's top left corner; None where the slice is not shown."""
        affine = self._affines.get((series_id, instance))
        if affine is None:
            return None
        row_step, column_step = geometry.spacing_mm(affine)
        column, row, _ = geometry.to_pixel(affine, mm)
        return [_short((column + 0.5) * column_step), _short((row + 0.5) * row_step)]

    def points(self, result: StudyResult) -> list[dict[str, Any]]:
        """The keypoints of a study, each on its own slice."""
        found = ((point, self.place(point.series_id, point.instance, point.mm)) for point in result.keypoints)
        return [_point(point, xy, result) for point, xy in found if xy is not None]

    def _series(self, series: Series, title: str) -> dict[str, Any]:
        low, high = images.display_range(series)
        slices = []
        for item in series.slices:
            image, affine = slice_values(item, images.DISPLAY)
            self._affines[series.series_id, item.instance] = affine
            row_step, column_step = geometry.spacing_mm(affine)
            slices.append(
                {
                    "instance": item.instance,
                    "name": printable(item.name),
                    "wide": _short(image.shape[1] * column_step),
                    "tall": _short(image.shape[0] * row_step),
                    "image": images.encode(images.to_grey(images.shrink(image, self._share), low, high)),
                }
            )
        first = self._affines[series.series_id, series.slices[0].instance]
        return {
            "id": str(series.series_id),
            "title": title,
            "edges": geometry.edge_letters(first),
            "slices": slices,
        }


def middle(values: Iterable[float]) -> float:
    """Half way between the smallest and the largest."""
    listed = list(values)
    return (min(listed) + max(listed)) / 2


def _point(point: Keypoint, xy: list[float], result: StudyResult) -> dict[str, Any]:
    side = side_of(point.condition)
    level = LEVELS.index(point.level)
    return {
        "series": str(point.series_id),
        "instance": point.instance,
        "row": level,
        "column": cells.ORDER.index(point.condition),
        "x": xy[0],
        "y": xy[1],
        "name": level_title(point.level) + (f" {side[0].upper()}" if side else ""),
        "mm": [round(float(value), 3) for value in point.mm],
        "confidence": round(float(point.confidence), 3),
        "sureness": sureness(point),
        "colour": cells.mark_fill(result, point.condition, level),
        "doubtful": bool(point.confidence < LOW_CONFIDENCE),
        "repaired": bool(point.repaired),
    }


def _short(value: float) -> float:
    return round(float(np.float64(value)), 2)
