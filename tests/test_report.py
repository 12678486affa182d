"""The run report says what was used, missing and repaired, in JSON, without folders of the machine."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lumbar.issues import CODES, Issue
from lumbar.labels import CONDITIONS, LABEL_COLUMNS
from lumbar.prediction.result import StudyResult
from lumbar.prediction.run_report import (
    describe_evidence,
    describe_prior,
    describe_rows,
    exceeded_share,
    failed_studies,
    prior_studies,
    run_report,
    show_issues,
)
from lumbar.prediction.versions import versions_here
from lumbar.recipe.card import Card
from lumbar.recipe.evidence import Evidence

TESTED = Evidence(
    learnt_from="phantoms",
    tested=({"patients": 41, "cases": "205 discs", "graded_by": "two readers", "figures": {"kappa": 0.5213}},),
)
ROOT = Path("/home/someone/private folder")
DATA: Any = SimpleNamespace(
    root=ROOT,
    tree=None,
    split="test",
    study_ids=(11, 12),
    unlisted=(13,),
    issues=(Issue("study_unlisted", 13, None, "no row"),),
)
BUNDLE: Any = SimpleNamespace(
    folder=ROOT / "bundle",
    identity="ab" * 32,
    manifest=SimpleNamespace(
        description="a test",
        members=[
            SimpleNamespace(name="t2", spec=SimpleNamespace(stage="keypoints"), fold=0, sha256="cd" * 32),
            SimpleNamespace(name="spinal", spec=SimpleNamespace(stage="grading"), fold=None, sha256="ef" * 32),
        ],
        card=Card(evidence={"spinal_canal_stenosis": TESTED}),
        blend=SimpleNamespace(model_dump=lambda: {"method": "mean"}),
    ),
)


def result(
    study_id: int,
    graded: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    members: np.ndarray | None = None,
    **more: Any,
) -> StudyResult:
    """A study's result with nothing blended; all graded and seen by two members, where nothing else is said."""
    there = np.ones((5, 5), bool)
    return StudyResult(
        study_id,
        probabilities=np.full((5, 5, 3), 1 / 3),
        members=np.full((2, 5, 5, 3), 1 / 3) if members is None else members,
        graded=there if graded is None else graded,
        seen=there if seen is None else seen,
        **{"ran_on": "cpu, fused float32", "dropped": ("spinal",), **more},
    )


def two_results() -> list[Any]:
    graded = np.ones((5, 5), bool)
    graded[3, 0] = graded[4, 0] = False
    seen = graded.copy()
    seen[1] = False
    members = np.where(graded[None, ..., None], np.full((2, 1, 1, 3), 1 / 3), np.nan)
    members[0, 1] = np.nan  # of two members one saw the left foramina's levels on other series
    points = (
        SimpleNamespace(confidence=np.float32(0.9), repaired=False),
        SimpleNamespace(confidence=0.25, repaired=True),
    )
    issues = (
        Issue("region_padded", 11, 7, "one"),
        Issue("region_padded", 11, 8, "two"),
        Issue("condition_ungraded", 11, None, f"there is no folder 9 in {ROOT}/test_images and {ROOT}"),
    )
    used = {"sagittal_t1": [np.int64(7)], "axial_t2": []}
    return [
        result(11, graded, seen, members, keypoints=points, issues=issues, used=used, seconds=np.float64(2.5)),
        result(
            12,
            np.zeros((5, 5), bool),
            np.zeros((5, 5), bool),
            np.full((2, 5, 5, 3), np.nan),
            issues=(Issue("study_failed", 12, None, "gone"),),
            seconds=0.5,
            failed=True,
        ),
    ]


def test_the_report_counts_where_every_row_came_from() -> None:
    rows = run_report(two_results(), DATA, BUNDLE)["rows"]
    assert (rows["total"], rows["from_members"], rows["from_prior"]) == (50, 23, 27)
    assert list(rows["by_condition"]) == list(CONDITIONS)
    assert rows["from_other_views"] == 5
    none = {"from_members": 4, "from_other_views": 0, "from_prior": 6}
    assert rows["by_condition"]["left_subarticular_stenosis"] == none
    assert rows["by_condition"]["left_neural_foraminal_narrowing"]["from_other_views"] == 5
    assert describe_rows(two_results()) == (
        "50 rows: 23 from members (5 of them without the condition's own view), 27 from the weighted prior."
    )
    assert sum(part["from_members"] for part in rows["by_condition"].values()) == 23


def test_the_report_names_each_studys_series_rows_and_keypoints() -> None:
    first, second = run_report(two_results(), DATA, BUNDLE)["studies"]
    assert first["series_used"] == {"sagittal_t1": [7], "axial_t2": []}
    assert list(first["rows"]) == list(LABEL_COLUMNS)
    assert first["rows"]["spinal_canal_stenosis_l1_l2"] == {"from": "own view", "members": 2}
    assert first["rows"]["left_neural_foraminal_narrowing_l5_s1"] == {"from": "other views", "members": 1}
    assert [name for name, row in first["rows"].items() if row == {"from": "prior", "members": 0}] == [
        "left_subarticular_stenosis_l1_l2",
        "right_subarticular_stenosis_l1_l2",
    ]
    assert first["keypoints"] == {"found": 2, "repaired": 1, "lowest_confidence": 0.25}
    assert second["failed"]
    assert {row["from"] for row in second["rows"].values()} == {"prior"}
    assert second["keypoints"] == {"found": 0, "repaired": 0, "lowest_confidence": None}


def test_the_report_counts_lists_and_explains_every_issue() -> None:
    issues = run_report(two_results(), DATA, BUNDLE)["issues"]
    assert issues["counts"] == {"condition_ungraded": 1, "region_padded": 2, "study_failed": 1, "study_unlisted": 1}
    assert issues["meanings"] == {code: CODES[code] for code in issues["counts"]}
    assert [(entry["code"], entry["study"], entry["series"]) for entry in issues["list"]] == [
        ("region_padded", 11, 7),
        ("region_padded", 11, 8),
        ("condition_ungraded", 11, None),
        ("study_failed", 12, None),
        ("study_unlisted", 13, None),
    ]


def test_the_report_names_no_folder_of_the_machine() -> None:
    text = json.dumps(run_report(two_results(), DATA, BUNDLE, options={"on_error": "fail"}))
    assert "someone" not in text
    assert "there is no folder 9 in test_images and the data folder" in text


def test_the_report_survives_json_unchanged_whatever_the_options_hold() -> None:
    options = {"device": Path("cuda:0"), "amp": None, "limit": np.float32(0.5), "studies": 2, "on_error": "prior"}
    report = run_report(two_results(), DATA, BUNDLE, options=options, versions={"torch": "2"})
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["options"] == {"device": "cuda:0", "amp": None, "limit": 0.5, "studies": 2, "on_error": "prior"}
    assert report["versions"] == {"torch": "2"}


def test_the_report_identifies_the_bundle_by_its_hash() -> None:
    bundle = run_report(two_results(), DATA, BUNDLE)["bundle"]
    assert bundle["identity"] == "ab" * 32
    assert [member["name"] for member in bundle["members"]] == ["t2", "spinal"]
    assert [member["stage"] for member in bundle["members"]] == ["keypoints", "grading"]


def test_the_report_is_a_pure_function() -> None:
    results, options = two_results(), {"on_error": "fail"}
    before = copy.deepcopy([vars(result) for result in results])
    once = run_report(results, DATA, BUNDLE, options=options, versions={"torch": "2"})
    again = run_report(results, DATA, BUNDLE, options=options, versions={"torch": "2"})
    assert once == again
    assert repr([vars(result) for result in results]) == repr(before)
    assert options == {"on_error": "fail"}


def test_seconds_are_summed_unless_the_run_was_timed() -> None:
    seconds = run_report(two_results(), DATA, BUNDLE)["seconds"]
    assert seconds == {"total": 3.0, "median_per_study": 1.5, "slowest_study": 11}
    assert run_report(two_results(), DATA, BUNDLE, seconds=9.25)["seconds"]["total"] == 9.25


def test_a_run_without_studies_still_has_a_report() -> None:
    report = run_report([], DATA, BUNDLE)
    json.dumps(report, allow_nan=False)
    assert report["rows"]["total"] == 0
    assert report["seconds"] == {"total": 0, "median_per_study": None, "slowest_study": None}


def test_versions_name_what_computes_the_numbers() -> None:
    versions = versions_here()
    assert versions["numpy"] == np.__version__
    assert {"python", "torch", "timm", "pydicom"} <= versions.keys()


@pytest.mark.parametrize(
    ("failed", "studies", "exceeded"), [(0, 0, False), (0, 5, False), (1, 10, False), (2, 10, True), (1, 9, True)]
)
def test_only_more_than_a_tenth_of_failed_studies_is_too_much(failed: int, studies: int, exceeded: bool) -> None:
    results: list[Any] = [result(number, failed=number < failed) for number in range(studies)]
    assert exceeded_share(results) is exceeded
    assert failed_studies(results) == prior_studies(results) == list(range(failed))


def test_studies_of_nothing_but_the_prior_are_named_and_counted_by_cause() -> None:
    nothing = np.zeros((5, 5), dtype=bool)
    late, bad = (Issue("out_of_time", 0, None, "late"),), (Issue("study_failed", 1, None, "bad"),)
    results: list[Any] = [
        result(0, failed=True, graded=nothing, issues=late),
        result(1, failed=True, graded=nothing, issues=bad),
        result(2, graded=nothing),
        result(3),
    ]
    assert (failed_studies(results), prior_studies(results)) == ([0, 1], [0, 1, 2])
    report = run_report(results, DATA, BUNDLE)
    assert (report["failed_studies"], report["prior_studies"]) == ([0, 1], [0, 1, 2])
    said = describe_prior(results)
    assert (
        "3 of 4 studies could not be graded and took the prior (1 condition_ungraded, 1 out_of_time, 1 study_failed)"
        in said
    )
    assert said.endswith("run again with more --hours, and check the files of the others")
    only_late = describe_prior(results[:1])
    assert "1 of 1 studies could not be graded and took the prior (1 out_of_time)" in only_late
    assert only_late.endswith("run again with more --hours")
    assert describe_prior(results[1:3]).endswith("check their files")


def test_the_issue_table_puts_the_most_frequent_first() -> None:
    table = show_issues(two_results())
    assert list(table["issue"]) == ["region_padded", "condition_ungraded", "study_failed"]
    assert list(table["times"]) == [2, 1, 1]
    assert list(table["studies"]) == [1, 1, 1]
    assert table["first example"][0] == "study 11, series 7: one"
    assert list(table["meaning"]) == [CODES[code] for code in table["issue"]]


def test_the_issue_table_of_a_clean_run_is_empty_with_its_columns() -> None:
    table = show_issues([])
    assert table.empty
    assert "meaning" in table.columns


def test_the_report_says_what_each_condition_rests_on_and_which_studies_are_phantoms() -> None:
    report = run_report([result(11, phantom=True), result(12)], DATA, BUNDLE)
    assert list(report["evidence"]) == list(CONDITIONS)
    canal, recess = report["evidence"]["spinal_canal_stenosis"], report["evidence"]["left_subarticular_stenosis"]
    assert (canal["tested_on_patients"], recess["tested_on_patients"]) == (True, False)
    says = "learnt from phantoms alone, tested on 41 patients (205 discs), graded by two readers: kappa 0.521"
    assert canal["says"] == says
    assert canal["tested"][0]["figures"] == {"kappa": 0.5213}
    assert recess["learnt_from"] == "unknown"
    assert [study["phantom"] for study in report["studies"]] == [True, False]
    assert describe_evidence([result(11, phantom=True), result(12)], BUNDLE) == (
        f"What the severities rest on: spinal: {says}; foraminal, subarticular: what it learnt from is not told, no "
        "test on patients is told. 1 of 2 studies are phantoms."
    )
