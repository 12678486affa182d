"""SPIDER's slices become studies that the rest of the house reads like any other."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.labels import LABEL_COLUMNS, LEVELS, SIDES, level_title
from lumbar.spider.foramina import PIXEL_MM
from lumbar.spider.parts import is_held_out
from lumbar.spider.write import FIRST_ID, FORAMEN_FROM_CANAL_MM, MIDSAGITTAL
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from tests.support.worlds import small_phantoms

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "spider"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two patients with three slices each, the middle one labelled; patient 7 is held out, patient 8 is not."""
    folder = tmp_path / "spider" / "t2_space"
    (folder / "images").mkdir(parents=True)
    rows = []
    for patient in (7, 8):
        for number in (58, 60, 62):
            image = np.full((640, 512), number, np.uint8)
            image[300:310, 200:210] = 250
            image[-200:] = np.random.default_rng(number).integers(0, 255, (200, 512))  # no two pictures are alike
            cv2.imwrite(str(folder / "images" / f"{patient}_t2_SPACE_slice{number}.png"), image)
        for place, level in enumerate(LEVELS):
            name = f"{patient}_t2_SPACE_slice60.png"
            title = level.upper().replace("_", "/")
            rows.append(
                {"patient": patient, "image": name, "slice": 60, "level": title, "x": 250, "y": 100 + 90 * place}
            )
    pd.DataFrame(rows).to_csv(folder / "canal_keypoints.csv", index=False)
    return folder.parent


def _convert(source: Path, out: Path, *more: str) -> int:
    return train_utils.main(["spider", "--source", str(source), "--out", str(out), *more])


def test_a_labelled_slice_becomes_a_study_with_its_neighbours(source: Path, tmp_path: Path) -> None:
    assert _convert(source, tmp_path / "data") == 0
    data = open_data(tmp_path / "data")
    study_id = FIRST_ID + 8 * 1000 + 60
    assert list(data.study_ids) == [study_id]
    study = read_study(data, study_id)
    (series,) = study.series["sagittal_t2"]
    assert {issue.code for issue in study.issues} == {"series_missing"}  # T1 and axial
    middles = [int(np.median(item.pixels)) for item in series.slices]
    assert sorted(middles) == [58, 60, 62]
    assert data.sources == {study_id: "SPIDER T2 SPACE"}
    keypoints = pd.read_csv(tmp_path / "data" / "train_label_coordinates.csv")
    assert list(keypoints["level"]) == ["L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]
    (instance,) = set(keypoints["instance_number"])
    labelled = next(item for item in series.slices if item.instance == instance)
    assert int(np.median(labelled.pixels)) == 60
    assert labelled.affine[1, 0] == pytest.approx(PIXEL_MM)  # columns to the back
    assert labelled.affine[2, 1] == pytest.approx(-PIXEL_MM)  # rows to the feet
    labels = pd.read_csv(tmp_path / "data" / "train.csv")
    assert labels[list(LABEL_COLUMNS)].isna().all(axis=None)


def test_held_out_patients_are_never_among_those_to_train_on(source: Path, tmp_path: Path) -> None:
    _convert(source, tmp_path / "a")
    _convert(source, tmp_path / "b", "--part", "held_out")
    train, held_out = (set(open_data(tmp_path / name).study_ids) for name in "ab")
    assert not train & held_out
    assert {is_held_out((study - FIRST_ID) // 1000) for study in train} == {False}
    assert {is_held_out((study - FIRST_ID) // 1000) for study in held_out} == {True}


def test_studies_join_those_of_a_folder_and_replace_themselves(source: Path, tmp_path: Path) -> None:
    small_phantoms(tmp_path / "data", 1, 5)
    for _ in range(2):
        assert _convert(source, tmp_path / "data") == 0
    assert len(open_data(tmp_path / "data").study_ids) == 2
    series = pd.read_csv(tmp_path / "data" / "train_series_descriptions.csv")
    assert not series.duplicated(["study_id", "series_id"]).any()


#: What stands in the data folder under the number of a study of SPIDER's, and what of it the sentence names.
TAKEN = {
    "labels of somebody else's study": ("train.csv", "study_id\n{study}\n", "train.csv: study {study}"),
    "series of somebody else's study": ("train_series_descriptions.csv", "study_id\n{study}\n", "study {study}"),
    "images": ("train_images/{study}/1/7.dcm", "mine", "holds 1, which this command did not write there"),
}


def test_a_slice_that_somebody_edited_stays(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(source, tmp_path / "data") == 0
    edited = sorted((tmp_path / "data").rglob("*.dcm"))[-1]
    edited.write_bytes(edited.read_bytes()[:-1] + b"\x7f")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert _convert(source, tmp_path / "data") == 1
    told = capsys.readouterr().err
    assert f"holds {edited.parent.name}/{edited.name}, which this command did not write there, or which" in told
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("what", TAKEN)
def test_a_study_of_the_same_number_that_is_not_of_spider_stays(
    what: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = FIRST_ID + 8 * 1000 + 60
    name, content, words = (text.format(study=study) for text in TAKEN[what])
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert _convert(source, tmp_path / "data") == 1
    assert words in capsys.readouterr().err
    assert path.read_text() == content
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == [path]


def test_grades_given_by_hand_stay_and_other_rows_are_kept_to_the_letter(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    others = "study_id,series_id,series_description\n0007,1.50,NA\n0008,,' Sagittal T1\n"
    (tmp_path / "data/train_series_descriptions.csv").write_text(others)
    assert _convert(source, tmp_path / "data") == 0
    assert (tmp_path / "data/train_series_descriptions.csv").read_text().startswith(others)
    table = tmp_path / "data" / "train.csv"
    table.write_text(table.read_text()[:-1] + "Severe\n")  # the last level of the only study
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert _convert(source, tmp_path / "data") == 1
    assert "train.csv: study 9000008060 has the number of one of SPIDER's" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.fixture
def points(source: Path) -> Path:
    """Mid-sagittal images of two patients, twice as high as wide: a spot at L4/L5; patient 13's is stored head down."""
    (source / "midsagittal").mkdir()
    rows = []
    for patient in (11, 13):
        image = np.full((400, 200), 20, np.uint8)
        image[276:284, 118:122] = 250
        cv2.imwrite(str(source / "midsagittal" / f"{patient}_t2.png"), image[::-1] if patient == 13 else image)
        for place, level in enumerate(LEVELS):
            y = 79.5 + 50 * place if place != 3 else 279.5
            rows.append((patient, level_title(level), 119.5, 399 - y if patient == 13 else y, int(patient == 13)))
    pd.DataFrame(rows, columns=["patient", "level", "x", "y", "t1"]).to_csv(source / "points.csv", index=False)
    names = [f"{patient}_t2" for patient in (11, 13)]
    pd.DataFrame({"new_file_name": names, "PixelSpacing": "[1.5, 1.5]"}).to_csv(source / "overview.csv", index=False)
    return source / "points.csv"


def test_a_midsagittal_image_becomes_a_square_study_head_up(source: Path, points: Path, tmp_path: Path) -> None:
    assert _convert(source, tmp_path / "data", "--points", str(points)) == 0
    data = open_data(tmp_path / "data")
    table = pd.read_csv(tmp_path / "data" / "train_label_coordinates.csv")
    for patient in (11, 13):
        study_id = FIRST_ID + 1000 * patient + MIDSAGITTAL
        (series,) = read_study(data, study_id).series["sagittal_t2"]
        (item,) = series.slices
        assert item.pixels.shape == (200, 200)
        assert item.affine[1, 0] == pytest.approx(1.5)
        row, column = np.argwhere(item.pixels > 200).mean(axis=0)
        marked = table[(table["study_id"] == study_id) & (table["level"] == "L4/L5")].iloc[0]
        assert (marked["x"], marked["y"]) == pytest.approx((column, row), abs=1)
        assert row == pytest.approx(139.5, abs=1)


def test_grades_become_labels_of_the_canal_and_of_nothing_else(source: Path, points: Path, tmp_path: Path) -> None:
    (tmp_path / "grades.csv").write_text(
        "patient,level,grade,unsure\n11,L1/L2,0,0\n11,L5/S1,2,1\n13,L3/L4,1,0\n12,L3/L4,2,0\n"
    )
    more = ("--points", str(points), "--grades", str(tmp_path / "grades.csv"))
    assert _convert(source, tmp_path / "data", *more) == 0
    labels = pd.read_csv(tmp_path / "data" / "train.csv").set_index("study_id")
    said = {(study, column): value for study, row in labels.iterrows() for column, value in row.dropna().items()}
    eleven, thirteen = (FIRST_ID + 1000 * patient + MIDSAGITTAL for patient in (11, 13))
    assert said == {  # nothing of T2 SPACE, whose patient 8 has no grades; of 12 there is no image
        (eleven, "spinal_canal_stenosis_l1_l2"): "Normal/Mild",
        (eleven, "spinal_canal_stenosis_l5_s1"): "Severe",
        (thirteen, "spinal_canal_stenosis_l3_l4"): "Moderate",
    }


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("11,L1/L2,3", "grade '3' in line 2 is none of 0 (normal or mild), 1 (moderate), 2 (severe)"),
        ("11,L6/S1,1", "level 'L6/S1' in line 2 is none of"),
        ("11,L1/L2,1\n11,L1/L2,2", "level 'L1/L2' in line 3 has its grade already in a line above"),
    ],
)
def test_a_bad_grade_is_one_sentence(
    rows: str, sentence: str, source: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grades.csv").write_text(f"patient,level,grade\n{rows}\n")
    more = ("--points", str(points), "--grades", str(tmp_path / "grades.csv"))
    assert _convert(source, tmp_path / "data", *more) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_grades_without_points_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grades.csv").write_text("patient,level,grade\n11,L1/L2,0\n")
    assert _convert(source, tmp_path / "data", "--grades", str(tmp_path / "grades.csv")) == 1
    assert "give the table of points" in capsys.readouterr().err


def test_t1_of_the_same_place_gets_both_foramina_before_and_above_the_canal(
    source: Path, points: Path, tmp_path: Path
) -> None:
    for patient in (11, 13):  # half the pixels, twice the spacing: the same place; only patient 13's row says so
        ramp = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
        cv2.imwrite(str(source / "midsagittal" / f"{patient}_t1.png"), ramp)
    names = {"11_t2": 1.5, "13_t2": 1.5, "11_t1": 3.0, "13_t1": 3.0}
    table = pd.DataFrame({"new_file_name": names.keys(), "PixelSpacing": [f"[{mm}, {mm}]" for mm in names.values()]})
    table.to_csv(source / "overview.csv", index=False)
    assert _convert(source, tmp_path / "data", "--points", str(points)) == 0
    data = open_data(tmp_path / "data")
    assert not read_study(data, FIRST_ID + 11 * 1000 + MIDSAGITTAL).series.get("sagittal_t1")
    study_id = FIRST_ID + 13 * 1000 + MIDSAGITTAL
    study = read_study(data, study_id)
    found = label_keypoints(study, study_rows(data.coordinates)[study_id])
    for level, (forward, up) in zip(LEVELS, FORAMEN_FROM_CANAL_MM, strict=True):
        canal = np.array(found["spinal_canal_stenosis", level].mm)
        for side in SIDES:
            foramen = np.array(found[f"{side}_neural_foraminal_narrowing", level].mm)
            assert foramen - canal == pytest.approx([0, -forward, up], abs=0.01)


def test_pairs_are_studies_without_points_and_t1_joins_where_the_widths_agree(
    source: Path, points: Path, tmp_path: Path
) -> None:
    ramp = np.arange(150, dtype=np.uint8)
    for patient, width in ((11, 100), (13, 150)):
        cv2.imwrite(str(source / "midsagittal" / f"{patient}_t1.png"), np.tile(ramp[:width], (100, 1)))
    rows = {"11_t2": 1.5, "13_t2": 1.5, "11_t1": 3.0, "13_t1": 3.0}
    table = pd.DataFrame({"new_file_name": rows.keys(), "PixelSpacing": [f"[{mm}, {mm}]" for mm in rows.values()]})
    table.to_csv(source / "overview.csv", index=False)
    assert _convert(source, tmp_path / "data", "--part", "images") == 0
    data = open_data(tmp_path / "data")
    studies = {(study - FIRST_ID) // 1000: read_study(data, study) for study in data.study_ids}
    assert set(studies) == {11, 13}
    (t1,) = studies[11].series["sagittal_t1"]
    assert t1.slices[0].pixels.shape == (100, 100)
    assert t1.slices[0].affine[1, 0] == pytest.approx(3.0)
    assert not studies[13].series.get("sagittal_t1")
    assert data.coordinates is not None
    assert data.coordinates.empty


def test_a_missing_image_is_one_sentence(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "t2_space" / "images" / "8_t2_SPACE_slice60.png").unlink()
    assert _convert(source, tmp_path / "data") == 1
    assert "8_t2_SPACE_slice60.png: not a readable image" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SPIDER's T2 SPACE slices beside the project")
def test_the_real_slices_keep_their_patients_apart(tmp_path: Path) -> None:
    _convert(REAL, tmp_path / "a", "--part", "held_out")
    studies = [int(study) for study in open_data(tmp_path / "a").study_ids]
    patients = {(study - FIRST_ID) // 1000 for study in studies}
    assert 4 <= len(patients) <= 10
    assert all(is_held_out(patient) for patient in patients)
