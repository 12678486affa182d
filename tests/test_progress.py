"""Long work says what it is at, how far, and for how long: in a terminal at once, elsewhere a line a minute."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

import train_utils
from lumbar.compute.processes import each
from lumbar.prediction import schedule
from lumbar.terminal.progress import bar, follow
from tests.support.worlds import drawn_once

ROOT = Path(__file__).resolve().parents[1]
#: Done of all, time so far < time to go.
ETA = re.compile(r"\d+/\d+ \[\d\d:\d\d<")


def open_terminal() -> tuple[int, int]:
    """Both ends of a terminal that has a size, as every real one; in one without, bars vanish."""
    own, other = pty.openpty()
    termios.tcsetwinsize(other, (24, 120))
    return own, other


class Terminal:
    """Standard error of the test, seen as a terminal."""

    def __init__(self) -> None:
        self.own, other = open_terminal()
        self.stream = os.fdopen(other, "w")

    def __enter__(self) -> None:
        self.kept, sys.stderr = sys.stderr, self.stream  # pytest puts its own there between a fixture and its test

    def __exit__(self, *error: object) -> None:
        sys.stderr = self.kept

    def read(self) -> str:
        self.stream.flush()
        os.set_blocking(self.own, False)
        said = b""
        try:
            while piece := os.read(self.own, 65536):
                said += piece
        except (BlockingIOError, OSError):
            pass
        return said.decode()


@pytest.fixture
def terminal() -> Any:
    shown = Terminal()
    yield shown
    shown.stream.close()
    os.close(shown.own)


def phantoms(folder: Path) -> int:
    with mock.patch("lumbar.phantom.study.write_study", drawn_once):
        return train_utils.main(["phantom", "--studies", "1", "--seed", "3", "--out", str(folder), "--split", "test"])


def test_the_phantom_command_shows_its_stage_in_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    with terminal:
        assert phantoms(tmp_path) == 0
    said = terminal.read()
    assert "painting phantoms" in said
    assert ETA.search(said)


def test_nothing_is_said_where_nobody_watches(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert phantoms(tmp_path) == 0
    assert list(graded(monkeypatch)) == [1, 2]
    each(lambda item: None, [1, 2, 3], "reading studies", 1)
    assert capfd.readouterr() == ("", "")


def graded(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Ids of two studies as `predict` grades them, with a predictor that does nothing."""
    idle = SimpleNamespace(
        lanes=1,
        alone=False,
        together=1,
        device=SimpleNamespace(type="cpu"),
        steps=list,
        result=lambda case: case.study_id,
    )
    empty = {"issues": (), "series": {}}

    def read(data: object, study_id: int) -> SimpleNamespace:
        return SimpleNamespace(study_id=study_id, **empty)

    monkeypatch.setattr("lumbar.study.study.read_study", read)
    return schedule.grade_all(idle, SimpleNamespace(study_ids=(1, 2)), [1, 2], **options)  # type: ignore[arg-type]


def test_predict_names_the_study_at_work(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal:
        assert list(graded(monkeypatch)) == [1, 2]
    said = terminal.read()
    assert "grading" in said
    assert "study 1" in said
    assert ETA.search(said)


def test_a_notebook_is_no_terminal_and_shows_progress_when_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(graded(monkeypatch, progress=True)) == [1, 2]
    assert "2/2" in capfd.readouterr().err
    assert list(graded(monkeypatch, progress=False)) == [1, 2]
    assert capfd.readouterr().err == ""
    cells = json.loads((ROOT / "inference.ipynb").read_text())["cells"]
    assert sum("progress=True" in "".join(cell["source"]) for cell in cells) == 2  # scan and grading


def test_training_reads_with_a_bar_for_its_stage(terminal: Terminal) -> None:
    seen: list[int] = []
    with terminal:
        each(seen.append, [4, 5, 6], "reading studies", 1)
    assert seen == [4, 5, 6]
    assert "reading studies: 100%" in terminal.read()


def test_a_bar_goes_on_where_interrupted_work_stopped(terminal: Terminal) -> None:
    with terminal, bar("training t2 fold 0", 100, "batch", initial=40) as shown:
        shown.update(10)
    assert "50/100" in terminal.read()


def test_what_is_followed_is_unchanged_and_named(terminal: Terminal) -> None:
    with terminal:
        assert list(follow("abc", "letters", 3, "letter", name=str.upper)) == ["a", "b", "c"]
        assert list(follow(iter("ab"), "of unknown length", None)) == ["a", "b"]
    said = terminal.read()
    assert "letters" in said
    assert "of unknown length" in said


def test_a_whole_process_in_a_terminal_keeps_results_apart_from_progress(tmp_path: Path) -> None:
    own, other = open_terminal()
    program = "from lumbar.terminal.progress import follow\nfor one in follow(range(3), 'counting', 3): print(one)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=other, text=True, check=True
    )
    os.close(other)
    assert ended.stdout.split() == ["0", "1", "2"]
    assert "counting" in os.read(own, 65536).decode()
    os.close(own)


def test_a_line_comes_while_one_step_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("waiting", 2, every=0.2) as shown:
        time.sleep(1.0)
        lines = capsys.readouterr().err.splitlines()
        shown.update()
    assert 2 <= len(lines) <= 5
    assert all(line.startswith("waiting: 0 of 2 after ") for line in lines)
