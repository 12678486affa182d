"""Faults of a recipe that only its networks and the data can tell, all of them, before anything is trained."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch

from lumbar.grading.network import build_grader
from lumbar.issues import InputError
from lumbar.keypoints.network import build_detector
from lumbar.member import DetectorSpec
from lumbar.study import read_sources
from lumbar.training.recipe import Member, Recipe
from lumbar.training.settings import Training


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


def _network_fault(member: Member) -> str | None:
    pretrained = member.training.pretrained
    with nullcontext() if pretrained else torch.device("meta"):  # without weights to be filled, none are made
        try:
            if isinstance(member.spec, DetectorSpec):
                build_detector(member.spec, pretrained)
            else:
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
