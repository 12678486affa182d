"""SIGTERM, SIGHUP and SIGKILL while a folder is built: nothing half built stays, or the next call clears it away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumbar.files.exchange import SUMS, check_own, exchanging, summed
from lumbar.issues import InputError
from tests.conftest import ROOT
from tests.test_exchange import build, tree, words

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")
CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}


def begun(out: Path, before: str = "") -> "subprocess.Popen[str]":
    """`phantom` that has begun to build and goes on for a minute."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job behind `&` ignores it
    code += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # one behind `nohup` ignores that
    code += f"{before}\nimport sys, time, train_utils, lumbar.phantom.study as d\n"
    code += "def slow(new, *_):\n    (new / 'half').write_text('half'); print('begun', flush=True); time.sleep(60)\n"
    words = ["phantom", "--studies", "1", "--seed", "1", "--out", str(out)]
    code += f"d.write_study = slow\nsys.exit(train_utils.main({words!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("name", CODES)
def test_a_signal_that_stops_ends_a_command_as_ctrl_c_does(name: str, tmp_path: Path) -> None:
    process = begun(tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.Signals[name])
    _, told = process.communicate(timeout=60)
    shown = "Ctrl-C" if name == "SIGINT" else name
    assert told == f"train_utils.py phantom: stopped by {shown}; run the same command again\n"
    assert process.returncode == CODES[name]
    assert list(tmp_path.iterdir()) == []


def test_what_nohup_ignores_does_not_stop(tmp_path: Path) -> None:
    process = begun(tmp_path / "out", "signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.terminate()
    assert "stopped by SIGTERM" in process.communicate(timeout=60)[1]
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_cleared_away_by_the_next_call(tmp_path: Path) -> None:
    process = begun(tmp_path / "place")
    (living,) = tmp_path.iterdir()
    build(tmp_path / "place", "old")  # by another process, which leaves alone what this one is building
    assert (living / "half").is_file()
    process.kill()
    process.communicate(timeout=60)
    assert (living / "half").is_file()
    build(tmp_path / "place", "new")
    assert words(tmp_path / "place") == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "place"]


@pytest.mark.parametrize("name", [".place.0123456789ab.tmp", ".place.0123456789ab0123456789ab.tmp", ".place.tmp"])
@pytest.mark.parametrize("within", [False, True])
def test_what_is_only_named_alike_stays(tmp_path: Path, name: str, within: bool) -> None:
    build(tmp_path / "place", "old")
    alike = (tmp_path / "place" if within else tmp_path) / name
    alike.mkdir()
    (alike / "thesis.txt").write_text("mine")
    if within:
        with pytest.raises(InputError, match=rf"place holds {name}, which this command did not write there"):
            build(tmp_path / "place", "new")
    else:
        build(tmp_path / "place", "new")
    assert (alike / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("number", range(9))
def test_a_kill_while_entries_change_places_does_not_block_the_next_call(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a mount point, where the new one is built within the old one."""
    place, rename = tmp_path / "place", Path.rename
    build(place, "old")
    kept = tree(place)
    monkeypatch.setattr("lumbar.files.exchange._building_site", lambda place: place)
    if (pid := os.fork()) == 0:
        count: list[Path] = []

        def die(self: Path, target: Path) -> Path:
            count.append(self)
            if len(count) == number + 1:
                os._exit(9)
            return rename(self, target)

        Path.rename = die  # type: ignore[method-assign]
        build(place, "new")
        os._exit(0)
    os.waitpid(pid, 0)
    check_own(place, summed)  # what a command does before it computes
    assert tree(place) == kept or words(place) == "new"
    build(place, "newer")
    assert words(place) == "newer"
    assert list(tmp_path.iterdir()) == [place]


def test_a_kill_before_the_exchange_in_place_leaves_the_old_folder_for_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a mount point, where the new one is built within the old one."""
    build(tmp_path / "place", "old")
    kept = tree(tmp_path / "place")
    monkeypatch.setattr("lumbar.files.exchange._building_site", lambda place: place)
    if (pid := os.fork()) == 0:
        with exchanging(tmp_path / "place", summed, SUMS) as new:
            (new / "a.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    left = tree(tmp_path / "place")
    assert {name: left[name] for name in kept} == kept
    assert len(left) == len(kept) + 1
    build(tmp_path / "place", "new")
    assert words(tmp_path / "place") == "new"
