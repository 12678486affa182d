"""How commands end where disks, memory, terminals and people get in the way: a sentence or none, and a code."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train_utils
from lumbar.compute import process_pool
from lumbar.files.pool import spread
from lumbar.issues import InputError
from lumbar.terminal import stopping
from tests.conftest import ROOT

SCRIPT = [sys.executable, str(ROOT / "train_utils.py")]


def raising(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> Any:
        raise error

    return raise_it


ENDS = {
    "full disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b.csv"), "a/b.csv: No space left.*free space"),
    "no rights": (PermissionError(errno.EACCES, "Permission denied", "w.bin"), r"w\.bin: Permission denied; check its"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "/media/x"), "/media/x: Read-only.*may be written to"),
    "two names": (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a and b: Invalid cross-device"),
    "no name": (OSError("cannot identify it"), "a file or device: cannot identify it; check that place and run again"),
    "bytes": (OSError(errno.ENOENT, "No such file", b"x\xe4\n"), r"x\\xe4\\n: No such file; check the path"),
    "memory": (
        MemoryError("Unable to allocate 8.00 GiB"),
        r"does not suffice \(Unable to allocate 8.*give less",
    ),
    "torch's memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8"), "memory does not suffice; give"),
    "depth": (RecursionError("maximum recursion depth exceeded"), "nested too deeply.*check the files"),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("command", ["score", "verify"])
def test_what_a_machine_refuses_is_one_sentence(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, words = ENDS[name]
    monkeypatch.setattr("lumbar.metric.read_labels", raising(error))
    monkeypatch.setattr("lumbar.prediction.checked.checked_bundle", raising(error))
    given = {"score": ["--labels", "a", "--predictions", "b"], "verify": ["--weights", "a"]}[command]
    assert train_utils.main([command, *given]) == 1
    told = capsys.readouterr().err
    assert re.search(words, told), told
    assert told.count("\n") == 1
    assert told.startswith(f"train_utils.py {command}: ")


@pytest.mark.parametrize("error", [TypeError("a fault"), RuntimeError("a fault"), KeyError(0), AssertionError()])
def test_faults_of_the_code_are_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumbar.metric.read_labels", raising(error))
    with pytest.raises(type(error)):
        train_utils.main(["score", "--labels", "a", "--predictions", "b"])


@pytest.mark.parametrize(
    ("command", "module", "kept"),
    [
        (
            ["predict", "--data", "d", "--weights", "w", "--out", "{o}"],
            "lumbar.study.folder.open_folder",
            "finished studies are",
        ),
        (["train", "--recipe", "r", "--data", "d", "--out", "{o}"], "lumbar.training.run.train", "last checkpoint"),
        (["score", "--labels", "a", "--predictions", "b"], "lumbar.metric.read_labels", "run the same command again"),
    ],
)
def test_ctrl_c_is_one_sentence_that_says_how_to_go_on(
    command: list[str], module: str, kept: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(module, raising(KeyboardInterrupt()))
    assert train_utils.main([word.replace("{o}", str(tmp_path)) for word in command]) == 130
    told = capsys.readouterr().err
    assert told.startswith(f"train_utils.py {command[0]}: stopped by Ctrl-C; ")
    assert kept in told
    assert told.count("\n") == 1


def shell(line: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **more
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done


def test_ctrl_c_before_a_command_is_known_is_one_sentence_too(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("argparse.ArgumentParser.parse_args", raising(KeyboardInterrupt()))
    assert train_utils.main(["verify"]) == 130
    assert capsys.readouterr().err == "train_utils.py: stopped by Ctrl-C; run the same command again\n"


SHORT, LONG = "'result'", "'line' * 99999"


def printing(result: str) -> str:
    """A shell command: `score` with a result of our own."""
    code = "import sys, train_utils, lumbar.metric as m; m.read_labels = m.read_predictions = lambda path: None; "
    code += f"m.score = lambda *_: {result}; "
    code += "sys.exit(train_utils.main(['score', '--labels', 'a', '--predictions', 'b']))"
    return f'{sys.executable} -c "{code}"'


def test_a_reader_that_goes_away_ends_a_command_silently() -> None:
    for command in (printing(SHORT), printing(LONG), f"{sys.executable} train_utils.py --help"):
        for reader in ("true", "head -1"):
            done = shell(f"{command} | {reader}; exit ${{PIPESTATUS[0]}}")
            assert done.stderr == ""
            assert done.returncode in (0, 1)
    assert shell(f"{printing(LONG)} | true; exit ${{PIPESTATUS[0]}}").returncode == 1
    assert shell(f"{printing(SHORT)} 2>&1 >&-").returncode == 0


@pytest.mark.parametrize("python", [sys.executable, f"{sys.executable} -u"])
@pytest.mark.parametrize("words", [SHORT, LONG, "--help", "predict --help"])
def test_a_full_device_behind_standard_output_is_told(python: str, words: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f"{sys.executable} train_utils.py {words}" if "--" in words else printing(words)
    done = shell(f"{command.replace(sys.executable, python)} > /dev/full")
    assert done.returncode == 1
    assert re.fullmatch(
        r"train_utils.py( score)?: standard output: No space left on device; free space .*\n", done.stderr
    )


def test_output_that_the_terminal_cannot_show_is_escaped() -> None:
    code = "import lumbar.terminal.voice as t; t.show('Größe\\x1b[31m\\udce4\\nline'); t.tell('ä\\x1b\\n')"
    done = shell(f'{sys.executable} -c "{code}"', env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout == "Gr\\xf6\\xdfe\\x1b[31m\\xe4\nline\n"
    assert "\\x1b\\n" in done.stderr


def _wait(item: float) -> float:
    time.sleep(item)
    return item


def _break(item: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", f"/full/{item}")


@pytest.mark.slow
def test_ctrl_c_reaches_one_process_of_many_and_the_others_make_no_noise() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job behind `&` ignores it
    code += "import tests.test_terminal as t, lumbar.terminal.ending as e, sys; from lumbar.files.pool import spread\n"
    code += "def work():\n"
    code += "    for one in spread(t._wait, [0.01, 0.01] + [1.5] * 2, 2, lost='lost'): print('begun', flush=True)\n"
    code += "    return 0\n"
    code += "if __name__ == '__main__': sys.exit(e.ended(work, 'prog', 'kept'))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, told = process.communicate(timeout=60)
    assert told == "prog: stopped by Ctrl-C; kept\n"
    assert process.returncode == 130


@pytest.mark.slow
def test_what_a_child_meets_is_told_by_its_parent() -> None:
    with pytest.raises(OSError, match="No space left"):
        list(spread(_break, [1, 2, 3], 2, lost="lost"))
    with pytest.raises(InputError, match=r"/full/\d: No space left on device; free space"):
        list(process_pool.answers(lambda items: map(_break, items), [1, 2, 3], 2))


def test_nothing_is_held_back_after_processes_have_begun() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with stopping.without_interrupts():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


WRITERS = {
    "phantom": ["--studies", "1", "--seed", "1", "--out"],
    "spider": ["--source", "none", "--out"],
    "train": ["--recipe", "none", "--data", "none", "--out"],
    "clean-up": ["--recipe", "none", "--data", "none", "--out"],
    "evaluate": ["--run"],
    "bundle": ["--run", "none", "--out"],
    "card": ["--weights"],
    "convert": ["--checkpoints", "none", "--out"],
    "predict": ["--data", "none", "--weights", "none", "--out"],
    "blend": ["--labels", "none", "--tables", "none", "--out"],
    "score": ["--labels", "none", "--predictions", "none", "--plots"],
    "kaggle": ["--weights", "none", "--out"],
    "show-batches": ["--recipe", "none", "--data", "none", "--out"],
    "draw": ["--recipe", "none", "--out"],
}


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("place", ["file", "file/below", "loop", "x" * 300, "deep/er/file"])
def test_where_results_go_is_tried_before_anything_else(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_text("in the way")
    (tmp_path / "loop").symlink_to("loop")
    assert train_utils.main([command, *WRITERS[command], str(tmp_path / place)]) == 1
    told = capsys.readouterr().err
    assert f"{place}: cannot be written to (" in told
    assert told.count("\n") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_failing_command_leaves_no_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in WRITERS.items():
        if command != "phantom":
            assert train_utils.main([command, *words, str(tmp_path / "new" / "er")]) == 1
            assert list(tmp_path.iterdir()) == []
