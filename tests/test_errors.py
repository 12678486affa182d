"""Every sentence that stops a job, read as a person would: which file or setting, what is wrong, what to do."""

import ast
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import train_utils
from tests.conftest import ROOT
from tests.support.worlds import small_phantoms, tiny_bundle

#: A remedy starts with one of these, behind the reason.
VERBS = (
    r"add|attach|check|choose|convert|copy|correct|do|export|free|get|give|grade|install|keep|leave|list|look|make|map|name|point|save|"
    r"predict|put|raise|rename|run|say|set|start|take|train|use|write"
)
#: What stands in braces carries the remedy, or the whole sentence, which is in this list in its own right.
PASSED_ON = (
    "{remedy}",
    "{_AGAIN}",
    "{_REMEDY}",
    "{LOWER}",
    "{sentence}",
    "{_what_to_attach(",
    "{describe(error)}",
    "{error}",
    "{numbered(wrong)}",
    "{numbered(told)}",
    "{what}",
    "{reason}",
    "{case.reason}",
    "{sentence(error)}",
    "{lost}",
    "{message}",
    "{run_report.describe_prior(",
)
#: The fault named exactly is the remedy: what is missing is to be there, what is double is to be single.
PLAIN = (
    "the bundle has no member", "the label table lacks", "the label table lists study", "the prediction table lacks",
    "the prediction table lists row", "is no distribution: three finite numbers wanted", "must hold whole numbers",
    "lists no study; is it the right table?", "so the score is not defined", "is it a checkpoint?", "fault(s). ",
    "not valid TOML",
)  # fmt: skip


@cache
def sentences() -> tuple[tuple[str, str], ...]:
    """Where each InputError is made, and its text with the names of its values in braces."""
    return tuple(_sentences())


def _sentences() -> Iterator[tuple[str, str]]:
    for path in [*sorted((ROOT / "lumbar").rglob("*.py")), ROOT / "train_utils.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                yield f"{path.relative_to(ROOT)}:{node.lineno}", _text(node.args[0])


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(v.value) if isinstance(v, ast.Constant) else f"{{{ast.unparse(v.value)}}}" for v in node.values
        )
    return f"{{{ast.unparse(node)}}}"


def test_every_sentence_says_what_is_wrong_and_what_to_do() -> None:
    found = dict(sentences())
    assert len(found) > 100
    poor = {}
    for place, text in found.items():
        remedy = re.split(r"[;:,?] ", text)[1:]
        helps = any(re.search(rf"\b({VERBS})\b", part) for part in remedy)
        known = "known: " in text or "nearest(" in text
        if not (helps or known or any(part in text for part in (*PASSED_ON, *PLAIN))):
            poor[place] = text
    assert not poor


#: Said of one study, whose number stands before it.
OF_A_STUDY = ("none of its images could be read",)


def test_every_sentence_names_a_file_a_value_or_a_setting() -> None:
    nameless = {
        place: text
        for place, text in sentences()
        if not re.search(r"\{|'\w+'|\w\.\w|--\w|package|pip", text) and not text.startswith(OF_A_STUDY)
    }
    assert not nameless


def test_no_sentence_is_a_paragraph_or_a_shout() -> None:
    for place, text in sentences():
        assert "\n" not in text, place
        assert "!" not in text, place
        assert not text.endswith("."), place


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound data folder and a sound bundle, to be spoilt in a copy."""
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data", 1)
    tiny_bundle(root / "weights")
    return root


PREDICT = ["predict", "--data", "{w}/data", "--weights", "{w}/weights", "--out", "{w}/out", "--device", "cpu"]
TABLE = "train_series_descriptions.csv"


@pytest.mark.parametrize(
    ("spoil", "command", "words"),
    [
        ("data", PREDICT, "data is not there; check the path, and give a folder in the competition's layout, or any"),
        (
            "none",
            ["predict", "--data", "{w}/weights", "--weights", "{w}/weights", "--out", "{w}/out"],
            "give the folder in the competition's layout",
        ),
        ("data/train_images", PREDICT, "no folder train_images; put it beside the table"),
        (f"data/{TABLE}=study_id,series_id\n1,2\n", PREDICT, "lacks the column(s) series_description; give"),
        (f"data/{TABLE}=\0\0\0", PREDICT, f"{TABLE}"),
        (f"data/{TABLE}=study_id,series_id,series_description\n", PREDICT, "lists no series; give the table"),
        (
            f"data/{TABLE}=study_id,series_id,series_description\nx,1,Axial T2\n",
            PREDICT,
            "'x' in data row 1 is not a whole",
        ),
        (f"data/{TABLE}=study_id,series_id,series_description\n5,1,Axial T2\n", PREDICT, "study 5: no usable series"),
        ("weights", PREDICT, "manifest.json: cannot be read (No such file or directory); give the folder"),
        ("weights/manifest.json={", PREDICT, "manifest.json: not JSON"),
        ("weights/canal.safetensors", PREDICT, "canal is missing; copy the whole bundle again"),
        ("weights/canal.safetensors=x", PREDICT, "the file was changed or damaged, copy the bundle again"),
        ("weights/canal.safetensors=x", ["verify", "--weights", "{w}/weights"], "copy the bundle again"),
        ("out=x", PREDICT, "out: cannot be written to"),
        (
            "data/train.csv",
            ["score", "--labels", "{w}/data/train.csv", "--predictions", "{w}/p.csv"],
            "does not exist; check",
        ),
        (
            "p.csv=row_id\n1\n",
            ["score", "--labels", "{w}/data/train.csv", "--predictions", "{w}/p.csv"],
            "p.csv lacks the",
        ),
        (
            "none",
            ["train", "--recipe", "{w}/r.toml", "--data", "{w}/data", "--out", "{w}/run"],
            "give the path of a TOML",
        ),
        (
            "r.toml=[",
            ["train", "--recipe", "{w}/r.toml", "--data", "{w}/data", "--out", "{w}/run"],
            "r.toml: not valid TOML",
        ),
        ("none", ["evaluate", "--run", "{w}/run"], "give a run folder"),
        ("none", ["bundle", "--run", "{w}/run", "--out", "{w}/b"], "give a run folder"),
        ("none", ["convert", "--checkpoints", "{w}/pt", "--out", "{w}/b"], "no such folder; give the one"),
    ],
)
def test_bad_input_ends_in_one_sentence_on_standard_error(
    spoil: str, command: list[str], words: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "w"
    shutil.copytree(world, copy)
    name, given, content = spoil.partition("=")
    path = copy / name
    if given:
        path.write_text(content)
    elif path.is_dir():
        shutil.rmtree(path)
    elif name != "none":
        path.unlink()
    assert train_utils.main([part.replace("{w}", str(copy)) for part in command]) == 1
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "Traceback" not in told
    assert "\n" not in told
    assert told.startswith(f"train_utils.py {command[0]}: ")
    assert len(told.replace(str(tmp_path), "")) <= 330
    assert not (copy / "out" / "submission.csv").exists()
