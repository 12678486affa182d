"""The reader on enhanced and other multi-frame files."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from lumbar.dicom.series import read_series
from tests.support.tiny_dicom import instances, merge_into_enhanced, read, write_stack

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on damaged files


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("shared", [True, False])
def test_an_enhanced_file_gives_the_slices_of_the_ordinary_ones(tmp_path: Path, syntax: Any, shared: bool) -> None:
    options = {"SpacingBetweenSlices": "4", "RescaleSlope": "2", "RescaleIntercept": "-10"}
    for name in ("a", "b"):
        write_stack(tmp_path / name, [4.0, -4.0, 0.0, 8.0], **options)
    merge_into_enhanced(tmp_path / "b", syntax, shared=shared)
    plain, enhanced = read(tmp_path / "a")[0], read(tmp_path / "b")[0]
    assert read(tmp_path / "b")[1] == []
    assert instances(enhanced) == instances(plain)
    assert [item.name for item in enhanced.ordered("file")][:1] == ["1.dcm frame 4"]  # runs the other way
    assert instances(enhanced, "file") == instances(plain, "file")
    assert np.array_equal(enhanced.affines, plain.affines)
    assert enhanced.spacing_tag == 4.0
    for one, other in zip(plain.slices, enhanced.slices, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.slope, one.intercept) == (other.slope, other.intercept) == (2.0, -10.0)
        assert one.pixel_spacing == other.pixel_spacing == (3.5, 3.0)


def test_a_frame_without_its_place_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    write_stack(tmp_path, [0.0, 4.0, 8.0])
    dataset = dcmread(merge_into_enhanced(tmp_path))
    del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    dataset.save_as(tmp_path / "1.dcm")
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    assert sorted(instances(series)) == [1, 3]
    assert [(issue.code, issue.detail[:37]) for issue in issues] == [
        ("slice_dropped", "1.dcm frame 2: ImagePositionPatient i")
    ]


def test_frames_without_functional_groups_are_refused(tmp_path: Path) -> None:
    write_stack(tmp_path, [0.0, 4.0, 8.0])
    dataset = dcmread(merge_into_enhanced(tmp_path))
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:2]
    dataset.save_as(tmp_path / "1.dcm")
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert "3 frames of 1 samples (MONOCHROME2), 2 with geometry" in issues[0].detail


def test_numbers_taken_twice_are_replaced_and_told(tmp_path: Path) -> None:
    write_stack(tmp_path, [0.0, 4.0])
    merge_into_enhanced(tmp_path).rename(tmp_path / "b.dcm")
    write_stack(tmp_path, [8.0, 12.0])
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    assert {item.name: item.instance for item in series.slices} == {
        "1.dcm": 1,
        "2.dcm": 2,
        "b.dcm frame 1": 3,
        "b.dcm frame 2": 4,
    }
    assert [issue.code for issue in issues] == ["slice_renumbered"]  # said once of both


@pytest.mark.parametrize("name", ["emri_small", "emri_small_RLE", "eCT_Supplemental"])
def test_foreign_multi_frame_files_are_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    source = pydicom.data.get_testdata_file(f"{name}.dcm", download=False)
    if source is None:
        pytest.skip("needs the package pydicom-data")
    dataset = dcmread(source)
    dataset.BodyPartExamined, dataset.Modality = "SPINE", "MR"  # a head and a CT, refused as such
    dataset.save_as(tmp_path / "1.dcm")
    series, issues = read_series(tmp_path, 7, "Axial T2", 1)
    if name == "eCT_Supplemental":
        assert series is not None
        assert len(series) == dataset.NumberOfFrames == 2
        assert np.array_equal(series.ordered("file")[0].pixels, dataset.pixel_array[0])
    else:
        assert "10 frames of 1 samples (MONOCHROME2), 1 with geometry" in issues[0].detail
