"""A member as training sees it: the one place that knows what the two stages do differently.

Everything else asks these questions of any member: how its network is built, which samples it has, what it is asked
for. A `DetectorStage` learns from stacks, a `GraderStage` from regions.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lumbar.bundle.network import RECIPE, blueprint, example
from lumbar.compute.forward import Inputs
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.regions import region_key, views_of
from lumbar.grading.tasks import task_of
from lumbar.keypoints.networks.registry import build_detector
from lumbar.labels import CONDITIONS, LEVELS, SERIES_TYPES, SeriesType
from lumbar.recipe.detector_member import DetectorMember
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.recipe import Recipe
from lumbar.recipe.settings import Training
from lumbar.recipe.stage import Member
from lumbar.training.checks import losses
from lumbar.training.data.make import (
    first_set,
    lesson_folder,
    make_regions,
    make_stacks,
    region_folder,
    source_of,
    stack_folder,
    told_folder,
    training_kind,
)
from lumbar.training.data.region_files import margin_spec
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.slice_shift import Shares, own_shares, reach
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.data.told_samples import BlankTold, ToldSamples
from lumbar.training.loop.detector_objective import DetectorObjective
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.loop.shared_losses import EMPTY
from lumbar.training.setup import Setup, drawn

#: Labelled axial planes a level: left and right lie on two here and there.
PLANES = 1.2


class MemberStage(Protocol):
    """What training asks of a member, whichever stage it belongs to."""

    name: str
    training: Training
    keep_studies: bool  # all samples of a study stand in one batch

    def network(self) -> nn.Module:
        """The network with the weights it begins with."""

    def objective(self) -> Any:
        """The loss terms of a batch, see `loop.Objective`."""

    def loss_faults(self, network: nn.Module) -> Iterator[str]:
        """What its losses ask for that the network (on no device) does not answer: a sentence each."""

    def step_inputs(self, network: nn.Module, samples: int, device: torch.device | str) -> Inputs:
        """What the network takes in a training step of so many samples, zeros: to see what steps will take."""

    def trained_on(self, setup: Setup, fold: int) -> list[int]:
        """Studies that train a fold."""

    def samples(self, setup: Setup, fold: int) -> tuple[Any, Any]:
        """The data sets to train and to validate on; their files are there."""

    def sample_studies(self, setup: Setup, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) study of each sample to train and to validate on, as far as it is known before anything is trained."""

    def labels_left_out(self, setup: Setup, studies: list[int]) -> list[Any]:
        """Which labels of these studies are not trained on: part of what a result was made from."""

    def shown(self, setup: Setup, kind: str) -> Any:
        """Training samples of all studies for pictures; graders' around a `kind` of keypoints, labels or found."""

    def measured(self, samples: Any) -> Any:
        """Samples like those that it learns from, made of those that are `shown`: to see what steps will take."""

    def cache(self, studies: int, recipe: Recipe) -> tuple[str, float]:
        """What the cached inputs of so many studies are (equal ones are cached once), and their bytes."""


class DetectorStage:
    """A member of stage 1: stacks in, heatmaps out."""

    keep_studies = False

    def __init__(self, name: str, member: DetectorMember) -> None:
        self.name, self.spec, self.training = name, member.spec, member.training

    def network(self) -> nn.Module:
        """See `MemberStage`."""
        return build_detector(self.spec)

    def objective(self) -> DetectorObjective:
        """See `MemberStage`."""
        return DetectorObjective(self.spec, self.training)

    def loss_faults(self, network: nn.Module) -> Iterator[str]:
        """See `MemberStage`."""
        return losses.of_detector(self.spec, self.training)

    def step_inputs(self, network: nn.Module, samples: int, device: torch.device | str) -> Inputs:
        """See `MemberStage`."""
        return example(self.spec, device, samples)

    def trained_on(self, setup: Setup, fold: int) -> list[int]:
        """All studies of other folds."""
        held_out = set(setup.held_out(fold))
        return [study for study in setup.study_ids if study not in held_out]

    def samples(self, setup: Setup, fold: int) -> tuple[StackSamples, StackSamples]:
        """See `MemberStage`."""
        folder = stack_folder(setup, self.name)
        both = (self.trained_on(setup, fold), setup.held_out(fold))
        lessons = lesson_folder(setup, self.name) if self.training.taught_by else None
        codes = setup.training_codes
        train, valid = (StackSamples(folder, studies, self.spec, self.training, codes, lessons) for studies in both)
        return train, valid

    def sample_studies(self, setup: Setup, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the stacks, which are made before anything is trained."""
        train, valid = self.samples(setup, fold)
        return drawn(train.rows, setup.draws(self.training))[:, 0], valid.studies

    def labels_left_out(self, setup: Setup, studies: list[int]) -> list[Any]:
        """None, where severities are no matter to it."""
        return left_out(setup, studies) if "severity" in self.training.loss else []

    def shown(self, setup: Setup, kind: str) -> StackSamples:
        """See `MemberStage`."""
        make_stacks(setup, self.name, self.spec)
        folder = stack_folder(setup, self.name)
        return StackSamples(folder, setup.study_ids, self.spec, self.training, setup.training_codes)

    def measured(self, samples: Any) -> Any:
        """See `MemberStage`."""
        return samples

    def cache(self, studies: int, recipe: Recipe) -> tuple[str, float]:
        """Two bytes a pixel."""
        spec = self.spec
        stacks = spec.stacks * (PLANES if spec.placed == "plane" else 1)
        return self.name, studies * stacks * spec.channels * spec.image_size**2 * 2


class GraderStage:
    """A member of stage 2: regions in, severities out."""

    def __init__(self, name: str, member: GraderMember) -> None:
        self.name, self.spec, self.training = name, member.spec, member.training
        self.keep_studies = self.objective().asks_any_severe

    def network(self) -> nn.Module:
        """See `MemberStage`."""
        return build_grader(self.spec)

    def objective(self) -> SeverityObjective:
        """See `MemberStage`."""
        return SeverityObjective(self.spec, self.training)

    def loss_faults(self, network: nn.Module) -> Iterator[str]:
        """See `MemberStage`."""
        yield from losses.of_grader(self.spec, self.training, network)
        if self.training.second_level and not hasattr(network, "told"):
            yield f"second_level needs a network that tells what slices answer, and {self.spec.network} does not"

    def step_inputs(self, network: nn.Module, samples: int, device: torch.device | str) -> Inputs:
        """A second level's: what the first says; twice as many where features are mixed, those of the partners."""
        mixed = self.training.augment.mix != "none" and self.training.augment.mix_on == "features"
        views, seen = example(self.spec, device, samples * (2 if mixed else 1))
        if self.training.second_level:
            with torch.no_grad():
                views = network.told(views)  # type: ignore[operator]
        return views, seen

    def trained_on(self, setup: Setup, fold: int) -> list[int]:
        """All studies of other folds; around out-of-fold keypoints those that have them."""
        found_only = training_kind(setup) != "labels" or self.training.second_level
        held_out = set(setup.held_out(fold))
        return [
            study for study in (setup.in_trained_folds() if found_only else setup.study_ids) if study not in held_out
        ]

    def samples(self, setup: Setup, fold: int) -> tuple[RegionSamples, RegionSamples]:
        """Around labelled keypoints where the recipe says so; validated around found ones, with every label."""
        if self.training.second_level:
            return self._told(setup, fold)
        shift, studies = reach(self.training), self.trained_on(setup, fold)
        folder = region_folder(setup, self.spec, training_kind(setup), shift)
        soft = SoftLabels(path, studies, self.training.soft_mix) if (path := self.training.soft_labels) else None
        shares: Mapping[SeriesType, Shares] = {}
        if self.training.slice_shift == "own":
            known = sorted(set(setup.in_trained_folds()) & set(studies))
            shares = own_shares(setup, known, first_set(setup, self.spec))
        elif shift:
            shares = dict.fromkeys(SERIES_TYPES, tuple(self.training.slice_shift))  # type: ignore[arg-type]
        labelled = region_folder(setup, self.spec, "labels", shift) if self.training.labelled_p else None
        train = RegionSamples(folder, studies, setup.training_codes, self.spec, self.training, soft, shares, labelled)
        folder, studies = region_folder(setup, self.spec, "found"), setup.held_out(fold)
        return train, RegionSamples(folder, studies, setup.codes, self.spec, self.training)

    def _told(self, setup: Setup, fold: int) -> tuple[RegionSamples, RegionSamples]:
        """What the first level says, out of fold, of studies that it was asked about."""
        folder, held_out = told_folder(setup, self.training.begins_with), set(setup.held_out(fold))
        asked = [study for study in setup.in_trained_folds() if source_of(folder, study) is not None]
        studies, others = ([study for study in asked if (study in held_out) is held] for held in (False, True))
        soft = SoftLabels(path, studies, self.training.soft_mix) if (path := self.training.soft_labels) else None
        train = ToldSamples(folder, studies, setup.training_codes, self.spec, self.training, soft)
        return train, ToldSamples(folder, others, setup.codes, self.spec, self.training)

    def sample_studies(self, setup: Setup, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """What labels alone tell: regions wait for keypoints."""
        samples = task_of(self.spec).samples
        whole = self.spec.levels != "one"
        places = [[CONDITIONS.index(condition) for condition in sample.conditions] for sample in samples]

        def rows(studies: list[int], codes: Mapping[int, np.ndarray]) -> np.ndarray:
            found = []
            for study in studies:
                for own in places:
                    labelled_levels = (codes[study][own] != EMPTY).any(0)
                    found += [study] * int(labelled_levels.any() if whole else labelled_levels.sum())
            return np.array(found, np.int64)[:, None]

        trained = rows(self.trained_on(setup, fold), setup.training_codes)
        return drawn(trained, setup.draws(self.training))[:, 0], rows(setup.held_out(fold), setup.codes)[:, 0]

    def labels_left_out(self, setup: Setup, studies: list[int]) -> list[Any]:
        """See `left_out`."""
        return left_out(setup, studies)

    def shown(self, setup: Setup, kind: str) -> RegionSamples:
        """See `MemberStage`."""
        make_regions(setup, kind, setup.study_ids)
        folder = region_folder(setup, self.spec, kind, reach(self.training) if kind == training_kind(setup) else 0)
        return RegionSamples(folder, setup.study_ids, setup.training_codes, self.spec, self.training)

    def measured(self, samples: Any) -> Any:
        """Of a second level without the answers that nobody gave yet."""
        return BlankTold(samples, blueprint(self.spec, RECIPE)) if self.training.second_level else samples

    def cache(self, studies: int, recipe: Recipe) -> tuple[str, float]:
        """One byte a pixel, around found keypoints and, where others or longer ones are trained on, once more."""
        shift = reach(self.training)
        spec, kinds = margin_spec(self.spec, recipe.loop.region_margin, shift), 1
        if shift or recipe.stage2.keypoints != "out_of_fold":
            kinds = 2
        if self.training.labelled_p:
            kinds += 1
        pixels = sum(one.frames * one.size[0] * one.size[1] for one in map(spec.region_of, views_of(spec)))
        levels = 1 if spec.levels == "study" else len(LEVELS)
        alike = f"{region_key(self.spec)} {shift} {' '.join(self.spec.sets)}".rstrip()
        return alike, kinds * studies * levels * pixels


def left_out(setup: Setup, studies: list[int]) -> list[Any]:
    """A study and the places of its labels, for each that the recipe leaves out; and labels that it corrects."""
    codes, kept = setup.codes, setup.training_codes
    found: list[Any] = []
    for study in [study for study in studies if kept[study] is not codes[study]]:
        places = np.flatnonzero(codes[study] != kept[study])
        found.append((study, places.tolist()))
        if (kept[study].flat[places] != EMPTY).any():
            found.append(kept[study].flat[places].tolist())
    return found


def as_trained(name: str, member: Member[Any]) -> DetectorStage | GraderStage:
    """A recipe's member as training sees it."""
    if isinstance(member, DetectorMember):
        return DetectorStage(name, member)
    assert isinstance(member, GraderMember)
    return GraderStage(name, member)


def members_of(recipe: Recipe) -> dict[str, DetectorStage | GraderStage]:
    """All members of a recipe as training sees them, stage 1 first."""
    return {name: as_trained(name, member) for name, member in recipe.members().items()}
