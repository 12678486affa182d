"""Pictures that lie another way than their header says: told, where a detector finds a spine only in the turned one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from lumbar.geometry import Plane
from lumbar.issues import Issue
from lumbar.keypoints.answers.heatmaps import confidence, decode, image_px
from lumbar.keypoints.repair import LOW_CONFIDENCE, SURE, is_spine, near_canal
from lumbar.keypoints.stacks import Stack, channel_names
from lumbar.labels import Level, side_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Keypoint

#: The turned picture must be surer by this much.
GAIN: Final = 0.2
#: Foramina that are far from the canal points of their levels, seen from the side: so many, and such a share of all.
MANY, MOST = 5, 0.8


class Way(NamedTuple):
    """How a picture has to be turned: rows and columns exchanged or not, then axes of (slices, rows, columns) reversed;
    and what a picture looks like that needs it."""

    exchange: bool
    axes: tuple[int, ...]
    looks: str


_QUARTER: Final = tuple(
    Way(True, axes, "turned by 90 degrees, their rows and columns exchanged") for axes in ((), (1,), (2,), (1, 2))
)
_BACK_IN_FRONT: Final = "upside down, the patient's back where the front should be"
#: An axial picture and its mirror image look alike, so that a half turn and reversed rows are one.
_WAYS: Final[Mapping[Plane, Sequence[Way]]] = {
    "sagittal": (
        Way(False, (1, 2), "upside down"),
        Way(False, (1,), "upside down and mirrored"),
        Way(False, (2,), "mirrored from front to back"),
        *_QUARTER,
    ),
    "axial": (Way(False, (1,), _BACK_IN_FRONT), Way(False, (1, 2), _BACK_IN_FRONT), *_QUARTER),
}


def turned_series(
    study_id: int,
    stacks: Sequence[Stack],
    points: Sequence[Keypoint],
    spec: DetectorSpec,
    look: Callable[[Sequence[Stack]], np.ndarray],
) -> list[Issue]:
    """An Issue for each series whose pictures contradict its geometry; the geometry is believed all the same.

    `points` are those that the detectors of `spec` found on `stacks`; `look` gives heatmaps (N, K, S, S) of stacks.
    Only where the points are unsure the turned pictures are looked at, way by way, since `look` takes stacks of the
    same slices for one. Axial pictures that are mirrored from left to right cannot be told: the spine is symmetric.
    """
    issues: list[Issue] = []
    for number in {stack.series.series_id: None for stack in stacks}:
        own = [stack for stack in stacks if stack.series.series_id == number]
        series = own[0].series
        own = own if series.plane == "axial" else own[-1:]
        sure = [point.confidence for point in points if point.series_id == number]
        before = float(np.mean(sure)) if sure else 0.0
        ways = _WAYS.get(series.plane, ())
        if before >= SURE or not ways:
            continue
        gains = [_sure_when_turned(own, way, spec, look) - before for way in ways]
        best = int(np.argmax(gains))
        if gains[best] >= GAIN:
            detail = (
                f"{series.description}: the pictures look {ways[best].looks}; ImageOrientationPatient says otherwise"
            )
            issues.append(Issue("orientation_doubtful", study_id, number, detail))
    return issues


def _sure_when_turned(
    stacks: Sequence[Stack], way: Way, spec: DetectorSpec, look: Callable[[Sequence[Stack]], np.ndarray]
) -> float:
    """Mean confidence of the points found on turned pictures of a series; 0 where they are not those of a spine."""
    turned = [replace(stack, pixels=_turned(stack.pixels, way)) for stack in stacks]
    pixel, peak, spread = decode(np.nan_to_num(look(turned)))  # a flat map is NaN
    xy_px = image_px(pixel, spec.stride)
    sure = confidence(peak, spread * spec.stride, spec.sigma_px)
    found, fits = [], []
    for row, stack in enumerate(stacks):
        names = channel_names(spec, stack.side, stack.level)
        named = [channel for channel, name in enumerate(names) if name is not None]
        places = stack.to_slice(xy_px[row, named])[1]
        found += sure[row, named].tolist()
        if stack.series.plane == "axial":
            sides = {side_of(name[0]): place for name, place in zip(filter(None, names), places, strict=True)}
            fits.append(sides["left"][0] > sides["right"][0])
        else:
            fits.append(is_spine(places))
    return float(np.mean(found)) if np.mean(fits) >= MOST else 0.0


def _turned(pixels: np.ndarray, way: Way) -> np.ndarray:
    """Slices (C, S, S) turned."""
    exchanged = pixels.swapaxes(1, 2) if way.exchange else pixels
    return np.ascontiguousarray(np.flip(exchanged, way.axes))


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
