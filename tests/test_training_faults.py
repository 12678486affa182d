"""Helpers of training that are killed: one sentence, nothing half-written, and a rerun that finishes the job."""

import contextlib
import functools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumbar.compute.processes import each
from lumbar.issues import InputError
from lumbar.recipe.settings import Loop
from lumbar.training.data.packs import write_arrays
from lumbar.training.loop.batches import load

CPU = torch.device("cpu")


class Deadly:
    """Samples 0 to 7; sample 4 kills the process that loads it, once: the file `spent` remembers."""

    studies = np.arange(8)

    def __init__(self, spent: Path) -> None:
        self.spent, self.parent = spent, os.getpid()

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        if index == 4 and os.getpid() != self.parent and not self.spent.exists():
            self.spent.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"value": np.float32(0 if rng is None else index + rng.random())}


class Late(Deadly):
    """The same, a second later than it might: what came before has been handed over."""

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        if index == 4:
            time.sleep(1)
        return super().sample(index, rng)


class Faulty(Deadly):
    """Samples whose code or input is wrong."""

    def __init__(self, spent: Path, error: Exception) -> None:
        super().__init__(spent)
        self.error = error

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        raise self.error


def values(samples: Any, workers: int) -> list[list[float]]:
    keys = [[(0, first), (0, first + 1)] for first in range(0, 8, 2)]
    return [batch["value"].tolist() for batch in load(samples, 5, keys, Loop(workers=workers), CPU)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_loader_is_one_sentence_and_a_rerun_gives_the_same_samples(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match=r"a process that loads samples died.* set loop\.workers lower and run again"):
        values(Deadly(tmp_path / "spent"), workers)
    assert values(Deadly(tmp_path / "spent"), workers) == values(Deadly(tmp_path / "other"), 0)


@pytest.mark.slow
def test_a_loader_that_dies_interrupts_nothing_that_training_is_doing(tmp_path: Path) -> None:
    samples = Late(tmp_path / "spent")
    batches = load(samples, 5, [[(0, first), (0, first + 1)] for first in range(0, 8, 2)], Loop(workers=1), CPU)
    next(batches)
    with contextlib.suppress(subprocess.TimeoutExpired):  # the signal of a child's end comes in here
        subprocess.run(["sleep", "9"], timeout=3)
    assert samples.spent.exists()
    with pytest.raises(InputError, match="a process that loads samples died"):
        list(batches)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [RuntimeError, EOFError, ConnectionResetError])
def test_a_fault_of_the_code_in_a_loader_is_no_lack_of_memory(
    tmp_path: Path, kind: type[Exception], workers: int
) -> None:
    with pytest.raises(kind, match="shapes do not fit"):
        values(Faulty(tmp_path, kind("shapes do not fit")), workers)


@pytest.mark.parametrize("kind", [EOFError, ConnectionResetError, ConnectionRefusedError])
def test_a_loader_that_dies_while_its_batch_is_fetched_is_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def reset(*_: object) -> None:
        raise kind("the line is broken")

    monkeypatch.setattr("multiprocessing.resource_sharer._resource_sharer.get_connection", reset)
    with pytest.raises(InputError, match="a process that loads samples died"):
        values(Deadly(tmp_path), 1)


def read(folder: Path, item: int) -> None:
    """As studies are read into a run's cache; item 5 kills its process, once."""
    if item == 5 and not (folder / "spent").exists():
        (folder / "spent").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write_arrays(folder / f"{item}.safetensors", {"value": np.full(1000, item, np.int64)})


@pytest.mark.slow
def test_a_killed_reader_is_one_sentence_and_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("cut", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole" / "spent").touch()
    with pytest.raises(InputError, match=r"^studies: a reading process died.* set loop\.read_processes lower"):
        each(functools.partial(read, tmp_path / "cut"), range(8), "studies", 2)
    assert not [path for path in (tmp_path / "cut").iterdir() if path.suffix not in ("", ".safetensors")]
    each(functools.partial(read, tmp_path / "cut"), range(8), "studies", 2)
    each(functools.partial(read, tmp_path / "whole"), range(8), "studies", 1)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()
