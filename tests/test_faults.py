"""Faults from outside: a kill, a full disk, a folder that may not be written to, a worker that dies."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import train_utils
from lumbar.bundle.bundle import Bundle
from lumbar.files import write
from lumbar.issues import InputError
from lumbar.phantom.dataset import write_phantoms
from lumbar.prediction import schedule
from lumbar.prediction.outputs import write_outputs
from lumbar.prediction.predictor import Predictor
from lumbar.prediction.result import StudyResult
from lumbar.study.study import DataFolder, open_data
from tests.conftest import ROOT
from tests.support.worlds import small_phantoms, tiny_bundle
from tests.test_damage import as_nobody

OUTPUTS = {"submission.csv", "keypoints.csv", "run_report.json"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data"))


@pytest.fixture(scope="module")
def results(data: DataFolder, bundle: Bundle) -> list[StudyResult]:
    return list(schedule.predict(data, bundle))


def predict(data: DataFolder, bundle: Bundle, out: Path) -> int:
    chosen = ["--data", str(data.root), "--weights", str(bundle.folder), "--out", str(out), "--device", "cpu"]
    return train_utils.main(["predict", *chosen])


# -- kill and disk ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_leaves_nothing_half_written_and_a_rerun_gives_the_same_bytes(
    tmp_path: Path, data: DataFolder, bundle: Bundle
) -> None:
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "fault_job.py"),
        str(data.root),
        str(bundle.folder),
        str(tmp_path),
        "2",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    whole = {name: (tmp_path / "unbroken" / name).read_text() for name in OUTPUTS}
    assert len(told["left"]) == 2
    for left in told["left"]:
        for name, content in left.items():
            if name.startswith("."):
                continue  # the temporary file of a write that was killed
            assert name in OUTPUTS
            if name != "run_report.json":  # which holds times
                assert content == whole[name]
            else:
                assert json.loads(content)["rows"] == json.loads(whole[name])["rows"]
    for name in ("submission.csv", "keypoints.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert told["full"]["code"] == 1
    assert "limited: cannot be written to (File too large); make room there" in told["full"]["said"]
    assert "Traceback" not in told["full"]["said"]
    assert not [path for path in (tmp_path / "limited").rglob("*") if path.is_file()]


@pytest.mark.parametrize("refused", ["submission.csv", "keypoints.csv", "run_report.json"])
def test_a_full_disk_is_one_sentence_and_older_results_stay_whole(
    refused: str,
    results: list[StudyResult],
    data: DataFolder,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_outputs(results[::-1], data, bundle, tmp_path)
    older = {name: (tmp_path / name).read_bytes() for name in OUTPUTS}
    write = Path.write_bytes

    def full(self: Path, content: Any) -> int:
        if Path(refused).stem in self.name:
            write(self, bytes(content)[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot be written to \(No space left on device\); make room"):
        write_outputs(results, data, bundle, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == older
    monkeypatch.undo()
    write_outputs(results, data, bundle, tmp_path)
    write_outputs(results, data, bundle, tmp_path / "undisturbed")
    for name in OUTPUTS - {"run_report.json"}:  # which says when
        assert (tmp_path / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes() != older[name]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_graded(
    tmp_path: Path,
    data: DataFolder,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "predict", lambda *_, **__: pytest.fail("graded for nothing"))
    (tmp_path / "file").write_text("in the way")
    assert predict(data, bundle, tmp_path / "file" / "out") == 1
    said = capsys.readouterr().err
    assert "cannot be written to (file is no folder); make room there or give another folder" in said
    assert "Traceback" not in said


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be written to \(Read-only file system\)"):
        write.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_one_sentence() -> None:
    """The real thing, as a user who may read the folder but not write into it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o555)
        with as_nobody(), pytest.raises(InputError, match=r"cannot be written to \(Permission denied\)"):
            write.check_writable(root / "out")
        assert not list(root.iterdir())


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"matrices": (64,), "sagittal_slices": (5, 5), "stack_slices": (2, 2)}

    def kill(done: int, studies: int) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)

    with pytest.raises(InputError, match=r"a worker process was killed .* run again with fewer workers"):
        write_phantoms(tmp_path / "a", 6, 5, workers=2, progress=kill, **options)
    assert not list((tmp_path / "a").glob("*.csv"))
    write_phantoms(tmp_path / "a", 3, 5, **options)
    write_phantoms(tmp_path / "b", 3, 5, **options)
    for path in (path for path in (tmp_path / "b").rglob("*") if path.is_file()):
        assert (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes() == path.read_bytes()


# -- many studies -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_studies_leave_no_handle_open_and_no_memory_taken(data: DataFolder, bundle: Bundle) -> None:
    """The full measurement is `benchmarks/soak.py`."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    handles, memory = [], []
    for _ in schedule.grade_all(Predictor(bundle), data, list(data.study_ids) * 15, most_lanes=1):  # in this process
        handles.append(len(list(Path("/proc/self/fd").iterdir())))
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
    assert max(handles[5:]) - min(handles[5:]) <= 1  # the reader may have a file open just then
    assert min(handles[-10:]) == min(handles[5:15])
    assert memory[-1] - memory[10] < 20
