"""From a run, or from a recipe alone, to a weights bundle."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from lumbar.bundle.blend import FittedBlend
from lumbar.bundle.bundle import Bundle
from lumbar.bundle.likeness import read_likenesses
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Precision, Weights, save_bundle
from lumbar.ensemble.method_names import WEIGHTED
from lumbar.files.read import read_json
from lumbar.grading.likeness import Likenesses
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.metric import weighted_prior
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.training.folder import RunFolder
from lumbar.training.loop import checkpoint
from lumbar.training.outcome.blending import bundled, weighed

_SCORES: Final = TypeAdapter(dict[str, dict[str, float | None]])


def make_bundle(run: Path, out: Path, precision: Precision = "float16") -> Bundle:
    """Write the bundle of a finished run: every member that the recipe does not leave out, every fold it trained.

    Raises InputError where training has not ended.
    """
    folder = RunFolder(Path(run))
    recipe = folder.recipe()
    folder.check_finished()
    graders = recipe.stage2.bundled()
    names = {name: [_member_name(recipe, name, fold) for fold in recipe.folds_of(name)] for name in graders}
    blend = bundled(folder, names)
    prior = blend.blender.prior if isinstance(blend, FittedBlend) else weighted_prior(folder.labels(), 0.5)
    return save_bundle(
        Path(out),
        _weights(folder, recipe),
        prior=prior,
        blend=blend,
        around=recipe.blend,
        sets={
            name: [_member_name(recipe, each, fold) for each in names for fold in recipe.folds_of(each)]
            for name, names in recipe.stage1.sets.items()
        },
        description=recipe.description or recipe.name,
        card=recipe.card,
        precision=precision,
    )


def _weights(folder: RunFolder, recipe: Recipe) -> Iterator[Weights]:
    scores, ranks = _scores(folder), _ranks(folder, recipe)
    for name, fold in _bundled(recipe):
        result, spec = folder.result(name, fold), recipe.members()[name].spec
        assert result is not None
        network = build_network(spec)
        checkpoint.read_weights(network, folder.member(name, fold) / "best.safetensors")
        valid = {key: round(value, 5) for key, value in result["best"].items() if key.startswith("valid_")}
        yield Weights(
            _member_name(recipe, name, fold),
            spec,
            network.state_dict(),
            fold=fold,
            saw=result["saw"],
            began=result.get("began", ""),
            scores=valid | scores.get(name, {}),
            rank=ranks.get((name, fold)),
            likenesses=_likenesses(folder, recipe, name, fold),
        )


def _likenesses(folder: RunFolder, recipe: Recipe, name: str, fold: int) -> Likenesses:
    """What a grader's regions looked like; empty for a detector, and where the run held out too few."""
    path, grader = folder.likeness_file(name, fold), recipe.stage2.members.get(name)
    return read_likenesses(path, grader.spec) if grader is not None and path.is_file() else {}


def _bundled(recipe: Recipe) -> list[tuple[str, int]]:
    """The members and folds that a bundle holds."""
    return [(name, fold) for name, fold in recipe.to_train() if recipe.members()[name].training.bundled]


def _member_name(recipe: Recipe, name: str, fold: int) -> str:
    """A member's name in the bundle: with its fold, where there are several."""
    return name if len(recipe.folds.train) == 1 else f"{name}_fold{fold}"


def _scores(folder: RunFolder) -> dict[str, dict[str, float]]:
    """Out-of-fold scores a member, where the run was evaluated."""
    path, remedy = folder.root / "evaluation.json", "run train_utils.py evaluate again"
    if not path.is_file():
        return {}
    try:
        found = read_json(path, remedy)
        members = _SCORES.validate_python(found.get("scores") if isinstance(found, dict) else None)
    except ValidationError as error:
        raise InputError(f"{path}: is not what evaluate writes there; {remedy}") from error
    return {name: {k: v for k, v in parts.items() if v is not None} for name, parts in members.items()}


def _ranks(folder: RunFolder, recipe: Recipe) -> dict[tuple[str, int], int]:
    """Rank of each grader's fold, 1 the most valuable: within a task by validation loss, mean over its folds.

    A member's first fold is worth more than any member's second one: other networks add more than other folds do.
    """
    tasks: dict[str, list[tuple[float, str]]] = {}
    for name, member in recipe.stage2.bundled().items():
        found = [folder.result(name, fold) for fold in recipe.folds_of(name)]
        loss = float(np.mean([result["best"]["valid_loss"] for result in found if result is not None]))
        tasks.setdefault(member.spec.subject, []).append((loss, name))
    return {
        (name, fold): 1 + turn * len(members) + place
        for members in tasks.values()
        for place, (_, name) in enumerate(sorted(members))
        for turn, fold in enumerate(recipe.folds_of(name))
    }


def make_random_bundle(recipe_path: Path, out: Path, seed: int = 0) -> Bundle:
    """A bundle of a recipe's members, all folds, with random weights: for timing and tests, it knows nothing."""
    recipe = load_recipe(Path(recipe_path))

    def weights() -> Iterator[Weights]:
        numbers = {name: number for number, name in enumerate(recipe.members())}
        for name, fold in _bundled(recipe):
            spec = recipe.members()[name].spec
            torch.manual_seed(seed + 1000 * fold + numbers[name])
            state = build_network(spec).state_dict()
            yield Weights(f"{name}_fold{fold}", spec, state, fold=fold, saw="nothing: random weights")

    prior = np.full((len(CONDITIONS), len(LEVELS), 3), 1 / 3)
    names = {name: _folds_named(recipe, [name]) for name in recipe.stage2.bundled()}
    blend = weighed(recipe.blend, names, prior) if recipe.blend.method == WEIGHTED else recipe.blend.average
    return save_bundle(
        Path(out),
        weights(),
        prior=prior,
        blend=blend,
        around=recipe.blend,
        sets={name: _folds_named(recipe, own) for name, own in recipe.stage1.sets.items()},
        description=f"random {recipe.name}",
    )


def _folds_named(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Members of a random bundle: each fold of each of these."""
    return [f"{name}_fold{fold}" for name in names for fold in recipe.folds_of(name)]
