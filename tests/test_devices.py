"""What a device can do wrong: short of memory, broken for good, half precision that overflows; and what goes on."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lumbar.prediction.predictor
from lumbar.bundle.bundle import Bundle
from lumbar.compute.forward import in_halves, is_device_fault, tensors
from lumbar.compute.thread_pool import Lanes
from lumbar.keypoints.detect import detect
from lumbar.prediction import schedule
from lumbar.prediction.budget import Budget
from lumbar.prediction.outputs import write_outputs
from lumbar.prediction.result import StudyResult
from lumbar.study.study import DataFolder, open_data
from tests.support.worlds import small_phantoms, tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data"))


@pytest.fixture(scope="module")
def results(data: DataFolder, bundle: Bundle) -> list[StudyResult]:
    return list(schedule.predict(data, bundle))


@pytest.fixture(scope="module")
def by_one_core(data: DataFolder, bundle: Bundle) -> list[StudyResult]:
    """The results where a single core computes each layer, as after a fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 1)
        return list(schedule.predict(data, bundle))


class Small(torch.nn.Module):
    """A network on a device whose memory holds so many samples at once."""

    def __init__(self, inside: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inside, self.most, self.sizes = inside, most, []

    def forward(self, *batch: Any) -> torch.Tensor:
        count = len(tensors(batch)[0])
        if count > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.sizes.append(count)
        return self.inside(*batch)


def test_a_batch_is_halved_until_it_fits_and_stays_in_order() -> None:
    network = Small(torch.nn.Identity(), 3)
    batch = torch.arange(22.0).reshape(11, 2)
    assert torch.equal(in_halves(network, batch, torch.device("cpu")), batch)
    assert network.sizes == [3, 3, 3, 2]
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(Small(torch.nn.Identity(), 0), batch, torch.device("cpu"))


def test_the_views_of_a_grader_and_its_named_answers_are_halved_together() -> None:
    class Twice(torch.nn.Module):
        def forward(self, views: dict[str, torch.Tensor], seen: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"severity": views["a"] + views["b"], "seen": seen}

    views, seen = {"a": torch.arange(5.0), "b": 10 * torch.arange(5.0)}, torch.arange(5) > 2
    found = in_halves(Small(Twice(), 2), (views, seen), torch.device("cpu"))
    assert torch.equal(found["severity"], 11 * torch.arange(5.0))
    assert torch.equal(found["seen"], seen)


def test_a_fault_that_is_no_lack_of_memory_is_not_tried_again() -> None:
    calls = []

    def fail(batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_halves(fail, torch.zeros(4, 1), torch.device("cpu"))  # type: ignore[arg-type]
    assert calls == [4]


def test_too_little_memory_changes_no_byte_of_the_submission(
    results: list[StudyResult],
    data: DataFolder,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tolerance that `benchmarks/README.md` states, and what rounding makes of it."""
    network = Bundle.network
    monkeypatch.setattr(Bundle, "network", lambda *arguments: Small(network(*arguments), 1))
    again = list(schedule.predict(data, bundle))
    for whole, halved in zip(results, again, strict=True):
        np.testing.assert_allclose(halved.probabilities, whole.probabilities, atol=1e-6)
        assert halved.issues == whole.issues
    first, second = (write_outputs(r, data, bundle, tmp_path / str(n)) for n, r in enumerate((results, again)))
    assert first.read_bytes() == second.read_bytes()


#: By what torch says of a device that fails; where it fails does not depend on that.
ILLEGAL = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
NO_ENGINE = RuntimeError("GET was unable to find an engine to execute this computation")
MEMORY = torch.OutOfMemoryError("CUDA out of memory")
CUDNN = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (ILLEGAL, "loading"),
        (NO_ENGINE, "second study"),
        pytest.param(NO_ENGINE, "loading", marks=pytest.mark.slow),
        pytest.param(ILLEGAL, "second study", marks=pytest.mark.slow),
        pytest.param(MEMORY, "loading", marks=pytest.mark.slow),
        pytest.param(MEMORY, "second study", marks=pytest.mark.slow),
        pytest.param(CUDNN, "second study", marks=pytest.mark.slow),
        pytest.param(CUDNN, "first study", marks=pytest.mark.slow),
    ],
)
def test_a_device_that_breaks_leaves_the_rest_to_the_cpu(
    error: RuntimeError,
    where: str,
    data: DataFolder,
    bundle: Bundle,
    by_one_core: list[StudyResult],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
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

    grade = lumbar.grading.grade.grade
    monkeypatch.setattr(Bundle, "network", load)
    monkeypatch.setattr("lumbar.keypoints.detect.detect", look)
    monkeypatch.setattr("lumbar.grading.grade.grade", on_cpu)
    found = list(schedule.predict(data, bundle, device="cuda"))
    for one, other in zip(by_one_core, found, strict=True):
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

    grade = lumbar.grading.grade.grade
    wanted = list(dict.fromkeys(data.study_ids))
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    monkeypatch.setattr(Bundle, "network", lambda self, name, device: network(self, name))
    monkeypatch.setattr("lumbar.keypoints.detect.detect", look)
    monkeypatch.setattr("lumbar.grading.grade.grade", lambda *given: grade(*given[:3], torch.device("cpu"), None))
    monkeypatch.setattr("lumbar.compute.thread_pool.Lanes", Counted)
    monkeypatch.setattr(Budget, "restart", lambda self: restarts.append(self))
    budget = Budget(3600.0, time.monotonic())
    found = list(schedule.predict(data, bundle, device="cuda", budget=budget))
    assert [result.study_id for result in found] == wanted
    assert lanes == [1, 1, len(wanted), 1]  # a study has one core at most
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
    """Of graders the other one speaks; of detectors there is none, so that there are no keypoints."""
    network = Bundle.network

    class Overflows(torch.nn.Module):
        def __init__(self, inside: torch.nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, *batch: Any) -> torch.Tensor:
            return self.inside(*batch) * float("inf")

    def load(self: Bundle, name: str, device: torch.device) -> torch.nn.Module:
        built = network(self, name, device)
        return Overflows(built) if name in ("spinal", "foramen") else built

    monkeypatch.setattr(Bundle, "network", load)
    result = next(iter(schedule.predict(data, bundle, study_ids=data.study_ids[:1])))
    told = [issue.detail for issue in result.issues if issue.code == "answer_not_finite"]
    assert told == ["spinal gave no number for 5 of its answers (fused float32); other members spoke for it"]
    assert np.isfinite(result.probabilities).all()
    assert result.graded[0].all()  # by the global member
    assert not result.graded[1:3].any()
    missing = [issue.detail for issue in result.issues if issue.code == "keypoint_missing"]
    assert [text.partition(" L1/L2, L2/L3, L3/L4, L4/L5, L5/S1: no keypoint")[0] for text in missing] == [
        "Left Neural Foraminal Narrowing",
        "Right Neural Foraminal Narrowing",
    ]
    assert not any("foraminal" in point.condition for point in result.keypoints)
    assert all(np.isfinite(point.mm).all() for point in result.keypoints)


def test_a_fault_of_the_code_is_no_fault_of_the_device() -> None:
    assert not is_device_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), torch.device("cuda"))
    assert not is_device_fault(torch.OutOfMemoryError("too much"), torch.device("cpu"))
