"""Every recipe there is: its networks take their inputs, and small ones go from studies to a submission."""

import json
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

import train_utils
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.network import build_network, try_out
from lumbar.bundle.save import Weights, save_bundle
from lumbar.ensemble.method_names import WEIGHTED
from lumbar.labels import CONDITIONS, mirrored
from lumbar.prediction.predictor import Predictor
from lumbar.prediction.result import StudyResult
from lumbar.recipe.detector import Turn
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.study.study import open_data, read_study
from lumbar.submission import validate
from lumbar.training.outcome.blending import weighed
from tests.conftest import ROOT
from tests.support.contract import fixed_weights
from tests.support.mirror import mirror_study
from tests.support.small_recipe import one_of_a_kind, small_recipe, turned_recipe
from tests.support.worlds import small_phantoms

#: A recipe of systems is left out, whose parts are all here; for several together see `test_systems`.
RECIPES = {
    str(path.relative_to(ROOT / "recipes")): path
    for path in sorted((ROOT / "recipes").rglob("*.toml"))
    if "systems" not in tomllib.loads(path.read_text(encoding="utf-8"))
}
every_recipe = pytest.mark.parametrize("name", RECIPES)
SWAPPED = [CONDITIONS.index(mirrored(condition)) for condition in CONDITIONS]


@every_recipe
def test_a_small_one_is_sound_and_its_networks_answer(name: str) -> None:
    recipe = small_recipe(RECIPES[name])
    assert recipe.members().keys() == load_recipe(RECIPES[name]).members().keys()
    kinds = {member.spec.model_dump_json(): member.spec for member in recipe.members().values()}
    torch.manual_seed(0)
    for spec in kinds.values():
        try_out(build_network(spec).eval(), spec, name)


#: Systems that `test_systems` takes from studies to a submission as one recipe: sides that look alike; no axial
#: detector and a fitted blend; several tasks.
TOGETHER = ("third", "sixth", "ninth")
#: Recipes that differ from another in numbers, in which of its kinds of members see what, and in what grey values are
#: scaled by: that one is tried for both.
ALIKE = {
    "demo.toml": "shipped.toml",
    "eighth_place.toml": "small/eighth_place.toml",  # see `test_eighth_place_second_level`
    "seventh_place_666.toml": "seventh_place.toml",
    "small/third_place.toml": "third_place.toml",
    "small/fourth_place.toml": "fourth_place.toml",
    "small/sixth_place.toml": "sixth_place.toml",
}
#: A system's small recipe has its parts and its order of steps, and once made small differs in widths and words of
#: single members, which the other tests look at; so one of the two goes all the way.
WHOLE = [
    name
    for name in RECIPES
    if not (name.startswith("small/") and Path(name).name in RECIPES)
    and name not in ALIKE
    and name.removesuffix("_place.toml") not in TOGETHER
]
#: Evaluated too, since its detectors name slices and its graders know the canal only; charts cost as much as the rest.
EVALUATED = "parts/slices.toml"


def kinds(name: str) -> set[tuple[object, ...]]:
    """What a recipe's members are, by words: networks with their switches, losses, what begins with what."""
    found = set()
    for member in load_recipe(RECIPES[name]).members().values():
        given = {key: value for key, value in member.spec.network_args.items() if isinstance(value, str | bool)}
        begins = member.training.begins_with != ""
        found.add((member.spec.network, *sorted(given.items()), *sorted(member.training.loss), begins))
    return found


@pytest.mark.parametrize("name", ALIKE)
def test_a_recipe_that_another_is_tried_for_holds_no_member_of_a_kind_of_its_own(name: str) -> None:
    assert kinds(name) <= kinds(ALIKE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_small_one_goes_from_studies_to_a_submission(name: str, tmp_path: Path) -> None:
    data, run = small_phantoms(tmp_path / "data", 4, 3), tmp_path / "run"
    words = ["train", "--recipe", one_of_a_kind(RECIPES[name], tmp_path), "--data", data, "--out", run]
    assert train_utils.main([str(word) for word in words]) == 0
    if name == EVALUATED:
        assert train_utils.main(["evaluate", "--run", str(run)]) == 0
    leads_to_a_submission(run, tmp_path)


def leads_to_a_submission(run: Path, folder: Path) -> Bundle:
    """A run's bundle, which grades a new study."""
    weights, out = folder / "weights", folder / "results"
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(weights)]) == 0
    bundle = load_bundle(weights)
    assert bundle.manifest.graders
    new = small_phantoms(folder / "new", 1, 7)
    assert train_utils.main(["predict", "--data", str(new), "--weights", str(weights), "--out", str(out)]) == 0
    studies = [int(path.name) for path in (new / "train_images").iterdir()]
    report = json.loads((out / "run_report.json").read_text())
    validate(pd.read_csv(out / "submission.csv"), studies, prior_studies=report["prior_studies"])
    assert not report["failed_studies"]
    return bundle


def filled(recipe: Recipe, folder: Path) -> Bundle:
    """A bundle of a recipe, one fold, with weights that say something from the start."""
    weights = [
        Weights(name, member.spec, fixed_weights(build_network(member.spec)).state_dict())
        for stage in (recipe.stage1, recipe.stage2)
        for name, member in stage.bundled().items()
    ]
    names = {name: [name] for name in recipe.stage2.bundled()}
    prior = np.full((5, 5, 3), 1 / 3)
    blend = weighed(recipe.blend, names, prior) if recipe.blend.method == WEIGHTED else recipe.blend.average
    save_bundle(folder, weights, prior=prior, blend=blend, around=recipe.blend, sets=recipe.stage1.sets)
    return load_bundle(folder)


def with_its_twin(bundle: Bundle, folder: Path) -> tuple[StudyResult, StudyResult]:
    """What a bundle says of a phantom study, and of the same one mirrored."""
    data, twin = (small_phantoms(folder / part, 1, 7) for part in ("data", "twin"))
    (study,) = open_data(data).study_ids
    mirror_study(data / "train_images" / str(study), twin / "train_images" / str(study))
    predictor = Predictor(bundle, engine="eager")
    here, there = (predictor(read_study(open_data(each), study)) for each in (data, twin))
    return here, there


def has_a_mirror(spec: GraderSpec) -> bool:
    """Whether a grader answers a mirrored study with mirrored severities: by its own build, or since it is turned."""
    return "mirror" in spec.tta or spec.task in ("foraminal", "subarticular")


def even_handed(rules: Preprocessing) -> Preprocessing:
    """The rules with the defaults in place of others that treat left as right."""
    inside = rules.window_end == "inside"
    even = {"middle": "series", "series": "best"}  # whatever they say, no side is preferred
    return rules.model_copy(update={**even, "window_end": "repeat" if inside else rules.window_end})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "turn"),
    [*((name, None) for name in RECIPES if name not in ALIKE), *(("demo.toml", turn) for turn in get_args(Turn)[1:])],
)
def test_a_mirrored_study_gets_mirrored_probabilities(name: str, turn: str | None, tmp_path: Path) -> None:
    """From pixels to severities, every member turned that has sides of its own; the others with every turn, too."""
    recipe = turned_recipe(RECIPES[name], tmp_path, turn)
    if turn is not None:
        assert any(turn in member.spec.tta for member in recipe.stage1.members.values())
    rules = {even_handed(member.spec.preprocessing) for member in recipe.members().values()}
    if rules != {Preprocessing()}:
        pytest.skip("the original's windows lean to one side")
    bundle = filled(recipe, tmp_path / "weights")
    here, there = with_its_twin(bundle, tmp_path)
    found = {(mirrored(point.condition), point.level): np.array(point.mm) * [-1, 1, 1] for point in there.keypoints}
    assert found.keys() == {(point.condition, point.level) for point in here.keypoints}
    for point in here.keypoints:
        np.testing.assert_allclose(found[point.condition, point.level], point.mm, atol=0.01)
    assert here.keypoints or all(member.spec.answer == "slices" for member in recipe.stage1.members.values())
    sure = [has_a_mirror(spec) for spec in bundle.manifest.graders.values()]
    np.testing.assert_allclose(there.members[sure][:, SWAPPED], here.members[sure], atol=1e-4)
    if all(sure):
        np.testing.assert_allclose(there.probabilities[SWAPPED], here.probabilities, atol=1e-4)
