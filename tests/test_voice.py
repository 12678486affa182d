"""How much a command says: -q, -v, a log without patients, a line a minute where nobody watches, and its own help."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import train_utils
from lumbar.arguments import ARGUMENTS, EXAMPLES
from lumbar.terminal import voice
from lumbar.terminal.parser import make_parser
from lumbar.terminal.progress import bar
from tests.support.worlds import small_phantoms, tiny_bundle

pytestmark = pytest.mark.usefixtures("networks_kept")

PATIENT = "SMITH^JOHN 1950"
#: A time, and what happened.
EVENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S.*")


def phantom(folder: Path, *more: str) -> int:
    return train_utils.main(
        ["phantom", "--studies", "1", "--seed", "3", "--split", "test", "--out", str(folder), *more]
    )


def test_where_nobody_watches_progress_is_a_plain_line_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("grading", 3, every=0.0) as shown:
        for _ in range(3):
            shown.update()
    said = capfd.readouterr().err
    assert "\r" not in said
    assert re.fullmatch(r"(grading: \d of 3 after 00:00, about \S+ to go\n)+", said)
    assert "3 of 3" in said
    with bar("grading", 3) as shown:
        shown.set_postfix_str("study 1")
        shown.update(3)
    assert capfd.readouterr().err == "", "short work says nothing"


def test_quiet_keeps_everything_back_but_results_and_failures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with voice.speaking(quiet=True):
        voice.tell("a sentence")
        voice.tell("what a result rests on", of_result=True)
        with bar("grading", 1, show=True, every=0.0) as shown:
            shown.update()
    assert capfd.readouterr().err == "what a result rests on\n"
    assert train_utils.main(["verify", "--weights", str(tmp_path / "none"), "-q"]) == 1
    assert capfd.readouterr().err.startswith("train_utils.py verify: ")
    voice.tell("again")
    assert capfd.readouterr().err == "again\n"


def test_verbose_shows_events_and_the_log_holds_them_for_good(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    assert phantom(tmp_path / "data", "-v", "--log", str(log)) == 0
    first, *events = log.read_text().splitlines()
    assert first == "before"
    assert events == capfd.readouterr().err.splitlines()
    assert all(EVENT.fullmatch(line) for line in events)
    words = [line.split(" ", 2)[2] for line in events]
    assert words[0].startswith("phantom begins, lumbar ")
    assert words[1] == "painting phantoms begins: 1"
    assert words[2].startswith("painting phantoms ends: 1 in ")
    assert words[-1] == "phantom ends with exit code 0"


def test_the_log_names_studies_and_no_patient(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = small_phantoms(tmp_path / PATIENT / "data", 1)
    tiny_bundle(tmp_path / PATIENT / "weights")
    (data / "train_label_coordinates.csv").write_text("nonsense\n")
    log = tmp_path / "log.txt"
    words = ["--data", str(data), "--weights", str(tmp_path / PATIENT / "weights"), "--log", str(log)]
    assert train_utils.main(["predict", *words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    said = log.read_text()
    assert re.search(r"grading: study \d+", said)
    assert "warning of lumbar.study.study: … (it is left out)" in said
    assert "train_label_coordinates.csv" in capfd.readouterr().err, "what went wrong is told as ever"
    (tmp_path / PATIENT / "weights" / "manifest.json").unlink()
    assert train_utils.main(["predict", *words, "--out", str(tmp_path / "other")]) == 1
    said = log.read_text()
    assert "predict fails (InputError); standard error says why" in said
    assert PATIENT.split()[0] not in said
    assert str(tmp_path) not in said


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert phantom(tmp_path / "data", "--log", str(tmp_path)) == 1
    told = capfd.readouterr().err
    assert "give a file there, it is a folder" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_every_help_has_an_example_that_works_and_names_defaults_and_ranges(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = make_parser("", dict.fromkeys(ARGUMENTS, lambda: 0), ARGUMENTS, EXAMPLES)
    assert set(EXAMPLES) == set(ARGUMENTS)
    for command, options in ARGUMENTS.items():
        assert parser.parse_args(shlex.split(EXAMPLES[command])).command == command
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert f"example: train_utils.py {EXAMPLES[command]}" in text
        for _, how in options:
            if how.get("default") not in (None, []):
                told = how["default"]
                told = "/".join(map(str, told)) if isinstance(told, tuple) else told
                assert f"(default: {told})" in text
            if how.get("type") and how.get("metavar") == "N":
                assert re.search(r"; \d+ to \d+", how["help"])


def test_a_bare_machines_first_notebook_run_shows_no_warning(root: Path) -> None:
    """A kernel without widgets, and fonts that matplotlib has yet to find."""
    script = (
        "import logging, warnings\nimport lumbar.terminal.progress\nfrom tqdm import TqdmWarning\n"
        "warnings.warn('IProgress not found. Please update jupyter and ipywidgets.', TqdmWarning)\n"
        "logging.getLogger('matplotlib.font_manager').warning('Matplotlib is building the font cache')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
