"""From a run, or from a recipe alone, to a weights bundle."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lumbar.bundle import Bundle, Weights, build_network, save_bundle
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.member import DetectorSpec
from lumbar.metric import read_labels, weighted_prior
from lumbar.training import checkpoint
from lumbar.training.recipe import Recipe, check_recipe, load_recipe
from lumbar.training.run import read_result


def read_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run folder."""
    path = Path(run) / "recipe.json"
    if not path.is_file():
        raise InputError(f"{path} is missing; give a run folder, made by train_utils.py train")
    return check_recipe(json.loads(path.read_text(encoding="utf-8")), str(path))


def make_bundle(run: Path, out: Path) -> Bundle:
    """Write the bundle of a finished run: every member of every trained fold, half precision.

    Raises InputError naming the members that are not trained yet.
    """
    run = Path(run)
    recipe = read_recipe(run)
    folders = {
        (name, fold): run / "members" / name / f"fold{fold}" for fold in recipe.folds.train for name in recipe.members()
    }
    missing = [f"{name} fold {fold}" for (name, fold), folder in folders.items() if read_result(folder) is None]
    if missing:
        raise InputError(f"{run}: not trained yet: {', '.join(missing)}; run train_utils.py train again, it goes on")
    prior = weighted_prior(read_labels(run / "labels.csv"), 0.5)
    scores = _scores(run)
    return save_bundle(
        Path(out),
        _weights(recipe, folders, scores),
        prior=prior,
        blend=recipe.blend.method,
        description=recipe.description or recipe.name,
    )


def _weights(recipe: Recipe, folders: dict[tuple[str, int], Path], scores: dict[str, dict[str, float]]) -> Iterator[Weights]:
    single = len(recipe.folds.train) == 1
    for (name, fold), folder in folders.items():
        spec, result = recipe.members()[name].spec, read_result(folder)
        assert result is not None
        network = checkpoint.read_weights(build_network(spec), folder / "best.safetensors")
        valid = {key: round(value, 5) for key, value in result["best"].items() if key.startswith("valid_")}
        yield Weights(
            name if single else f"{name}_fold{fold}",
            spec,
            network.state_dict(),
            fold=fold,
            saw=result["saw"],
            scores=valid | scores.get(name, {}),
        )


def _scores(run: Path) -> dict[str, dict[str, float]]:
    """Out-of-fold scores a member, where the run was evaluated."""
    path = run / "evaluation.json"
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8")).get("members", {})


def make_random_bundle(recipe_path: Path, out: Path, seed: int = 0) -> Bundle:
    """A bundle of a recipe's members, all folds, with random weights: for timing and tests, it knows nothing."""
    recipe = load_recipe(Path(recipe_path))

    def weights() -> Iterator[Weights]:
        for fold in recipe.folds.train:
            for number, (name, member) in enumerate(recipe.members().items()):
                torch.manual_seed(seed + 1000 * fold + number)
                state = build_network(member.spec).state_dict()
                what = "detector" if isinstance(member.spec, DetectorSpec) else "grader"
                yield Weights(f"{name}_fold{fold}", member.spec, state, fold=fold, saw=f"nothing: a random {what}")

    prior = np.full((len(CONDITIONS), len(LEVELS), 3), 1 / 3)
    return save_bundle(Path(out), weights(), prior=prior, blend=recipe.blend.method, description=f"random {recipe.name}")
