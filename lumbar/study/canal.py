"""Where the spinal canal lies from left to right, and whether a sagittal series has it in its middle. No torch.

Canal keypoints cannot tell: they lie on the middle slice of their series, wherever that is. Left and right recess of an
axial slice can, and so can two sagittal series of which one reaches farther than the other.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series
from lumbar.issues import Issue
from lumbar.labels import LEVELS, Condition, Level, SeriesType
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.slices import playing_series
from lumbar.study.study import Study

#: A middle that lies so many slices off means slices missing on one side: each one moves it by half a slice.
OFF_SLICES: Final = 0.5 - 1e-3
#: Less than this is no sign of anything, however thin the slices are, mm.
LEAST_MM: Final = 2.0
#: So far beside the middle of T2 the canal must lie before its window moves.
T2_OFF_SLICES: Final = 1 - 1e-3
#: The canal may lie so far beyond the outermost slice: a series of twelve that lacks six of a side ends a slice beside
#: it. What lies farther out is no place in the body that the series shows.
BEYOND_SLICES: Final = 1.5
_SAGITTAL: Final[tuple[SeriesType, ...]] = ("sagittal_t1", "sagittal_t2")


class Place(Protocol):
    """A keypoint, as far as it tells where the spine is."""

    @property
    def series_id(self) -> int: ...
    @property
    def mm(self) -> tuple[float, float, float]: ...
    @property
    def repaired(self) -> bool: ...


Places = Mapping[tuple[Condition, Level], Place]


def canal_mm(
    study: Study, series: Series, points: Places, preprocessing: Preprocessing, level: Level | None = None
) -> float | None:
    """Where windows of a sagittal series are counted from: mm along its normal, growing to the patient's left.

    `middle="canal"`: midway between the two recesses found at a level; the median over the levels where both were not
    found there, and for `level` None. Without axial points it is the middle of what both sagittal series show
    together, where that lies half a slice or more from the series' own. None: the middle of the series.
    """
    if preprocessing.middle == "series" or series.spacing_mm is None:
        return None
    normal = geometry.common_normal(series.affines, 0)
    low, high = _reach(series, normal)
    beyond = BEYOND_SLICES * series.spacing_mm
    near = {each.series_id for group in study.series.values() for each in group if study.share_frame(each, series)}
    here = {name: point for name, point in points.items() if point.series_id in near}
    found = {each: float(point @ normal) for each in LEVELS if (point := _between_recesses(here, each)) is not None}
    found = {each: place for each, place in found.items() if low - beyond <= place <= high + beyond}
    if found:
        median = float(np.median(list(found.values())))
        return found.get(level, median) if level is not None else median
    both = (playing_series(study, kind, preprocessing) for kind in _SAGITTAL)
    reaches = [_reach(one, normal) for one in both if one is not None and one.series_id in near]
    starts, ends = zip(*reaches, strict=True)
    place = (min(starts) + max(ends)) / 2
    return place if abs(place - _middle(series, normal)) >= OFF_SLICES * series.spacing_mm else None


def moved_middle_mm(study: Study, series: Series, points: Places, preprocessing: Preprocessing) -> float | None:
    """`canal_mm` for the T2 window, which is wide enough to stay where it is unless the canal lies a slice or more off.

    None: the middle of the series.
    """
    place = canal_mm(study, series, points, preprocessing)
    if place is None or series.spacing_mm is None:
        return None
    off = place - _middle(series, geometry.common_normal(series.affines, 0))
    return place if abs(off) >= T2_OFF_SLICES * series.spacing_mm else None


def off_centre(study: Study, preprocessing: Preprocessing, canal: float | None) -> list[Issue]:
    """An Issue where the middles of the two sagittal series lie half a slice or more apart, or the canal a slice or
    more beside both.

    `canal`: where T1 offsets are counted from, as `canal_mm` has it.
    """
    t1, t2 = (playing_series(study, kind, preprocessing) for kind in _SAGITTAL)
    if t1 is None or t2 is None or t1.spacing_mm is None or t2.spacing_mm is None or not study.share_frame(t1, t2):
        return []
    normal = geometry.common_normal(t1.affines, 0)
    step = min(t1.spacing_mm, t2.spacing_mm)
    middle = _middle(t1, normal)
    apart, beside = middle - _middle(t2, normal), 0.0 if canal is None else canal - middle
    if abs(apart) >= max(OFF_SLICES * step, LEAST_MM):
        what = f"the middle of sagittal T1 lies {_beside(apart)} sagittal T2's"
    elif abs(beside) >= max(step, LEAST_MM):
        what = f"the canal lies {_beside(beside)} the middle of sagittal T1"
    else:
        return []
    counted = "the middle of the series" if canal is None else "the canal"
    detail = f"{what} (slices {step:.1f} mm apart); some may be missing on a side; foramina are sought from {counted}"
    return [Issue("series_off_centre", study.study_id, t1.series_id, detail)]


def _beside(mm: float) -> str:
    side = "left" if mm * geometry.LEFTWARDS["left"] > 0 else "right"
    return f"{abs(mm):.1f} mm to the patient's {side} of"


def _between_recesses(points: Places, level: Level) -> np.ndarray | None:
    """Patient mm (3,) midway between left and right recess of a level; None unless both were found."""
    pair = [points.get((side, level)) for side in ("left_subarticular_stenosis", "right_subarticular_stenosis")]
    places = [np.asarray(point.mm) for point in pair if point is not None and not point.repaired]
    return np.mean(places, axis=0) if len(places) == len(pair) and np.isfinite(places).all() else None


def _reach(series: Series, normal: np.ndarray) -> tuple[float, float]:
    """Positions of the outermost slices' middles along a normal, mm."""
    places = [float(geometry.centre_mm(item.affine, item.shape) @ normal) for item in series.slices]
    return min(places), max(places)


def _middle(series: Series, normal: np.ndarray) -> float:
    """Position of the middle slice along a normal, mm; between the two middle ones of an even number."""
    places = [geometry.centre_mm(item.affine, item.shape) @ normal for item in series.slices]
    return float(places[(len(places) - 1) // 2] + places[len(places) // 2]) / 2
