"""Any tree of DICOM files, or a zip of one, is graded as tables would have it, and what plays no part is told."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid

from lumbar.labels import SERIES_TYPES
from lumbar.study.folder import open_folder
from lumbar.study.study import DataFolder, open_data, read_study
from tests.support.archives import VENDORS, add_clutter, add_series, copy_study, files_of, save, zipped
from tests.support.chosen import few_of_each
from tests.support.tiny_dicom import merge_into_enhanced
from tests.support.trees import Run, a_list, assert_same, command, phantoms_and_bundle, predict, rows, series_of

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


def test_the_probabilities_are_those_of_the_tables(world: Path, tables: DataFolder, tmp_path: Path, run: Run) -> None:
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
    cc0_study: Path, world: Path, tables: DataFolder, tmp_path: Path, run: Run
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
    out = tmp_path / "of the disc"
    by_tables, found = predict(run, cc0_study, world, tmp_path / "by_tables"), predict(run, tree, world, out)
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
    tmp_path: Path, tree: Path, run: Run, world: Path
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
