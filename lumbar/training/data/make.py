"""The files that training reads, made once: studies, detectors' stacks, graders' regions; what is there is kept."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lumbar.compute.processes import each
from lumbar.grading.regions import region_key
from lumbar.issues import InputError
from lumbar.recipe import sets
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.losses import asks_annotations
from lumbar.study.keypoint import Keypoint
from lumbar.training.data import region_files, stack_files
from lumbar.training.data.labelled import trusted
from lumbar.training.data.packs import fingerprint, read_header
from lumbar.training.data.slice_shift import reach
from lumbar.training.setup import Setup

#: Keypoints by study.
Points = Mapping[int, Sequence[Keypoint]]


def make_packs(setup: Setup) -> None:
    """Read the studies that are not cached yet; other processes than the first learn what there is."""
    if setup.main:
        setup.packs.ensure(setup.study_ids, functools.partial(_each, setup))
    setup.accelerator.wait_for_everyone()
    if not setup.main:
        setup.packs.know(setup.study_ids)


def stack_folder(setup: Setup, name: str) -> Path:
    """Where a detector's stacks lie."""
    return setup.folder.cache / "stacks" / name


def lesson_folder(setup: Setup, name: str) -> Path:
    """Where what a detector is taught lies."""
    return setup.folder.cache / "lessons" / name


def region_folder(setup: Setup, spec: GraderSpec, kind: str, shift: int = 0) -> Path:
    """Where regions of one kind of input lie; `kind` of keypoints: labels, found or trusted; longer by `shift`."""
    key = fingerprint(region_key(region_files.margin_spec(spec, setup.recipe.loop.region_margin, shift)))
    number = first_set(setup, spec) if kind != "labels" else 0
    return setup.folder.cache / "regions" / f"{key[:12]}_{kind}{number or ''}"


def first_set(setup: Setup, spec: GraderSpec) -> int:
    """The number of the set of keypoints around which a grader trains: the first of its own."""
    return sets.around(setup.recipe.stage1.sets, spec)[0]


def told_folder(setup: Setup, name: str) -> Path:
    """Where lies what a first level says, out of fold, of the slices of studies."""
    return setup.folder.cache / "told" / name


def make_stacks(setup: Setup, name: str, spec: DetectorSpec) -> None:
    """Make the stacks of a detector that are missing or out of date."""
    make = functools.partial(stack_files.make_stacks, setup.packs, setup.rows, spec)
    parts = [spec.model_dump(mode="json")]
    _derive(setup, stack_folder(setup, name), setup.study_ids, make, lambda study: parts, name, stack_files.is_whole)


def training_kind(setup: Setup) -> str:
    """The kind of keypoints that graders train around: found, labels, or trusted, which are either (see `trusted`)."""
    kinds = {"out_of_fold": "found", "labels": "labels", "out_of_fold_or_label": "trusted"}
    return kinds[setup.recipe.stage2.keypoints]


def make_regions(
    setup: Setup, kind: str, study_ids: Sequence[int], members: Sequence[GraderMember] | None = None
) -> None:
    """Make the regions around a kind of keypoints, once for every kind of input that graders (None: all) ask for."""
    folds, margin = setup.recipe.folds.train, setup.recipe.loop.region_margin
    by_set = setup.folder.keypoints_by_set(folds) if kind != "labels" else [{}]
    if kind == "trusted":
        labels, limit = setup.folder.labelled_keypoints(folds), setup.recipe.stage2.keypoint_trust_mm
        by_set = [
            {study: trusted(points, labels.get(study, ()), limit) for study, points in found.items()}
            for found in by_set
        ]
    wanted: dict[tuple[str, int], tuple[GraderSpec, int]] = {}
    told: set[tuple[str, int]] = set()  # those whose files must say which slices carry annotations
    for member in setup.recipe.stage2.members.values() if members is None else members:
        trains = kind == training_kind(setup) or (kind == "labels" and member.training.labelled_p > 0)
        shifts = [reach(member.training)] if trains else []
        if kind == "found" or not shifts:  # all are validated around found ones, and pictures show any kind
            shifts.append(0)
        number = first_set(setup, member.spec) if kind != "labels" else 0
        if number >= len(by_set):  # those of another run, for pictures
            raise InputError(
                f"{setup.folder.root}: its keypoints are {len(by_set)} sets, and a grader asks for more; give a run of "
                "this recipe"
            )
        for shift in shifts:
            key = region_key(region_files.margin_spec(member.spec, margin, shift)), number
            wanted[key] = member.spec, shift
            told |= {key} if asks_annotations(member.training) else set()
    for key, (spec, shift) in wanted.items():
        wide, found = region_files.margin_spec(spec, margin, shift), by_set[key[1]]
        around = None if kind == "labels" else found
        make = functools.partial(region_files.make_regions, setup.packs, setup.rows, around, wide)

        def parts(study: int, wide: GraderSpec = wide, found: Points = found) -> list[Any]:
            return [region_key(wide), [point.as_dict() for point in found.get(study, [])]]

        whole = region_files.tells_annotations if key in told else _whole
        _derive(setup, region_folder(setup, spec, kind, shift), study_ids, make, parts, f"regions {kind}", whole)


def source_of(folder: Path, study: int) -> str | None:
    """The fingerprint of what a study's file was made from; None where it is not there."""
    return (read_header(folder / f"{study}.safetensors") or {}).get("source")


def _whole(path: Path) -> bool:
    return True


def _derive(
    setup: Setup,
    folder: Path,
    study_ids: Sequence[int],
    make: Any,
    parts: Callable[[int], list[Any]],
    title: str,
    whole: Callable[[Path], bool],
) -> None:
    """Make a study's file again where its study or the `parts` of the recipe that it depends on are others, or where
    it is not `whole`."""
    if setup.main:
        wanted = {study: fingerprint(setup.source(study), *parts(study)) for study in study_ids}
        paths = {study: folder / f"{study}.safetensors" for study in study_ids}
        stale = [study for study, at in paths.items() if source_of(folder, study) != wanted[study] or not whole(at)]
        _each(setup, functools.partial(make, folder, wanted), stale, title)
    setup.accelerator.wait_for_everyone()


def _each(setup: Setup, function: Callable[[int], None], items: Sequence[int], title: str) -> None:
    each(function, items, title, setup.recipe.loop.read_processes, setup.deadline.check)
