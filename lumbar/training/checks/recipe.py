"""Faults of a recipe that only its networks and the data can tell, all of them, before anything is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lumbar.bundle.network import blueprint, check_inputs, check_size
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.tasks import TASKS
from lumbar.issues import InputError
from lumbar.keypoints.networks.registry import build_detector
from lumbar.labels import CONDITIONS
from lumbar.recipe.member import DetectorSpec, GraderSpec
from lumbar.recipe.recipe import Member, Recipe
from lumbar.recipe.settings import Training
from lumbar.study.tables import read_sources
from lumbar.terminal import tell
from lumbar.training.data.samples import drawn
from lumbar.training.loop.batches import Plan
from lumbar.training.loop.losses import EMPTY
from lumbar.training.loop.objectives import SeverityObjective

if TYPE_CHECKING:
    from lumbar.training.run import Run


def recipe_faults(recipe: Recipe, root: Path) -> list[str]:
    """A sentence for every network that cannot be built or filled, and for every source that the data lacks."""
    faults: dict[str, str] = {}  # by what is wrong: members share networks and sources
    try:
        sources = set(_sources(root).values())
    except InputError as error:
        faults[str(error)], sources = str(error), set()
    if recipe.stage2.keypoints == "out_of_fold" and len(recipe.folds.train) == 1:
        faults["folds"] = (
            "folds.train names one fold only: graders learn from the studies of the others, around keypoints of these "
            "studies' own folds; name two or set stage2.keypoints to labels"
        )
    for name, member in recipe.members().items():
        for wrong in (_network_fault(member), _draws_fault(member.training, sources)):
            if wrong:
                faults.setdefault(wrong, f"{name}: {wrong}")
    return list(faults.values())


def weights_bytes(member: Member) -> int:
    """What a member's weights take on the disk, in float32."""
    network = blueprint(member.spec, "the recipe")
    return 4 * sum(value.numel() for value in network.state_dict().values())


def check_samples(run: "Run") -> None:
    """Raise InputError with all members and folds that have too little to train or to validate on.

    Detectors' samples are known once their stacks are made; of graders', whose regions wait for keypoints, what labels
    alone tell.
    """
    faults: dict[str, None] = {}
    for fold in run.recipe.folds.train:
        for name, member in run.recipe.members().items():
            if isinstance(member.spec, GraderSpec):
                studies, held_out, together = *_labelled(run, member, fold), _asks_any_severe(member)
            else:
                job = run.job(name, member, fold)
                studies, held_out, together = job.train.studies, job.valid.studies, job.keep_studies
            for found, what in ((studies, "train"), (held_out, "validate")):
                if not len(found):
                    faults[f"{name} fold {fold}: no labelled sample to {what} on; add studies"] = None
            if wrong := _batch_fault(studies, member.training, run.accelerator.num_processes, together=together):
                faults[f"{name}: {wrong}"] = None
    if faults:
        raise all_told(str(run.data.root), list(faults))


def all_told(place: str, faults: Sequence[str]) -> InputError:
    """Tell several faults in a line each; what is to be raised, which holds the first."""
    for number, fault in enumerate(faults if len(faults) > 1 else (), 1):
        tell(f"({number}) {fault}")
    more = ", as those above" if len(faults) > 1 else ""
    return InputError(f"{place}: {len(faults)} fault(s). (1) {faults[0]}{more}")


def _batch_fault(studies: np.ndarray, training: Training, processes: int, *, together: bool) -> str | None:
    try:
        if len(studies):
            Plan(studies, training, seed=0, world=processes, together=together)
    except InputError as error:
        return str(error)
    return None


def _asks_any_severe(member: Member) -> bool:
    return isinstance(member.spec, GraderSpec) and SeverityObjective(member.spec, member.training).asks_any_severe


def _labelled(run: "Run", member: Member, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) study of each sample that a grader has where all can be seen, to train and to validate on."""
    assert isinstance(member.spec, GraderSpec)
    samples = TASKS[member.spec.task].samples
    places = [[CONDITIONS.index(condition) for condition in sample.conditions] for sample in samples]

    def rows(studies: list[int], codes: Mapping[int, np.ndarray]) -> np.ndarray:
        found = [study for study in studies for own in places for level in (codes[study][own] != EMPTY).any(0) if level]
        return np.array(found, np.int64)[:, None]

    trained = rows(run.trained_on(fold, member.spec), run.training_codes)
    return drawn(trained, run.draws(member.training))[:, 0], rows(run.held_out(fold), run.codes)[:, 0]


def _network_fault(member: Member) -> str | None:
    pretrained = member.training.pretrained
    try:
        network = blueprint(member.spec, "the recipe")
        check_size(network, "the recipe")
        check_inputs(network, member.spec, "the recipe")
        if pretrained and isinstance(member.spec, DetectorSpec):
            build_detector(member.spec, pretrained)
        elif pretrained and isinstance(member.spec, GraderSpec):
            build_grader(member.spec, pretrained)
    except InputError as error:
        return str(error)
    return None


def _draws_fault(training: Training, sources: set[str]) -> str | None:
    strange = sorted(set(training.draws) - sources)
    if not strange:
        return None
    there = f"names {', '.join(sorted(sources))}" if sources else "names none"
    return f"the recipe draws from {strange[0]!r}, but train_sources.csv {there}; add studies or correct draws"


def _sources(root: Path) -> Mapping[int, str]:
    path = root / "train_sources.csv"
    return read_sources(path) if path.is_file() else {}
