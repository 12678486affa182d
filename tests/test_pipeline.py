"""The main job through its public ways in: `predict`, the command line, and what they leave behind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.grading.grade import grade, softmax
from lumbar.grading.regions import cut_regions
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SEVERITIES, mirrored
from lumbar.prediction import schedule
from lumbar.prediction.outputs import write_outputs
from lumbar.prediction.result import StudyResult
from lumbar.recipe.grader import GraderSpec
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.submission import rounded, to_rows
from tests.conftest import ROOT
from tests.support.mirror import mirror_coordinates, mirror_study
from tests.support.trees import command
from tests.support.worlds import small_phantoms, tiny_bundle

pytestmark = pytest.mark.usefixtures("networks_kept")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", variations={1: {"without_t1": True}})


@pytest.fixture(scope="module")
def data(folder: Path) -> DataFolder:
    return open_data(folder)


@pytest.fixture(scope="module")
def results(data: DataFolder, bundle: Bundle) -> list[StudyResult]:
    return list(schedule.predict(data, bundle))


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command line, called in this process: its exit code and what it said."""

    called = command(capfd)
    return lambda *arguments: Ended(*called(*arguments))


def test_every_study_gets_distributions_and_says_which_series_it_used(
    results: list[StudyResult], data: DataFolder
) -> None:
    assert [result.study_id for result in results] == list(data.study_ids)
    for result in results:
        assert result.probabilities.shape == (5, 5, 3)
        np.testing.assert_allclose(result.probabilities.sum(axis=-1), 1.0, atol=1e-9)
        assert result.used["sagittal_t2"]
        assert result.used["axial_t2"]
    assert results[0].used["sagittal_t1"]
    assert not results[1].used["sagittal_t1"]


def test_a_missing_series_silences_its_conditions_and_nothing_else(results: list[StudyResult], bundle: Bundle) -> None:
    without_t1 = results[1]
    foraminal = [CONDITIONS.index(name) for name in CONDITIONS if "foraminal" in name]
    assert not without_t1.graded[foraminal].any()
    assert without_t1.graded[0].all()
    np.testing.assert_allclose(
        without_t1.probabilities[foraminal], np.asarray(bundle.manifest.prior)[foraminal], rtol=1e-12
    )
    codes = {issue.code for issue in without_t1.issues}
    assert {"series_missing", "condition_ungraded"} <= codes
    assert sum(issue.code == "condition_ungraded" for issue in without_t1.issues) == (~without_t1.graded).sum()


def test_the_same_studies_give_the_same_numbers_in_any_order(
    results: list[StudyResult], data: DataFolder, bundle: Bundle
) -> None:
    backwards = list(schedule.predict(data, bundle, study_ids=reversed(data.study_ids)))
    for first, again in zip(results, reversed(backwards), strict=True):
        np.testing.assert_array_equal(first.probabilities, again.probabilities)
        assert first.keypoints == again.keypoints
        assert first.issues == again.issues


def test_outputs_hold_25_rows_a_study_and_keypoints_in_the_competitions_words(
    results: list[StudyResult], data: DataFolder, bundle: Bundle, tmp_path: Path
) -> None:
    path = write_outputs(results, data, bundle, tmp_path)
    table = pd.read_csv(path)
    assert set(table["row_id"]) == {f"{study}_{column}" for study in data.study_ids for column in LABEL_COLUMNS}
    np.testing.assert_allclose(table[list(SEVERITIES)].sum(axis=1), 1.0, atol=1e-9)
    keypoints = pd.read_csv(tmp_path / "keypoints.csv")
    known = pd.read_csv(data.root / "train_label_coordinates.csv")
    assert list(keypoints.columns) == [*known.columns, "confidence"]
    assert set(keypoints["condition"]) <= set(known["condition"])
    assert keypoints["confidence"].between(0, 1).all()
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["rows"]["total"] == len(table)
    assert report["rows"]["from_prior"] == sum(int((~result.graded).sum()) for result in results)


def test_keypoints_lie_on_the_slices_they_name(results: list[StudyResult], data: DataFolder) -> None:
    study = read_study(data, results[0].study_id)
    assert results[0].keypoints
    for point in results[0].keypoints:
        series = study.series_by_id(point.series_id)
        assert series is not None
        item = next(item for item in series.slices if item.instance == point.instance)
        mm = item.affine @ np.array([*point.xy_px, 0.0, 1.0])
        np.testing.assert_allclose(mm[:3], point.mm, atol=1e-6)


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """The phantoms with the second study's files emptied."""
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    study = open_data(copy).study_ids[1]
    for file in (copy / "train_images" / str(study)).rglob("*.dcm"):
        file.write_bytes(b"")
    return copy


def test_a_study_that_cannot_be_read_fails_the_run_with_its_reason(broken: Path, bundle: Bundle) -> None:
    data = open_data(broken)
    with pytest.raises(InputError, match=rf"study {data.study_ids[1]}: no usable series"):
        list(schedule.predict(data, bundle))


def test_on_error_prior_writes_everything_and_exits_1_beyond_a_tenth(
    broken: Path, bundle: Bundle, tmp_path: Path, run: Callable[..., Ended]
) -> None:
    out = tmp_path / "out"
    arguments = ("predict", "--data", broken, "--weights", bundle.folder, "--out", out, "--device", "cpu")
    refused = run(*arguments)
    assert refused.returncode == 1
    assert not (out / "submission.csv").exists()
    assert "Traceback" not in refused.stderr
    ended = run(*arguments, "--on-error", "prior")
    assert ended.returncode == 1
    assert "1 of 2 studies could not be graded" in ended.stderr
    table = pd.read_csv(out / "submission.csv").set_index("row_id")
    assert len(table) == 50
    failed = open_data(broken).study_ids[1]
    prior = rounded(to_rows([failed], np.asarray(bundle.manifest.prior)[None])).set_index("row_id")
    np.testing.assert_allclose(table.loc[[f"{failed}_{column}" for column in LABEL_COLUMNS]], prior, atol=1e-9)
    report = json.loads((out / "run_report.json").read_text())
    assert report["failed_studies"] == [failed]
    assert report["issues"]["counts"]["study_failed"] == 1


def test_a_fault_in_our_own_code_stays_inside_its_study(
    data: DataFolder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("lumbar.keypoints.detect.detect", explode)
    replaced = list(schedule.predict(data, bundle, on_error="prior"))
    assert [result.failed for result in replaced] == [True, True]
    assert "ZeroDivisionError: planted" in replaced[0].issues[-1].detail
    with pytest.raises(InputError, match="planted"):
        list(schedule.predict(data, bundle))


def test_split_members_swap_sides_exactly_when_the_study_is_mirrored(
    data: DataFolder, bundle: Bundle, tmp_path: Path
) -> None:
    """One network serves both sides: given mirrored points, left and right change places to rounding."""
    study_id = data.study_ids[0]
    source = data.image_folder / str(study_id)
    twin = tmp_path / "data"
    mirror_study(source, twin / "train_images" / str(study_id))
    for table in data.root.glob("*.csv"):
        shutil.copy(table, twin)
    coordinates = data.coordinates[data.coordinates["study_id"] == study_id]
    here = _graded(read_study(data, study_id), coordinates, bundle)
    there = _graded(read_study(open_data(twin), study_id), mirror_coordinates(coordinates, source), bundle)
    swapped = [CONDITIONS.index(mirrored(condition)) for condition in CONDITIONS]
    for name in ("foraminal", "subarticular"):
        assert np.isfinite(here[name]).any()
        np.testing.assert_allclose(there[name], here[name][swapped], atol=1e-5)
        assert np.nanmax(np.abs(there[name] - here[name])) > 1e-5  # left and right do differ


class _Labelled:
    """A keypoint from the table of coordinates."""

    repaired = False

    def __init__(self, study: Study, row: pd.Series) -> None:
        self.series_id, self.instance = int(row["series_id"]), int(row["instance_number"])
        self.xy_px = (float(row["x"]), float(row["y"]))
        series = study.series_by_id(self.series_id)
        assert series is not None
        item = next(item for item in series.slices if item.instance == self.instance)
        self.mm = tuple((item.affine @ np.array([*self.xy_px, 0.0, 1.0]))[:3])


def _graded(study: Study, coordinates: pd.DataFrame, bundle: Bundle) -> dict[str, np.ndarray]:
    points = {(row["condition"], row["level"]): _Labelled(study, row) for _, row in coordinates.iterrows()}
    graded = {}
    for member in bundle.manifest.members:
        if isinstance(member.spec, GraderSpec) and member.spec.task != "global":
            regions = cut_regions(study, points, member.spec)
            network = bundle.network(member.name)
            graded[member.name] = softmax(grade(regions, member.spec, network, "cpu", None))
    return graded


def test_verify_names_every_member_and_refuses_a_changed_file(
    bundle: Bundle, tmp_path: Path, run: Callable[..., Ended]
) -> None:
    told = run("verify", "--weights", bundle.folder)
    assert told.returncode == 0
    for member in bundle.manifest.members:
        assert member.name in told.stdout
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    file = copy / bundle.manifest.members[0].file
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused = run("verify", "--weights", copy)
    assert refused.returncode == 1
    assert "SHA-256" in refused.stderr
    assert file.name in refused.stderr


@pytest.mark.parametrize("arguments", [(), ("dance",), ("predict",), ("bundle", "--out", "x")])
def test_bad_usage_exits_2(arguments: tuple[str, ...], run: Callable[..., Ended]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "usage:" in ended.stderr


def test_help_lists_every_command_without_loading_torch(run: Callable[..., Ended]) -> None:
    probe = "import sys, train_utils; train_utils._parser().format_help(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=False).returncode == 0
    told = run("--help")
    assert told.returncode == 0
    for name in ("phantom", "train", "evaluate", "bundle", "verify", "convert", "predict", "score"):
        assert f"    {name} " in told.stdout


def test_a_notebook_can_import_every_name_it_is_promised() -> None:
    for name in train_utils.__all__:
        assert callable(getattr(train_utils, name))
    assert load_bundle is train_utils.load_bundle
    assert LEVELS[0] == "l1_l2"
