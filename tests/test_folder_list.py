"""Of a tree of DICOM files: its --list, an edited one, what names a patient, and what a study was made from."""

import io
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lumbar.dicom.veil import hide, veil
from lumbar.issues import InputError
from lumbar.labels import SERIES_DESCRIPTIONS
from lumbar.prediction.store import _fingerprint
from lumbar.study.folder import open_folder
from lumbar.study.study import DataFolder, open_data, read_study
from tests.support.archives import VENDORS, add_series, copy_study, files_of, zipped
from tests.support.trees import Run, a_list, command, phantoms_and_bundle, predict, series_of

pytestmark = pytest.mark.usefixtures("networks_kept")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantoms_and_bundle(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def tables(world: Path) -> DataFolder:
    return open_data(world / "data")


@pytest.fixture
def tree(tables: DataFolder, tmp_path: Path) -> Path:
    """One phantom study as a disc holds it."""
    copy_study(tables.folder(tables.study_ids[0]), tmp_path / "tree", VENDORS["GE"])
    return tmp_path / "tree"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return command(capfd)


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_shows_parts_and_reasons_and_an_edited_one_overrules(
    tree: Path,
    tables: DataFolder,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    world: Path,
) -> None:
    stir = add_series(series_of(tables, tables.study_ids[0], "Sagittal T2/STIR"), tree, SeriesDescription="LOC")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, out, err = run("predict", "--data", tree, "--list")
    assert code == 0, err
    for part in SERIES_DESCRIPTIONS:
        assert part in out
    assert "a localiser: it is called LOC" in out
    listed = pd.read_csv("series.csv", dtype=str, keep_default_na=False)
    assert run("predict", "--data", tree, "--list")[0] == 0  # the same list again
    listed.loc[listed["series_description"] == "Sagittal T2/STIR", "series_description"] = ""
    chosen = listed["series_instance_uid"] == stir
    listed.loc[chosen, "series_description"] = "sagittal t2/stir"
    listed.to_csv("series.csv", index=False)
    code, _, err = run("predict", "--data", tree, "--list")
    assert code == 1
    assert "this command did not write it" in err
    code, out, _ = run("predict", "--data", tree, "--list", "--series", "series.csv")
    assert code == 0
    assert "as the given list says" in out
    found = open_folder(tree, series=Path("series.csv"))
    used = read_study(found, 1).series["sagittal_t2"]
    assert [str(one.series_id) for one in used] == list(listed.loc[chosen, "series_id"])
    predict(run, tree, world, tmp_path / "out", "--series", "series.csv")


WRONG = {
    "a series that is not there": ({"series_id": "4711"}, "is not in this folder"),
    "another tree's": ({"series_instance_uid": "1.2.3"}, "is not in this folder"),
    "a word that is none": ({"series_description": "Sagittal T3"}, "unknown series_description 'Sagittal T3'"),
    "no number": ({"study_id": "one"}, "not a whole number"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_list_that_does_not_fit_is_refused_in_one_sentence(what: str, tree: Path, tmp_path: Path) -> None:
    listed = a_list(tree, tmp_path / "out").astype(str)
    cells, words = WRONG[what]
    for column, text in cells.items():
        listed.loc[0, column] = text
    listed.to_csv(tmp_path / "series.csv", index=False)
    with pytest.raises(InputError, match=words):
        open_folder(tree, series=tmp_path / "series.csv")


def test_odd_texts_and_names_stay_one_line_of_a_table(tree: Path, tables: DataFolder, tmp_path: Path) -> None:
    files = series_of(tables, tables.study_ids[0], "Sagittal T1")
    place = tree / os.fsdecode(b"M\xfcller")
    add_series(files, place, name="a\nb", SeriesDescription="DIXON " * 2000 + "\x1b[31m", SeriesNumber=None)
    listed = a_list(tree, tmp_path / "out")
    row = listed[listed["description"].str.startswith("DIXON")].iloc[0]
    assert row["folder"] == r"M\xfcller/a\nb"
    assert len(row["description"]) <= 250
    assert row["series_id"] > 0
    assert open_folder(tree, series=tmp_path / "out" / "series.csv").study_ids == (1,)


def test_of_a_folder_with_tables_the_list_is_what_these_say(world: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("predict", "--data", world / "data", "--out", tmp_path / "out", "--list")
    assert code == 0
    told = open_data(world / "data").series
    assert len(out.splitlines()) == len(told) + 1
    for row, line in zip(told.itertuples(), out.splitlines()[1:], strict=True):
        words = (str(row.study_id), str(row.series_id), *str(row.series_description).split())
        assert line.split()[: len(words)] == list(words)
        assert line.endswith("the series table says so")
    assert not list(tmp_path.rglob("*.csv")), "nothing is written"
    (tmp_path / "series.csv").write_text("study_id,series_id,series_description\n")
    code, _, err = run("predict", "--data", world / "data", "--list", "--series", tmp_path / "series.csv")
    assert code == 1
    assert "has a series table, which says what plays which part; take --series away" in err
    assert run("predict", "--data", world / "data")[0] == 2  # --weights and --out are wanted without --list


def test_results_and_lists_do_not_go_into_the_tree(tree: Path, world: Path, run: Run) -> None:
    for more in (("--list",), ("--weights", world / "weights")):
        code, _, err = run("predict", "--data", tree, "--out", tree / "A" / "out", *more)
        assert code == 1
        assert "which is read from" in err


# -- whose images they are --------------------------------------------------------------------------------------------

WHO = {"PatientName": "Zebrafinch^Quilla^M^Dr", "PatientID": "MRN-8675309", "PatientBirthDate": "19470213"}


def test_no_output_names_the_patient(
    tables: DataFolder, world: Path, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def named(_: str, header: Any) -> None:
        for keyword, value in WHO.items():
            setattr(header, keyword, value)
        header.SeriesDescription = f"{header.SeriesDescription} Quilla 13.02.1947"
        if header.InstanceNumber % 3 == 0:
            header.PixelSpacing = None  # faults are told by the names of files

    tree = tmp_path / "ZEBRAFINCH_Quilla"
    copy_study(
        tables.folder(tables.study_ids[0]),
        tree,
        lambda study, series, image, header: (
            f"mrn8675309/1947-02-13/s{series}_QUILLAZEBRAFINCH/zebrafinch.quilla.13021947.{image}"
        ),
        change=named,
    )
    said = "".join(run("predict", "--data", tree, "--list", "--out", tmp_path / "list")[1:])
    predict(run, tree, world, tmp_path / "out", "--html")
    written = [path.read_text() for name in ("list", "out") for path in files_of(tmp_path / name)]
    assert any("slice_dropped" in text for text in written)
    for text in (*written, said, caplog.text):
        for secret in ("zebrafinch", "quilla", "8675309", "19470213", "1947-02-13", "13021947", "13.02.1947"):
            assert secret not in text.casefold()


def test_short_names_and_numbers_are_hidden_only_where_they_stand_alone() -> None:
    pattern = veil([("Li^Wei", "017", ""), ("王^小明", "", "")])
    assert hide("LI_wei/T1 line 0170/017/王小明頭", pattern) == "[patient]/T1 line 0170/[patient]/[patient]頭"
    assert veil([("", "", "")]) is None


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_what_a_study_was_made_from_follows_its_files(tree: Path, tmp_path: Path, tables: DataFolder) -> None:
    packed = zipped(tree, tmp_path / "t.zip")
    first = _fingerprint(open_folder(tree), 1)
    zips = [_fingerprint(open_folder(packed), 1) for _ in range(2)]  # unpacked into two folders
    add_series(series_of(tables, tables.study_ids[0], "Sagittal T1"), tree, SeriesDescription="LOC")
    beside = _fingerprint(open_folder(tree), 1)
    path = next(files_of(tree / "A"))
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert zips[0] == zips[1]
    assert first == beside != _fingerprint(open_folder(tree), 1)


def test_every_header_is_read_once_and_no_pixels(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in files_of(tree):
        path.write_bytes(path.read_bytes()[:-1000])  # into the pixels
    opened: list[Path] = []

    def counted(self: Path, *words: Any, **more: Any) -> Any:
        opened.append(self)
        return io.open(self, *words, **more)  # noqa: UP020 - what Path.open does

    monkeypatch.setattr(Path, "open", counted)
    assert len(open_folder(tree).series) == 3
    assert sorted(opened) == sorted(files_of(tree))
