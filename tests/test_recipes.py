"""Every recipe there is: its networks take their inputs, and small ones go from studies to a submission."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.network import build_network, try_out
from lumbar.labels import CONDITIONS, mirrored
from lumbar.prediction import schedule
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data
from lumbar.submission import validate
from lumbar.training.outcome.bundling import make_random_bundle
from tests.conftest import ROOT
from tests.support.mirror import mirror_study
from tests.support.small_recipe import overrides, small_recipe, with_mirror
from tests.support.worlds import small_phantoms

RECIPES = {str(path.relative_to(ROOT / "recipes")): path for path in sorted((ROOT / "recipes").rglob("*.toml"))}
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


@pytest.mark.slow
@every_recipe
def test_a_small_one_goes_from_studies_to_a_submission(name: str, tmp_path: Path) -> None:
    data, run, weights, out = (tmp_path / part for part in ("data", "run", "weights", "results"))
    small_phantoms(data, 4, 3, {3: {"without_t1": True}})
    changed = [word for each in overrides(RECIPES[name]) for word in ("--set", each)]
    words = ["train", "--recipe", RECIPES[name], "--data", data, "--out", run, *changed]
    assert train_utils.main([str(word) for word in words]) == 0
    assert train_utils.main(["evaluate", "--run", str(run)]) == 0
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(weights)]) == 0
    assert load_bundle(weights).manifest.graders
    assert train_utils.main(["predict", "--data", str(data), "--weights", str(weights), "--out", str(out)]) == 0
    studies = [int(path.name) for path in sorted((data / "train_images").iterdir())]
    report = json.loads((out / "run_report.json").read_text())
    validate(pd.read_csv(out / "submission.csv"), studies, prior_studies=report["prior_studies"])
    assert not report["failed_studies"]


@pytest.mark.slow
@every_recipe
def test_a_mirrored_study_gets_mirrored_probabilities(name: str, tmp_path: Path) -> None:
    """With every member turned that has sides of its own, by any weights; detectors included."""
    changed = with_mirror(RECIPES[name], overrides(RECIPES[name]))
    recipe = load_recipe(RECIPES[name], changed)
    rules = {member.spec.preprocessing.model_copy(update={"middle": "series"}) for member in recipe.members().values()}
    if rules != {Preprocessing()}:
        pytest.skip("the original's rounding of windows leans to one side, which is why nothing else has it")
    data = small_phantoms(tmp_path / "data", 1, 7)
    (study,) = open_data(data).study_ids
    twin = small_phantoms(tmp_path / "twin", 1, 7)
    source = data / "train_images" / str(study)
    mirror_study(source, twin / "train_images" / str(study))
    bundle = make_random_bundle(RECIPES[name], tmp_path / "weights", overrides=changed)
    here, there = (next(schedule.predict(open_data(each), bundle, engine="eager")) for each in (data, twin))
    swapped = [point.mm for point in there.keypoints]
    assert len(here.keypoints) == len(swapped)
    np.testing.assert_array_equal(there.graded[SWAPPED], here.graded)
    assert here.graded.any()
    np.testing.assert_allclose(there.probabilities[SWAPPED], here.probabilities, atol=2e-3)
