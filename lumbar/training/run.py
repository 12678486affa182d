"""A run: every stage and fold of a recipe, in order; each step is skipped where its result is there and its inputs are
the same (see `folder` for what a run holds, `data.packs` for fingerprints)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lumbar.compute.accelerator import make_accelerator
from lumbar.files.write import check_apart, check_writable, write_csv, write_json, writing_into
from lumbar.issues import few
from lumbar.labels import LABEL_COLUMNS
from lumbar.terminal.voice import tell
from lumbar.training.checks.disk import check_space, needed_bytes
from lumbar.training.checks.issues import tell_issues
from lumbar.training.checks.recipe import load_checked
from lumbar.training.checks.samples import check_samples
from lumbar.training.checks.tables import open_checked
from lumbar.training.data.make import make_packs, make_regions, make_stacks, training_kind
from lumbar.training.deadline import Deadline, OutOfTimeError
from lumbar.training.folder import RunFolder
from lumbar.training.job import train_member
from lumbar.training.journal import Journal
from lumbar.training.outcome.lessons import teach
from lumbar.training.outcome.outoffold import find_keypoints, grade_held_out
from lumbar.training.pretrained.begun import tell_beginning
from lumbar.training.pretrained.sources import Sources
from lumbar.training.second_level import make_told
from lumbar.training.setup import Setup, set_up
from lumbar.training.stages import as_trained


def train(
    recipe_path: Path,
    data_folder: Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    pretrained: Path | None = None,
    hours: float | None = None,
    cache: Path | None = None,
) -> Path:
    """Train every stage and fold of a recipe into the run folder `out`, going on where an earlier call stopped.

    `pretrained`: a folder of weights that networks begin with, see `training.pretrained`. `hours`: after so many at
    most it stops, at a checkpoint, says what is left, and returns all the same. `cache`: where to keep what is made of
    the images, if not in `out`; it may be deleted. Under `accelerate launch` every process calls it; the first one
    reads, caches and writes. Raises InputError with all faults of the data before
    anything is trained, and where `out` lies among the images or holds something else.
    """
    deadline = Deadline(hours)
    recipe = load_checked(Path(recipe_path), overrides)
    check_apart(out, Path(data_folder) / "train_images")
    with writing_into(out):
        RunFolder(Path(out)).check_free()
    if cache is not None:
        check_apart(cache, Path(data_folder) / "train_images")
        check_writable(cache)
    sources = Sources(pretrained)
    sources.check_folder()
    data = open_checked(Path(data_folder), recipe, sources)
    check_writable(out)
    setup = set_up(Path(out), recipe, data, make_accelerator(recipe.loop), sources, deadline, cache=cache)
    if setup.main:
        tell_beginning(recipe.members())
    try:
        _train(setup)
    except OutOfTimeError:
        if setup.main:
            tell(_left(setup))
    return Path(out)


def _train(setup: Setup) -> None:
    """All steps of a run, in order."""
    _pause(setup)
    prepare(setup)
    journal = Journal(setup.folder.root, keeps=setup.main, tensorboard=setup.recipe.loop.tensorboard)
    train_detectors(setup, journal)
    train_graders(setup, journal)
    if setup.main:
        with writing_into(setup.folder.root):
            setup.folder.finish()
    setup.accelerator.wait_for_everyone()


def _left(setup: Setup) -> str:
    """What is left of a run that stops because its time is up."""
    asked = setup.recipe.to_train()
    left = [f"{name} fold {fold}" for name, fold in asked if setup.folder.result(name, fold) is None]
    hours = (setup.deadline.seconds or 0.0) / 3600
    what = f"{len(asked) - len(left)} of {len(asked)} networks are trained, next: {few(left) or 'grading'}"
    return f"stopped before {hours:g} h were over: {what}; the same command goes on from the last checkpoint"


def prepare(setup: Setup) -> None:
    """Store the recipe, labels and folds; read the studies that are not cached yet; tell what cannot be trained on."""
    root = setup.folder.root
    if setup.main:
        check_space(needed_bytes(setup.data, setup.study_ids, setup.recipe, setup.folder))
        table = setup.labels.loc[setup.study_ids, list(LABEL_COLUMNS)].rename_axis("study_id").reset_index()
        with writing_into(root):
            write_json(setup.recipe.model_dump(mode="json"), root / "recipe.json")
            write_csv(table, root / "labels.csv")
            write_csv(setup.folds, root / "folds.csv")
    make_packs(setup)
    if setup.main:
        tell_issues(setup.packs, setup.rows, setup.study_ids, root / "issues.json")


def train_detectors(setup: Setup, journal: Journal) -> None:
    """Stage 1: train the detectors of every fold, those first by which others are taught, and find the keypoints of its
    held-out studies."""
    detectors = setup.recipe.stage1.members
    for name, member in detectors.items():
        make_stacks(setup, name, member.spec)
    check_samples(setup)
    taught = {name: member.training.taught_by for name, member in detectors.items() if member.training.taught_by}
    teachers = {name: detectors[name] for name in dict.fromkeys(taught.values())}
    for fold in setup.recipe.folds.train:
        _train_fold(setup, teachers, fold, journal)
    for name, teacher in taught.items():
        teach(setup, name, teacher)
    for fold in setup.recipe.folds.train:
        _train_fold(setup, detectors, fold, journal)
        _pause(setup)
        if setup.main:
            find_keypoints(setup, fold)
    setup.accelerator.wait_for_everyone()


def train_graders(setup: Setup, journal: Journal) -> None:
    """Stage 2: train the graders of every fold and grade its held-out studies."""
    _pause(setup)
    kind = training_kind(setup)
    if kind != "found":
        make_regions(setup, kind, setup.study_ids if kind == "labels" else setup.in_trained_folds())
    if beside := [member for member in setup.recipe.stage2.members.values() if member.training.labelled_p]:
        make_regions(setup, "labels", setup.in_trained_folds(), beside)
    make_regions(setup, "found", setup.in_trained_folds())
    members = setup.recipe.stage2.members
    first, second = (
        {name: each for name, each in members.items() if each.training.second_level is last} for last in (False, True)
    )
    for fold in setup.recipe.folds.train:
        _train_fold(setup, first, fold, journal)
    if second:  # which learn from what all folds of the first say
        _pause(setup)
        make_told(setup)
    for fold in setup.recipe.folds.train:
        _train_fold(setup, second, fold, journal)
    _pause(setup)
    if setup.main:
        grade_held_out(setup)


def _pause(setup: Setup) -> None:
    """Between two steps: OutOfTimeError, in all processes, where the time is up."""
    if setup.deadline.up(setup.accelerator):
        raise OutOfTimeError


def _train_fold(setup: Setup, members: Mapping[str, Any], fold: int, journal: Journal) -> None:
    """Train the members of a stage that train this fold, in order: some begin with others."""
    for name, member in members.items():
        if fold in setup.recipe.folds_of(name):
            _pause(setup)
            train_member(setup, as_trained(name, member), fold, journal)
