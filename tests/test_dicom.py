"""The reader of one series: order, geometry, pixel values, damage."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from lumbar import dicom_file, images
from lumbar.dicom import Series, read_series
from lumbar.geometry import normal
from lumbar.issues import Issue
from lumbar.member import Preprocessing
from tests.conftest import shared_path
from tests.tiny_dicom import AXIAL, CORONAL, SAGITTAL, image, merge_into_enhanced, write_slice, write_stack

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on damaged files
PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
ORIGIN = np.zeros(3)


def read(folder: Path, description: str = "Sagittal T1") -> tuple[Series, list[str]]:
    series, issues = read_series(folder, 7, description, 1)
    assert series is not None, issues
    return series, [issue.code for issue in issues]


def read_one(folder: Path, pixels: np.ndarray, **options: Any) -> tuple[Series | None, list[Issue]]:
    write_slice(folder / "1.dcm", pixels, ORIGIN, **options)
    return read_series(folder, 7, "Sagittal T1", 1)


def instances(series: Series, order: str = "position") -> list[int]:
    return [item.instance for item in series.ordered(order)]  # type: ignore[arg-type]


# -- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [SAGITTAL, (0, -1, 0, 0, 0, -1), (0, 0, 1, 0, 1, 0)])
def test_sagittal_slices_run_from_right_to_left_whatever_the_numbers(tmp_path: Path, direction: tuple) -> None:
    write_stack(tmp_path, [3.0, -9.0, -3.0, 9.0], direction, names=[12, 5046, 9, 100])
    series, codes = read(tmp_path)
    assert codes == []
    x = series.affines[:, 0, 3]
    assert np.allclose(x, [-9, -3, 3, 9])
    rising = instances(series) if normal(series.affines[0])[0] > 0 else instances(series)[::-1]
    assert rising == [5046, 9, 12, 100]
    assert all(np.array_equal(item.pixels, image(item.instance)) for item in series.slices)


def test_axial_slices_run_from_the_feet_to_the_head(tmp_path: Path) -> None:
    write_stack(tmp_path, [40.0, 36.0, 32.0], AXIAL)
    series, codes = read(tmp_path, "Axial T2")
    assert codes == []
    assert series.plane == "axial"
    assert instances(series) == [3, 2, 1]
    assert series.spacing_mm == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("positions", "expected"), [([0, 4, 8], [2, 9, 10]), ([8, 4, 0], [10, 9, 2]), ([4, 8, 0], [10, 9, 2])]
)
def test_file_order_is_natural_and_turned_by_first_and_last(
    tmp_path: Path, positions: list[float], expected: list[int]
) -> None:
    write_stack(tmp_path, positions, (0, -1, 0, 0, 0, -1), names=[2, 9, 10])
    series, _ = read(tmp_path)
    assert instances(series, "file") == expected


def test_tilted_slices_keep_the_axial_plane_up_to_sixty_degrees(tmp_path: Path) -> None:
    tilt = np.radians(50)
    write_stack(tmp_path, [0, 4, 8], (1, 0, 0, 0, np.cos(tilt), np.sin(tilt)), names=[21, 22, 23])
    write_stack(tmp_path, [50, 54, 58, 62], AXIAL)
    series, codes = read(tmp_path, "Axial T2")
    assert codes == ["several_stacks"]
    assert series.stacks == (0, 0, 0, 1, 1, 1, 1)
    assert instances(series) == [21, 22, 23, 1, 2, 3, 4]
    assert {item.plane for item in series.slices} == {"axial"}


def test_stacks_of_one_angle_are_told_apart_by_the_gap(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8, 40, 44, 48, 80, 84], AXIAL)
    series, codes = read(tmp_path, "Axial T2")
    assert series.stacks == (0, 0, 0, 1, 1, 1, 2, 2)
    assert codes == ["several_stacks"]
    assert series.stack_indices(4).tolist() == [3, 4, 5]
    assert series.spacing_mm == pytest.approx(4.0)


def test_overlapping_angled_stacks_are_kept_apart(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8, 12], AXIAL)
    tilt = np.radians(12)
    write_stack(tmp_path, [6, 10, 14, 18], (1, 0, 0, 0, np.cos(tilt), np.sin(tilt)), names=[11, 12, 13, 14])
    series, _ = read(tmp_path, "Axial T2")
    assert instances(series) == [1, 2, 3, 4, 11, 12, 13, 14]
    assert series.stacks == (0, 0, 0, 0, 1, 1, 1, 1)


def test_a_missing_sagittal_slice_is_told_and_makes_no_stack(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8, 20, 24], SAGITTAL)
    series, codes = read(tmp_path)
    assert codes == ["slices_missing"]
    assert set(series.stacks) == {0}
    assert series.spacing_mm == pytest.approx(4.0)


def test_a_coronal_localiser_inside_is_left_out(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8], SAGITTAL)
    write_stack(tmp_path, [0], CORONAL, names=[50])
    series, codes = read(tmp_path)
    assert codes == ["slice_dropped"]
    assert len(series) == 3


def test_of_two_slices_in_one_place_the_first_file_counts(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 4, 8], SAGITTAL, names=[1, 30, 2, 3])
    series, codes = read(tmp_path)
    assert codes == ["slice_dropped"]
    assert sorted(instances(series)) == [1, 2, 3]


def test_slices_of_one_series_may_differ_in_shape(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4], SAGITTAL, names=[1, 2])
    write_stack(tmp_path, [8], SAGITTAL, names=[3], shape=(32, 40))
    series, codes = read(tmp_path)
    assert codes == []
    assert {item.shape for item in series.slices} == {(40, 36), (32, 40)}


def test_the_real_study_has_five_angled_stacks(cc0_study: Path) -> None:
    series, codes = read(cc0_study / "test_images" / "1001" / "8", "Axial T2")
    assert codes == ["several_stacks"]
    assert series.stacks == (0,) * 4 + (1,) * 4 + (2,) * 3 + (3,) * 3 + (4,) * 3
    assert instances(series) == list(range(17, 0, -1))
    assert instances(series, "file") == list(range(17, 0, -1))
    assert series.spacing_mm == pytest.approx(4.5, abs=1e-3)
    assert series.spacing_tag == 4.5


# -- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
)
def test_every_lossless_syntax_gives_the_stored_pixels(tmp_path: Path, syntax: Any, dtype: str) -> None:
    if dtype == "uint8" and syntax == ExplicitVRBigEndian:
        pytest.skip("bytes have no order")
    pixels = image(3, low=-300 if dtype == "int16" else 0)
    pixels = (pixels % 251 if dtype == "uint8" else pixels).astype(dtype)
    series, issues = read_one(tmp_path, pixels, syntax=syntax)
    assert issues == []
    assert series is not None
    assert series.slices[0].pixels.dtype == np.dtype(dtype)
    assert np.array_equal(series.slices[0].pixels, pixels)
    with pytest.raises(ValueError, match="read-only"):
        series.slices[0].pixels[0, 0] = 1


def test_twelve_signed_bits_keep_their_sign(tmp_path: Path) -> None:
    pixels = image(5, low=-700)
    series, _ = read_one(tmp_path, pixels, BitsStored=12, HighBit=11)
    assert series is not None
    assert np.array_equal(series.slices[0].pixels, pixels)
    assert series.slices[0].stored_range == (-2048, 2047)


@pytest.mark.parametrize(
    "name", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "padded"], ids=lambda name: f"MR_small_{name}"
)
def test_pydicoms_own_files_give_the_same_image_in_every_syntax(tmp_path: Path, name: str) -> None:
    found = []
    for number, file in enumerate(("MR_small.dcm", f"MR_small_{name}.dcm")):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(PYDICOM_FILES / file, folder / "1.dcm")
        found.append(read(folder, "Axial T2")[0].slices[0])
    assert np.array_equal(found[0].pixels, found[1].pixels)
    assert np.array_equal(found[0].affine, found[1].affine)
    assert np.array_equal(found[0].pixels, dcmread(PYDICOM_FILES / "MR_small.dcm").pixel_array)


def test_rescale_and_monochrome1_give_the_values_of_the_plain_image(tmp_path: Path) -> None:
    pixels = image(8, dtype="uint16")
    plain, _ = read_one(tmp_path / "a", pixels)
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    rescaled, issues = read_one(tmp_path / "b", 4095 - pixels, RescaleSlope="2", RescaleIntercept="-10", **tags)
    assert issues == []
    assert plain is not None
    assert rescaled is not None
    sound, stored = Preprocessing(orientation="stored"), Preprocessing(orientation="stored", values="stored")
    values, affine = images.slice_values(rescaled.slices[0], sound)
    assert values.dtype == np.float32
    assert np.array_equal(values, 2 * pixels.astype(float) - 10)
    assert np.array_equal(affine, rescaled.slices[0].affine)
    assert np.array_equal(images.slice_values(rescaled.slices[0], stored)[0], 4095 - pixels)
    assert np.array_equal(images.slice_values(plain.slices[0], sound)[0], pixels)


def test_canonical_values_come_with_their_affine(tmp_path: Path) -> None:
    series, _ = read_one(tmp_path, image(2), iop=(0, -1, 0, 0, 0, 1))
    assert series is not None
    values, affine = images.slice_values(series.slices[0], Preprocessing())
    assert np.array_equal(values, image(2)[::-1, ::-1])
    assert affine[1, 0] > 0
    assert affine[2, 1] < 0


@pytest.mark.parametrize("slope", ["0", "1e30"])
def test_an_unusable_rescale_is_ignored_and_told(tmp_path: Path, slope: str) -> None:
    series, issues = read_one(tmp_path, image(2), RescaleSlope=slope, RescaleIntercept="5")
    assert series is not None
    assert (series.slices[0].slope, series.slices[0].intercept) == (1.0, 0.0)
    assert [issue.code for issue in issues] == ["values_repaired"]


def test_missing_optional_tags_are_no_issue(tmp_path: Path) -> None:
    series, issues = read_one(tmp_path, image(2), Modality=None, SOPClassUID=None)
    assert issues == []
    assert series is not None
    assert series.spacing_tag is None
    assert series.spacing_mm is None
    assert series.slices[0].instance == 1


@pytest.mark.parametrize(("tags", "expected"), [({"InstanceNumber": 44}, 44), ({}, 1)])
def test_a_file_name_without_a_number_takes_the_instance_number(tmp_path: Path, tags: dict, expected: int) -> None:
    write_slice(tmp_path / "IM_a.DCM", image(1), ORIGIN, **tags)
    assert instances(read(tmp_path)[0]) == [expected]


# -- enhanced files -----------------------------------------------------------------------------------------------


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
    assert [issue.code for issue in issues] == ["slice_renumbered"] * 2


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


# -- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ({"iop": None}, "slice_dropped", "ImageOrientationPatient is missing"),
        ({"spacing": None}, "slice_dropped", "PixelSpacing is missing"),
        ({"spacing": (0, 0.5)}, "slice_dropped", "not that of an MR image"),
        ({"spacing": (0.5, 500)}, "slice_dropped", "not that of an MR image"),
        ({"iop": (0, 1, 0, 0, 0.3, -1)}, "slice_dropped", "not orthonormal"),
        ({"iop": (0, 1, 0, 0, 1, 0)}, "slice_dropped", "not orthonormal"),
        ({"Rows": 60000, "Columns": 60000}, "file_unreadable", "60000 rows"),
        ({"Rows": 0}, "file_unreadable", "0 rows"),
        ({"Rows": 39, "syntax": JPEG2000Lossless}, "file_unreadable", "header says otherwise"),
        ({"Rows": 200}, "file_unreadable", "less than expected"),
        ({"NumberOfFrames": 2}, "file_unreadable", "2 frames"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "file_unreadable", "3 samples"),
        ({"BitsAllocated": None}, "file_unreadable", "BitsAllocated"),
        ({"BitsAllocated": 12}, "file_unreadable", "12 bits"),
        ({"Rows": 30}, "file_unreadable", "bytes more than 30 x 36 pixels"),
        ({"Rows": 30, "syntax": RLELossless}, "file_unreadable", "RLE"),
        ({"BitsStored": 999}, "file_unreadable", "Bits"),
    ],
)
def test_a_header_that_cannot_be_true_drops_the_slice(tmp_path: Path, options: dict, code: str, reason: str) -> None:
    if "syntax" in options:  # compressed first, then given a wrong header
        path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=options["syntax"])
        dataset = dcmread(path)
        dataset.Rows = options["Rows"]
        dataset.save_as(path)
        series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    else:
        series, issues = read_one(tmp_path, image(1), **options)
    assert series is None
    assert [issue.code for issue in issues] == [code, "series_ignored"]
    assert reason in issues[0].detail
    assert "1.dcm" in issues[0].detail
    assert {(issue.study, issue.series) for issue in issues} == {(1, 7)}


def test_a_slice_without_position_is_never_guessed(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8], SAGITTAL)
    write_slice(tmp_path / "4.dcm", image(4), None)
    series, codes = read(tmp_path)
    assert codes == ["slice_dropped"]
    assert len(series) == 3


def test_a_slightly_skewed_orientation_is_repaired_and_told(tmp_path: Path) -> None:
    series, issues = read_one(tmp_path, image(1), iop=(0, 1.003, 0, 0, 0.005, -1))
    assert series is not None
    assert [issue.code for issue in issues] == ["geometry_repaired"]
    steps = series.affines[0][:3, :2] / [0.6, 0.7]
    assert np.allclose(steps.T @ steps, np.eye(2), atol=1e-12)


def test_rounded_orientations_stay_as_they_are(tmp_path: Path) -> None:
    direction = (0.02684, 0.999638, 0.001381, -0.018573, 0.00188, -0.999825)  # of the real study
    series, issues = read_one(tmp_path, image(1), iop=direction)
    assert issues == []
    assert series is not None
    assert np.array_equal(series.affines[0][:3, 0], np.array(direction[:3]) * 0.6)


def test_constant_slices_are_told_and_a_constant_series_is_none(tmp_path: Path) -> None:
    write_stack(tmp_path / "a", [0, 4], SAGITTAL)
    write_slice(tmp_path / "a" / "3.dcm", np.full((40, 36), 7, "int16"), [-8, 0, 0])
    series, codes = read(tmp_path / "a")
    assert codes == ["pixels_constant"]
    assert len(series) == 3
    nothing, issues = read_one(tmp_path / "b", np.zeros((40, 36), "int16"))
    assert nothing is None
    assert "one value only" in issues[1].detail


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.9])
def test_a_truncated_file_is_left_out(tmp_path: Path, syntax: Any, part: float) -> None:
    write_stack(tmp_path, [0, 4, 8], SAGITTAL, syntax=syntax)
    whole = (tmp_path / "2.dcm").read_bytes()
    (tmp_path / "2.dcm").write_bytes(whole[: int(len(whole) * part)])
    series, codes = read(tmp_path)
    assert instances(series) in ([3, 1], [1, 3])
    assert codes in (["file_unreadable"], ["slice_dropped"])


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_gdcm_is_never_asked_even_if_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: Any) -> None:
    asked = []

    def gdcm(*_: Any) -> bytes:
        asked.append(1)
        raise RuntimeError("would have aborted the process")

    decoder = get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {"gdcm": gdcm, **decoder._available})
    series, issues = read_one(tmp_path, image(1), syntax=syntax)
    assert issues == []
    assert series is not None
    assert not asked


def test_without_its_decoder_a_compressed_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=JPEG2000Lossless)
    monkeypatch.setattr(get_decoder(JPEG2000Lossless), "_available", {})
    _, issues = read_series(path.parent, 7, "Sagittal T1", 1)
    assert "needs pylibjpeg, which is not installed" in issues[0].detail


def test_an_unsupported_syntax_is_named(tmp_path: Path) -> None:
    series, issues = read_one(tmp_path, image(1), syntax=JPEGLSLossless, codestream=b"\xff\xd8\xff\xf7")
    assert series is None
    assert "JPEG-LS" in issues[0].detail


def test_a_codestream_of_absurd_size_is_refused_before_decoding(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=JPEG2000Lossless)
    content = path.read_bytes()
    marker = content.index(b"\xff\x4f\xff\x51") + 8
    path.write_bytes(content[:marker] + b"\x00\x01\x00\x00" * 2 + content[marker + 8 :])
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert "65536" in issues[0].detail


def test_a_deflated_file_that_grows_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + packer.compress(bytes(2**21)) + packer.flush())
    monkeypatch.setattr(dicom_file, "MAX_FILE_BYTES", 2**20)
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert "inflates" in issues[0].detail


def test_a_run_past_the_end_of_an_rle_frame_is_an_issue(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=RLELossless)
    frame = get_frame(dcmread(path).PixelData, 0, number_of_frames=1) + b"\x81\x07" * 40
    series, issues = read_one(tmp_path, image(1), syntax=RLELossless, codestream=frame)
    assert series is None
    assert issues[0].code == "file_unreadable"


def test_padding_behind_the_pixels_is_ignored_and_told(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN)
    dataset = dcmread(path)
    dataset.PixelData += bytes(100)
    dataset.save_as(path)
    series, codes = read(tmp_path)
    assert codes == ["values_repaired"]
    assert np.array_equal(series.slices[0].pixels, image(1))


def test_other_files_and_an_empty_folder_are_no_reason_to_stop(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4], SAGITTAL)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "._1.dcm").write_bytes(b"x")
    assert read(tmp_path)[1] == []
    (tmp_path / "9.dcm").mkdir()
    (tmp_path / "10.dcm").symlink_to("10.dcm")
    assert read(tmp_path)[1] == ["file_unreadable"] * 2
    for folder in ("empty", "absent"):
        if folder == "empty":
            (tmp_path / folder).mkdir()
        series, issues = read_series(tmp_path / folder, 7, "Axial T2", 1)
        assert series is None
        assert [issue.code for issue in issues] == ["series_ignored"]
        assert "no .dcm file" in issues[0].detail


@pytest.mark.parametrize("file", sorted(path.name for path in PYDICOM_FILES.glob("*.dcm")))
def test_no_file_of_pydicoms_collection_raises(tmp_path: Path, file: str) -> None:
    shutil.copy(PYDICOM_FILES / file, tmp_path / "1.dcm")
    series, issues = read_series(tmp_path, 7, "Axial T2", 1)
    assert series is not None or issues


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@given(data=st.data())
@settings(max_examples=60)
def test_flipped_bytes_never_raise_and_never_give_broken_geometry(
    tmp_path_factory: pytest.TempPathFactory, syntax: Any, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flip", numbered=True)
    path = write_slice(folder / "1.dcm", image(1), ORIGIN, syntax=syntax)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    series, issues = read_series(folder, 7, "Sagittal T1", 1)
    assert series is not None or issues
    if series is not None:
        item = series.slices[0]
        assert item.pixels.shape == (40, 36)
        assert np.isfinite(item.affine).all()
        steps = item.affine[:3, :2] / np.linalg.norm(item.affine[:3, :2], axis=0)
        assert abs(steps[:, 0] @ steps[:, 1]) < 0.01


# -- images -------------------------------------------------------------------------------------------------------


def test_a_box_inside_is_cut_and_one_outside_repeats_the_border() -> None:
    picture = np.arange(30, dtype=np.float32).reshape(5, 6)
    assert images.crop(picture, (1, 2, 4, 5))[0].tolist() == picture[2:5, 1:4].tolist()  # type: ignore[union-attr]
    assert images.crop(picture, (0, 0, 6, 5))[1] is False
    cut, padded = images.crop(picture, (-2, -1, 2, 2))
    assert padded
    assert cut is not None
    assert cut.tolist() == np.pad(picture, ((1, 0), (2, 0)), mode="edge")[:3, :4].tolist()
    outside, padded = images.crop(picture, (10, 1, 12, 3))
    assert padded
    assert outside is not None
    assert outside.tolist() == [[11, 11], [17, 17]]
    assert images.crop(picture, (-1, 0, 3, 3), "zeros") == (None, True)
    with pytest.raises(ValueError, match="empty box"):
        images.crop(picture, (3, 1, 3, 4))


def test_standardising_is_over_the_whole_stack() -> None:
    stack = np.random.default_rng(0).normal(900, 40, (3, 8, 8)).astype(np.float32)
    stack[1] += 500
    result = images.standardise(stack)
    assert result.mean() == pytest.approx(0, abs=1e-5)
    assert result.std() == pytest.approx(1, abs=1e-5)
    assert result[1].mean() > 1
    assert np.array_equal(images.standardise(np.full((2, 3, 3), 5, np.float32)), np.full((2, 3, 3), 5))


def test_stage_one_stacks_have_the_originals_statistics(cc0_study: Path) -> None:
    recorded = json.loads((shared_path("parity") / "preprocessing.json").read_text())["stage1"]
    original = Preprocessing(values="stored", orientation="stored")
    for key in ("sagt2", "axi_l1_l2"):
        entry = recorded[key]
        series, _ = read(cc0_study / "test_images" / "1001" / str(entry["series"]))
        by_name = {item.path.name: item for item in series.slices}
        chosen = [by_name[name] for name in entry["selected_files"]]
        raw = np.stack([images.resize(images.slice_values(item, original)[0], 512) for item in chosen])
        assert raw.mean(dtype=float) == pytest.approx(entry["raw"]["mean"], rel=1e-6)
        assert raw.std(dtype=float) == pytest.approx(entry["raw"]["std"], rel=1e-6)
        normalised = images.standardise(raw)
        assert normalised.min() == pytest.approx(entry["normalised"]["min"], abs=1e-4)
        assert normalised.max() == pytest.approx(entry["normalised"]["max"], abs=1e-4)


def test_regions_of_the_real_study_are_those_of_the_original(cc0_study: Path) -> None:
    recorded = json.loads((shared_path("parity") / "preprocessing.json").read_text())["roi"]
    crops = np.load(shared_path("parity") / "crops" / "sagt2_128.npy")
    original = Preprocessing(values="stored", orientation="stored")
    series, _ = read(cc0_study / "test_images" / "1001" / "6")
    by_name = {item.path.name: item for item in series.slices}
    for number, level in enumerate(("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")):
        entry = recorded[f"sagt2|{level}|128"]
        box = tuple(entry["box"][name] for name in ("x1", "y1", "x2", "y2"))
        stack = []
        for name in entry["read_files"]:
            cut, _ = images.crop(images.slice_values(by_name[name], original)[0], box)  # type: ignore[arg-type]
            assert cut is not None
            stack.append(images.resize(cut, 128))
        assert np.allclose(images.standardise(np.stack(stack)), crops[number], atol=1e-4)
