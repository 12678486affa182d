"""Any tree of DICOM files, or a zip of one, is graded as tables would have it: by `predict` and its --list."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

import train_utils
from lumbar.dicom.veil import hide, veil
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, SERIES_DESCRIPTIONS, SERIES_TYPES, SEVERITIES
from lumbar.prediction.store import _fingerprint
from lumbar.study.folder import list_folder, open_folder
from lumbar.study.study import DataFolder, Study, open_data, read_study
from tests.support.archives import VENDORS, add_clutter, add_series, copy_study, files_of, save, zipped
from tests.support.chosen import few_of_each
from tests.support.tiny_dicom import merge_into_enhanced
from tests.support.worlds import small_phantoms, tiny_bundle


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantom studies with tables, and a bundle."""
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data", variations={0: {"two_axial": False}, 1: {"two_axial": False}})
    tiny_bundle(root / "weights")
    return root


@pytest.fixture(scope="module")
def tables(world: Path) -> DataFolder:
    return open_data(world / "data")


@pytest.fixture
def tree(tables: DataFolder, tmp_path: Path) -> Path:
    """One phantom study as a disc holds it."""
    copy_study(tables.folder(tables.study_ids[0]), tmp_path / "tree", VENDORS["GE"])
    return tmp_path / "tree"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = train_utils.main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capfd.readouterr()
        return code, told.out, told.err

    return call


def predict(
    run: Callable[..., tuple[int, str, str]], data: Path, world: Path, out: Path, *more: object
) -> pd.DataFrame:
    """The submission by study and row."""
    code, _, err = run(
        "predict", "--data", data, "--weights", world / "weights", "--out", out, "--device", "cpu", *more
    )
    assert code == 0, err
    return pd.read_csv(out / "submission.csv", index_col="row_id")


def rows(table: pd.DataFrame, study: int) -> np.ndarray:
    return table.loc[[f"{study}_{column}" for column in LABEL_COLUMNS], list(SEVERITIES)].to_numpy()


def series_of(files: DataFolder, study: int, part: str) -> list[Path]:
    """Files of a study's series of that part."""
    table = files.series
    number = table.loc[(table["study_id"] == study) & (table["series_description"] == part), "series_id"].iloc[0]
    return files.series_files(study, int(number))


def a_list(tree: Path, out: Path) -> pd.DataFrame:
    """`series.csv` of a tree."""
    list_folder(tree, out)
    return pd.read_csv(out / "series.csv", keep_default_na=False)


def assert_same(one: Study, other: Study) -> None:
    """The same series in the same parts, slice by slice, under the same numbers."""
    for kind in SERIES_TYPES:
        assert len(one.series[kind]) == len(other.series[kind]) == 1
        first, second = one.series[kind][0], other.series[kind][0]
        np.testing.assert_array_equal(first.affines, second.affines)
        assert [item.instance for item in first.slices] == [item.instance for item in second.slices]
        for a, b in zip(first.ordered("file"), second.ordered("file"), strict=True):
            np.testing.assert_array_equal(a.pixels, b.pixels)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", few_of_each(VENDORS, lambda _: "vendor", 2))
def test_vendors_names_and_folders_change_nothing(vendor: str, tables: DataFolder, tmp_path: Path) -> None:
    for number, study in enumerate(tables.study_ids):
        copy_study(tables.folder(study), tmp_path / "tree", VENDORS[vendor], number)
    add_clutter(tmp_path / "tree")
    found = open_folder(tmp_path / "tree")
    assert found.study_ids == (1, 2)
    assert found.tree is not None
    uid = dict(zip(found.tree.studies["study_instance_uid"], found.tree.studies["study_id"], strict=True))
    for study in tables.study_ids:
        own = dcmread(next(tables.folder(study).glob("*/*.dcm"))).StudyInstanceUID
        assert_same(read_study(tables, study), read_study(found, uid[own]))


def test_the_probabilities_are_those_of_the_tables(
    world: Path, tables: DataFolder, tmp_path: Path, run: Callable[..., Any]
) -> None:
    for number, study in enumerate(tables.study_ids):
        copy_study(tables.folder(study), tmp_path / "tree", VENDORS["Philips"], number)
    by_tables = predict(run, world / "data", world, tmp_path / "by_tables")
    from_tree = predict(run, tmp_path / "tree", world, tmp_path / "from_tree")
    from_zip = predict(run, zipped(tmp_path / "tree", tmp_path / "tree.zip"), world, tmp_path / "from_zip")
    for number, study in enumerate(tables.study_ids, 1):
        np.testing.assert_array_equal(rows(by_tables, study), rows(from_tree, number))
        np.testing.assert_array_equal(rows(by_tables, study), rows(from_zip, number))
    studies = pd.read_csv(tmp_path / "from_tree" / "studies.csv")
    assert list(studies.columns) == ["study_id", "folder", "study_instance_uid", "graded"]
    assert not (tmp_path / "by_tables" / "studies.csv").exists()


def test_a_real_study_as_a_hospital_stores_it(
    cc0_study: Path, world: Path, tables: DataFolder, tmp_path: Path, run: Callable[..., Any]
) -> None:
    real, tree = open_data(cc0_study), tmp_path / "disc"
    own = real.folder(1001)
    copy_study(own, tree / "PACS" / "2024" / "11", VENDORS["Siemens disc"], 1)
    copy_study(tables.folder(tables.study_ids[0]), tree / "PACS" / "2023" / "02", VENDORS["GE"], 2)
    sagittal, axial = files_of(own / "7"), files_of(own / "8")
    add_series(
        [*sagittal][4:7] + [*axial][7:10], tree / "PACS" / "2024" / "11", SeriesDescription="LOC", ScanningSequence="GR"
    )
    add_clutter(tree)
    by_tables = predict(run, cc0_study, world, tmp_path / "by_tables")
    for data in (tree, zipped(tree, tmp_path / "disc.zip")):
        out = tmp_path / f"of {data.name}"
        found = predict(run, data, world, out)
        studies = pd.read_csv(out / "studies.csv").set_index("study_instance_uid")["study_id"]
        number = int(studies[dcmread(next(own.glob("*/*.dcm"))).StudyInstanceUID])
        assert len(found) == 50
        np.testing.assert_array_equal(rows(found, number), rows(by_tables, 1001))
        keypoints = [pd.read_csv(place / "keypoints.csv") for place in (tmp_path / "by_tables", out)]
        keypoints[1] = keypoints[1][keypoints[1]["study_id"] == number].assign(study_id=1001).reset_index(drop=True)
        pd.testing.assert_frame_equal(*keypoints)


def test_an_enhanced_file_is_a_series_of_its_frames(tables: DataFolder, tmp_path: Path) -> None:
    study = tables.study_ids[0]
    shutil.copytree(tables.folder(study), tmp_path / "tree")
    for folder in list((tmp_path / "tree").iterdir()):
        merge_into_enhanced(folder, shared=False).rename(folder / "IMG")
    found = read_study(open_folder(tmp_path / "tree"), 1)
    for kind in SERIES_TYPES:
        np.testing.assert_allclose(found.series[kind][0].affines, read_study(tables, study).series[kind][0].affines)


# -- what plays no part ----------------------------------------------------------------------------------------------

ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "localiser": ("Sagittal T2/STIR", {"SeriesDescription": "3-pl loc"}),
    "MIP": ("Sagittal T2/STIR", {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}),
    "MPR": ("Sagittal T2/STIR", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
    "subtraction": ("Sagittal T1", {"SeriesDescription": "T1 SUB"}),
    "diffusion": ("Sagittal T2/STIR", {"DiffusionBValue": 800.0, "SeriesDescription": "sag"}),
    "phase": ("Sagittal T1", {"ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "IP"]}),
    "Dixon": ("Sagittal T2/STIR", {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}),
    "contrast medium": ("Sagittal T1", {"ContrastBolusAgent": "Gadovist", "SeriesDescription": "T1 sag"}),
    "another part": ("Sagittal T2/STIR", {"BodyPartExamined": "BRAIN", "SeriesDescription": "T2"}),
    "modality is CT": ("Sagittal T2/STIR", {"Modality": "CT", "SOPClassUID": CTImageStorage}),
    "no MR image": ("Sagittal T2/STIR", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    "how the slices lie": ("Sagittal T2/STIR", {"ImageOrientationPatient": None}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_series_beside_the_others_changes_nothing_and_is_told(kind: str, tree: Path, tables: DataFolder) -> None:
    plain, (part, tags) = read_study(open_folder(tree), 1), ODD[kind]
    files = series_of(tables, tables.study_ids[0], part)
    add_series([*files, *files[:0]], tree, **tags)
    found = open_folder(tree)
    study = read_study(found, 1)
    assert_same(plain, study)
    told = [issue.detail for issue in study.issues if issue.code == "series_ignored"]
    assert len(told) == 1
    assert kind in told[0]


def test_slices_in_several_planes_are_a_localiser(tree: Path, tables: DataFolder) -> None:
    parts = [series_of(tables, tables.study_ids[0], part)[:4] for part in ("Sagittal T2/STIR", "Axial T2")]
    add_series([*parts[0], *parts[1]], tree, SeriesDescription="t2")
    told = [issue.detail for issue in open_folder(tree).issues]
    assert sum("localiser: its slices lie in several planes" in detail for detail in told) == 1


def test_echoes_of_one_series_are_told_apart(tree: Path, tables: DataFolder) -> None:
    """Proton density and T2 of one scan: those images play the part that are of its weighting."""
    study = tables.study_ids[0]
    shutil.rmtree(tree)
    files = series_of(tables, study, "Sagittal T2/STIR")
    uid = generate_uid(entropy_srcs=["two echoes"])
    for number, path in enumerate([*files, *files], 1):
        header = dcmread(path)
        header.EchoTime = 20.0 if number > len(files) else 105.0
        header.SeriesInstanceUID, header.InstanceNumber, header.SeriesDescription = uid, number, "sag"
        header.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        save(header, tree / f"I{number}")
    found = open_folder(tree)
    assert len(found.series) == 1
    assert len(read_study(found, 1).series["sagittal_t2"][0]) == len(files)


def test_of_several_candidates_the_best_plays_and_the_others_are_named(
    tree: Path, tables: DataFolder, tmp_path: Path
) -> None:
    files = series_of(tables, tables.study_ids[0], "Sagittal T2/STIR")
    add_series(files[1:], tree, name="fewer")
    found, listed = open_folder(tree), a_list(tree, tmp_path)
    several = listed[listed["series_description"] == "Sagittal T2/STIR"]
    assert sorted(several["plays"]) == ["in reserve", "yes"]
    best, other = (int(several.loc[several["plays"] == word, "series_id"].iloc[0]) for word in ("yes", "in reserve"))
    assert f"better than series {other}" in " ".join(several["why"])
    study = read_study(found, 1)
    assert f"series {best} is better" in " ".join(issue.detail for issue in study.issues if issue.series == other)


def test_a_study_of_something_else_is_numbered_and_not_graded(tree: Path, tables: DataFolder) -> None:
    copy_study(tables.folder(tables.study_ids[1]), tree / "knee", VENDORS["GE"], change=_as_knee)
    found = open_folder(tree)
    assert (found.study_ids, found.unlisted) == ((1,), (2,))
    assert any(issue.code == "study_unlisted" and "another part of the body" in issue.detail for issue in found.issues)


def _as_knee(_: str, header: Any) -> None:
    header.BodyPartExamined, header.SeriesDescription = "KNEE", ""


def test_copies_damaged_files_and_strange_ones_are_told(tree: Path) -> None:
    first = next(files_of(tree))
    shutil.copy(first, tree / "again")
    (first.parent / "broken.dcm").write_bytes(b"no DICOM at all")
    add_clutter(tree)
    (tree / "loop").symlink_to(tree)
    study = read_study(open_folder(tree), 1)
    told = {issue.code: issue.detail for issue in study.issues}
    assert "1 copies of images" in told["file_ignored"]
    assert "1 links to folders" in told["file_ignored"]
    assert "1 packed as zip" in told["file_ignored"]
    assert "broken.dcm" in told["file_unreadable"]


def test_a_folder_without_images_or_without_a_part_is_one_sentence(
    tmp_path: Path, tree: Path, run: Callable[..., Any], world: Path
) -> None:
    (tmp_path / "empty").mkdir()
    add_clutter(tmp_path / "empty")
    for path in files_of(tree):
        header = dcmread(path)
        header.Modality = "CT"
        header.save_as(path)
    for data, words in ((tmp_path / "empty", "no DICOM image"), (tree, "its modality is CT")):
        code, _, err = run("predict", "--data", data, "--weights", world / "weights", "--out", tmp_path / "out")
        assert code == 1
        assert words in err
        assert err.count("\n") == 1
    code, out, _ = run("predict", "--data", tree, "--list", "--out", tmp_path)
    assert code == 0
    assert out.count("its modality is CT") == 3


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_shows_parts_and_reasons_and_an_edited_one_overrules(
    tree: Path,
    tables: DataFolder,
    tmp_path: Path,
    run: Callable[..., Any],
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


def test_of_a_folder_with_tables_the_list_is_what_these_say(
    world: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
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


def test_results_and_lists_do_not_go_into_the_tree(tree: Path, world: Path, run: Callable[..., Any]) -> None:
    for more in (("--list",), ("--weights", world / "weights")):
        code, _, err = run("predict", "--data", tree, "--out", tree / "A" / "out", *more)
        assert code == 1
        assert "which is read from" in err


# -- whose images they are --------------------------------------------------------------------------------------------

WHO = {"PatientName": "Zebrafinch^Quilla^M^Dr", "PatientID": "MRN-8675309", "PatientBirthDate": "19470213"}


def test_no_output_names_the_patient(
    tables: DataFolder, world: Path, tmp_path: Path, run: Callable[..., Any], caplog: pytest.LogCaptureFixture
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
