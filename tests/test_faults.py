"""Faults from outside: a kill, a full disk, a folder that may not be written to, too little memory, a broken device."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lumbar.prediction.predictor
import train_utils
from lumbar import files
from lumbar.bundle import Bundle
from lumbar.compute.faults import in_halves, is_device_fault
from lumbar.compute.lanes import Lanes
from lumbar.issues import InputError
from lumbar.keypoints.detect import detect
from lumbar.phantom import write_phantoms
from lumbar.prediction import job, pipeline
from lumbar.prediction.budget import Budget
from lumbar.study import DataFolder, open_data
from tests.conftest import ROOT
from tests.test_damage import as_nobody
from tests.worlds import small_phantoms, tiny_bundle

OUTPUTS = {"submission.csv", "keypoints.csv", "run_report.json"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data"))


@pytest.fixture(scope="module")
def results(data: DataFolder, bundle: Bundle) -> list[pipeline.StudyResult]:
    return list(pipeline.predict(data, bundle))


def predict(data: DataFolder, bundle: Bundle, out: Path) -> int:
    chosen = ["--data", str(data.root), "--weights", str(bundle.folder), "--out", str(out), "--device", "cpu"]
    return train_utils.main(["predict", *chosen])


# -- kill and disk ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_leaves_nothing_half_written_and_a_rerun_gives_the_same_bytes(
    tmp_path: Path, data: DataFolder, bundle: Bundle
) -> None:
    command = [
        sys.executable,
        str(ROOT / "tests" / "fault_job.py"),
        str(data.root),
        str(bundle.folder),
        str(tmp_path),
        "6",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    whole = {name: (tmp_path / "unbroken" / name).read_text() for name in OUTPUTS}
    assert len(told["left"]) == 6
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
    results: list[pipeline.StudyResult],
    data: DataFolder,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in OUTPUTS:
        (tmp_path / name).write_text("older")
    write = Path.write_bytes

    def full(self: Path, content: Any) -> int:
        if Path(refused).stem in self.name:
            write(self, bytes(content)[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot be written to \(No space left on device\); make room"):
        pipeline.write_outputs(results, data, bundle, tmp_path)
    assert (tmp_path / refused).read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == OUTPUTS
    monkeypatch.undo()
    pipeline.write_outputs(results, data, bundle, tmp_path)
    pipeline.write_outputs(results, data, bundle, tmp_path / "undisturbed")
    for name in OUTPUTS - {"run_report.json"}:  # which says when
        assert (tmp_path / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert "older" not in (tmp_path / "run_report.json").read_text()


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_graded(
    tmp_path: Path,
    data: DataFolder,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "work", lambda *_, **__: pytest.fail("graded for nothing"))
    (tmp_path / "file").write_text("in the way")
    assert predict(data, bundle, tmp_path / "file" / "out") == 1
    said = capsys.readouterr().err
    assert "cannot be written to (Not a directory)" in said
    assert "Traceback" not in said


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot be written to \(Read-only file system\)"):
        files.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_one_sentence() -> None:
    """The real thing, as a user who may read the folder but not write into it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o555)
        with as_nobody(), pytest.raises(InputError, match=r"cannot be written to \(Permission denied\)"):
            files.check_writable(root / "out")
        assert not list(root.iterdir())


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


# -- devices ----------------------------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """A network on a device whose memory holds so many samples at once."""

    def __init__(self, inside: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inside, self.most, self.sizes = inside, most, []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.sizes.append(len(batch))
        return self.inside(batch)


def test_a_batch_is_halved_until_it_fits_and_stays_in_order() -> None:
    network = Small(torch.nn.Identity(), 3)
    batch = torch.arange(22.0).reshape(11, 2)
    assert torch.equal(in_halves(network, batch, torch.device("cpu")), batch)
    assert network.sizes == [3, 3, 3, 2]
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(Small(torch.nn.Identity(), 0), batch, torch.device("cpu"))


def test_a_fault_that_is_no_lack_of_memory_is_not_tried_again() -> None:
    calls = []

    def fail(batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(fail, torch.zeros(4, 1), torch.device("cpu"))  # type: ignore[arg-type]
    assert calls == [4]


def test_too_little_memory_changes_no_byte_of_the_submission(
    results: list[pipeline.StudyResult],
    data: DataFolder,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tolerance that `benchmarks/README.md` states, and what rounding makes of it."""
    network = Bundle.network
    monkeypatch.setattr(Bundle, "network", lambda *arguments: Small(network(*arguments), 1))
    again = list(pipeline.predict(data, bundle))
    for whole, halved in zip(results, again, strict=True):
        np.testing.assert_allclose(halved.probabilities, whole.probabilities, atol=1e-6)
        assert halved.issues == whole.issues
    first, second = (pipeline.write_outputs(r, data, bundle, tmp_path / str(n)) for n, r in enumerate((results, again)))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
@pytest.mark.parametrize("where", ["loading", "first study", "second study"])
def test_a_device_that_breaks_leaves_the_rest_to_the_cpu(
    error: RuntimeError,
    where: str,
    data: DataFolder,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # so that as many cores share a layer here and there
    results = list(pipeline.predict(data, bundle))
    network, seen = Bundle.network, []

    def load(self: Bundle, name: str, device: torch.device) -> torch.nn.Module:
        if where == "loading" and device.type == "cuda":
            raise error
        return network(self, name)

    def look(study: Any, detectors: Any, device: torch.device, amp: Any) -> Any:
        seen.append(device.type)
        if device.type == "cuda" and len(seen) == {"first study": 1, "second study": 2}[where]:
            raise error
        return detect(study, detectors, torch.device("cpu"), None)

    def on_cpu(*arguments: Any) -> Any:
        return grade(*arguments[:3], torch.device("cpu"), None)

    grade = lumbar.prediction.predictor.grade
    monkeypatch.setattr(Bundle, "network", load)
    monkeypatch.setattr("lumbar.prediction.predictor.detect", look)
    monkeypatch.setattr("lumbar.prediction.predictor.grade", on_cpu)
    found = list(pipeline.predict(data, bundle, device="cuda"))
    for one, other in zip(results, found, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert seen[-1] == "cpu"
    assert "cuda failed" in caplog.text
    assert "the CPU goes on, which is slower" in caplog.text
    told = [result.study_id for result in found if "device_failed" in {issue.code for issue in result.issues}]
    assert told == {"loading": [], "first study": [data.study_ids[0]], "second study": [data.study_ids[1]]}[where]


def test_what_is_left_begins_anew_where_a_device_was_given_up(
    data: DataFolder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many lanes as the CPU has cores, and a budget that forgets how fast the device was."""
    lanes, restarts, network = [], [], Bundle.network

    def look(study: Any, detectors: Any, device: torch.device, amp: Any) -> Any:
        if device.type == "cuda" and study.study_id == wanted[0]:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return detect(study, detectors, torch.device("cpu"), None)

    class Counted(Lanes):
        def __init__(self, count: int) -> None:
            lanes.append(count)
            super().__init__(count)

    grade = lumbar.prediction.predictor.grade
    wanted = list(dict.fromkeys(data.study_ids))
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    monkeypatch.setattr(Bundle, "network", lambda self, name, device: network(self, name))
    monkeypatch.setattr("lumbar.prediction.predictor.detect", look)
    monkeypatch.setattr(
        "lumbar.prediction.predictor.grade", lambda *given: grade(*given[:3], torch.device("cpu"), None)
    )
    monkeypatch.setattr(pipeline, "Lanes", Counted)
    monkeypatch.setattr(Budget, "restart", lambda self: restarts.append(self))
    budget = Budget(3600.0, time.monotonic())
    found = list(pipeline.predict(data, bundle, device="cuda", budget=budget))
    assert [result.study_id for result in found] == wanted
    assert lanes == [1, 1, 3, 1]
    assert restarts == [budget]
    assert not any(result.failed for result in found)


def test_a_budget_begun_anew_measures_anew() -> None:
    now = [0.0]
    budget = Budget(1000.0, 0.0, lambda: now[0])
    for spent in (0.0, 1.0, 2.0):
        budget.finished(1, {"a": spent, "b": spent})
        now[0] += 2.0
    assert budget.surplus(100, ["a", "b"], bool) == []
    budget.restart()
    assert budget.surplus(100, ["a", "b"], bool) == []  # nothing is known yet
    budget.finished(1, {"a": 2.0, "b": 2.0})
    now[0] += 20.0
    budget.finished(1, {"a": 12.0, "b": 12.0})
    assert budget.surplus(100, ["a", "b"], bool) == ["b"]


@pytest.mark.parametrize(
    "words",
    ["FIND was unable to find an engine to execute this computation", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"],
)
def test_what_libraries_say_of_too_little_memory_halves_the_batch(words: str) -> None:
    sizes = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError(words)
        return batch

    assert torch.equal(in_halves(network, torch.arange(4.0), torch.device("cpu")), torch.arange(4.0))
    assert sizes == [4, 2, 2]


def test_a_network_that_overflows_is_told_of_and_leaves_the_rest_to_others(
    data: DataFolder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector's keypoints are faint; of graders the other one speaks."""
    network = Bundle.network

    class Overflows(torch.nn.Module):
        def __init__(self, inside: torch.nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.inside(batch) * float("inf")

    def load(self: Bundle, name: str, device: torch.device) -> torch.nn.Module:
        built = network(self, name, device)
        return Overflows(built) if name in ("spinal", "canal") else built

    monkeypatch.setattr(Bundle, "network", load)
    result = next(iter(pipeline.predict(data, bundle, study_ids=data.study_ids[:1])))
    told = [issue.detail for issue in result.issues if issue.code == "answer_not_finite"]
    assert told == ["spinal gave no number for some regions (fused float32); other members spoke for it"]
    assert np.isfinite(result.probabilities).all()
    assert result.graded[0].all()  # by the global member
    faint = [issue.detail for issue in result.issues if issue.code == "keypoint_low_confidence"]
    assert sum(text.startswith("Spinal Canal Stenosis") and text.endswith("confidence 0.00") for text in faint) == 5
    assert all(np.isfinite(point.mm).all() for point in result.keypoints)


def test_a_fault_of_the_code_is_no_fault_of_the_device() -> None:
    assert not is_device_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), torch.device("cuda"))
    assert not is_device_fault(torch.OutOfMemoryError("too much"), torch.device("cpu"))


# -- many studies -----------------------------------------------------------------------------------------------------


def test_many_studies_leave_no_handle_open_and_no_memory_taken(data: DataFolder, bundle: Bundle) -> None:
    """The full measurement is `benchmarks/soak.py`."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    handles, memory = [], []
    predictor = pipeline.Predictor(bundle)
    predictor.lanes = 1  # all of it in this process
    for _ in pipeline.grade_all(predictor, data, list(data.study_ids) * 15):
        handles.append(len(list(Path("/proc/self/fd").iterdir())))
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
    assert max(handles[5:]) - min(handles[5:]) <= 1  # the reader may have a file open just then
    assert min(handles[-10:]) == min(handles[5:15])
    assert memory[-1] - memory[10] < 20
