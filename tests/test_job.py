"""Prediction as a job: shards, processes, and going on after a kill."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lumbar.prediction.predictor
import train_utils
from lumbar.bundle.bundle import Bundle
from lumbar.compute.device import Device
from lumbar.issues import InputError
from lumbar.prediction import job, schedule
from lumbar.prediction.budget import RESERVE
from lumbar.prediction.finished import FINISHED
from lumbar.prediction.reading import ReadAhead
from lumbar.prediction.result import REPORTED, StudyResult
from lumbar.prediction.run_report import run_report
from lumbar.prediction.store import Store
from lumbar.study.study import DataFolder, Study, open_data, read_study
from tests.conftest import ROOT
from tests.support.worlds import small_phantoms, tiny_bundle

pytestmark = pytest.mark.usefixtures("networks_kept")

TABLES = ("submission.csv", "keypoints.csv")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", studies=5)


@pytest.fixture(scope="module")
def data(folder: Path) -> DataFolder:
    return open_data(folder)


@pytest.fixture(scope="module")
def whole(folder: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run over all studies leaves."""
    out = tmp_path_factory.mktemp("whole")
    assert predict(folder, bundle, out) == 0
    return out


def predict(folder: Path, bundle: Bundle, out: Path, *more: str) -> int:
    places = ("--data", str(folder), "--weights", str(bundle.folder), "--out", str(out), "--device", "cpu")
    return train_utils.main(["predict", *places, *more])


def same(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_shards_joined_are_the_whole_byte_by_byte(
    folder: Path, bundle: Bundle, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On machines of their own: each part in its own folder, the folders of finished studies copied together."""
    for part in (1, 2, 3):
        out = tmp_path / f"part{part}"
        assert predict(folder, bundle, out, "--shard", f"{part}/3") == 0
        assert f"Part {part} of 3 is done" in capsys.readouterr().err
        assert not (out / "submission.csv").exists()
        shutil.copytree(out / FINISHED, tmp_path / "joined" / FINISHED, dirs_exist_ok=True)
    assert len(list((tmp_path / "joined" / FINISHED).iterdir())) == 5
    assert predict(folder, bundle, tmp_path / "joined") == 0
    assert "5 of 5 studies were finished before" in capsys.readouterr().err
    same(tmp_path / "joined", whole)
    assert not (tmp_path / "joined" / FINISHED).exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_part_of_nothing_is_bad_usage(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train_utils.main(["predict", "--data", "d", "--weights", "w", "--out", str(tmp_path), "--shard", shard])
    assert stop.value.code == 2
    assert "part I/N" in capsys.readouterr().err


def test_finished_studies_are_not_computed_again_after_a_kill(
    folder: Path, data: DataFolder, bundle: Bundle, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect, looked = lumbar.keypoints.detect.detect, []

    def killed(study: Any, *arguments: Any) -> Any:
        if len(looked) >= 3:
            raise KeyboardInterrupt
        looked.append(study.study_id)
        return detect(study, *arguments)

    monkeypatch.setattr("lumbar.keypoints.detect.detect", killed)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)  # two studies at a time
    assert predict(folder, bundle, tmp_path) == 130
    assert not (tmp_path / "submission.csv").exists()
    kept = {int(file.stem) for file in (tmp_path / FINISHED).iterdir()}
    assert len(kept) in (2, 3)  # either lane may be ahead by a study
    assert kept <= set(looked)
    looked.clear()
    assert predict(folder, bundle, tmp_path) == 0
    assert set(looked) == set(data.study_ids) - kept
    assert len(looked) == len(data.study_ids) - len(kept)
    same(tmp_path, whole)


def test_what_was_kept_counts_only_for_the_same_run_and_the_same_files(
    data: DataFolder, bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    result = next(schedule.predict(data, bundle))
    store = Store(tmp_path, data, {"bundle": bundle.identity})
    store.save(result)
    _equal(store.load(result.study_id), result)
    assert Store(tmp_path, data, {"bundle": "another"}).load(result.study_id) is None
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)  # times and all
    moved = Store(tmp_path, open_data(copy), {"bundle": bundle.identity})
    _equal(moved.load(result.study_id), result)
    file = next((copy / "train_images" / str(result.study_id)).rglob("*.dcm"))
    os.utime(file, (0, 0))
    assert moved.load(result.study_id) is None
    kept = next((tmp_path / FINISHED).iterdir())
    kept.write_bytes(kept.read_bytes()[:-9])
    assert store.load(result.study_id) is None


@dataclass(frozen=True)
class WithANote(StudyResult):
    """A result with two fields more, as a later version may have them."""

    note: str = field(default="", metadata={REPORTED: "note"})
    doubts: np.ndarray = field(default_factory=lambda: np.zeros(3))


def test_a_field_more_is_kept_and_reported_without_another_edit(
    data: DataFolder, bundle: Bundle, tmp_path: Path
) -> None:
    plain = next(schedule.predict(data, bundle))
    own = {one.name: getattr(plain, one.name) for one in fields(plain)}
    result = WithANote(**own, note="tilted", doubts=np.array([0.5, 0.25, 0.0]))
    store = Store(tmp_path, data, {}, WithANote)
    store.save(result)
    found = store.load(result.study_id)
    assert isinstance(found, WithANote)
    _equal(found, result)
    assert found.note == "tilted"
    np.testing.assert_array_equal(found.doubts, result.doubts)
    (entry,) = run_report([found], data, bundle)["studies"]
    assert entry["note"] == "tilted"


def _equal(found: StudyResult | None, expected: StudyResult) -> None:
    assert found is not None
    for name in ("probabilities", "members", "graded", "seen"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("study_id", "keypoints", "issues", "used", "failed", "ran_on", "dropped"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["command", "notebook"])
def test_two_processes_share_the_studies_and_leave_the_same_rows(
    how: str, folder: Path, bundle: Bundle, whole: Path, tmp_path: Path
) -> None:
    """Real processes on the CPU; as many threads each as in the run that they are compared with."""
    places = ["--data", str(folder), "--weights", str(bundle.folder), "--device", "cpu"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(ROOT),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    both = [*launcher, "train_utils.py", "predict", *places, "--out", str(tmp_path / "both")]
    if how == "notebook":
        script = f"""
import torch
from train_utils import load_bundle, open_data, predict_all, write_outputs
torch.cuda.device_count = lambda: 2
data, bundle = open_data({str(folder)!r}), load_bundle({str(bundle.folder)!r})
write_outputs(predict_all(data, bundle, {str(tmp_path / "both")!r}), data, bundle, {str(tmp_path / "both")!r})
"""
        both = [sys.executable, "-c", script]
    ended = subprocess.run(both, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    same(whole, tmp_path / "both")
    assert json.loads((tmp_path / "both" / "run_report.json").read_text())["data"]["studies"] == 5


@pytest.mark.slow
def test_where_a_process_of_the_notebook_is_killed_the_rest_is_done_without_it(
    folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    script = f"""
import os, signal
import torch
from lumbar.prediction import job
from train_utils import load_bundle, open_data, predict_all, write_outputs

def killed(self, result, save=job.Store.save):
    save(self, result)
    if os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)

job.Store.save = killed
torch.cuda.device_count = lambda: 2
data, bundle, out = open_data({str(folder)!r}), load_bundle({str(bundle.folder)!r}), {str(tmp_path)!r}
results = predict_all(data, bundle, out)
write_outputs(results, data, bundle, out)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "one of 2 processes failed; this one goes on alone" in ended.stdout
    assert re.search("^[1-9] of 5 studies were finished before", ended.stdout, re.MULTILINE)
    assert json.loads((tmp_path / "run_report.json").read_text())["data"]["studies"] == 5


def test_the_clock_of_a_budget_goes_on_where_this_process_does_the_rest(
    data: DataFolder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    def fails(function: object, arguments: tuple[job.Job], num_processes: int) -> None:
        begun.append(arguments[0].started)
        raise RuntimeError

    monkeypatch.setattr("accelerate.notebook_launcher", fails)
    monkeypatch.setattr(schedule, "predict", lambda *_, budget, **__: begun.append(budget.deadline) or [])
    before = time.monotonic()
    with pytest.raises(InputError, match="5 studies are not finished"):
        job.predict_all(data, bundle, tmp_path, hours=8.5)
    assert len(begun) == 2
    assert begun[1] == pytest.approx(begun[0] + 8.5 * 3600 * (1 - RESERVE))
    assert before <= begun[0] <= time.monotonic()


def test_a_kernel_that_has_used_a_gpu_works_alone(
    data: DataFolder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    refused = "children cannot use it any more"
    monkeypatch.setattr("accelerate.notebook_launcher", lambda *_, **__: pytest.fail(refused))
    monkeypatch.setattr(schedule, "predict", lambda *_, **__: said.append("worked") or [])
    with pytest.raises(InputError, match="5 studies are not finished"):
        job.predict_all(data, bundle, tmp_path, say=said.append)
    assert said == [
        "one of 2 GPUs computes, since this kernel has used it before; restart the kernel for all of them",
        "worked",
    ]


def test_of_several_processes_each_takes_the_gpu_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("lumbar.compute.device.choose_device", lambda wanted, say: asked.append(wanted))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    processes = job.Processes()
    for count, local, wanted in ((2, 1, "auto"), (2, 1, "cuda"), (1, 0, "cuda"), (2, 1, "cpu"), (1, 0, "auto")):
        processes.count, processes.local = count, local
        processes.device(wanted, print)
    assert asked == ["cuda:1", "cuda:1", "cuda", "cpu", None]


def test_a_process_settles_on_its_own_gpu_alone(
    data: DataFolder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[object] = []
    monkeypatch.setattr("torch.cuda.set_device", settled.append)
    monkeypatch.setattr(schedule, "predict", lambda *_, device, **__: settled.append(device) or [])
    for name in ("cuda:1", "cpu"):
        chosen = Device(torch.device(name), None)
        monkeypatch.setattr(job.Processes, "device", lambda *_, chosen=chosen: chosen)
        job.Job(data, bundle, tmp_path, job.Options(), 0.0).work(job.Processes())
    assert settled == [torch.device("cuda:1"), torch.device("cuda:1"), torch.device("cpu")]


def test_big_studies_come_one_by_one_and_few_are_read_ahead(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    study, started = read_study(data, data.study_ids[0]), []

    def read(study_id: int) -> Study:
        started.append(study_id)
        return study

    with ReadAhead(read, range(12), ahead=3, most_bytes=1) as ahead:
        seen = []
        for group in ahead.groups(4):
            assert len(group) == 1
            seen += [study_id for study_id, _ in group]
            assert len(started) <= len(seen) + 4
    assert seen == list(range(12))
