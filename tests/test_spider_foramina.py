"""SPIDER's slices with foramina become T1 studies that have no side, of the right patients only."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.labels import LEVELS, SIDES
from lumbar.spider.foramina import PIXEL_MM, SOURCE, study_of
from lumbar.spider.parts import MEASURED, is_held_out
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from tests.support.spider import foramina_source

OWN = Path(__file__).resolve().parents[1] / "recipes" / "spider_foramina.csv"
REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "spider"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return foramina_source(tmp_path / "spider")


def _convert(source: Path, out: Path, *more: str, table: Path | None = None) -> int:
    given = ("--foramina", str(table or source / "foramina.csv"), *more)
    return train_utils.main(["spider", "--source", str(source), "--out", str(out), *given])


def _written(out: Path) -> set[int]:
    data = open_data(out)
    return {study for study in data.study_ids if data.sources[study] == SOURCE}


def test_a_slice_becomes_a_t1_study_with_both_sides_in_one_place(source: Path, tmp_path: Path) -> None:
    assert _convert(source, tmp_path / "data") == 0
    assert _written(tmp_path / "data") == {study_of("11_t2_SPACE_slice76"), study_of("13_t1_04")}
    data = open_data(tmp_path / "data")
    for image, spacing in (("11_t2_SPACE_slice76", PIXEL_MM), ("13_t1_04", 1.5)):
        study_id = study_of(image)
        assert study_id is not None
        study = read_study(data, study_id)
        assert not study.series.get("sagittal_t2")
        (series,) = study.series["sagittal_t1"]
        (item,) = series.slices
        assert item.affine[1, 0] == pytest.approx(spacing)
        row, column = np.argwhere(item.pixels > 100).mean(axis=0)
        found = label_keypoints(study, study_rows(data.coordinates)[study_id])
        assert set(found) == {
            (f"{side}_neural_foraminal_narrowing", level) for side in SIDES for level in ("l1_l2", "l4_l5")
        }
        for side in SIDES:
            assert found[f"{side}_neural_foraminal_narrowing", "l4_l5"].xy_px == pytest.approx((column, row), abs=1)
    shown = read_study(data, study_of("13_t1_04")).series["sagittal_t1"][0].slices[0]  # type: ignore[arg-type]
    assert shown.pixels.shape == (80, 80)  # its rows were resampled


def test_patients_that_are_measured_on_are_never_trained_on(source: Path, tmp_path: Path) -> None:
    assert _convert(source, tmp_path / "train") == 0
    assert _convert(source, tmp_path / "held", "--part", "held_out") == 0
    assert _written(tmp_path / "held") == {study_of("12_t2_17"), study_of("106_t1_11")}
    assert not set(open_data(tmp_path / "train").study_ids) & set(open_data(tmp_path / "held").study_ids)


def test_no_other_slice_of_a_measured_patient_is_trained_on(source: Path, tmp_path: Path) -> None:
    table = source / "t2_space" / "canal_keypoints.csv"
    table.write_text(table.read_text().replace("11,11_t2", "106,106_t2"))
    picture = np.eye(100, dtype=np.uint8)
    cv2.imwrite(str(source / "t2_space/images/106_t2_SPACE_slice76.png"), picture)
    for part in ("train", "held_out"):
        assert _convert(source, tmp_path / part, "--part", part) == 0
        slices = {study - 9_000_000_000 for study in open_data(tmp_path / part).study_ids}
        assert 106_076 not in slices


def test_a_study_is_written_again_as_it_was(source: Path, tmp_path: Path) -> None:
    assert _convert(source, tmp_path / "data") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert _convert(source, tmp_path / "data") == 0
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("11,11_t2", "13,11_t2", ("image '11_t2_SPACE_slice76' in line 2 is not a picture of patient 13",)),
        ("11_t2_SPACE_slice76", "../11_t2_SPACE_slice76", ("in line 2 is not a picture of patient 11",)),
        ("13_t1_04", "13_t1_300", ("image '13_t1_300' in line 4 is not a picture",)),
        ("L1/L2", "L4/L5", ("level 'L4/L5' in line 3 has its point already",)),
        (",96,192,", ",96,1920,", ("y '1920.0' in line 2 lies outside of the picture",)),
        ("13_t1_04", "13_t1_05", ("13_t1_05.png: not a readable image",)),
        ("13_t1_04", "13_t2_04", ("no row 13_t2",)),
    ],
)
def test_a_bad_table_is_one_sentence(
    old: str, new: str, words: tuple[str, ...], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "offmidline/images/13_t2_04.png").write_bytes((source / "offmidline/images/13_t1_04.png").read_bytes())
    table = source / "foramina.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, text.count(old) if "t1" in old else 1))
    assert _convert(source, tmp_path / "data") == 1
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_foramina_without_points_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(source, tmp_path / "data", "--part", "images") == 1
    assert "the part `images` is without points" in capsys.readouterr().err


def test_our_table_says_of_each_slice_to_train_on_where_all_levels_are_and_trains_on_nobody_measured() -> None:
    table = pd.read_csv(OWN)
    assert set(table["how"]) == {"seen", "near", "canal"}
    assert not MEASURED & set(table["patient"])
    assert all(study_of(image) is not None for image in table["image"])
    for patient, rows in table.groupby("patient"):
        assert (rows["how"] == "seen").any()
        if is_held_out(int(patient)):
            assert set(rows["how"]) == {"seen"}  # nothing is measured on a point that is not to be seen
        else:
            assert set(rows.groupby("image").size()) == {len(LEVELS)}


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SPIDER's slices beside the project")
def test_our_points_lie_behind_the_bodies_and_never_within_bone() -> None:
    table = pd.read_csv(OWN)
    table = table[table["how"] == "seen"]
    assert len(table) > 50
    for image, rows in table.groupby("image"):
        space = "SPACE" in str(image)
        path = REAL / ("t2_space" if space else "offmidline") / "masks" / f"{image}.png"
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        bone = mask == 76 if space else mask > 0
        for x, y in zip(rows["x"], rows["y"], strict=True):
            assert not bone[y, x], image
            assert bone[y - 12 : y + 12, :x].any(), image  # a body in front, or what is left of it on a lateral slice
            assert bone[:y, x - 5 : x + 6].any(), image  # a pedicle or its vertebra above
