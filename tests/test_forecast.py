"""What a training will need, told before it begins: counted as training counts, measured by real steps."""

import re
from pathlib import Path
from typing import Any

import pytest

import train_utils
from lumbar.compute.accelerator import make_accelerator
from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data
from lumbar.training.data.make import make_packs
from lumbar.training.loop.batches import Plan
from lumbar.training.outcome.forecast import Forecast, forecast
from lumbar.training.outcome.trial_steps import gflop_of, take_steps
from lumbar.training.setup import set_up
from lumbar.training.stages import as_trained, members_of
from tests.support.tiny_recipe import DETECTORS, tiny_recipe
from tests.support.worlds import small_phantoms

STUDIES = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms that lack nothing, and a recipe whose detector has twice the epochs of the others."""
    root = tmp_path_factory.mktemp("forecast")
    small_phantoms(root / "data", STUDIES, 3)
    detectors = {name: DETECTORS[name] for name in ("t2", "t1")}
    text = tiny_recipe(detectors, {"canal": {"task": "spinal"}}, stage2={"keypoints": "labels"}, folds=3)
    (root / "tiny.toml").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def told(world: Path) -> Forecast:
    """The forecast of the recipe, with more epochs of one detector."""
    return forecast(world / "tiny.toml", world / "data", world / "run", ["stage1.members.t2.epochs=4"])


def test_samples_and_steps_are_those_that_training_takes(world: Path, told: Forecast) -> None:
    recipe = load_recipe(world / "tiny.toml", ["stage1.members.t2.epochs=4"])
    setup = set_up(world / "scratch", recipe, open_data(world / "data"), make_accelerator(recipe.loop))
    make_packs(setup)
    assert [one.name for one in told.members] == list(recipe.members())
    for one in told.members:
        member = members_of(recipe)[one.name]
        samples = member.shown(setup, "labels")
        plans = []
        for fold in recipe.folds.train:
            held_out = set(setup.held_out(fold))
            studies = [study for study in samples.studies.tolist() if study not in held_out]
            plans.append(Plan(samples.studies[: len(studies)], member.training, 0).batches * member.training.epochs)
        assert one.folds == 3
        assert min(plans) <= one.steps <= max(plans)
        assert one.step_seconds > 0
        assert one.validation_seconds > 0
        assert one.gflop > 0
    t2, t1 = told.members[:2]
    assert t2.steps == 4 * (4 // t2_batch(recipe))
    assert t1.samples == 2 * t2.samples  # left and right
    assert told.training_seconds == pytest.approx(
        sum(3 * (m.steps * m.step_seconds + m.validation_seconds) for m in told.members)
    )
    assert not (world / "run").exists()


def t2_batch(recipe: Any) -> int:
    return int(recipe.members()["t2"].training.batch_size)


def test_work_is_counted_of_encoders_that_a_library_makes_anew_for_other_channels() -> None:
    """As the ninth place's T2 detector, whose first layer has memory where the rest has none."""
    spec = {"series_type": "sagittal_t2", "num_classes": 5, "encoder": "resnet34", "image_size": 64}
    three, five = (gflop_of(DetectorSpec.model_validate({**spec, "in_chans": count})) for count in (3, 5))
    assert 0 < three < five < 1.5 * three


def test_the_forecast_is_a_table_with_totals(told: Forecast) -> None:
    said = told.text()
    assert f"tiny: {STUDIES} studies" in said
    row = next(line for line in said.splitlines() if line.startswith("| t2 |"))
    assert row.split("|")[2:5] == [" 3 ", " 4 ", " 4 "]
    assert re.search(r"Disk: \d+\.\d GB of cache", said)
    assert re.search(r"Hours here: \S+, reading and caching \S+ of them", said)
    assert "estimated from GFLOP" in said


@pytest.mark.slow
def test_a_hundred_times_the_studies_take_a_hundred_times_the_steps(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--recipe", world / "tiny.toml", "--data", world / "data", "--out", world / "run", "--plan", 600]
    assert train_utils.main([*map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "tiny: 600 studies" in said
    row = next(line for line in said.splitlines() if line.startswith("| t2 |"))
    assert row.split("|")[2:5] == [" 3 ", " 400 ", " 100 "]
    assert not (world / "run").exists()


def test_a_batch_that_memory_does_not_hold_is_refused_with_the_key_to_lower(world: Path) -> None:
    class Greedy:
        def terms(self, *_: object, **__: object) -> Any:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    recipe = load_recipe(world / "tiny.toml")
    setup = set_up(world / "greedy", recipe, open_data(world / "data"), make_accelerator(recipe.loop))
    make_packs(setup)
    member = as_trained("t2", recipe.stage1.members["t2"])
    samples = member.shown(setup, "labels")
    member.objective = Greedy  # type: ignore[method-assign, assignment]
    with pytest.raises(InputError, match=r"t2: a batch of 2 does not fit into the memory .* lower batch_size"):
        take_steps("t2", member.spec, member, samples, setup)


def test_pictures_and_forecasts_need_no_study_of_every_severity(world: Path, tmp_path: Path) -> None:
    """Six studies make no six folds of all severities, which pictures do not ask for."""
    words = ["show-batches", "--recipe", world / "tiny.toml", "--data", world / "data", "--out", tmp_path / "pictures"]
    words += ["--set", "folds.count=6", "--set", "folds.method=stratified_group", "--set", "folds.train=[0, 1]"]
    assert train_utils.main([*map(str, words)]) == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(load_recipe(world / "tiny.toml").members())
