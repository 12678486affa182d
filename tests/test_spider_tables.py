"""SPIDER's tables are refused in one sentence where they are wrong, and what a user did to its rows stays."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.labels import LEVELS, level_title
from lumbar.spider.write import FIRST_ID

STUDY = FIRST_ID + 8 * 1000 + 60
POINTS = "t2_space/canal_keypoints.csv"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Patient 8: a labelled slice of T2 SPACE, and a mid-sagittal image with points in `points.csv`."""
    folder = tmp_path / "spider"
    (folder / "t2_space" / "images").mkdir(parents=True)
    (folder / "midsagittal").mkdir()
    image = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    cv2.imwrite(str(folder / "t2_space/images/8_slice60.png"), image)
    cv2.imwrite(str(folder / "midsagittal/8_t2.png"), image)
    places = [(level_title(level), 30, 8 + 10 * place) for place, level in enumerate(LEVELS)]
    rows = "".join(f"8,8_slice60.png,60,{level},{x},{y}\n" for level, x, y in places)
    (folder / POINTS).write_text("patient,image,slice,level,x,y\n" + rows)
    rows = "".join(f"8,{level},{x},{y},0\n" for level, x, y in places)
    (folder / "points.csv").write_text("patient,level,x,y,t1\n" + rows)
    (folder / "overview.csv").write_text('new_file_name,PixelSpacing\n8_t2,"[0.5, 0.5]"\n')
    return folder


def _convert(source: Path, *more: str) -> int:
    return train_utils.main(["spider", "--source", str(source), "--out", str(source.parent / "data"), *more])


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refused(source: Path, capfd: pytest.CaptureFixture[str], *words: str, more: tuple[str, ...] = ()) -> None:
    before = _files(source.parent / "data")
    assert _convert(source, *more) == 1
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.strip() and "\r" not in line]
    assert all(word in sentence for word in words), sentence
    assert _files(source.parent / "data") == before


def test_columns_beside_the_known_ones_stay_where_the_study_is_the_same(source: Path) -> None:
    assert _convert(source) == 0
    data = source.parent / "data"
    for name, column in (("train.csv", "fold_id"), ("train_label_coordinates.csv", "note")):
        table = pd.read_csv(data / name)
        table[column] = 3
        table.to_csv(data / name, index=False)
    before = _files(data)
    assert _convert(source) == 0
    assert _files(data) == before
    assert _convert(source, "--points", str(source / "points.csv")) == 0  # one study more
    labels = pd.read_csv(data / "train.csv").set_index("study_id")
    assert labels["fold_id"].to_dict() == {STUDY: 3, STUDY + 939: pytest.approx(np.nan, nan_ok=True)}


CHANGED = {
    "a corrected point": lambda table: table.assign(x=table["x"] + 7.5),
    "a point of one's own": lambda table: pd.concat([table, table[:1].assign(level="L9/L9")]),
    "a point taken out": lambda table: table[1:],
}


@pytest.mark.parametrize("what", CHANGED)
def test_points_that_somebody_changed_stay(what: str, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _convert(source) == 0
    path = source.parent / "data/train_label_coordinates.csv"
    CHANGED[what](pd.read_csv(path)).to_csv(path, index=False)
    capfd.readouterr()
    _refused(source, capfd, f"train_label_coordinates.csv: study {STUDY} has the number", "somebody changed")


def test_a_table_in_utf_16_is_read_as_any_other(source: Path) -> None:
    (source.parent / "data").mkdir()
    path = source.parent / "data/train_sources.csv"
    path.write_bytes("study_id,source\n5,möglich\n".encode("utf-16"))
    assert _convert(source) == 0
    assert path.read_text(encoding="utf-8") == f"study_id,source\n5,möglich\n{STUDY},SPIDER T2 SPACE\n"


#: A file of the source, what is exchanged in it, and words of the sentence.
BAD: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "a patient in letters": (POINTS, "\n8,", "\nabc,", ("patient 'abc'", "is not a whole number")),
    "no patient": (POINTS, "\n8,", "\n,", ("patient ''", "is not a whole number")),
    "a negative patient": (POINTS, "\n8,", "\n-1,", ("patient '-1'",)),
    "a huge patient": (POINTS, "\n8,", "\n99999999,", ("patient '99999999' in line 2", "is larger than 999999")),
    "half a slice": (POINTS, ",60,", ",12.5,", ("slice '12.5'",)),
    "a slice of mid-sagittal images": (POINTS, ",60,", ",999,", ("slice '999' in line 2", "is larger than 998")),
    "x in letters": (POINTS, ",30,8\n", ",abc,8\n", ("x 'abc' in line 2", "finite")),
    "x is nan": (POINTS, ",30,18\n", ",nan,18\n", ("x 'nan' in line 3", "finite")),
    "x far away": (POINTS, ",30,8\n", ",1e300,8\n", ("x '1e+300' in line 2", "outside of the picture")),
    "an unknown level": (POINTS, "L1/L2", "L9", ("level 'L9' in line 2", "L5/S1")),
    "a point twice": (POINTS, "L1/L2", "L2/L3", ("level 'L2/L3' in line 3", "already")),
    "an image elsewhere": (POINTS, ",8_slice60", ",../8_slice60", ("image '../8_slice60.png' in line 2",)),
    "another slice's image": (POINTS, ",8_slice60", ",8_slice6", ("image '8_slice6.png' in line 2",)),
    "no t1": ("points.csv", ",8,0\n", ",8,\n", ("t1 '' in line 2", "neither 0 nor 1")),
    "t1 in letters": ("points.csv", ",8,0\n", ",8,x\n", ("t1 'x' in line 2", "neither 0 nor 1")),
    "y far away": ("points.csv", ",8,0\n", ",-300,0\n", ("y '-300.0' in line 2", "outside of the picture")),
    "one spacing": ("overview.csv", '"[0.5, 0.5]"', "0.5", ("PixelSpacing '0.5' of 8_t2",)),
    "commas in numbers": ("overview.csv", "[0.5, 0.5]", "[0,5; 0,5]", ("PixelSpacing '[0,5; 0,5]'",)),
    "a negative spacing": ("overview.csv", "0.5]", "-3]", ("PixelSpacing '[0.5, -3]'",)),
    "a spacing of nan": ("overview.csv", "0.5]", "nan]", ("PixelSpacing '[0.5, nan]'",)),
    "an image twice": ("overview.csv", "8_t2", "8_t2,1\n8_t2", ("2 rows 8_t2",)),
    "no such image": ("overview.csv", "8_t2", "7_t2", ("no row 8_t2",)),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_value_is_one_sentence(what: str, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, old, new, words = BAD[what]
    path = source / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    _refused(source, capfd, name.rpartition("/")[2], *words, more=("--points", str(source / "points.csv")))


@pytest.mark.parametrize("name", [POINTS, "points.csv"])
def test_a_table_without_rows_is_one_sentence(name: str, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (source / name).write_text((source / name).read_text().partition("\n")[0] + "\n")
    _refused(source, capfd, f"{name} holds no rows", more=("--points", str(source / "points.csv")))


def test_nothing_to_write_is_one_sentence(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _refused(source, capfd, "holds no study of the part held_out", more=("--part", "held_out"))


def test_an_image_named_without_a_patient_is_one_sentence(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (source / "midsagittal/x_t2.png").write_bytes((source / "midsagittal/8_t2.png").read_bytes())
    _refused(source, capfd, "x_t2.png: its name", more=("--part", "images"))


@pytest.mark.parametrize("pipe", [True, False])
def test_an_image_that_is_no_file_is_one_sentence(pipe: bool, source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = source / "t2_space/images/8_slice60.png"
    path.unlink()
    if pipe:
        os.mkfifo(path)
    _refused(source, capfd, "8_slice60.png: not a readable image")
