"""Processes that share work: everything once and in order, what is raised comes through, nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lumbar.bundle.bundle import Bundle
from lumbar.compute import process_pool
from lumbar.issues import InputError
from lumbar.prediction import schedule
from lumbar.prediction.finished import FINISHED
from lumbar.prediction.job import predict_all
from lumbar.prediction.outputs import write_outputs
from lumbar.study import study as studies
from lumbar.study.study import DataFolder, open_data
from tests.support.worlds import small_phantoms, tiny_bundle

HOUSE = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not process_pool.POSSIBLE, reason="processes begin as copies on Linux only")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", studies=7))


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)


def slowly(items: list[int]) -> Iterator[tuple[int, int]]:
    """Each item with the process that had it; uneven ones take longer."""
    for item in items:
        time.sleep(0.02 * (item % 2))
        yield item, os.getpid()


def test_every_item_is_answered_once_and_in_order() -> None:
    items = list(range(11))
    found = list(process_pool.answers(slowly, items, 3))
    assert [item for item, _ in found] == items
    assert len({process for _, process in found}) == 3
    assert os.getpid() not in {process for _, process in found}
    assert not multiprocessing.active_children()


def test_whoever_stops_asking_leaves_no_process_behind() -> None:
    asked = process_pool.answers(slowly, list(range(1000)), 2)
    next(asked)
    assert len(multiprocessing.active_children()) == 2
    asked.close()
    assert not multiprocessing.active_children()


def test_threads_of_the_parent_are_no_trap() -> None:
    """OpenCV's threads are not inherited; whoever asks for them in a child waits for ever."""
    picture = np.random.default_rng(0).random((4000, 4000)).astype(np.float32)
    before = cv2.getNumThreads()
    expected = cv2.resize(picture, (3000, 3000), interpolation=cv2.INTER_AREA)

    def resized(items: list[int]) -> Iterator[np.ndarray]:
        for _ in items:
            yield cv2.resize(picture, (3000, 3000), interpolation=cv2.INTER_AREA)[::100, ::100]

    for found in process_pool.answers(resized, [1, 2, 3], 2):
        np.testing.assert_array_equal(found, expected[::100, ::100])
    assert cv2.getNumThreads() == before


def test_what_is_wrong_with_the_input_comes_through() -> None:
    def refuse(items: list[int]) -> Iterator[int]:
        yield items[0]
        raise InputError("study 5: no usable series; check its folder")

    asked = process_pool.answers(refuse, [1, 2, 3, 4], 2)
    assert [next(asked), next(asked)] == [1, 2]
    with pytest.raises(InputError, match="study 5: no usable series"):
        next(asked)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", ["killed", "fault"])
def test_a_process_that_ends_is_one_sentence(end: str, capfd: pytest.CaptureFixture[str]) -> None:
    def stop(items: list[int]) -> Iterator[int]:
        yield items[0]
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ZeroDivisionError("planted")

    sentence = {"killed": "was killed, most likely out of memory; run again", "fault": "stopped with the error above"}
    with pytest.raises(InputError, match=sentence[end]):
        list(process_pool.answers(stop, [1, 2, 3, 4], 2))
    assert ("planted" in capfd.readouterr().err) == (end == "fault")
    assert not multiprocessing.active_children()


def test_processes_grade_to_the_bit_what_one_process_grades(
    data: DataFolder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, two_cores: None
) -> None:
    shared = list(schedule.predict(data, bundle))
    monkeypatch.setattr(process_pool, "answers", lambda *_: pytest.fail("no process was wanted"))
    monkeypatch.setattr(process_pool, "POSSIBLE", False)
    alone = list(schedule.predict(data, bundle))
    assert [one.study_id for one in shared] == list(data.study_ids)
    for one, other in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(one.members, other.members)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert (one.keypoints, one.issues, one.used) == (other.keypoints, other.issues, other.used)


@pytest.mark.slow
def test_what_was_finished_before_a_process_was_killed_is_kept(
    data: DataFolder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_cores: None
) -> None:
    read, last = studies.read_study, data.study_ids[-1]

    def killed(folder: DataFolder, study_id: int) -> object:
        if study_id == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(folder, study_id)

    monkeypatch.setattr(studies, "read_study", killed)
    with pytest.raises(InputError, match="was killed"):
        predict_all(data, bundle, tmp_path, device="cpu")
    kept = len(list((tmp_path / FINISHED).iterdir()))
    assert 0 < kept < len(data.study_ids)
    monkeypatch.setattr(studies, "read_study", read)
    said: list[str] = []
    again = predict_all(data, bundle, tmp_path, said.append, device="cpu")
    assert said == [f"{kept} of {len(data.study_ids)} studies were finished before"]
    write_outputs(again or [], data, bundle, tmp_path / "again")
    write_outputs(list(schedule.predict(data, bundle)), data, bundle, tmp_path / "undisturbed")
    for name in ("submission.csv", "keypoints.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@pytest.mark.slow
def test_where_every_study_must_have_rows_the_rest_is_done_without_a_lost_process(
    data: DataFolder, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_cores: None
) -> None:
    """As in Kaggle's hidden rerun, whose submission must be there whatever happens, and the same."""
    read, last, here = studies.read_study, data.study_ids[-1], os.getpid()

    def killed(folder: DataFolder, study_id: int) -> object:
        if study_id == last and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(folder, study_id)

    undisturbed = list(schedule.predict(data, bundle, on_error="prior"))
    monkeypatch.setattr(studies, "read_study", killed)
    results = list(schedule.predict(data, bundle, on_error="prior"))
    assert not multiprocessing.active_children()
    for folder, found in (("a", undisturbed), ("b", results)):
        write_outputs(found, data, bundle, tmp_path / folder)
    for name in ("submission.csv", "keypoints.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


SLOW_RUN = """
import sys, time
from pathlib import Path
from lumbar.bundle.bundle import load_bundle
from lumbar.study import study as studies
from lumbar.prediction.job import predict_all
import torch

read = studies.read_study
studies.read_study = lambda *study: time.sleep(0.5) or read(*study)
torch.get_num_threads = lambda: 2
data, weights, out = map(Path, sys.argv[1:])
predict_all(studies.open_data(data), load_bundle(weights), out, device="cpu")
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_a_rerun_gives_the_same_bytes(
    data: DataFolder, bundle: Bundle, tmp_path: Path, two_cores: None
) -> None:
    arguments = [str(data.root), str(bundle.folder), str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", SLOW_RUN, *arguments], cwd=HOUSE) as begun:
        soon(lambda: any(finished(tmp_path)) or begun.poll() is not None)
        children = [int(one) for one in Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()]
        begun.kill()
    assert len(children) == 2
    soon(lambda: not any(map(runs, children)))
    assert 0 < len(finished(tmp_path)) < len(data.study_ids)
    again = predict_all(data, bundle, tmp_path, device="cpu")
    write_outputs(again or [], data, bundle, tmp_path / "again")
    write_outputs(list(schedule.predict(data, bundle)), data, bundle, tmp_path / "undisturbed")
    for name in ("submission.csv", "keypoints.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def finished(out: Path) -> list[Path]:
    """Studies whose results are stored there."""
    return [path for path in (out / FINISHED).glob("*") if not path.name.startswith(".")]


def soon(holds: Callable[[], bool]) -> None:
    """Wait until it holds, two minutes at most."""
    until = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"  # dead, but nobody asked yet
    except FileNotFoundError:
        return False
