"""A run that grades nothing says so: the cause, the exit code, the studies; whatever is written is written."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import train_utils
from lumbar.issues import CODES
from tests.support.worlds import small_phantoms, tiny_bundle

pytestmark = pytest.mark.usefixtures("networks_kept")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data", 1)
    tiny_bundle(root / "weights")
    return root


def predict(world: Path, data: Path, out: Path, *more: str) -> int:
    words = ["predict", "--data", data, "--weights", world / "weights", "--out", out, "--device", "cpu", *more]
    return train_utils.main([*map(str, words)])


def test_time_that_ran_out_is_named_and_no_failure(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(world, world / "data", tmp_path, "--hours", "1e-9") == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "1 of 1 studies could not be graded and took the prior (1 out_of_time); everything is written all the same"
        in told
    )
    assert "run again with more --hours" in told
    assert "study_failed" not in told
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["issues"]["counts"] == {"out_of_time": 1}
    assert len(pd.read_csv(tmp_path / "submission.csv")) == 25


def test_images_that_show_nothing_to_grade_are_no_quiet_success(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Axial slices alone do not say which level they show."""
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    table = pd.read_csv(data / "train_series_descriptions.csv")
    for row in table[table["series_description"] != "Axial T2"].itertuples():
        shutil.rmtree(data / "train_images" / str(row.study_id) / str(row.series_id))
    assert predict(world, data, tmp_path / "out") == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of 1 studies could not be graded and took the prior (1 condition_ungraded)" in told
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert report["failed_studies"] == []
    assert report["prior_studies"] == [int(table["study_id"][0])]


def test_a_study_that_cannot_be_read_is_told_as_failed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    for number, file in enumerate(sorted(data.rglob("*.dcm"))):
        file.write_bytes(b"nothing" * number)
    assert predict(world, data, tmp_path / "out", "--on-error", "prior") == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "(1 study_failed)" in told
    assert predict(world, data, tmp_path / "fail") == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no usable series" in told
    assert " and " in told
    assert len(told.replace(str(tmp_path), "")) < 330
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert set(report["issues"]["counts"]) <= set(CODES)
