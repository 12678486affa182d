"""A time budget is kept: the least valuable members are dropped first, and the report says so."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lumbar.prediction.predictor
import train_utils
from lumbar.bundle.bundle import Bundle
from lumbar.bundle.save import Weights, save_bundle
from lumbar.prediction import schedule
from lumbar.prediction.budget import Budget, choose_dropped, enough, ranked_graders
from lumbar.prediction.result import StudyResult
from lumbar.study.study import DataFolder, open_data
from tests.support.worlds import small_phantoms, tiny_bundle, tiny_weights

pytestmark = pytest.mark.usefixtures("networks_kept")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", studies=5)


@pytest.fixture(scope="module")
def data(folder: Path) -> DataFolder:
    return open_data(folder)


def test_the_least_valuable_members_go_until_the_rest_fits() -> None:
    cost = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0}
    assert choose_dropped(["a", "b", "c", "d"], cost, 0.0, bool) == []
    assert choose_dropped(["a", "b", "c", "d"], cost, 1.5, bool) == ["d", "c"]
    assert choose_dropped(["a", "b", "c", "d"], cost, 99.0, bool) == ["d", "c", "b"]  # one has to stay
    assert choose_dropped(["a", "b", "c", "d"], cost, 1.5, lambda rest: "d" in rest) == ["c"]


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    members = [
        Weights(f"{member.name}_fold{fold}", member.spec, member.state, fold=fold)
        for member in tiny_weights()
        for fold in range(2)
    ]
    return save_bundle(tmp_path_factory.mktemp("folds"), members, prior=np.full((5, 5, 3), 1 / 3))


def test_later_folds_are_worth_less_than_whole_networks_unless_the_manifest_ranks_otherwise(folds: Bundle) -> None:
    order = [f"{task}_fold{fold}" for fold in (0, 1) for task in ("spinal", "foraminal", "subarticular", "global")]
    assert ranked_graders(folds.manifest) == order
    members = tuple(
        member.model_copy(update={"rank": 1}) if member.name == "global_fold1" else member
        for member in folds.manifest.members
    )
    ranked = folds.manifest.model_copy(update={"members": members})
    assert ranked_graders(ranked)[0] == "global_fold1"
    assert enough(folds.manifest, ["global_fold1"])
    assert not enough(folds.manifest, ["spinal_fold0", "foraminal_fold0", "foraminal_fold1"])


class Clock:
    """A clock that goes on by what graders claim to take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slow_members(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every grader takes a second a study on a clock of its own."""
    clock, grade = Clock(), lumbar.grading.grade.grade

    def slowly(*arguments: Any) -> Any:
        clock.now += 1.0
        return grade(*arguments)

    monkeypatch.setattr("lumbar.grading.grade.grade", slowly)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # one study after the other, as the clock sees them
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def budgeted(data: DataFolder, bundle: Bundle, seconds: float, clock: Clock) -> list[StudyResult]:
    return list(schedule.predict(data, bundle, budget=Budget(seconds, clock.now, clock)))


@pytest.mark.slow
def test_a_budget_that_suffices_drops_nothing(data: DataFolder, folds: Bundle, slow_members: Clock) -> None:
    results = budgeted(data, folds, 42.0, slow_members)  # 5 studies of 8 graders: 40 s
    assert [result.dropped for result in results] == [()] * 5


def test_a_short_budget_is_kept_by_dropping_members(data: DataFolder, folds: Bundle, slow_members: Clock) -> None:
    results = budgeted(data, folds, 30.0, slow_members)
    assert slow_members.now <= 30.0
    assert results[0].dropped == results[1].dropped == ()
    assert set(results[-1].dropped) >= {"global_fold1", "subarticular_fold1"}
    assert all(result.graded.any() and not result.failed for result in results)
    silent = np.isnan(results[-1].members).all(axis=(1, 2, 3))
    assert silent.sum() == len(results[-1].dropped)


def test_where_no_dropping_helps_the_last_studies_take_the_prior_and_the_run_ends_in_time(
    data: DataFolder, bundle: Bundle, slow_members: Clock
) -> None:
    results = budgeted(data, bundle, 9.0, slow_members)  # 4 graders: nothing is measured before 8 s have gone
    assert slow_members.now <= 9.0
    assert [result.failed for result in results] == [False, False, True, True, True]
    assert {issue.code for issue in results[-1].issues} == {"out_of_time"}


def test_the_report_says_what_was_dropped(
    data: DataFolder, folder: Path, folds: Bundle, slow_members: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", slow_members)
    words = ["--data", folder, "--weights", folds.folder, "--out", tmp_path, "--device", "cpu", "--hours", 30 / 3600]
    assert train_utils.main(["predict", *map(str, words)]) == 0
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["options"]["hours"] == pytest.approx(30 / 3600)
    assert report["dropped"]["global_fold1"] == 3
    assert len(pd.read_csv(tmp_path / "submission.csv")) == 125
