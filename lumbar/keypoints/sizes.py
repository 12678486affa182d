"""Pictures of another size, or in another place, than their headers say: told by the points found on them. No torch.

PixelSpacing and ImagePositionPatient can be wrong and each lie within what a scanner writes. Points that a detector is
sure of then show a spine that is too small or too large, of another size than on the other sagittal series, or beside
the canal that the sagittal series show. The geometry is believed all the same.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from lumbar.issues import Issue
from lumbar.keypoints.repair import SURE, USUAL_STEP_MM, spine_step_mm
from lumbar.keypoints.turned import contradicting_series
from lumbar.labels import LEVELS, Level, SeriesType, side_of
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study

#: Steps of the two sagittal series that differ by more than this factor are not those of one spine: canal and foramina
#: run side by side, with 0.95 to 1.1 on six phantoms and a real study.
SAME_STEP: Final = 1.2
#: Median distance of left and right recess, mm: 19 to 24 on those studies. A single pair may be nearer or farther.
USUAL_WIDTH_MM: Final = (13.0, 36.0)
#: The recesses' middle lies this near to the canal point of its level, median over the levels, mm; 7 on those studies.
BESIDE_CANAL_MM: Final = 20.0
#: Axial levels that must be found to say anything.
LEAST_LEVELS: Final = 3


def doubtful_geometry(
    study: Study,
    found: Mapping[SeriesType, Sequence[Keypoint]],
    canal_mm: Mapping[Level, np.ndarray],
    now: SeriesType,
    doubts: Sequence[Issue],
) -> list[Issue]:
    """An Issue for each series of type `now` whose points contradict its size or place.

    `found` are the points of all series looked at so far, before repair; `canal_mm` the canal points (3,) of levels
    that may be carried to these series. Where there are `doubts` already, they are why places do not agree.
    """
    issues = []
    place_mm = {} if doubts else canal_mm
    for number in {point.series_id: None for point in found.get(now, ())}:
        points = [point for point in found[now] if point.series_id == number]
        series = study.series_by_id(number)
        if series is None or np.mean([point.confidence for point in points]) < SURE:
            continue
        why = _recesses(points, place_mm) if now == "axial_t2" else _steps(points, found.get("sagittal_t2", ()))
        if why:
            issues.append(Issue("geometry_doubtful", study.study_id, number, f"{series.description}: {why}"))
    if now == "sagittal_t1" and not issues:
        issues = contradicting_series(study.study_id, found.get(now, ()), place_mm)
    return issues


def step_mm(points: Sequence[Keypoint]) -> float | None:
    """Median distance of neighbouring levels, mm, over the chains of a sagittal series; None where it shows none."""
    steps = []
    for condition in {point.condition: None for point in points}:
        chain = {point.level: point for point in points if point.condition == condition}
        if len(chain) == len(LEVELS) and np.mean([point.confidence for point in chain.values()]) >= SURE:
            steps.append(spine_step_mm(np.array([chain[level].mm for level in LEVELS])))
    known = [step for step in steps if step is not None]
    return float(np.median(known)) if known else None


def _steps(points: Sequence[Keypoint], t2_points: Sequence[Keypoint]) -> str:
    own = step_mm(points)
    if own is None:
        return ""
    low, high = USUAL_STEP_MM
    if not low <= own <= high:
        return (
            f"neighbouring levels lie {own:.0f} mm apart (median), where a lumbar spine has {low:.0f} to {high:.0f} mm;"
            " PixelSpacing may be wrong"
        )
    other = None if points[0].series_id in {point.series_id for point in t2_points} else step_mm(t2_points)
    if other is None or 1 / SAME_STEP <= own / other <= SAME_STEP or not low <= other <= high:
        return ""
    return (
        f"neighbouring levels lie {own:.0f} mm apart (median), and {other:.0f} mm on series {t2_points[0].series_id}; "
        "PixelSpacing of one of the two may be wrong"
    )


def _recesses(points: Sequence[Keypoint], canal_mm: Mapping[Level, np.ndarray]) -> str:
    pairs = {
        level: {side_of(point.condition): np.asarray(point.mm) for point in points if point.level == level}
        for level in LEVELS
    }
    whole = {level: (pair["left"], pair["right"]) for level, pair in pairs.items() if len(pair) == 2}
    if len(whole) < LEAST_LEVELS:
        return ""
    low, high = USUAL_WIDTH_MM
    width = float(np.median([left[0] - right[0] for left, right in whole.values()]))
    if width > 0 and not low <= width <= high:
        return (
            f"left and right recess lie {width:.0f} mm apart (median), where a lumbar spine has {low:.0f} to "
            f"{high:.0f} mm; PixelSpacing may be wrong"
        )
    beside = [
        np.linalg.norm(((left + right) / 2 - canal_mm[level])[:2])
        for level, (left, right) in whole.items()
        if level in canal_mm
    ]
    if len(beside) < LEAST_LEVELS or np.median(beside) <= BESIDE_CANAL_MM:
        return ""
    return (
        f"the recesses lie {np.median(beside):.0f} mm (median) beside the canal points of their levels; PixelSpacing "
        "or ImagePositionPatient of one of the series may be wrong"
    )
