"""Several sets of keypoints: a grader answers once a set, its answers are averaged, the first set is shown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import train_utils
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.issues import InputError
from lumbar.metric import prediction_array, read_predictions
from lumbar.prediction import schedule
from lumbar.prediction.result import StudyResult
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data
from lumbar.training.folder import RunFolder
from tests.support.tiny_recipe import DETECTORS, GRADERS, tiny_recipe
from tests.support.worlds import detector_spec, grader_spec, small_phantoms

PRIOR = np.full((5, 5, 3), 1 / 3)


def detectors(name: str, seed: int) -> list[Weights]:
    specs = [detector_spec("sagittal_t2", 5, 5), detector_spec("sagittal_t1", 3, 5), detector_spec("axial_t2", 3, 2)]
    torch.manual_seed(seed)
    return [Weights(f"{spec.series_type}_{name}", spec, build_network(spec).state_dict()) for spec in specs]


def graders() -> list[Weights]:
    torch.manual_seed(9)
    specs = {task: grader_spec(task) for task in ("spinal", "foraminal", "subarticular")}
    return [Weights(name, spec, build_network(spec).state_dict()) for name, spec in specs.items()]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One with each of two sets of detectors, one with both."""
    root = tmp_path_factory.mktemp("weights")
    one, two = detectors("one", 1), detectors("two", 2)
    both = {name: [each.name for each in own] for name, own in (("one", one), ("two", two))}
    made = {"one": (one, {}), "two": (two, {}), "both": ([*one, *two], both)}
    for name, (own, sets) in made.items():
        save_bundle(root / name, [*own, *graders()], prior=PRIOR, sets=sets, precision="float32")
    return {name: load_bundle(root / name) for name in made}


@pytest.fixture(scope="module")
def results(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyResult]:
    data = open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", 1))
    return {name: next(schedule.predict(data, bundle, engine="eager")) for name, bundle in bundles.items()}


def test_a_graders_answer_is_the_mean_over_the_sets(results: dict[str, StudyResult]) -> None:
    apart = np.stack([results["one"].members, results["two"].members])
    assert np.nanmax(np.abs(apart[0] - apart[1])) > 1e-4
    speaks = ~np.isnan(apart)
    mean = np.where(speaks, apart, 0).sum(axis=0) / np.where(speaks.any(axis=0), speaks.sum(axis=0), np.nan)
    np.testing.assert_allclose(results["both"].members, mean, atol=1e-6)
    np.testing.assert_array_equal(results["both"].graded, results["one"].graded | results["two"].graded)


def test_keypoints_and_issues_are_the_first_sets(results: dict[str, StudyResult]) -> None:
    assert results["both"].keypoints == results["one"].keypoints
    assert results["both"].keypoints != results["two"].keypoints
    assert {issue.code for issue in results["both"].issues} == {issue.code for issue in results["one"].issues}


def test_a_grader_may_answer_around_one_of_the_sets_alone(
    results: dict[str, StudyResult], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, one, two = tmp_path_factory.mktemp("own"), detectors("one", 1), detectors("two", 2)
    both = {name: [each.name for each in own] for name, own in (("one", one), ("two", two))}
    own = [replace(each, spec=each.spec.model_copy(update={"sets": ("two",)})) for each in graders()]
    save_bundle(root / "weights", [*one, *two, *own], prior=PRIOR, sets=both, precision="float32")
    data = open_data(small_phantoms(root / "data", 1))
    found = next(schedule.predict(data, load_bundle(root / "weights"), engine="eager"))
    np.testing.assert_array_equal(found.members, results["two"].members)
    assert found.keypoints == results["one"].keypoints
    assert {issue.code for issue in found.issues} >= {issue.code for issue in results["two"].issues}


def test_a_manifest_without_sets_says_nothing_of_them(bundles: dict[str, Bundle]) -> None:
    assert "sets" not in bundles["one"].manifest.model_dump()
    assert list(bundles["both"].manifest.model_dump()["sets"]) == ["one", "two"]


AGAIN = {f"again_{name}": values for name, values in DETECTORS.items()}
FIRST = 'a = ["t2", "t1", "axial"]'
SECOND = 'b = ["again_t2", "again_t1", "again_axial"]'


def recipe(folder: Path, *lines: str) -> Path:
    path = folder / "sets.toml"
    text = tiny_recipe(DETECTORS | AGAIN, {"whole": GRADERS["whole"]})
    path.write_text(text + "\n".join(["[stage1.sets]", *lines, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([FIRST, 'b = ["t2", "again"]'], "sets.b names 'again', which is no detector here"),
        ([FIRST, 'b = ["t2", "t2"]'], "sets.b names a member twice"),
        ([FIRST], "again_t2 is in no set of stage1.sets; name it in one, or leave it out"),
        (
            [FIRST, 'b = ["again_t2", "again_t1"]', 'c = ["again_axial", "t2", "t1"]'],
            "sets.b finds no points on axial_t2, which others do and graders look at; add a member for it",
        ),
        ([FIRST, "b = []"], "stage1.sets.b is an empty list"),
        ([FIRST, SECOND, "c = 3"], "stage1.sets.c is 3; allowed: a list"),
    ],
)
def test_sets_that_make_no_sense_are_told_in_one_sentence(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(InputError) as told:
        load_recipe(recipe(tmp_path, *lines))
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_grader_cannot_ask_for_a_set_that_is_none(tmp_path: Path) -> None:
    path, words = recipe(tmp_path, FIRST, SECOND), ['stage2.members.whole.sets=["b", "c"]']
    with pytest.raises(InputError, match="whole: sets names 'c', which is no set of keypoints; there are a, b"):
        load_recipe(path, words)
    assert load_recipe(path, ['stage2.members.whole.sets=["b"]']).stage2.members["whole"].spec.sets == ("b",)


def test_a_recipe_keeps_its_sets(tmp_path: Path) -> None:
    sets = load_recipe(recipe(tmp_path, FIRST, SECOND)).stage1.sets
    assert sets == {"a": ("t2", "t1", "axial"), "b": ("again_t2", "again_t1", "again_axial")}


@pytest.mark.slow
def test_a_run_with_sets_goes_from_training_to_a_submission(tmp_path: Path) -> None:
    small_phantoms(tmp_path / "data", 4, 3)
    path, run, weights = recipe(tmp_path, FIRST, SECOND), tmp_path / "run", tmp_path / "weights"
    own = tiny_recipe(DETECTORS | AGAIN, {"whole": GRADERS["whole"], "own": GRADERS["whole"] | {"sets": ["b"]}})
    path.write_text("\n".join([own, "[stage1.sets]", FIRST, SECOND, ""]), encoding="utf-8")
    words = ["train", "--recipe", path, "--data", tmp_path / "data", "--out", run]
    assert train_utils.main([str(word) for word in words]) == 0
    folder = RunFolder(run)
    first, second = folder.keypoints_by_set((0, 1))
    assert first.keys() == second.keys()
    assert first != second
    regions = {path.name.partition("_")[2] for path in (run / "cache" / "regions").iterdir()}
    assert regions == {"found", "found1"}  # the one that answers around b alone trains around it, too
    logits = load_file(run / "predictions" / "logits.safetensors")
    assert not np.array_equal(logits["own"], logits["whole"])
    table = prediction_array(read_predictions(run / "predictions" / "whole.csv"), logits["study_ids"])
    powers = np.exp(logits["whole"].astype(np.float64))
    np.testing.assert_allclose(powers / powers.sum(axis=-1, keepdims=True), table, atol=1e-5)
    assert train_utils.main(["evaluate", "--run", str(run)]) == 0
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(weights)]) == 0
    sets = load_bundle(weights).manifest.sets
    assert sets["b"] == tuple(f"again_{name}_fold{fold}" for name in ("t2", "t1", "axial") for fold in (0, 1))
    words = ["predict", "--data", tmp_path / "data", "--weights", weights, "--out", tmp_path / "results"]
    assert train_utils.main([str(word) for word in words]) == 0
    assert (tmp_path / "results" / "submission.csv").is_file()
