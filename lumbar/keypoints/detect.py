"""Stage 1 at work: a study's stacks through the detectors, heatmaps to keypoints, implausible ones repaired."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from lumbar.compute.forward import Network, in_halves
from lumbar.issues import InputError, Issue, together
from lumbar.keypoints.answers.heatmaps import RAISED, confidence, decode, read_at, refine
from lumbar.keypoints.frames import within_reach
from lumbar.keypoints.repair import (
    FAINT,
    LOW_CONFIDENCE,
    SURE,
    choose_chain,
    is_spine,
    repair_axial,
    repair_sagittal,
    spine_step_mm,
)
from lumbar.keypoints.sizes import doubtful_geometry
from lumbar.keypoints.stacks import Stack, axial_stacks, channel_names, sagittal_stacks
from lumbar.keypoints.turned import turned_series
from lumbar.labels import (
    CONDITIONS,
    KEYPOINT_SERIES,
    LABEL_COLUMNS,
    LEVELS,
    Condition,
    Level,
    SeriesType,
    condition_title,
    level_title,
)
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study

Detectors = Mapping[SeriesType, Sequence[tuple[DetectorSpec, Network]]]
#: What makes detectors of one series type different without changing what they see.
_NETWORK_KEYS = {"network", "encoder", "encoder_args", "network_args"}


def detect(
    study: Study, detectors: Detectors, device: torch.device | str = "cpu", amp: torch.dtype | None = None
) -> tuple[list[Keypoint], list[Issue]]:
    """The keypoints of a study, at most one a condition and level, in the order of `labels`.

    Networks are in evaluation mode on `device`; `amp` is the autocast type on an accelerator (None: float32). The
    heatmaps of several detectors of one series type are averaged. T2 comes first, then both sides of T1, then the axial
    planes nearest to the canal points (without T2: to the midpoints of left and right foramina). Where T1 is sought
    from the canal, the axial planes come before it. A point whose heatmaps say nothing (`heatmaps`) and that no
    neighbours of its own kind give a place is not there, with a `keypoint_missing` Issue. Raises InputError where
    detectors of one series type see different inputs.
    """
    points: list[Keypoint] = []
    issues: list[Issue] = []
    sought: set[Level] = set()  # on axial planes
    doubts: list[Issue] = []  # of the headers' words on how and where the pictures lie
    raw: dict[SeriesType, list[Keypoint]] = {}  # points before repair
    for series_type in _order(detectors):
        members = detectors.get(series_type, ())
        if not members:
            continue
        spec = _common_spec(members)
        levels = canal_points(points).keys()
        if series_type == "axial_t2" and levels <= sought:
            continue
        seen, known = study, points
        if spec.preprocessing.keypoints == "repair":
            seen, known, found = within_reach(study, points, series_type)
            issues += [issue for issue in found if issue not in issues]
        if series_type == "axial_t2":
            left = {level: place for level, place in canal_points(known).items() if level not in sought}
            stacks, found = axial_stacks(seen, left, spec)
            sought |= levels
        else:
            stacks, found = sagittal_stacks(seen, spec, {(point.condition, point.level): point for point in known})
        issues += found
        fresh = _read(stacks, members, spec, torch.device(device), amp)
        if spec.preprocessing.keypoints == "repair":
            raw[series_type] = [*raw.get(series_type, ()), *(point for point in fresh if point.found)]
            canal = canal_points(known, FAINT)
            look = partial(heatmaps, members=members, device=torch.device(device), amp=amp)
            doubts += turned_series(study.study_id, stacks, fresh, spec, look)
            doubts += doubtful_geometry(study, raw, canal, series_type, doubts)
            fresh, found = _repaired(stacks, fresh, canal, study.study_id)
            issues += found
        there = [point for point in fresh if point.found]
        issues += _missing([point for point in fresh if not point.found], study.study_id)
        issues += _faint(there, study.study_id)
        points += there
    if detectors.get("axial_t2"):
        issues += _without_plane(study, sought)
    ordered = sorted(points, key=lambda point: LABEL_COLUMNS.index(f"{point.condition}_{point.level}"))
    return ordered, [*together(issues, {"keypoint_repaired", "keypoint_low_confidence"}), *doubts]


def _order(detectors: Detectors) -> tuple[SeriesType, ...]:
    """Series types in the order in which they need each other's points.

    Axial points tell where the canal lies from left to right; levels without a canal point on T2 wait for the foramina.
    """
    if any(spec.preprocessing.middle == "canal" for spec, _ in detectors.get("sagittal_t1", ())):
        return "sagittal_t2", "axial_t2", "sagittal_t1", "axial_t2"
    return "sagittal_t2", "sagittal_t1", "axial_t2"


def canal_points(points: Sequence[Keypoint], least: float = 0.0) -> dict[Level, np.ndarray]:
    """Patient mm (3,) of the spinal canal by level: the canal keypoint, else the midpoint between both foramina.

    Points below the confidence `least` that were not repaired are left out.
    """
    usable = [point for point in points if point.repaired or point.confidence >= least]
    by_name = {(point.condition, point.level): np.asarray(point.mm) for point in usable}
    canal: dict[Level, np.ndarray] = {}
    for level in LEVELS:
        left = by_name.get(("left_neural_foraminal_narrowing", level))
        right = by_name.get(("right_neural_foraminal_narrowing", level))
        if ("spinal_canal_stenosis", level) in by_name:
            canal[level] = by_name["spinal_canal_stenosis", level]
        elif left is not None and right is not None:
            canal[level] = (left + right) / 2
    return canal


def heatmaps(
    stacks: Sequence[Stack],
    members: Sequence[tuple[DetectorSpec, Network]],
    device: torch.device,
    amp: torch.dtype | None = None,
) -> np.ndarray:
    """(N, K, S, S) float32: the stacks of a study in one batch through every member, averaged over members.

    A member's map that says nothing is left out of the average: one that holds anything but numbers (half precision can
    overflow), or that is flat, see `heatmaps.RAISED`. Where no member says anything the map is NaN. With the original's
    `keypoints="keep"` a flat map counts like any other.
    """
    kinds: dict[tuple[int, ...], int] = {}  # slices seen → place in the batch: equal stacks go through once
    places = [kinds.setdefault(tuple(map(id, stack.window.slices)), len(kinds)) for stack in stacks]
    batch = torch.from_numpy(np.stack([stacks[places.index(place)].pixels for place in range(len(kinds))]))
    total, counted = torch.zeros((), device=device), torch.zeros((), device=device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        for spec, network in members:
            maps = in_halves(network, batch, device).float()
            sound = maps.isfinite().flatten(2).all(dim=2)[..., None, None]  # (N, K, 1, 1)
            if spec.preprocessing.keypoints != "keep":
                peak = maps.amax(dim=(2, 3), keepdim=True)
                sound = sound & (peak - maps.mean(dim=(2, 3), keepdim=True) > RAISED * peak.abs().clamp_min(1))
            total, counted = total + maps.where(sound, 0), counted + sound
    return (total / counted).cpu().numpy()[places]  # 0 / 0 is NaN


def _read(
    stacks: Sequence[Stack],
    members: Sequence[tuple[DetectorSpec, Network]],
    spec: DetectorSpec,
    device: torch.device,
    amp: torch.dtype | None,
) -> list[Keypoint]:
    if not stacks:
        return []
    maps = heatmaps(stacks, members, device, amp)
    silent = np.isnan(maps[..., 0, 0])  # (N, K)
    maps[silent] = 0
    xy_px, peak, spread = decode(maps)
    if spec.preprocessing.keypoints == "repair" and spec.series_type != "axial_t2":
        _make_chains(stacks, maps, spec, xy_px, peak, spread, silent)
    if spec.preprocessing.keypoints == "repair":
        xy_px = refine(maps, xy_px, 2 * spec.sigma_px)
    sure = confidence(peak, spread, spec.sigma_px)
    xy_px[silent] = np.nan
    points = []
    for row, stack in enumerate(stacks):
        stored, mm = stack.to_slice(xy_px[row])
        for channel, name in enumerate(channel_names(spec, stack.side, stack.level)):
            if name is None:
                continue
            points.append(
                Keypoint(
                    condition=name[0],
                    level=name[1],
                    series_id=stack.series.series_id,
                    instance=stack.centre.instance,
                    xy_px=(float(stored[channel, 0]), float(stored[channel, 1])),
                    mm=(float(mm[channel, 0]), float(mm[channel, 1]), float(mm[channel, 2])),
                    peak=float(peak[row, channel]),
                    spread_px=float(spread[row, channel]),
                    confidence=float(sure[row, channel]),
                )
            )
    return points


def _repaired(
    stacks: Sequence[Stack], points: Sequence[Keypoint], canal_mm: Mapping[Level, np.ndarray], study_id: int
) -> tuple[list[Keypoint], list[Issue]]:
    """The points found on stacks of one series type, implausible ones repaired."""
    planes = {(stack.series.series_id, stack.centre.instance): stack.centre.affine for stack in stacks}
    axial = any(KEYPOINT_SERIES[point.condition] == "axial_t2" for point in points)
    return (repair_axial if axial else repair_sagittal)(points, planes, canal_mm, study_id)


def _make_chains(
    stacks: Sequence[Stack],
    maps: np.ndarray,
    spec: DetectorSpec,
    xy_px: np.ndarray,
    peak: np.ndarray,
    spread: np.ndarray,
    silent: np.ndarray,
) -> None:
    """Move decoded points (N, K, 2) that are no spine to other maxima of the maps that are one, peak and spread too.

    Where a map is `silent` (N, K) the stack's points stay: a chain needs them all.
    """
    for row, stack in enumerate(stacks):
        names = channel_names(spec, stack.side, stack.level)
        own = [channel for channel, name in enumerate(names) if name is not None]
        places = stack.to_slice(xy_px[row, own])[1]
        if silent[row, own].any() or is_spine(places):
            continue
        sure = confidence(peak[row, own], spread[row, own], spec.sigma_px).mean() >= SURE
        if sure and spine_step_mm(places) is not None:  # of another size: PixelSpacing is wrong, not the points
            continue
        found = choose_chain(maps[row, own], partial(_patient_mm, stack))
        if found is not None:
            xy_px[row, own] = found
            peak[row, own], spread[row, own] = (part[0] for part in read_at(maps[row, own][None], found[None]))


def _patient_mm(stack: Stack, xy_px: np.ndarray) -> np.ndarray:
    return stack.to_slice(xy_px)[1]


def _common_spec(members: Sequence[tuple[DetectorSpec, Network]]) -> DetectorSpec:
    """The first member's spec; InputError where another sees something else, since heatmaps are averaged."""
    first = members[0][0]
    for spec, _ in members[1:]:
        if spec.model_dump(exclude=_NETWORK_KEYS) != first.model_dump(exclude=_NETWORK_KEYS):
            raise InputError(
                f"the detectors for {first.series_type} see different inputs, so that their heatmaps cannot be "
                "averaged; keep those of one input size and preprocessing"
            )
    return first


def check_detectors(detectors: Detectors) -> None:
    """Raise InputError where detectors cannot work together, or a heatmap has no meaning; no study is needed to see."""
    for members in detectors.values():
        spec = _common_spec(members)
        channel_names(
            spec,
            "left" if spec.series_type == "sagittal_t1" else None,
            LEVELS[0] if spec.series_type == "axial_t2" else None,
        )


def _missing(points: Sequence[Keypoint], study_id: int) -> list[Issue]:
    """One Issue a condition and series for the levels that no heatmap shows."""
    levels: dict[tuple[Condition, int], list[str]] = {}
    for point in points:
        levels.setdefault((point.condition, point.series_id), []).append(level_title(point.level))
    why = "no keypoint, since the detector says nothing: its heatmap is flat or holds no numbers"
    return [
        Issue("keypoint_missing", study_id, series_id, f"{condition_title(condition)} {', '.join(names)}: {why}")
        for (condition, series_id), names in levels.items()
    ]


def _without_plane(study: Study, sought: Collection[Level]) -> list[Issue]:
    """What is not looked for on axial slices, since no canal point leads to one."""
    lost = [level_title(level) for level in LEVELS if level not in sought]
    if not lost or not study.series.get("axial_t2"):
        return []
    names = " and ".join(condition_title(name) for name in CONDITIONS if KEYPOINT_SERIES[name] == "axial_t2")
    detail = f"{names} {', '.join(lost)}: no keypoint, since no sagittal keypoint leads to an axial slice"
    return [Issue("keypoint_missing", study.study_id, None, detail)]


def _faint(points: Sequence[Keypoint], study_id: int) -> list[Issue]:
    return [
        Issue(
            "keypoint_low_confidence",
            study_id,
            point.series_id,
            f"{condition_title(point.condition)} {level_title(point.level)}: confidence {point.confidence:.2f}",
        )
        for point in points
        if point.confidence < LOW_CONFIDENCE and not point.repaired
    ]
