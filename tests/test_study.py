"""The tables of a data folder, the series of a study, and a study mirrored left to right."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar import geometry
from lumbar.dicom.series import Series
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, SERIES_TYPES
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study import standardise
from lumbar.study.study import Study, choose_series, open_data, read_coordinates, read_study
from tests.support.mirror import mirror_coordinates, mirror_labels, mirror_study
from tests.support.tiny_dicom import AXIAL, CORONAL, SAGITTAL, write_stack

HEADER = "study_id,series_id,series_description\n"
TILTED = (0.98, 0.05, -0.19, 0.0, 0.967, 0.2545)
OBLIQUE = (0.03, 0.99955, 0.0, -0.02, 0.0006, -0.9998)


def orthonormal(direction: tuple[float, ...]) -> tuple[float, ...]:
    row = np.array(direction[:3]) / np.linalg.norm(direction[:3])
    column = np.array(direction[3:]) - (row @ np.array(direction[3:])) * row
    return (*row, *(column / np.linalg.norm(column)))


def write_study(root: Path, study: int = 11, split: str = "train") -> Path:
    """Two sagittal series numbered either way, and two axial ones of different angle, off the middle."""
    folder = root / f"{split}_images" / str(study)
    write_stack(folder / "1", [8, 4, 0, -4, -9], SAGITTAL, names=[3, 4, 8, 12, 40], origin=(7, -60, 50), pictures=100)
    write_stack(folder / "2", [-8, -4, 0, 4], orthonormal(OBLIQUE), origin=(3, -60, 50), pictures=200)
    write_stack(folder / "3", [0, 4, 8, 12], AXIAL, origin=(-40, -30, 10), shape=(36, 40), pictures=300)
    write_stack(folder / "4", [20, 16, 12], orthonormal(TILTED), origin=(-40, -30, -40), pictures=400)
    rows = [(1, "Sagittal T2/STIR"), (2, "Sagittal T1"), (3, "Axial T2"), (4, "Axial T2")]
    table = "".join(f"{study},{series},{text}\n" for series, text in rows)
    (root / f"{split}_series_descriptions.csv").write_text(HEADER + table)
    return folder


def ids(study: Study) -> dict[str, list[int]]:
    return {name: [series.series_id for series in group] for name, group in study.series.items()}


def codes(study: Study) -> list[str]:
    return [issue.code for issue in study.issues]


# -- folder and tables --------------------------------------------------------------------------------------------


def test_a_study_has_its_series_by_type_in_table_order(tmp_path: Path) -> None:
    write_study(tmp_path)
    data = open_data(tmp_path)
    study = read_study(data, 11)
    assert (data.split, data.study_ids, data.labels, data.coordinates) == ("train", (11,), None, None)
    assert ids(study) == {"sagittal_t1": [2], "sagittal_t2": [1], "axial_t2": [3, 4]}
    assert set(study.series) == set(SERIES_TYPES)
    assert codes(study) == []
    assert study.series_by_id(4) is study.series["axial_t2"][1]
    assert study.series_by_id(99) is None


def test_test_is_taken_before_train_unless_asked(tmp_path: Path) -> None:
    write_study(tmp_path, 11, "train")
    write_study(tmp_path, 12, "test")
    assert open_data(tmp_path).study_ids == (12,)
    assert open_data(tmp_path, "train").study_ids == (11,)
    assert open_data(tmp_path, "train").image_folder == tmp_path / "train_images"


def test_byte_order_mark_crlf_extra_columns_and_odd_spelling_are_read(tmp_path: Path) -> None:
    write_study(tmp_path)
    lines = ["series_description, extra ,series_id,study_id", " axial  t2 ,x,3,11", "SAGITTAL T1,,2.0,11", ",,,", ""]
    (tmp_path / "train_series_descriptions.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    study = read_study(open_data(tmp_path), 11)
    assert ids(study) == {"sagittal_t1": [2], "sagittal_t2": [], "axial_t2": [3]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe\x00s\x00t", "cannot be read"),
        (b'study_id,series_id\n"1,2\n', "cannot be read"),
        (b"study_id,series\n1,2\n", "lacks the column(s) series_id, series_description"),
        (HEADER.encode(), "lists no series"),
        (HEADER.encode() + b"11,1,Axial T2\nabc,2,Axial T2\n", "study_id 'abc' in data row 2 is not a whole number"),
    ],
)
def test_a_broken_series_table_is_one_clear_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    write_study(tmp_path)
    (tmp_path / "train_series_descriptions.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_data(tmp_path)
    assert reason in str(caught.value)
    assert "train_series_descriptions.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["-5", "../../x", "", "one"])
def test_a_series_id_that_is_no_number_is_told_and_its_row_left_out(tmp_path: Path, text: str) -> None:
    write_study(tmp_path)
    (tmp_path / "train_series_descriptions.csv").write_text(HEADER + f"11,{text},Axial T2\n", encoding="utf-8")
    data = open_data(tmp_path)
    assert data.study_ids == (11,)
    assert data.series.empty
    (issue,) = data.issues
    assert (issue.code, issue.study, issue.series) == ("series_ignored", 11, None)
    assert issue.detail == f"series_id {text!r} is not a whole number"


def test_a_folder_that_is_no_data_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        open_data(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has no \{train,test\}_series_descriptions\.csv"):
        open_data(tmp_path)
    write_study(tmp_path)
    with pytest.raises(InputError, match=r"has no test_series_descriptions\.csv"):
        open_data(tmp_path, "test")
    with pytest.raises(InputError, match="unknown split"):
        open_data(tmp_path, "valid")
    (tmp_path / "test_series_descriptions.csv").write_text(HEADER + "1,2,Axial T2\n")
    with pytest.raises(InputError, match="no folder test_images"):
        open_data(tmp_path)


def test_repeated_rows_count_once_and_contradictions_are_told(tmp_path: Path) -> None:
    write_study(tmp_path)
    with (tmp_path / "train_series_descriptions.csv").open("a") as table:
        table.write("11,3,Axial T2\n11,2,Sagittal T2/STIR\n")
    study = read_study(open_data(tmp_path), 11)
    assert ids(study) == {"sagittal_t1": [2], "sagittal_t2": [1], "axial_t2": [3, 4]}
    assert [(issue.code, issue.series) for issue in study.issues] == [("series_ignored", 2)]


def test_missing_folders_and_unlisted_ones_are_told(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_stack(tmp_path / "train_images" / "77" / "5", [0, 4])
    write_stack(tmp_path / "train_images" / "11" / "500", [0, 4])
    with (tmp_path / "train_series_descriptions.csv").open("a") as table:
        table.write("11,9,Sagittal T1\n11,10,Localizer\n30,1,Axial T2\n")
    data = open_data(tmp_path)
    assert data.study_ids == (11, 30)
    assert data.unlisted == (77,)
    study = read_study(data, 11)
    assert ids(study)["sagittal_t1"] == [2]
    assert [(issue.code, issue.series) for issue in study.issues] == [
        ("series_ignored", 9),
        ("series_ignored", 10),
        ("series_ignored", 500),
    ]
    nothing = read_study(data, 30)
    assert codes(nothing) == ["series_missing"] * 4
    assert all(group == () for group in nothing.series.values())


def test_the_orientation_overrules_a_wrong_description(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    write_stack(folder / "5", [0, 4, 8], CORONAL, pictures=500)
    rows = "11,1,Axial T2\n11,2,Sagittal T1\n11,3,Sagittal T1\n11,4,Axial T2\n11,5,Sagittal T1\n"
    (tmp_path / "train_series_descriptions.csv").write_text(HEADER + rows)
    study = read_study(open_data(tmp_path), 11)
    assert ids(study) == {"sagittal_t1": [2], "sagittal_t2": [1], "axial_t2": [3, 4]}
    assert [(issue.code, issue.series) for issue in study.issues] == [
        ("series_relabelled", 1),
        ("series_relabelled", 3),
        ("series_ignored", 5),
    ]


def test_a_series_without_a_usable_slice_makes_its_type_missing(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    for path in (folder / "2").glob("*.dcm"):
        path.write_bytes(b"damaged")
    study = read_study(open_data(tmp_path), 11)
    assert ids(study)["sagittal_t1"] == []
    assert codes(study) == ["file_unreadable", "series_ignored", "series_missing"]  # the four files in one


def test_the_best_series_has_most_slices_then_the_finest_pixels_then_the_first_row(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    write_stack(folder / "5", [0, 4, 8, 12], AXIAL, pictures=500)
    write_stack(folder / "6", [0, 4, 8, 12], AXIAL, spacing=(2.5, 2.5), pictures=600)
    write_stack(folder / "7", [0, 4, 8, 12], AXIAL, spacing=(2.5, 2.5), pictures=700)
    with (tmp_path / "train_series_descriptions.csv").open("a") as table:
        table.write("11,5,Axial T2\n11,6,Axial T2\n11,7,Axial T2\n")
    study = read_study(open_data(tmp_path), 11)

    def chosen(rule: str) -> int:
        series = choose_series(study, "axial_t2", rule)  # type: ignore[arg-type]
        assert series is not None
        return series.series_id

    assert chosen("best") == 6
    assert chosen("first") == 3
    assert choose_series(Study(1), "axial_t2", "best") is None
    assert choose_series(Study(1), "axial_t2", "first") is None


def write_labels(root: Path, *rows: str) -> None:
    (root / "train.csv").write_text("study_id," + ",".join(LABEL_COLUMNS) + "\n" + "\n".join(rows) + "\n")


def test_labels_keep_the_competitions_words_and_gaps(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_labels(tmp_path, "11,severe,," + ",".join(["Normal/Mild"] * 22) + ",Moderate")
    labels = open_data(tmp_path).labels
    assert labels is not None
    assert list(labels.columns) == list(LABEL_COLUMNS)
    assert labels.index.tolist() == [11]
    assert labels.iloc[0, 0] == "Severe"
    assert labels.iloc[0].isna().to_numpy().nonzero()[0].tolist() == [1]
    assert labels.iloc[0, 24] == "Moderate"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["11," + ",".join(["Sever"] * 25)], "unknown spinal_canal_stenosis_l1_l2 'Sever'"),
        (["11" + ",Severe" * 25, "11" + ",Moderate" * 25], "study 11 is listed twice"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(tmp_path: Path, rows: list[str], reason: str) -> None:
    write_study(tmp_path)
    write_labels(tmp_path, *rows)
    with pytest.raises(InputError, match=reason):
        open_data(tmp_path)


def test_coordinates_are_read_in_either_spelling(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "study_id,series_id,instance_number,condition,level,x,y\n"
        "11,1,4,Spinal Canal Stenosis,L1/L2,10.5,20\n"
        "11,2,4,left_neural_foraminal_narrowing,l5_s1,1,2\n"
    )
    table = read_coordinates(path)
    assert table["condition"].tolist() == ["spinal_canal_stenosis", "left_neural_foraminal_narrowing"]
    assert table["level"].tolist() == ["l1_l2", "l5_s1"]
    assert table["x"].tolist() == [10.5, 1.0]
    path.write_text(path.read_text().replace("10.5", "ten"))
    with pytest.raises(InputError, match="column x"):
        read_coordinates(path)
    path.write_text(path.read_text().replace("ten,20", "10,20").replace("L1/L2", "L6/S1"))
    with pytest.raises(InputError, match="unknown level 'L6/S1'"):
        read_coordinates(path)


def test_the_real_tables_are_read(tmp_path: Path, real_tables: Path) -> None:
    source = (real_tables / "train_series_descriptions.csv").read_bytes()
    (tmp_path / "train_series_descriptions.csv").write_bytes(source)
    (tmp_path / "train_images").mkdir()
    data = open_data(tmp_path)
    assert len(data.study_ids) == 1975
    assert len(data.series) == 6294
    assert data.issues == ()
    coordinates = read_coordinates(real_tables / "train_label_coordinates_corrected.csv")
    assert coordinates["study_id"].nunique() <= 1975
    assert len(coordinates) == 48809
    assert set(coordinates["level"]) == {"l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1"}


def test_the_real_study_is_read_whole(cc0_study: Path) -> None:
    study = read_study(open_data(cc0_study), 1001)
    assert ids(study) == {"sagittal_t1": [7], "sagittal_t2": [6, 12], "axial_t2": [8]}
    assert codes(study) == ["several_stacks"]
    best = choose_series(study, "sagittal_t2")
    assert best is not None
    assert best.series_id == 6


# -- mirror -------------------------------------------------------------------------------------------------------


def assert_mirrored(series: Series, other: Series) -> None:
    """Slice by slice in patient order: the mirrored place shows the same pixel."""
    order = range(len(series)) if series.plane == "axial" else range(len(series) - 1, -1, -1)
    options = Preprocessing()
    for index, twin in zip(order, other.slices, strict=True):
        values, affine = standardise.slice_values(series.slices[index], options)
        twin_values, twin_affine = standardise.slice_values(twin, options)
        expected = values[:, ::-1] if series.plane == "axial" else values
        assert np.array_equal(twin_values, expected)
        for row, column in ((0, 0), (5, 3), (values.shape[0] - 1, 7)):
            twin_column = values.shape[1] - 1 - column if series.plane == "axial" else column
            there = geometry.to_patient(twin_affine, (twin_column, row))
            assert np.allclose(there, geometry.to_patient(affine, (column, row)) * [-1, 1, 1], atol=1e-5)


def test_a_mirrored_study_has_mirrored_slices_in_mirrored_order(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a")
    write_study(tmp_path / "b")
    mirror_study(folder, tmp_path / "b" / "train_images" / "11")
    one, other = read_study(open_data(tmp_path / "a"), 11), read_study(open_data(tmp_path / "b"), 11)
    assert codes(one) == codes(other) == []
    assert ids(one) == ids(other)
    for name in SERIES_TYPES:
        for series, twin in zip(one.series[name], other.series[name], strict=True):
            assert_mirrored(series, twin)
    t1, t2 = one.series["sagittal_t1"][0], other.series["sagittal_t1"][0]
    left = geometry.window_indices(len(t1), 3, offset_mm=5, spacing_mm=t1.spacing_mm)
    right = geometry.window_indices(len(t2), 3, offset_mm=-5, spacing_mm=t2.spacing_mm)
    assert [t1.slices[index].instance for index in left] == [t2.slices[index].instance for index in right[::-1]]


def test_the_real_study_mirrored_is_mirrored(tmp_path: Path, cc0_study: Path) -> None:
    mirror_study(cc0_study / "test_images" / "1001", tmp_path / "test_images" / "1001")
    (tmp_path / "test_series_descriptions.csv").write_bytes((cc0_study / "test_series_descriptions.csv").read_bytes())
    one, other = read_study(open_data(cc0_study), 1001), read_study(open_data(tmp_path), 1001)
    assert ids(one) == ids(other)
    for name in SERIES_TYPES:
        for series, twin in zip(one.series[name], other.series[name], strict=True):
            assert series.slabs == twin.slabs
            assert_mirrored(series, twin)


def test_mirrored_twice_is_the_study_again(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a")
    write_study(tmp_path / "b")
    mirror_study(mirror_study(folder, tmp_path / "once" / "11"), tmp_path / "b" / "train_images" / "11")
    one, other = read_study(open_data(tmp_path / "a"), 11), read_study(open_data(tmp_path / "b"), 11)
    for name in SERIES_TYPES:
        for series, twin in zip(one.series[name], other.series[name], strict=True):
            assert [item.instance for item in series.slices] == [item.instance for item in twin.slices]
            assert np.allclose(series.affines, twin.affines, atol=1e-5)
            assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(series.slices, twin.slices, strict=True))


def test_mirrored_coordinates_are_the_mirrored_points(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    rows = [
        (11, 1, 8, "spinal_canal_stenosis", "l1_l2", 4.0, 5.0),
        (11, 2, 3, "left_neural_foraminal_narrowing", "l1_l2", 4.0, 5.0),
        (11, 3, 2, "right_subarticular_stenosis", "l3_l4", 4.0, 5.0),
    ]
    columns = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    table = mirror_coordinates(pd.DataFrame(rows, columns=columns), folder)
    assert table["condition"].tolist() == [
        "spinal_canal_stenosis",
        "right_neural_foraminal_narrowing",
        "left_subarticular_stenosis",
    ]
    assert table["x"].tolist() == [4.0, 4.0, 35.0]
    assert table["y"].tolist() == [5.0, 5.0, 5.0]


def test_mirrored_labels_change_sides() -> None:
    labels = pd.DataFrame([range(25)], columns=list(LABEL_COLUMNS))
    mirrored = mirror_labels(labels)
    assert list(mirrored.columns) == list(LABEL_COLUMNS)
    assert mirrored.iloc[0].tolist() == [*range(5), *range(10, 15), *range(5, 10), *range(20, 25), *range(15, 20)]
