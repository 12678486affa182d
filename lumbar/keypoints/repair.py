"""Keypoints that anatomy rules out, replaced from their neighbours in millimetres, each with an Issue. No torch.

Five levels of one canal or of one side's foramina form a chain from head to foot. The largest consistent part of the
chain is believed, what is left is interpolated or extrapolated. Axial points are checked against the canal point of
their level. Points that pass are returned untouched; a point below `FAINT` confidence never passes. One that was not
`found` is derived from points that the same detector found, or stays without a place: canal points do not stand in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

import numpy as np

from lumbar import geometry
from lumbar.issues import Issue
from lumbar.keypoints.answers.heatmaps import local_maxima
from lumbar.labels import LEVELS, Level, condition_title, level_title, side_of
from lumbar.study.keypoint import Keypoint

#: Maxima looked at in each map.
CANDIDATES: Final = 5
#: Standard deviation of the logarithm of a step's length over that of the step above. The canal points derived from the
#: SPIDER masks (205 slices of 30 adults) give root mean squares of 0.09, 0.10 and, to L5/S1, 0.25.
STEP_SPREAD: Final = 0.2
#: What a map is taken to say at least, anywhere: below this its own opinion does not count against the others'.
LEAST: Final = 0.02

#: Distance in mm between the points of neighbouring levels. Canal points derived from the SPIDER masks (205 slices of
#: 30 adults) lie 14 to 38 mm apart; the limits leave room for small and tall people.
STEP_MM: Final = (12.0, 50.0)
#: A step as a share of the median step. In the competition's table 99.8 % lie between 0.46 and 1.40, L4/L5 to L5/S1 is
#: the shortest.
STEP_SHARE: Final = (0.4, 1.6)
#: Median step of adults, mm, with room for small and tall people: most have 28 to 38.
USUAL_STEP_MM: Final = (24.0, 44.0)
#: Each level lies at least this much farther to the feet than the one above: 3 mm, where a steep L5/S1 has 6 or more.
MIN_DROP_MM: Final = 3.0
#: ... and at least this share of the median step, where the size of the picture is in doubt.
MIN_DROP_SHARE: Final = 0.1
#: A foramen lies this near to the canal point of its level, seen from the side: half a step and some slack.
FORAMEN_REACH_MM: Final = 20.0
#: An axial point lies this near to the canal point of its level within the slice.
AXIAL_REACH_MM: Final = 30.0
#: Left and right of an axial slice are this far apart along the patient's left-right axis; competition table: 12 to
#: 92 px (99.8 %, median 38) at about 0.3 to 0.8 mm a pixel.
AXIAL_WIDTH_MM: Final = (5.0, 50.0)
#: ... and this near in height on the image: 20 px in the competition's table (99.8 %).
AXIAL_TILT_MM: Final = 15.0
#: Half of the usual distance between left and right, where no level of the study tells.
HALF_WIDTH_MM: Final = 10.0
#: Standard deviation of the logarithm of that distance, and of the difference in height, mm, both a third of the way to
#: the limits of the competition's table (above).
WIDTH_SPREAD: Final = 0.35
TILT_SPREAD_MM: Final = 5.0
#: Points of a series that are this sure on average are where they should be in the picture: of six phantoms and a real
#: study .64 or more are on sound axial series and .83 or more on sagittal ones, .55 or less on those upside down.
SURE: Final = 0.6
#: Below this a keypoint's position means nothing and neighbours are believed instead.
FAINT: Final = 0.05
#: Below this a keypoint is reported.
LOW_CONFIDENCE: Final = 0.2

Planes = Mapping[tuple[int, int], np.ndarray]  # affine of each slice by (series, instance)
Repaired = tuple[list[Keypoint], list[Issue]]


def repair_sagittal(
    points: Sequence[Keypoint], planes: Planes, canal_mm: Mapping[Level, np.ndarray], study_id: int
) -> Repaired:
    """Check the chain of each condition; `canal_mm` (empty for the canal itself) anchors the foramina of each level.

    `planes` holds the affine of every slice of the series that points lie on. Where fewer than two points can be
    believed the canal points stand in, moved into the slice; without those the chain stays, with a
    `keypoint_low_confidence` Issue.
    """
    fixed: list[Keypoint] = []
    issues: list[Issue] = []
    for condition in dict.fromkeys(point.condition for point in points):
        chain = {point.level: point for point in points if point.condition == condition}
        done, found = _repair_chain(chain, planes, canal_mm, study_id)
        fixed += done
        issues += found
    return fixed, issues


def repair_axial(
    points: Sequence[Keypoint], planes: Planes, canal_mm: Mapping[Level, np.ndarray], study_id: int
) -> Repaired:
    """Check left and right of each level against each other and the canal point (3,) of the level."""
    pairs: dict[Level, dict[str, Keypoint]] = {}
    for point in points:
        pairs.setdefault(point.level, {})[side_of(point.condition) or ""] = point
    good = {level for level, pair in pairs.items() if len(pair) == 2 and _pair_fits(pair, canal_mm.get(level))}
    widths = [abs(pairs[level]["left"].mm[0] - pairs[level]["right"].mm[0]) / 2 for level in good]
    half = float(np.median(widths)) if widths else HALF_WIDTH_MM
    fixed: list[Keypoint] = []
    issues: list[Issue] = []
    for level, pair in pairs.items():
        if level in good or level not in canal_mm:
            fixed += pair.values()
            continue
        places = _pair_from_canal(pair, canal_mm[level], half)
        for side, point in pair.items():
            fixed.append(_moved(point, places[side], planes) if side in places else point)
        beside = any(side not in places and point.found for side, point in pair.items())
        how = "derived from the other side" if beside else "derived from the canal point"
        issues += [_issue(pair[side], study_id, how) for side in places]
    return fixed, issues


def _repair_chain(
    chain: Mapping[Level, Keypoint], planes: Planes, canal_mm: Mapping[Level, np.ndarray], study_id: int
) -> Repaired:
    trusted = trusted_levels(chain, canal_mm)
    if len(trusted) == len(chain):
        return list(chain.values()), []
    places: dict[Level, np.ndarray] = {}
    for level in chain.keys() - trusted:
        place = _from_chain({each: np.asarray(chain[each].mm) for each in trusted}, level)
        if place is None and chain[level].found:
            place = canal_mm.get(level)
        if place is not None:
            places[level] = place
    fixed = [_moved(point, places[level], planes) if level in places else point for level, point in chain.items()]
    issues = []
    for level, point in chain.items():
        if level in places:
            source = "its neighbours" if len(trusted) > 1 else "the canal points"
            issues.append(_issue(point, study_id, f"derived from {source}"))
        elif level not in trusted and point.confidence >= LOW_CONFIDENCE:  # fainter ones are reported anyway
            name = f"{condition_title(point.condition)} {level_title(level)}"
            detail = f"{name}: implausible, and too few neighbours to derive it from"
            issues.append(Issue("keypoint_low_confidence", study_id, point.series_id, detail))
    return fixed, issues


def trusted_levels(chain: Mapping[Level, Keypoint], canal_mm: Mapping[Level, np.ndarray]) -> set[Level]:
    """The largest consistent part of a chain, by summed confidence; empty where not even two levels agree.

    Of parts with like confidence the straighter one counts.
    """
    candidates = [
        level
        for level in LEVELS
        if level in chain and chain[level].confidence >= FAINT and near_canal(chain[level], canal_mm.get(level))
    ]
    if len(candidates) == len(chain) > 1 and _consistent(candidates, chain):
        return set(candidates)
    parts = [part for count in range(2, len(candidates) + 1) for part in combinations(candidates, count)]
    weights = {part: _weight(part, chain) for part in parts if _consistent(part, chain)}
    best: tuple[Level, ...] = max(weights, key=weights.__getitem__, default=())
    return set(best)


def _weight(part: Sequence[Level], chain: Mapping[Level, Keypoint]) -> float:
    """Summed confidence, less the bends of the chain (squared change of direction, halved: 0.06 for 20 degrees)."""
    places = np.array([chain[level].mm for level in part])
    ways = np.diff(places, axis=0)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    bends = np.square(np.diff(ways, axis=0)).sum()
    return sum(chain[level].confidence for level in part) - 0.5 * float(bends)


def _consistent(part: Sequence[Level], chain: Mapping[Level, Keypoint]) -> bool:
    """Whether the points of these levels descend in steps that a lumbar spine can have."""
    return is_spine(np.array([chain[level].mm for level in part]), [LEVELS.index(level) for level in part])


def is_spine(places: np.ndarray, order: Sequence[int] | None = None) -> bool:
    """Whether points (K, 3) mm of levels, head to foot (`order`: their numbers, with gaps), can be a lumbar spine."""
    gaps = np.diff(np.arange(len(places)) if order is None else order)
    moves = np.diff(places, axis=0) / gaps[:, None]
    steps = np.linalg.norm(moves, axis=1)
    usual = np.median(steps)
    return bool(
        (steps >= STEP_MM[0]).all()
        and (steps <= STEP_MM[1]).all()
        and (steps >= STEP_SHARE[0] * usual).all()
        and (steps <= STEP_SHARE[1] * usual).all()
        and (moves[:, 2] <= -MIN_DROP_MM).all()
    )


def spine_step_mm(places: np.ndarray) -> float | None:
    """Median step, mm, of points (K, 3) mm that descend evenly, as those of a spine in a picture of any size do."""
    moves = np.diff(places, axis=0)
    steps = np.linalg.norm(moves, axis=1)
    usual = float(np.median(steps))
    even = (steps >= STEP_SHARE[0] * usual).all() and (steps <= STEP_SHARE[1] * usual).all()
    return usual if even and usual > 0 and (moves[:, 2] <= -MIN_DROP_SHARE * usual).all() else None


def near_canal(point: Keypoint, canal_mm: np.ndarray | None) -> bool:
    """Seen from the side (patient x left out), so that it does not matter how far the two slices are apart."""
    return canal_mm is None or float(np.linalg.norm(np.asarray(point.mm)[1:] - canal_mm[1:])) <= FORAMEN_REACH_MM


def _from_chain(trusted: Mapping[Level, np.ndarray], level: Level) -> np.ndarray | None:
    """The place of a level between, above or below trusted ones, along straight lines; None for fewer than two."""
    known = sorted(LEVELS.index(each) for each in trusted)
    if len(known) < 2:
        return None
    wanted = LEVELS.index(level)
    upper = [index for index in known if index < wanted]
    lower = [index for index in known if index > wanted]
    first, second = (upper[-1], lower[0]) if upper and lower else (known[:2] if lower else known[-2:])
    share = (wanted - first) / (second - first)
    start, end = trusted[LEVELS[first]], trusted[LEVELS[second]]
    return start + share * (end - start)


def _pair_fits(pair: Mapping[str, Keypoint], canal_mm: np.ndarray | None) -> bool:
    apart = np.asarray(pair["left"].mm) - np.asarray(pair["right"].mm)
    beside = AXIAL_WIDTH_MM[0] <= apart[0] <= AXIAL_WIDTH_MM[1] and abs(apart[1]) <= AXIAL_TILT_MM
    return bool(beside) and all(_usable(point, canal_mm) for point in pair.values())


def _usable(point: Keypoint, canal_mm: np.ndarray | None) -> bool:
    if point.confidence < FAINT:
        return False
    return canal_mm is None or float(np.linalg.norm(np.asarray(point.mm)[:2] - canal_mm[:2])) <= AXIAL_REACH_MM


def _pair_from_canal(pair: Mapping[str, Keypoint], canal_mm: np.ndarray, half_mm: float) -> dict[str, np.ndarray]:
    """New places of the points that cannot be believed: the other side across the canal, or beside the canal point."""
    sign = {"left": 1.0, "right": -1.0}
    believed = {
        side: point
        for side, point in pair.items()
        if _usable(point, canal_mm) and sign[side] * (point.mm[0] - canal_mm[0]) > 0
    }
    if len(believed) == len(pair) == 2:  # each is possible, both together are not
        least = min(point.confidence for point in believed.values())
        believed = {side: point for side, point in believed.items() if point.confidence > least}  # of equals neither
    places = {}
    for side in pair.keys() - believed.keys():
        other = next(iter(believed.values()), None)
        if other is None and not pair[side].found:
            continue
        place = np.array(canal_mm, dtype=np.float64)
        place[0] += sign[side] * half_mm
        if other is not None:
            place[0] = 2 * canal_mm[0] - other.mm[0]
            place[1] = other.mm[1]
        places[side] = place
    return places


def _moved(point: Keypoint, place_mm: np.ndarray, planes: Planes) -> Keypoint:
    """The keypoint at the foot of the perpendicular from a place to its own slice.

    Where a detector chose the slice of that very point, it is the series' nearest to the place.
    """
    instance = point.instance
    if point.slice_from in ("answer", "found"):
        own = [number for series_id, number in planes if series_id == point.series_id]
        instance = min(own, key=lambda number: abs(geometry.to_pixel(planes[point.series_id, number], place_mm)[2]))
    affine = planes[point.series_id, instance]
    column, row, _ = geometry.to_pixel(affine, place_mm)
    x, y, z = geometry.to_patient(affine, (column, row))
    xy, mm = (float(column), float(row)), (float(x), float(y), float(z))
    return replace(point, instance=instance, xy_px=xy, mm=mm, repaired=True, trail=None)


def _issue(point: Keypoint, study_id: int, how: str) -> Issue:
    name = f"{condition_title(point.condition)} {level_title(point.level)}"
    what = "implausible position" if point.found else "the detector says nothing"
    return Issue("keypoint_repaired", study_id, point.series_id, f"{name}: {what}, {how}")


def choose_chain(maps: np.ndarray, to_mm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    """Whole pixels (K, 2) of K maps (K, S, S), head to foot; None where no chain of their maxima can be a spine.

    `to_mm` takes pixels (M, 2) to the patient (M, 3). The score of a chain is the sum of log heights of the maps at its
    places, less the squared change of the step's length from level to level.
    """
    found = [local_maxima(each, FAINT, CANDIDATES) for each in maps]
    pixels = np.unique(np.concatenate(found), axis=0)  # (M, 2): a place may be any level's
    if len(pixels) < len(maps):
        return None
    places = to_mm(pixels.astype(np.float64))
    said = np.log(np.maximum(maps[:, pixels[:, 1], pixels[:, 0]], LEAST))  # (K, M)
    move = places[None] - places[:, None]  # (M, M, 3) from the first to the second
    length = np.linalg.norm(move, axis=-1)
    possible = (length >= STEP_MM[0]) & (length <= STEP_MM[1]) & (move[..., 2] <= -MIN_DROP_MM)
    step = np.log(np.where(possible, length, 1.0))
    # best[i, j]: the score of the best chain that ends with a step from place i to place j
    best = np.where(possible, said[0][:, None] + said[1][None], -np.inf)
    back = []
    for level in range(2, len(maps)):
        bend = -0.5 * ((step[None] - step[:, :, None]) / STEP_SPREAD) ** 2  # (i, j, k): step i to j, then j to k
        through = best[:, :, None] + bend
        before = through.argmax(axis=0)  # (j, k)
        best = np.where(possible, np.take_along_axis(through, before[None], axis=0)[0] + said[level][None], -np.inf)
        back.append(before)
    if not np.isfinite(best.max()):
        return None
    last = list(np.unravel_index(int(best.argmax()), best.shape))
    for before in reversed(back):
        last.insert(0, before[last[0], last[1]])
    return pixels[np.array(last, dtype=np.int64)]


def choose_pair(maps: np.ndarray, to_mm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    """Whole pixels (2, 2) of the maps (2, S, S) of an axial slice's left and right; None where one shows nothing.

    `to_mm` takes pixels (M, 2) to the patient (M, 3). The score of a pair of maxima is the sum of the maps' log
    heights, less the squared deviation of their distance from side to side, and in height, from what is usual: where
    one side is mistaken, the other one tells.
    """
    left, right = (local_maxima(each, FAINT, CANDIDATES) for each in maps)
    if not len(left) or not len(right):
        return None
    move = to_mm(left.astype(np.float64))[:, None] - to_mm(right.astype(np.float64))[None]  # (L, R, 3), x to the left
    width, tilt = move[..., 0], np.abs(move[..., 1])
    possible = (width >= AXIAL_WIDTH_MM[0]) & (width <= AXIAL_WIDTH_MM[1]) & (tilt <= AXIAL_TILT_MM)
    if not possible.any():
        return None
    odd = np.log(np.where(possible, width, 1.0) / (2 * HALF_WIDTH_MM)) / WIDTH_SPREAD
    said = np.log(maps[0, left[:, 1], left[:, 0]])[:, None] + np.log(maps[1, right[:, 1], right[:, 0]])[None]
    score = np.where(possible, said - 0.5 * (odd**2 + (tilt / TILT_SPREAD_MM) ** 2), -np.inf)
    best = np.unravel_index(int(score.argmax()), score.shape)
    return np.stack([left[best[0]], right[best[1]]])
