"""Every command leaves alone what it cannot prove to be its own, and says so before it computes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.prediction import job, schedule
from lumbar.prediction.finished import FINISHED, computing, is_kept
from lumbar.prediction.store import Store
from lumbar.study.study import open_data
from tests.conftest import ROOT
from tests.support.worlds import small_phantoms, tiny_bundle
from tests.test_exchange import tree

pytestmark = pytest.mark.usefixtures("networks_kept")

OUTPUTS = ("submission.csv", "keypoints.csv", "run_report.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of two studies, a bundle, and what predict left."""
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data")
    tiny_bundle(root / "weights")
    assert predict(root, root / "out") == 0
    return root


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(world, tmp_path / "w")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be found before anything is computed."""
    monkeypatch.setattr(schedule, "predict", lambda *_, **__: pytest.fail("computed for nothing"))


def predict(root: Path, out: Path, *more: str) -> int:
    places = ["--data", str(root / "data"), "--weights", str(root / "weights"), "--out", str(out), "--device", "cpu"]
    return train_utils.main(["predict", *places, *more])


def refused(command: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """The command ends with 1 and one sentence that holds these words."""
    capsys.readouterr()
    assert train_utils.main(command) == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert len(told) < 600
    for word in words:
        assert word in told


# -- predict -----------------------------------------------------------------------------------------------------------


def _study_file(root: Path) -> Path:
    return root / "out" / FINISHED / f"{open_data(root / 'data').study_ids[0]}.safetensors"


def write(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _alone(path: Path) -> None:
    """Another submission, and no report beside it that would know it."""
    shutil.copy(path / "submission.csv", path / "kept.csv")
    for name in OUTPUTS:
        (path / name).unlink()
    (path / "kept.csv").rename(path / "submission.csv")


#: What stands in the folder of results, and what of it the sentence names.
TAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a submission of somebody else": (lambda w: _alone(w / "out"), "submission.csv: is there already"),
    "a submission that was changed": (lambda w: write(w / "out/submission.csv"), "submission.csv: is there already"),
    "keypoints that were changed": (lambda w: write(w / "out/keypoints.csv"), "keypoints.csv: is there already"),
    "another program's report": (lambda w: write(w / "out/run_report.json", '{"ok": 1}'), "run_report.json: is there"),
    "a report that is no JSON": (lambda w: write(w / "out/run_report.json"), "run_report.json: is there"),
    "a folder named so": (lambda w: _folder(w / "out/submission.csv"), "submission.csv: is there already"),
    "a link named so": (lambda w: _linked(w / "out/submission.csv"), "submission.csv: is there already"),
    "a file named finished": (lambda w: write(w / "out/finished"), "finished: is no folder"),
    "a link named finished": (lambda w: (w / "out/finished").symlink_to(w / "data"), "finished: is no folder"),
    "a model named as a study": (lambda w: write(_study_file(w)), "safetensors: is there already"),
    "notes in the lock's place": (lambda w: write(w / "out/finished/.running"), ".running: is there already"),
    "a report that somebody wrote into": (lambda w: _note(w / "out/run_report.json"), "run_report.json: is there"),
    "a report in other words": (lambda w: _flat(w / "out/run_report.json"), "run_report.json: is there"),
    "a page that bears our title": (
        lambda w: write(w / "out/report.html", "<html><title>Lumbar report</title>"),
        "report.html: is there already",
    ),
    "a web page": (lambda w: write(w / "out/report.html", "<title>Mine</title>"), "report.html: is there already"),
    "a file named dicom_sr": (lambda w: write(w / "out/dicom_sr"), "dicom_sr: is no folder"),
    "another report": (lambda w: write(w / f"out/dicom_sr/{_study_file(w).stem}.dcm"), ".dcm: is there already"),
}


def _note(path: Path) -> None:
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "note": "mine"}, indent=2, ensure_ascii=False) + "\n")


def _flat(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text())))


def _folder(path: Path) -> None:
    path.unlink()
    (path / "below").mkdir(parents=True)


def _linked(path: Path) -> None:
    path.rename(path.with_name("mine.csv"))
    path.symlink_to("mine.csv")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("what", TAKEN)
def test_predict_names_what_is_not_its_own_before_it_computes(
    what: str, copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumbar.report.dicom_sr.write.check_available", lambda: None)
    spoil, words = TAKEN[what]
    spoil(copied)
    before = tree(copied)
    places = ["--data", str(copied / "data"), "--weights", str(copied / "weights"), "--out", str(copied / "out")]
    refused(["predict", *places, "--html", "--dicom-sr"], capsys, words)
    assert tree(copied) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", ["images", "a study", "a series", "a new folder below", "by a link"])
def test_predict_and_train_refuse_to_write_among_the_images(
    place: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = next((copied / "data/train_images").iterdir())
    (copied / "link").symlink_to(study)
    out = {
        "images": study.parent,
        "a study": study,
        "a series": next(study.iterdir()),
        "a new folder below": study / "results" / "today",
        "by a link": copied / "link" / "results",
    }[place]
    before = tree(copied)
    data = ["--data", str(copied / "data"), "--out", str(out)]
    words = "which is read from; give a folder outside of it"
    refused(["predict", "--weights", str(copied / "weights"), *data], capsys, words)
    refused(["train", "--recipe", str(ROOT / "recipes/shipped.toml"), *data], capsys, words)
    assert tree(copied) == before


def test_predict_replaces_its_own_results_and_leaves_everything_else_in_finished(copied: Path) -> None:
    foreign = {
        "finished/thesis.txt": b"mine",
        "finished/7.safetensors": b"a model of another study's number",
        "finished/backup/1.txt": b"mine",
        "notes.csv": b"mine",
    }
    for name, content in foreign.items():
        path = copied / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (copied / "out/finished/empty").mkdir()
    before = (copied / "out/submission.csv").read_bytes()
    tiny_bundle(copied / "weights", seed=1)
    assert predict(copied, copied / "out") == 0
    left = tree(copied / "out")
    assert {name: left[name] for name in foreign} == foreign
    assert left.keys() == {*OUTPUTS, *foreign}
    assert (copied / "out/finished/empty").is_dir()
    assert left["submission.csv"] != before


def test_a_kill_between_the_result_files_does_not_make_them_strange(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(copied / "weights", seed=1)
    replace, left = Path.replace, []

    def die(self: Path, target: Path) -> Path:
        if Path(target).name in OUTPUTS:
            if not left:
                raise KeyboardInterrupt
            left.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    for number in (1, 2):  # of three
        left[:] = range(number)
        assert predict(copied, copied / "out") > 1
    monkeypatch.undo()
    assert predict(copied, copied / "out") == 0
    assert not (copied / "out" / FINISHED).exists()
    report = json.loads((copied / "out/run_report.json").read_text())
    assert report["bundle"]["identity"] == load_bundle(copied / "weights").identity


def test_a_kept_study_that_was_cut_short_is_ours_and_computed_again(copied: Path) -> None:
    assert predict(copied, copied / "out", "--shard", "1/2") == 0
    path = next((copied / "out" / FINISHED).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    assert is_kept(path)
    before = (copied / "out/submission.csv").read_bytes()
    assert predict(copied, copied / "out") == 0
    assert (copied / "out/submission.csv").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_another_run_that_computes_there_is_waited_for_and_the_same_one_is_joined(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, bundle, out = open_data(copied / "data"), load_bundle(copied / "weights"), copied / "out"
    with computing(out, "0" * 64):
        command = ["predict", "--data", str(copied / "data"), "--weights", str(copied / "weights"), "--out", str(out)]
        refused(command, capsys, "another predict computes there, with other weights, data or options")
    assert not (out / FINISHED).exists()
    results = job.predict_all(data, bundle, out, device="cpu")
    store = Store(out, data, {"bundle": bundle.identity, "engine": "auto", "split": data.split})
    assert results is not None
    with computing(out, store.run):
        assert predict(copied, out) == 0  # ends while the other one still counts on what is kept
        for result in results:
            assert store.load(result.study_id) is not None
    assert predict(copied, out) == 0
    assert not (out / FINISHED).exists()


@pytest.mark.slow
def test_two_commands_at_once_both_end_well(copied: Path) -> None:
    places = ["--data", str(copied / "data"), "--weights", str(copied / "weights"), "--out", str(copied / "both")]
    command = [sys.executable, str(ROOT / "train_utils.py"), "predict", *places, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    assert (copied / "both/submission.csv").read_bytes() == (copied / "out/submission.csv").read_bytes()
    assert {path.name for path in (copied / "both").iterdir()} == set(OUTPUTS)
