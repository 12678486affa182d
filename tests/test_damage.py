"""Every damaged study of `tests.support.damage`: its exact Issues, its rows, and nothing lost that could be graded."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from lumbar.bundle.bundle import Bundle
from lumbar.issues import InputError, Issue
from lumbar.labels import CONDITIONS, LABEL_COLUMNS
from lumbar.prediction import schedule
from lumbar.prediction.outputs import write_outputs
from lumbar.prediction.predictor import Predictor
from lumbar.prediction.result import StudyResult
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.submission import rounded, to_rows
from tests.support.chosen import asked_for, few_of_each
from tests.support.damage import CASES, GROUP_OF, watchful_bundle, write_matrix
from tests.support.tiny_dicom import SAGITTAL, write_stack

pytestmark = pytest.mark.usefixtures("networks_kept")

#: Issues that depend on what the random networks of the test believe to see, not on the files.
OF_NETWORKS = {
    "keypoint_low_confidence",
    "keypoint_repaired",
    "keypoint_missing",
    "levels_ambiguous",
    "orientation_doubtful",
    "region_padded",
    "series_off_centre",
    "window_repeated",
}


#: Cases that tests look at by name; of the others the first of each combination of Issues by default.
NEEDED = {"sound", "no series", "no folder"}
CHOSEN = few_of_each(CASES, lambda case: tuple(code for code, _ in case.told), 1, tuple(NEEDED))


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataFolder, Bundle, dict[str, int]]:
    """The damaged studies asked for, a bundle, and each case's study id."""
    root = tmp_path_factory.mktemp("damage")
    studies = write_matrix(root, asked_for(request) | NEEDED)
    return open_data(root), watchful_bundle(tmp_path_factory.mktemp("bundle")), studies


@pytest.fixture(scope="module")
def matrix(
    world: tuple[DataFolder, Bundle, dict[str, int]],
) -> tuple[dict[str, list[Issue]], dict[str, StudyResult]]:
    """What reading tells of each case, and the result of each."""
    data, bundle, studies = world
    told: dict[int, list[Issue]] = {}

    def noted(folder: DataFolder, study: int) -> Study:
        found = read_study(folder, study)
        told[study] = list(found.issues)
        return found

    with mock.patch("lumbar.study.study.read_study", noted):  # every study once; where children read, they do so below
        by_id = {result.study_id: result for result in schedule.predict(data, bundle, on_error="prior")}
    for study in set(studies.values()) - told.keys():
        noted(data, study)
    return {name: told[study] for name, study in studies.items()}, {
        name: by_id[study] for name, study in studies.items()
    }


@pytest.mark.parametrize("name", CHOSEN)
def test_a_damaged_study_tells_exactly_what_is_wrong(name: str, matrix: tuple) -> None:
    issues = matrix[0][name]
    assert Counter((issue.code, issue.series) for issue in issues) == Counter(CASES[name].told), issues
    assert CASES[name].says in " ".join(issue.detail for issue in issues)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_damaged_study_is_graded_as_far_as_it_can_be_seen(name: str, matrix: tuple, world: tuple) -> None:
    case, result, sound = CASES[name], matrix[1][name], matrix[1]["sound"]
    np.testing.assert_allclose(result.probabilities.sum(axis=-1), 1.0, atol=1e-9)
    prior = np.asarray(world[1].manifest.prior)
    is_prior = np.isclose(result.probabilities, prior, rtol=0, atol=1e-12).all(axis=-1)
    assert (is_prior == (not case.graded)).all()
    blind = {GROUP_OF[series] for series in case.blind}
    hidden = np.array([any(group in condition for group in blind) for condition in CONDITIONS])
    assert (result.seen == ~hidden[:, None]).all()
    assert (result.graded == case.graded).all()  # the global member speaks for what it sees elsewhere
    assert result.failed == (name in {"no series", "no folder"})
    codes = {issue.code for issue in result.issues} - OF_NETWORKS
    expected = {code for code, _ in case.told}
    if blind:
        expected |= {"study_failed" if result.failed else "condition_unseen" if case.graded else "condition_ungraded"}
    assert codes == expected
    assert set(case.later) <= {issue.code for issue in result.issues}
    if case.same:
        np.testing.assert_allclose(result.probabilities, sound.probabilities, atol=1e-5)


def test_the_report_says_of_every_row_of_every_damaged_study_what_it_came_from(
    matrix: tuple, world: tuple, tmp_path: Path
) -> None:
    data, bundle, studies = world
    results = sorted(matrix[1].values(), key=lambda result: data.study_ids.index(result.study_id))
    submission = pd.read_csv(write_outputs(results, data, bundle, tmp_path), index_col="row_id")
    assert list(submission.index) == [f"{study}_{column}" for study in data.study_ids for column in LABEL_COLUMNS]
    report = json.loads((tmp_path / "run_report.json").read_text())
    entries = {entry["study_id"]: entry["rows"] for entry in report["studies"]}
    told: Counter[str] = Counter()
    for name, study in studies.items():
        case, result = CASES[name], matrix[1][name]
        hidden = {GROUP_OF[series] for series in case.blind}
        rows = rounded(to_rows([study], result.probabilities[None])).set_index("row_id").to_numpy()
        for column, row in zip(LABEL_COLUMNS, rows, strict=True):
            unseen = any(group in column for group in hidden)
            source = "prior" if not case.graded else "other views" if unseen else "own view"
            assert entries[study][column]["from"] == source, (name, column)
            assert (entries[study][column]["members"] == 0) == (source == "prior"), (name, column)
            told[source] += 1
            np.testing.assert_allclose(submission.loc[f"{study}_{column}"], row, atol=1e-9)
    assert min(told.values()) > 0
    assert report["rows"]["total"] == told.total() == 25 * len(studies)
    assert report["rows"]["from_prior"] == told["prior"]
    assert report["rows"]["from_other_views"] == told["other views"]
    assert report["failed_studies"] == [studies["no series"], studies["no folder"]]


# -- what may not be read --------------------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A data folder of one sagittal series outside of the user's own folders, so that another user could reach it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        write_stack(root / "test_images" / "11" / "1", [0, 4, 8], SAGITTAL)
        table = "study_id,series_id,series_description\n11,1,Sagittal T1\n"
        (root / "test_series_descriptions.csv").write_text(table)
        yield root


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: act as a user who may not."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX permissions")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "told", "graded"),
    [
        ("test_images/11/1/2.dcm", [("file_unreadable", 1)], True),
        ("test_images/11/1", [("series_ignored", 1), ("series_missing", None)], False),
        ("test_images/11", [("series_missing", None), ("series_missing", None)], False),
    ],
)
def test_what_may_not_be_read_is_told(guarded: Path, closed: str, told: list, graded: bool, world: tuple) -> None:
    predictor = Predictor(world[1])
    list(schedule.grade_all(predictor, open_data(guarded), [11]))  # everything is imported before the user changes
    (guarded / closed).chmod(0)
    try:
        with as_nobody():
            issues = read_study(open_data(guarded), 11).issues
            result = next(schedule.grade_all(predictor, open_data(guarded), [11], on_error="prior"))
    finally:
        (guarded / closed).chmod(0o755)
    missing = [("series_missing", None)] * 2  # the two types that the folder never had
    assert [(issue.code, issue.series) for issue in issues] == told + missing
    assert "cannot be read (Permission denied)" in issues[0].detail
    assert (result.graded == graded).all()
    np.testing.assert_allclose(result.probabilities.sum(axis=-1), 1.0, atol=1e-9)
    if not graded:
        np.testing.assert_array_equal(result.probabilities, np.asarray(world[1].manifest.prior))


@pytest.mark.parametrize("closed", ["test_images", "test_series_descriptions.csv"])
def test_a_data_folder_that_may_not_be_read_is_one_sentence(guarded: Path, closed: str) -> None:
    open_data(guarded)
    (guarded / closed).chmod(0)
    try:
        with as_nobody(), pytest.raises(InputError, match=rf"{closed}.* cannot be read .*Permission denied"):
            open_data(guarded)
    finally:
        (guarded / closed).chmod(0o755)


# -- tables ----------------------------------------------------------------------------------------------------------

HEADER = "study_id,series_id,series_description"


@pytest.mark.parametrize(
    ("table", "studies", "used", "told"),
    [
        (f"\ufeff{HEADER}\r\n11,1,Sagittal T1\r\n", (11,), [1], []),
        ("extra,series_description,series_id,study_id\nx,sagittal t1,1,11\n", (11,), [1], []),
        (f"{HEADER}\n11,1,Sagittal T1\n11,1,Sagittal T1\n", (11,), [1], []),
        (f"{HEADER}\n11,1,Sagittal T1\n11,1,Axial T2\n", (11,), [1], [("series_ignored", 1)]),
        (f"{HEADER}\n11.0,1.0,Sagittal T1\n", (11,), [1], []),
        (f"{HEADER}\n11,1,Scout\n", (11,), [], [("series_ignored", 1), ("series_missing", None)]),
        (f"{HEADER}\n11,1,Sagittal T1\n11,one,Axial T2\n", (11,), [1], [("series_ignored", None)]),
        (
            f"{HEADER}\n11,1.5,Sagittal T1\n12,1e3,Axial T2\n",
            (11, 12),
            [],
            [
                ("series_ignored", None),
                ("series_ignored", 1),
                ("series_missing", None),
            ],
        ),
        (f"{HEADER}\n11,1,\n", (11,), [], [("series_ignored", 1), ("series_missing", None)]),
        (f"{HEADER}\n11,1,Sagittal T1\n12,1,Sagittal T1\n", (11, 12), [1], []),
    ],
)
def test_an_odd_series_table_is_understood(
    guarded: Path,
    table: str,
    studies: tuple,
    used: list[int],
    told: list,
    world: tuple,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # so that as many cores share a layer here and there
    plain = next(schedule.predict(open_data(guarded), world[1]))
    (guarded / "test_series_descriptions.csv").write_bytes(table.encode())
    data = open_data(guarded)
    found = list(schedule.predict(data, world[1], on_error="prior"))
    assert [result.study_id for result in found] == list(studies)
    assert [result.failed for result in found] == [not used, *(True for _ in studies[1:])]
    expected = plain.probabilities if used else np.asarray(world[1].manifest.prior)
    np.testing.assert_array_equal(found[0].probabilities, expected)
    study = read_study(data, 11)
    assert data.study_ids == studies
    assert [series.series_id for series in study.series["sagittal_t1"]] == used
    missing = [("series_missing", None)] * 2  # the two types that the folder never had
    assert [(issue.code, issue.series) for issue in study.issues] == told + missing
    if len(studies) > 1:
        assert any("cannot be read" in issue.detail for issue in read_study(data, 12).issues)


@pytest.mark.parametrize("row", ["eleven,1,Sagittal T1", "11.5,1,Sagittal T1", ",1,Axial T2"])
def test_study_ids_that_are_no_whole_numbers_stop_the_job_by_name(guarded: Path, row: str) -> None:
    path = guarded / "test_series_descriptions.csv"
    path.write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(InputError, match=r"test_series_descriptions\.csv: .* in data row 1 is not a whole number"):
        open_data(guarded)


def test_a_folder_that_the_table_does_not_name_is_told(guarded: Path) -> None:
    write_stack(guarded / "test_images" / "77" / "5", [0, 4])
    data = open_data(guarded)
    assert data.unlisted == (77,)
    assert [(issue.code, issue.study) for issue in data.issues] == [("study_unlisted", 77)]
