"""Stage 1 at work: step by step a study's stacks through the detectors, answers to keypoints, bad ones repaired."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from lumbar.issues import Issue, together
from lumbar.keypoints.answers.heatmaps import confidence, decode, image_px, read_at, refine
from lumbar.keypoints.answers.reading import Reading
from lumbar.keypoints.candidates import Candidate, candidates, in_order_of_labels, surest, within_series
from lumbar.keypoints.frames import within_reach
from lumbar.keypoints.numbering import rivals
from lumbar.keypoints.places import Known, canal_points, stacks_for
from lumbar.keypoints.repair import (
    FAINT,
    LOW_CONFIDENCE,
    SURE,
    choose_chain,
    choose_pair,
    is_spine,
    repair_axial,
    repair_sagittal,
    spine_step_mm,
)
from lumbar.keypoints.sizes import doubtful_geometry
from lumbar.keypoints.stacks import Stack, channel_names
from lumbar.keypoints.steps import Members, Step, raw_answers, read, steps
from lumbar.keypoints.turned import turned_series
from lumbar.labels import (
    CONDITIONS,
    KEYPOINT_SERIES,
    LEVELS,
    SIDES,
    Condition,
    Level,
    SeriesType,
    condition_title,
    level_title,
)
from lumbar.recipe.chain import same_stacks
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Keypoint, Name, SlicePlace
from lumbar.study.study import Study

#: Detectors by series type. Where their order matters they are a list, as in their recipe.
Detectors = Mapping[SeriesType, Members]


def detect(
    study: Study,
    detectors: Members | Detectors,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
) -> tuple[list[Keypoint], list[Issue]]:
    """The keypoints of a study, at most one a condition and level, in the order of `labels`.

    Networks are in evaluation mode on `device`; `amp` is the autocast type on an accelerator (None: float32). Detectors
    look one step after the other (see `steps`); what several of one step say is joined, and a later step's point of a
    name takes the place of an earlier one's, whose size and disc's front end stay where the later one tells none. A
    point that no detector shows and that no neighbours of its own kind give a place is not there, with a
    `keypoint_missing` Issue. Raises InputError where a spec's `num_classes` has no meaning.
    """
    chain = _Chain(study, torch.device(device), amp)
    for step in steps(_listed(detectors)):
        chain.take(step)
    return chain.result()


class _Chain:
    """What is known of a study while detectors look at it, one step after the other."""

    def __init__(self, study: Study, device: torch.device, amp: torch.dtype | None) -> None:
        self.study, self.device, self.amp = study, device, amp
        self.points: dict[Name, Keypoint] = {}
        self.slices: dict[Name, SlicePlace] = {}
        self.issues: list[Issue] = []
        self.sought: dict[Step, set[Level]] = {}  # on axial planes, by the step that did
        self.doubts: list[Issue] = []  # of the headers' words on how and where the pictures lie
        self.raw: dict[SeriesType, dict[Name, Keypoint]] = {}  # points before repair
        self.numbering: dict[int, str] = {}  # by series, why its levels may be others

    def take(self, step: Step) -> None:
        """Let one step look at the study."""
        spec = step.spec
        points = list(self.points.values())
        levels = canal_points(points).keys()
        sought = self.sought.setdefault(step, set()) if spec.placed == "plane" else set()
        if spec.placed == "plane" and levels <= sought:
            return
        seen, known = self.study, points
        if spec.preprocessing.keypoints == "repair":
            seen, known, found = within_reach(self.study, points, spec.series_type)
            self._tell(found)
        before = Known({point.name: point for point in known}, self.slices, left=levels - sought)
        sought.update(levels)
        said: list[tuple[list[Stack], Reading, Sequence[Candidate]]] = []
        made: list[tuple[DetectorSpec, tuple[list[Stack], list[Issue]]]] = []
        for group in step.groups:
            own = group[0][0]
            if not (alike := [stacks for spec, stacks in made if same_stacks(spec, own)]):
                alike = [stacks_for(seen, own, before)]
                made.append((own, alike[0]))
            stacks, found = alike[0]
            self._tell(found)
            if stacks:
                reading, doubts = read_stacks(stacks, group, self.device, self.amp)
                if not levels:  # else the canal points that are known already say which level is which
                    self.numbering = doubts | self.numbering
                said.append((stacks, reading, candidates(stacks, reading, group[0][0], before)))
        if not said:
            return
        best, moved = within_series(surest(self.study, [each for _, _, each in said], spec.join))
        self._tell([_replaced(each, self.study.study_id) for each in moved])
        self.slices |= {each.name: each.slice_place() for each in best if each.index is not None}
        fresh = [each.keypoint() for each in best if each.placed or not _says_slices_only(step)]
        if spec.preprocessing.keypoints == "repair" and fresh:
            fresh = self._repaired(step, said[0][0], fresh, known)
        there = [_as_sure_as_its_slice(point, before) if step.unsure else point for point in fresh if point.found]
        lost = [point for point in fresh if not point.found and point.name not in self.points]
        self.issues += [*_missing(lost, self.study.study_id, spec), *_faint(there, self.study.study_id)]
        for point in there:  # in the order in which they are found
            before_it = self.points.pop(point.name, None)
            size, front = point.size_mm, None if point.repaired else point.front_mm
            if before_it is not None:
                size, front = size or before_it.size_mm, front or before_it.front_mm
            self.points[point.name] = replace(point, size_mm=size, front_mm=front)

    def _repaired(
        self, step: Step, stacks: Sequence[Stack], fresh: Sequence[Keypoint], known: Sequence[Keypoint]
    ) -> list[Keypoint]:
        """The points found in a step, implausible ones replaced, and what they tell of the series' geometry."""
        spec, members = step.groups[0][0][0], step.groups[0]
        raw = self.raw.setdefault(spec.series_type, {})
        raw |= {point.name: point for point in fresh if point.found}
        canal = canal_points(known, FAINT)
        if spec.answer == "heatmaps" and not spec.depth:
            look = partial(raw_answers, members=members, device=self.device, amp=self.amp)
            chosen = {point.series_id for point in fresh}
            theirs = [stack for stack in stacks if stack.series.series_id in chosen]
            self.doubts += turned_series(self.study.study_id, theirs, fresh, spec, look)
        told = {kind: list(points.values()) for kind, points in self.raw.items()}
        self.doubts += doubtful_geometry(self.study, told, canal, spec.series_type, self.doubts)
        listed = [self.study.series_by_id(number) for number in {point.series_id for point in fresh}]
        planes = {
            (series.series_id, item.instance): item.affine for series in listed if series for item in series.slices
        }
        fixed: list[Keypoint] = []
        for axial, repair in ((False, repair_sagittal), (True, repair_axial)):
            own = [point for point in fresh if (KEYPOINT_SERIES[point.condition] == "axial_t2") == axial]
            done, found = repair(own, planes, canal, self.study.study_id) if own else ([], [])
            fixed += done
            self.issues += found
        return fixed

    def _tell(self, issues: Sequence[Issue]) -> None:
        self.issues += [issue for issue in issues if issue not in self.issues]

    def result(self) -> tuple[list[Keypoint], list[Issue]]:
        """The keypoints found, and what had to be done without."""
        if self.sought:
            self.issues += _without_plane(self.study, set().union(*self.sought.values()))
        issues = together(self.issues, {"keypoint_repaired", "keypoint_low_confidence", "slice_replaced"})
        told = [Issue("levels_ambiguous", self.study.study_id, *doubt) for doubt in self.numbering.items()]
        return in_order_of_labels(self.points.values()), [*issues, *self.doubts, *told]


def _as_sure_as_its_slice(point: Keypoint, before: Known) -> Keypoint:
    """A point whose detector does not say how sure it is, on a slice that an earlier one found: as sure as that one.

    Whether the point is plausible is another question, which is asked before (`repair`).
    """
    place = before.place(point.name)
    sure = point.confidence * (1.0 if place is None else place.confidence)
    return replace(point, confidence=sure, peak=sure)


def _says_slices_only(step: Step) -> bool:
    return not any(spec.says_places for spec, _ in step.members)


def read_stacks(
    stacks: Sequence[Stack], members: Members, device: torch.device, amp: torch.dtype | None
) -> tuple[Reading, dict[int, str]]:
    """What a group of detectors reads off stacks, and by series why the numbering of its levels is doubtful.

    Maps that show no spine, or no pair of sides, are read again, together.
    """
    spec = members[0][0]
    pair = spec.decoded == "pair"
    chain = spec.decoded == "maximum" and spec.series_type != "axial_t2" and spec.preprocessing.keypoints == "repair"
    if spec.answer != "heatmaps" or spec.depth or not (pair or chain):
        return read(stacks, members, device, amp), {}
    maps = raw_answers(stacks, members, device, amp)
    silent = np.isnan(maps[..., 0, 0])  # (N, K)
    maps[silent] = 0
    pixel, peak, spread = decode(maps)
    doubts: dict[int, str] = {}
    for row, own, to_mm in _together(stacks, spec, silent):
        sure = confidence(peak[row, own], spread[row, own] * spec.stride, spec.sigma_px).mean() >= SURE
        if pair:
            found = choose_pair(maps[row, own], to_mm) if len(own) == len(SIDES) else None
        else:
            found = _as_chain(maps[row, own], pixel[row, own], to_mm, sure)
        if found is not None and not np.array_equal(found, pixel[row, own]):
            pixel[row, own] = found
            peak[row, own], spread[row, own] = (part[0] for part in read_at(maps[row, own][None], found[None]))
        if pair or not sure or len(own) != len(LEVELS):
            continue
        series = stacks[row].series
        if doubt := rivals(maps[row, own], pixel[row, own], to_mm).doubt():
            doubts.setdefault(series.series_id, f"{series.description}: {doubt}")
    xy = image_px(refine(maps, pixel, 2 * spec.sigma_px / spec.stride), spec.stride)
    points = np.concatenate([xy, np.full((*silent.shape, 1), np.nan)], axis=-1)
    points[silent] = np.nan
    confident = np.where(silent, 0.0, confidence(peak, spread * spec.stride, spec.sigma_px))
    return Reading(points, confident, peak, spread * spec.stride), doubts


def _together(
    stacks: Sequence[Stack], spec: DetectorSpec, silent: np.ndarray
) -> Iterator[tuple[int, list[int], Callable[[np.ndarray], np.ndarray]]]:
    """What must suit each other on a stack, the levels of a condition or, axially, the sides of a level: the stack's
    row, the channels, and from their pixels to the patient.

    Where a map is `silent` (N, K) there is nothing: they are read together or not at all.
    """
    by = 1 if spec.decoded == "pair" else 0
    for row, stack in enumerate(stacks):
        names = channel_names(spec, stack.side, stack.level)
        for key in dict.fromkeys(name[by] for name in names if name is not None):
            own = [channel for channel, name in enumerate(names) if name is not None and name[by] == key]
            if not silent[row, own].any():
                yield row, own, partial(_to_mm, stack, spec.stride)


def _to_mm(stack: Stack, stride: int, pixels: np.ndarray) -> np.ndarray:
    """Patient mm (M, 3) of pixels (M, 2) of a stack's maps."""
    return stack.to_slice(image_px(pixels, stride))[1]


def _as_chain(
    maps: np.ndarray, pixel: np.ndarray, to_mm: Callable[[np.ndarray], np.ndarray], sure: bool
) -> np.ndarray | None:
    """Other maxima (K, 2) of maps (K, S, S) that are a spine, where the decoded points (K, 2) are none."""
    places = to_mm(pixel)
    if is_spine(places):
        return None
    if sure and spine_step_mm(places) is not None:  # of another size: PixelSpacing is wrong, not the points
        return None
    return choose_chain(maps, to_mm)


def _listed(detectors: Members | Detectors) -> Members:
    return [each for group in detectors.values() for each in group] if isinstance(detectors, Mapping) else detectors


def _missing(points: Sequence[Keypoint], study_id: int, spec: DetectorSpec) -> list[Issue]:
    """One Issue a condition and series for the levels that no answer shows."""
    levels: dict[tuple[Condition, int], list[str]] = {}
    for point in points:
        levels.setdefault((point.condition, point.series_id), []).append(level_title(point.level))
    flat = ": its heatmap is flat or holds no numbers" if spec.answer == "heatmaps" else ""
    why = f"no keypoint, since the detector says nothing{flat}"
    return [
        Issue("keypoint_missing", study_id, series_id, f"{condition_title(condition)} {', '.join(names)}: {why}")
        for (condition, series_id), names in levels.items()
    ]


def _replaced(each: Candidate, study_id: int) -> Issue:
    """What is said of a slice that was found beyond its series."""
    condition, level = each.name
    where = f"its slice was found beyond the last one; instance {each.instance} of its series stands in"
    return Issue(
        "slice_replaced", study_id, each.series_id, f"{condition_title(condition)} {level_title(level)}: {where}"
    )


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
