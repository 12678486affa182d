"""Pictures that lie another way than their header says: told, where a detector finds a spine only in the turned one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from lumbar.issues import Issue
from lumbar.keypoints.answers.heatmaps import confidence, decode
from lumbar.keypoints.repair import LOW_CONFIDENCE, is_spine, near_canal
from lumbar.keypoints.stacks import Stack, channel_names
from lumbar.labels import Level
from lumbar.recipe.member import DetectorSpec
from lumbar.study.keypoint import Keypoint

#: A stack whose points are this sure on average lies as its header says: of six phantoms and a real study .83 or more
#: are upright, .55 or less upside down.
SURE: Final = 0.6
#: The turned picture must be surer by this much.
GAIN: Final = 0.2
#: Foramina that are far from the canal points of their levels, seen from the side: so many, and such a share of all.
MANY, MOST = 5, 0.8
#: Axes of a stack (slices, rows, columns) to reverse, and what a picture looks like that has to be turned so.
_WAYS: Final = {(1, 2): "upside down", (1,): "upside down and mirrored", (2,): "mirrored from front to back"}


def turned_series(
    study_id: int,
    stacks: Sequence[Stack],
    points: Sequence[Keypoint],
    spec: DetectorSpec,
    look: Callable[[Sequence[Stack]], np.ndarray],
) -> list[Issue]:
    """An Issue for each sagittal series whose pictures contradict its geometry; the geometry is believed all the same.

    `points` are those that the detectors of `spec` found on `stacks`; `look` gives heatmaps (N, K, S, S) of stacks.
    Only where the points are unsure the turned pictures are looked at, one by one, since `look` takes stacks of
    the same slices for one.
    """
    issues: list[Issue] = []
    for stack in {each.series.series_id: each for each in stacks}.values():
        own = [point.confidence for point in points if point.series_id == stack.series.series_id]
        sure = float(np.mean(own)) if own else 0.0
        if sure >= SURE or stack.series.plane != "sagittal":
            continue
        names = channel_names(spec, stack.side, stack.level)
        named = [channel for channel, name in enumerate(names) if name is not None]
        turned = [replace(stack, pixels=np.ascontiguousarray(np.flip(stack.pixels, axes))) for axes in _WAYS]
        maps = np.concatenate([look([each]) for each in turned])[:, named]
        xy_px, peak, spread = decode(np.nan_to_num(maps))  # a flat map is NaN
        gains = confidence(peak, spread, spec.sigma_px).mean(axis=1) - sure
        best = int(np.argmax(gains))
        if gains[best] >= GAIN and is_spine(stack.to_slice(xy_px[best])[1]):
            way = list(_WAYS.values())[best]
            detail = f"{stack.series.description}: the pictures look {way}; ImageOrientationPatient says otherwise"
            issues.append(Issue("orientation_doubtful", study_id, stack.series.series_id, detail))
    return issues


def contradicting_series(
    study_id: int, points: Sequence[Keypoint], canal_mm: Mapping[Level, np.ndarray]
) -> list[Issue]:
    """An Issue where nearly all foramina of a T1 series lie far from the canal points (3,) mm of their levels.

    A detector can be sure of a picture whose rows run from the feet to the head, since one end of a spine looks much
    like the other; the other sagittal series then contradicts it. `points` are those found on T1, before repair.
    """
    known = [point for point in points if point.confidence >= LOW_CONFIDENCE and point.level in canal_mm]
    far = [point for point in known if not near_canal(point, canal_mm[point.level])]
    if len(far) < max(MANY, MOST * len(known)):
        return []
    apart = np.median([np.linalg.norm(np.asarray(point.mm)[1:] - canal_mm[point.level][1:]) for point in far])
    detail = (
        f"foramina lie {apart:.0f} mm (median) from the canal points of their levels: one of the two sagittal series "
        "may be upside down or lie elsewhere, whatever its header says"
    )
    return [Issue("orientation_doubtful", study_id, known[0].series_id, detail)]
