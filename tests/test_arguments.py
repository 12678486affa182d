"""Every option of every command, fed with nonsense: usage errors end with 2, the rest in one sentence."""

import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import train_utils
from lumbar.arguments import ARGUMENTS, DEVICE, LARGEST_SEED
from lumbar.compute.device import choose_device
from lumbar.issues import InputError

NONSENSE = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "",
    " ",
    "1e400",
    "9" * 5000,
    "a word",
    "x" * 3000,
    "\udce4",
    "\0",
    "1.5",
    "٣",
)
#: Options that take anything as a path or a setting, and what is no path at all.
NO_PATH = ("", " ", "\0")
OPTIONS = [(command, flag, options) for command, listed in ARGUMENTS.items() for flag, options in listed]
TAKE_A_VALUE = [(command, flag) for command, flag, options in OPTIONS if options.get("action") != "store_true"]
TAKE_A_VALUE.remove(("phantom", "--out"))  # most of this is a folder's name, and would be written to


#: The parser, made once: making it takes longer than all that is tried here.
parser = cache(train_utils._parser)


def run(command: str, place: Path, flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command with one value given and every wanted option in the way of work.

    Results would go to a file, and inputs are missing, so that nothing is computed.
    """
    (place / "file").write_text("in the way")
    words = [command]
    for name, options in ARGUMENTS[command]:
        if name == flag:
            words.append(f"{name}={value}")
        elif options.get("required") or name in ("--run", "--plots", "--out", "--weights"):
            known: dict[str, Any] = {"--studies": "1", "--seed": "1", "--out": str(place / "file")}
            words += [name, known.get(name, str(place / "missing"))]
    with mock.patch.object(train_utils, "_parser", parser):
        try:
            code = train_utils.main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(("command", "flag"), TAKE_A_VALUE, ids=[" ".join(pair) for pair in TAKE_A_VALUE])
def test_nonsense_is_a_usage_error_or_one_sentence(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in NONSENSE:
        code, told = run(command, tmp_path, flag, value, capsys)
        assert code in (1, 2), (value, told)
        last = told.rstrip("\n").splitlines()[-1]
        assert last.startswith(f"train_utils.py {command}: "), (value, told)
        assert "Traceback" not in told
        assert code == 2 or len(told.splitlines()) == 1
        assert "\0" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


REFUSED = {
    ("phantom", "--studies"): ("0", "-2", "100001", "1.0", "ten"),
    ("phantom", "--seed"): ("-1", str(LARGEST_SEED + 1), "1e3"),
    ("phantom", "--workers"): ("0", "-1", "257"),
    ("bundle", "--seed"): ("-1", str(2**32)),
    ("blend", "--seed"): ("-1", str(2**32)),
    ("blend", "--folds"): ("1", "0", "-5", "1001"),
    ("predict", "--hours"): ("nan", "inf", "0", "-1", "1e-400", "100001", "an hour"),
    ("predict", "--device"): ("gpu", "mps", "meta", "cpu:3", "cuda:", "cuda:-1", "CUDA", "cuda:1234", "cuda:٣", ""),
    ("predict", "--shard"): ("0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "٣/٣", "1/1000000"),
    ("predict", "--split"): ("both", ""),
    ("predict", "--engine"): ("fast", ""),
    ("kaggle", "--owner"): ("", "a b", "a/b", "-a", "x" * 200, "ä"),
    ("train", "--set"): ("epochs", "=1", " =1", ""),
}  # fmt: skip


@pytest.mark.parametrize(("command", "flag"), REFUSED)
def test_values_out_of_range_are_usage_errors(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in REFUSED[command, flag]:
        code, told = run(command, tmp_path, flag, value, capsys)
        assert code == 2, value
        assert f"argument {flag}: " in told


@pytest.mark.parametrize(
    ("command", "flag"), [(c, f) for c, f, o in OPTIONS if getattr(o.get("type"), "__name__", "") == "given"]
)
def test_an_empty_path_is_a_usage_error_and_not_the_current_folder(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in NO_PATH:
        code, told = run(command, tmp_path, flag, value, capsys)
        assert code == 2
        assert "'.' is the current folder" in told


def test_the_ends_of_each_range_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They get as far as the folder that cannot be written to."""
    taken = {
        ("phantom", "--studies"): "100000",
        ("phantom", "--seed"): str(LARGEST_SEED),
        ("phantom", "--workers"): "256",
        ("blend", "--folds"): "2",
        ("predict", "--hours"): "1e-9",
        ("predict", "--shard"): "100000/100000",
        ("predict", "--device"): "cuda:15",
        ("kaggle", "--owner"): "A-1",
        ("train", "--set"): "a.b==",
    }
    for (command, flag), value in taken.items():
        code, told = run(command, tmp_path, flag, value, capsys)
        assert code == 1, value
        assert "file: cannot be written to (file is no folder)" in told


@pytest.mark.parametrize("word", ["gpu", "mps", "meta", "cpu:3", "", "cuda:x"])
def test_a_device_that_is_none_is_refused_in_a_notebook_too(word: str) -> None:
    assert not DEVICE.fullmatch(word)
    with pytest.raises(InputError, match="known: auto, cpu, cuda or cuda:N"):
        choose_device(word)


def test_known_devices_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(choose_device("cpu").device) == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert str(choose_device("auto").device) == "cpu"
    with pytest.raises(InputError, match="device 'cuda:77' does not work here"):
        choose_device("cuda:77")


@pytest.mark.parametrize(
    ("called", "prog"),
    [
        ("site-packages/lumbar/__main__.py", "python -m lumbar"),
        ("bin/lumbar", "lumbar"),
        ("train_utils.py", "train_utils.py"),
        ("pytest/__main__.py", "train_utils.py"),
    ],
)
def test_the_help_names_the_command_as_it_was_called_and_gives_an_example(
    called: str, prog: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    with pytest.raises(SystemExit):
        train_utils.main(["--help"])
    told = capsys.readouterr().out
    assert told.startswith(f"usage: {prog} [-h]")
    assert told.rstrip().endswith(f"example: {prog} predict --data DATA --weights weights --out results --html")


def test_the_help_of_predict_says_what_is_wanted_when_and_what_holds_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        train_utils.main(["predict", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("wanted without --list") == 2
    for flag, default in (
        ("--log LOG", "none"),
        ("--split {train,test}", "test"),
        ("-v, --verbose", "no"),
        ("-q, --quiet", "no"),
    ):
        assert f"(default: {default})" in told.rpartition(f" {flag} ")[2].partition(" -")[0], flag


@pytest.mark.parametrize("word", ["--x\x1b[31m\n\udcff", "--" + "x" * 5000, "\x1b[2J"])
def test_a_usage_error_is_printable_and_no_book(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train_utils.main(["score", "--labels", "a", "--predictions", "b", word])
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert "unrecognized arguments: " + ascii(word)[1:7] in told[-1]
    assert all(line.isprintable() for line in told)
    assert len(told[-1]) < 600
