"""Which points may be carried to another series: those of the same frame of reference. No torch."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from lumbar.dicom.series import Series
from lumbar.issues import Issue
from lumbar.labels import SeriesType
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study


def within_reach(
    study: Study, points: Sequence[Keypoint], series_type: SeriesType
) -> tuple[Study, list[Keypoint], list[Issue]]:
    """The study and the points of other series types that a stage for `series_type` may bring together.

    Points in another frame of reference are left out. Axial slices mean something only beside points: series out of
    their reach are left out of the study, with an Issue. Of several frames with points the one with most counts.
    """
    series = study.series.get(series_type, ())
    reached = {each.series_id: carried(study, points, each) for each in series}
    most = max(reached.values(), key=len, default=list(points))
    if series_type != "axial_t2" or not points:
        return study, most, []
    kept = tuple(each for each in series if reached[each.series_id] == most and most)
    issues = [
        Issue(
            "frames_differ",
            study.study_id,
            each.series_id,
            f"{each.description}: its frame of reference is not that of the canal points; its slices have no level",
        )
        for each in series
        if each not in kept
    ]
    return replace(study, series={**study.series, series_type: kept}), most, issues


def carried(study: Study, points: Collection[Keypoint], target: Series) -> list[Keypoint]:
    """The points that mean the same place in the frame of reference of a series."""
    sources = {number: study.series_by_id(number) for number in {point.series_id for point in points}}
    near = {number for number, source in sources.items() if source is not None and study.share_frame(source, target)}
    return [point for point in points if point.series_id in near]
