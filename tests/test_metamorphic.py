"""Cases of `support/metamorphic.py`: a short seeded run always, a long one and every change by itself when asked for.

`LUMBAR_CASES="7/12 7/13 monochrome1"` runs these cases, or changes by themselves, instead of the short run.
"""

import os
import random
from pathlib import Path

import pytest

import train_utils
from tests.support import metamorphic
from tests.support.changes import CHANGES
from tests.support.draft import sound

pytestmark = pytest.mark.usefixtures("networks_kept")

SHORT = os.environ.get("LUMBAR_CASES", "").split() or [f"3/{index}" for index in range(12)]
#: Every change is tried by itself; these are the first ten that are drawn with another.
LONG = [name for name in (f"1/{index}" for index in range(200)) if len(metamorphic.draw(random.Random(name))[1]) > 1][
    :10
]


def run(name: str) -> metamorphic.Case:
    """A case by its seed and index, or a change by its name."""
    seed, _, index = name.partition("/")
    return metamorphic.run_case(seed, int(index)) if index else metamorphic.run_change(name)


@pytest.mark.parametrize("name", SHORT)
def test_what_must_follow_of_a_change_does(name: str) -> None:
    case = run(name)
    assert not case.flaws, str(case)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_what_must_follow_of_a_change_does_in_the_long_run(name: str) -> None:
    case = run(name)
    assert not case.flaws, str(case)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_by_itself(name: str) -> None:
    case = run(name)
    assert not case.flaws, str(case)


def test_a_case_is_the_same_in_every_run(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        draft = sound(tmp_path / name, random.Random("1/1"))
        for change in ("encodings", "few_of_another_series", "names_with_letters"):
            CHANGES[change].make(draft)
        files = sorted(path for path in draft.root.rglob("*") if path.is_file())
        contents.append({path.relative_to(draft.root): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        ("patient_moved", "the answer changed"),
        ("scanned_in_the_mirror", "sides do not change places"),
        ("series_gone", "the cause is not named"),
        ("copied_file", "the answer changed, though the fault could be set aside"),
    ],
)
def test_an_answer_that_does_not_follow_is_a_finding(change: str, flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of the changed study, the sound one with other rows is answered, without a word."""
    before = metamorphic.sound_result()
    rows = {name: [row[1], row[0], row[2]] for name, row in before.rows.items()}
    lie = metamorphic.Ended(rows=rows, issues=before.issues)
    monkeypatch.setattr(metamorphic, "run", lambda *_: lie)
    assert any(one.startswith(flaw) for one in metamorphic.run_change(change).flaws)


def _main_that_raises(words: list[str]) -> int:
    raise ZeroDivisionError


def _main_that_says(text: str, code: int) -> object:
    def main(words: list[str]) -> int:
        print(text, file=metamorphic.sys.stderr)
        return code

    return main


@pytest.mark.parametrize(
    ("main", "flaw"),
    [
        (_main_that_raises, "a traceback"),
        (_main_that_says("one.\ntwo.", 1), "2 lines instead of one sentence"),
        (_main_that_says("x" * 400, 1), "a sentence of 400 characters"),
        (_main_that_says("study 1: TypeError: int()", 1), "jargon: TypeError"),
        (_main_that_says("", 3), "exit code 3"),
        (_main_that_says("", 0), "0 rows"),
        (lambda words: metamorphic.time.sleep(9), "a traceback"),
    ],
)
def test_a_run_that_ends_badly_is_a_finding(main: object, flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metamorphic.sound_result()
    monkeypatch.setattr(train_utils, "main", main)
    monkeypatch.setattr(metamorphic, "LIMIT_SECONDS", 1.0)
    assert flaw in metamorphic.run_change("noise").flaws
