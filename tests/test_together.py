"""Images that do not belong together, or lie where no spine can: graded without them, and told by their cause."""

import contextlib
import csv
import io
import json
import shutil
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import train_utils
from lumbar.dicom.identity import Identity
from lumbar.dicom.series import Series
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.study.checks import same_frame
from tests.conftest import ROOT
from tests.support.chosen import asked_for, few_of_each
from tests.support.small_study import axial, sagittal
from tests.support.together_cases import CASES, Case
from tests.support.together_harms import SOURCE, WORDS

#: What moves no probability by more counts as the same answer: pixels that are turned are rounded otherwise.
SAME = 2e-3


#: Cases in which one cause hits every stack.
ONE_CAUSE = ("axial positions in centimetres", "axes of an axial slice in every stack")


#: Issues that tell by default of images that are left out as of images that are kept: two mechanisms.
BOTH_WAYS = ("study_mixed", "series_mixed", "slice_dropped")


def chosen(cases: dict[str, Case]) -> list[Any]:
    """Names of cases: the first of each Issue by default, of some whether the answer stays or not."""
    return few_of_each(cases, lambda case: (case.code, case.code in BOTH_WAYS and case.same), 1, ONE_CAUSE)


@dataclass(frozen=True)
class Answer:
    """What became of a study: (25, 3) probabilities, its entry and its Issues in the run report."""

    rows: np.ndarray
    entry: dict
    issues: list[dict]


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """The cases asked for as studies of one folder, graded by the shipped bundle through the command line."""
    root = tmp_path_factory.mktemp("together")
    wanted = asked_for(request) | set(ONE_CAUSE)
    names = ["sound", *(name for name in CASES if name in wanted)]
    studies = {name: 500 + place for place, name in enumerate(names)}
    lines = ["study_id,series_id,series_description"]
    for name, study in studies.items():
        folder = root / "data/test_images" / str(study)
        for series, old in SOURCE.items():
            shutil.copytree(ROOT / "sample_data/train_images/100001" / old, folder / str(series))
            lines.append(f"{study},{series},{WORDS[series]}")
        if name in CASES:
            CASES[name].harm(folder)
            lines += [f"{study},{CASES[name].rows}"] * bool(CASES[name].rows)
    (root / "data/test_series_descriptions.csv").write_text("\n".join(lines) + "\n")
    words = ["predict", "--data", str(root / "data"), "--weights", str(ROOT / "weights"), "--out", str(root / "out")]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train_utils.main([*words, "--device", "cpu"]) == 0, said.getvalue()
    with (root / "out/submission.csv").open() as stream:
        table = {row["row_id"]: [float(row[word]) for word in list(row)[1:]] for row in csv.DictReader(stream)}
    report = json.loads((root / "out/run_report.json").read_text())
    entries = {entry["study_id"]: entry for entry in report["studies"]}
    order = [f"{condition}_{level}" for condition in CONDITIONS for level in LEVELS]
    return {
        name: Answer(
            np.array([table[f"{study}_{column}"] for column in order]),
            entries[study],
            [issue for issue in report["issues"]["list"] if issue["study"] == study],
        )
        for name, study in studies.items()
    }


def told(answer: Answer, sound: Answer) -> list[dict]:
    known = {(issue["code"], issue["detail"]) for issue in sound.issues}
    return [issue for issue in answer.issues if (issue["code"], issue["detail"]) not in known]


@pytest.mark.parametrize("name", chosen(CASES))
def test_what_does_not_belong_is_told_by_its_cause(name: str, answers: dict[str, Answer]) -> None:
    case, new = CASES[name], told(answers[name], answers["sound"])
    if not case.code:
        assert new == []
        return
    found = [issue for issue in new if issue["code"] == case.code and case.says in issue["detail"]]
    assert found, new
    assert all(len(issue["detail"]) <= 300 for issue in new)


@pytest.mark.parametrize("name", chosen({name: case for name, case in CASES.items() if case.same}))
def test_the_answer_is_that_of_what_belongs_together(name: str, answers: dict[str, Answer]) -> None:
    assert np.abs(answers[name].rows - answers["sound"].rows).max() < SAME


#: The first of them is among those of the first test.
PRIOR = {name: case for name, case in CASES.items() if case.prior}


@pytest.mark.parametrize("name", few_of_each(PRIOR, lambda case: case.prior, 1))
def test_no_condition_is_graded_on_images_that_do_not_belong(name: str, answers: dict[str, Answer]) -> None:
    own = {column: row["from"] for column, row in answers[name].entry["rows"].items() if CASES[name].prior in column}
    assert len(own) == 10
    assert "own view" not in own.values()


def test_what_one_cause_did_to_every_stack_is_told_once(answers: dict[str, Answer]) -> None:
    for name in ONE_CAUSE:
        new = told(answers[name], answers["sound"])
        assert len([issue for issue in new if issue["code"] == "slice_dropped"]) == 1, new


def test_series_in_one_place_show_that_frames_of_reference_were_only_renamed() -> None:
    def framed(series: Series, uid: str) -> Series:
        named = [replace(item, identity=Identity(frame_of_reference=uid)) for item in series.slices]
        return replace(series, slices=tuple(named))

    t2, t1, ax = sagittal(1), sagittal(2), axial(3)
    named = [framed(t2, "1.1"), framed(t1, "1.2"), framed(ax, "1.3")]
    assert same_frame(named[0], named[2], named)
    assert not same_frame(named[0], named[2], [named[0], named[2]])
    assert not same_frame(named[0], framed(ax, "1.2"), [*named[:2], framed(ax, "1.2")])
    assert same_frame(named[0], ax, [named[0], ax])


def test_no_message_names_a_patient(answers: dict[str, Answer]) -> None:
    details = " ".join(issue["detail"] for answer in answers.values() for issue in answer.issues)
    assert "SOMEBODY" not in details
