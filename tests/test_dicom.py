"""The reader of one series: order, geometry, pixel values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from lumbar.geometry import normal
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study import standardise
from tests.support.tiny_dicom import (
    AXIAL,
    CORONAL,
    ORIGIN,
    PYDICOM_FILES,
    SAGITTAL,
    image,
    instances,
    read,
    read_one,
    write_slice,
    write_stack,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on damaged files


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


def test_pixel_spacing_is_what_the_tag_says_however_the_cosines_are_rounded(tmp_path: Path) -> None:
    write_stack(tmp_path, [0.0, 4.0], (0.123457, 0.992350, 0.0, 0.0, 0.0, -1.0), spacing=(3.75, 3.125))
    for item in read(tmp_path)[0].slices:
        assert item.pixel_spacing == (3.75, 3.125)
        assert item.spacing_mm == pytest.approx((3.75, 3.125))
        assert item.spacing_mm != item.pixel_spacing


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
    assert series.slabs == (0, 0, 0, 1, 1, 1, 1)
    assert instances(series) == [21, 22, 23, 1, 2, 3, 4]
    assert {item.plane for item in series.slices} == {"axial"}


def test_stacks_of_one_angle_are_told_apart_by_the_gap(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8, 40, 44, 48, 80, 84], AXIAL)
    series, codes = read(tmp_path, "Axial T2")
    assert series.slabs == (0, 0, 0, 1, 1, 1, 2, 2)
    assert codes == ["several_stacks"]
    assert series.spacing_mm == pytest.approx(4.0)


def test_overlapping_angled_stacks_are_kept_apart(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8, 12], AXIAL)
    tilt = np.radians(12)
    write_stack(tmp_path, [6, 10, 14, 18], (1, 0, 0, 0, np.cos(tilt), np.sin(tilt)), names=[11, 12, 13, 14])
    series, _ = read(tmp_path, "Axial T2")
    assert instances(series) == [1, 2, 3, 4, 11, 12, 13, 14]
    assert series.slabs == (0, 0, 0, 0, 1, 1, 1, 1)


def test_a_missing_sagittal_slice_is_told_and_makes_no_stack(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8, 20, 24], SAGITTAL)
    series, codes = read(tmp_path)
    assert codes == ["slices_missing"]
    assert set(series.slabs) == {0}
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
    assert series.slabs == (0,) * 4 + (1,) * 4 + (2,) * 3 + (3,) * 3 + (4,) * 3
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
        cropped = dcmread(PYDICOM_FILES / file)
        cropped.PixelSpacing = [3.125, 3.125]  # its 64 x 64 pixels are 20 mm, which no spine fits into
        cropped.save_as(folder / "1.dcm")
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
    values, affine = standardise.slice_values(rescaled.slices[0], sound)
    assert values.dtype == np.float32
    assert np.array_equal(values, 2 * pixels.astype(float) - 10)
    assert np.array_equal(affine, rescaled.slices[0].affine)
    assert np.array_equal(standardise.slice_values(rescaled.slices[0], stored)[0], 4095 - pixels)
    assert np.array_equal(standardise.slice_values(plain.slices[0], sound)[0], pixels)


def test_canonical_values_come_with_their_affine(tmp_path: Path) -> None:
    series, _ = read_one(tmp_path, image(2), iop=(0, -1, 0, 0, 0, 1))
    assert series is not None
    values, affine = standardise.slice_values(series.slices[0], Preprocessing())
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
