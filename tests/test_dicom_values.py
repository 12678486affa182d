"""Padding and rescale tags: what is no image takes no part, and no tag's size swallows the image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.uid import ImplicitVRLittleEndian

from lumbar.dicom.series import Series, read_series
from lumbar.issues import Issue
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.report.html.images import display_range, to_grey
from lumbar.study import standardise
from tests.support.tiny_dicom import image, merge_into_enhanced, read_one, smooth, write_slice

SOUND = Preprocessing(orientation="stored")
EXACT = Preprocessing(orientation="stored", values="stored")
CORNERS = np.zeros((64, 48), bool)
CORNERS[:12, :9] = CORNERS[-7:, -20:] = True


def values_of(series: Series | None, options: Preprocessing = SOUND) -> NDArray[np.float32]:
    """Values (N, H, W) of all slices of a series."""
    assert series is not None
    return np.stack([standardise.slice_values(item, options)[0] for item in series.slices])


def read_padded(
    folder: Path, pixels: NDArray[Any], value: object, limit: object = None, vr: str = "SS", **tags: Any
) -> tuple[Series | None, list[Issue]]:
    path = write_slice(folder / "1.dcm", pixels, np.zeros(3), **tags)
    dataset = dcmread(path)
    for tag, number in ((0x00280120, value), (0x00280121, limit)):
        if number is not None:
            dataset[tag] = DataElement(tag, vr, number)
    dataset.save_as(path)
    return read_series(folder, 7, "Sagittal T1", 1)


# -- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "stored", "value", "vr"),
    [
        ("int16", -32768, -32768, "SS"),
        ("int16", -32768, 32768, "US"),
        ("int16", -2000, 63536, "US"),
        ("int16", 32767, 32767, "SS"),
        ("uint16", 65535, 65535, "US"),
        ("uint16", 65535, -1, "SS"),
        ("uint8", 255, 255, "US"),
        ("int32", -(2**31), -(2**31), "SL"),
    ],
)
def test_padding_becomes_the_smallest_value_of_the_image(
    tmp_path: Path, dtype: str, stored: int, value: int, vr: str
) -> None:
    pixels = 3 + smooth(200 if dtype == "uint8" else 900)
    series, issues = read_padded(tmp_path, np.where(CORNERS, stored, pixels).astype(dtype), value, vr=vr)
    assert issues == []
    assert np.array_equal(values_of(series)[0], np.where(CORNERS, pixels[~CORNERS].min(), pixels))
    assert np.array_equal(values_of(series, EXACT)[0], np.where(CORNERS, stored, pixels))


@pytest.mark.parametrize(("value", "limit"), [(-3000, -1000), (-1000, -3000), (62536, 64536)])
def test_a_range_of_padding_is_padding(tmp_path: Path, value: int, limit: int) -> None:
    stored = np.random.default_rng(0).integers(-3000, -999, (64, 48))
    pixels, vr = smooth(900), "US" if value > 0 else "SS"
    series, issues = read_padded(tmp_path, np.where(CORNERS, stored, pixels).astype("int16"), value, limit, vr)
    assert issues == []
    assert np.array_equal(values_of(series)[0], np.where(CORNERS, pixels[~CORNERS].min(), pixels))


@pytest.mark.parametrize("options", [{"BitsStored": 12, "HighBit": 11}, {"syntax": ImplicitVRLittleEndian}])
def test_padding_beyond_the_stored_bits_says_nothing_of_them(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = smooth(900) - 50
    series, issues = read_padded(tmp_path, np.where(CORNERS, -32768, pixels).astype("int16"), -32768, **options)
    assert issues == []
    assert np.array_equal(values_of(series)[0], np.where(CORNERS, pixels[~CORNERS].min(), pixels))


def test_padding_of_an_inverted_image_is_dark_too(tmp_path: Path) -> None:
    pixels = 3 + smooth(900)
    stored = np.where(CORNERS, 0, 4095 - pixels).astype("uint16")  # 0 would be the brightest
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    series, issues = read_padded(tmp_path, stored, 0, vr="US", **tags, RescaleSlope="2", RescaleIntercept="-7")
    assert issues == []
    assert np.array_equal(values_of(series)[0], 2 * np.where(CORNERS, pixels[~CORNERS].min(), pixels) - 7)


@pytest.mark.parametrize("value", [0, 1, 500, 899, -1, 70000])
def test_padding_that_is_not_there_or_a_value_of_the_image_changes_nothing(tmp_path: Path, value: int) -> None:
    pixels = (smooth(900) - 3).astype("int16")
    series, issues = read_padded(tmp_path, pixels, value, vr="SL")
    assert issues == []
    assert np.array_equal(values_of(series)[0], pixels)


def test_zero_in_the_air_moves_by_no_more_than_the_noise(tmp_path: Path) -> None:
    pixels = smooth(900)
    series, issues = read_padded(tmp_path, pixels.astype("uint16"), 0, vr="US")
    assert issues == []
    assert np.abs(values_of(series)[0] - pixels).max() <= 1


@pytest.mark.parametrize(
    ("value", "limit", "vr", "words"),
    [
        (0, 4095, "US", "leave no pixel"),
        ("low", None, "LO", "PixelPaddingValue is 'low', no number"),
        (-9, "x" * 9000, "LT", "PixelPaddingRangeLimit is 'xxx"),
        ([1, 2], None, "SS", "PixelPaddingValue is '1"),
    ],
)
def test_nonsense_of_padding_is_told_and_ignored(
    tmp_path: Path, value: object, limit: object, vr: str, words: str
) -> None:
    pixels = smooth(900).astype("uint16")
    path = write_slice(tmp_path / "1.dcm", pixels, np.zeros(3))
    dataset = dcmread(path)
    dataset[0x00280120] = DataElement(0x00280120, "SS" if isinstance(value, int) and value < 0 else vr, value)
    if limit is not None:
        dataset[0x00280121] = DataElement(0x00280121, vr, limit)
    dataset.save_as(path)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert [issue.code for issue in issues] == ["values_repaired"]
    assert words in issues[0].detail
    assert len(issues[0].detail) < 300
    assert np.array_equal(values_of(series)[0], pixels)


# -- rescale ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "intercept"), [("1e-5", "1e8"), ("0.001", "-999999999"), ("1", "100000000"), ("1e-9", "0"), ("-1", "5")]
)
def test_no_slope_and_no_intercept_swallows_the_image(tmp_path: Path, slope: str, intercept: str) -> None:
    pixels = smooth(900).astype("uint16")
    for number in range(3):
        tags = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        write_slice(tmp_path / f"{number}.dcm", pixels + number, [4 * number, 0, 0], **tags)
    series, _ = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    expected = np.stack([item.pixels for item in series.slices]) * float(slope)
    found = values_of(series)
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=abs(float(slope)) / 8)
    as_seen, as_meant = standardise.standardise(found), standardise.standardise(expected.astype(np.float32))
    np.testing.assert_allclose(as_seen, as_meant, atol=1e-3)
    low, high = display_range(series)
    grey = to_grey(found, low, high)
    assert (grey.min(), grey.max()) == (0, 255)


@pytest.mark.parametrize("enhanced", [False, True])
def test_slopes_that_differ_from_slice_to_slice_count_for_each(tmp_path: Path, enhanced: bool) -> None:
    slopes = [0.5, 1.25, 2.0, 4.0]
    for number, slope in enumerate(slopes, start=1):
        stored = np.round(smooth(1000) / slope).astype("uint16")
        tags = {"RescaleSlope": str(slope), "RescaleIntercept": str(10 * number), "InstanceNumber": number}
        path = write_slice(tmp_path / f"{number}.dcm", stored, [-4 * number, 0, 0], **tags)
        dataset = dcmread(path)
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 17.5)  # the scale of floating-point values, which is no business of the display
        dataset.save_as(path)
    if enhanced:
        merge_into_enhanced(tmp_path, shared=False)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert issues == []
    assert series is not None
    for item in series.slices:
        found = standardise.slice_values(item, SOUND)[0]
        np.testing.assert_allclose(found - 10 * item.instance, smooth(1000), atol=2.1)


def test_inverted_slices_of_unlike_slopes_are_turned_over_behind_them(tmp_path: Path) -> None:
    pixels = [smooth(900, seed=number).astype("uint16") for number in (1, 2, 3)]
    for number, (values, finer) in enumerate(zip(pixels, (1, 2, 3), strict=True), start=1):
        tags = {
            "PhotometricInterpretation": "MONOCHROME1",
            "RescaleSlope": f"{1 / finer:.10g}",
            "RescaleIntercept": "0",
        }
        write_slice(tmp_path / f"{number}.dcm", (20_000 - values) * finer, (4.0 * number, 0, 0), **tags)
    values = values_of(read_series(tmp_path, 7, "Sagittal T1", 1)[0])
    plain = np.stack(pixels).astype(float)
    np.testing.assert_allclose(values - values.mean(), plain - plain.mean(), atol=0.05)


@pytest.mark.parametrize(
    ("tags", "tag", "kept"),
    [
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "RescaleSlope", (1.0, 0.0)),
        ({"RescaleSlope": "nan", "RescaleIntercept": "5"}, "RescaleSlope", (1.0, 0.0)),
        ({"RescaleSlope": "1e30"}, "RescaleSlope", (1.0, 0.0)),
        ({"RescaleSlope": "1e-40"}, "RescaleSlope", (1.0, 0.0)),
        ({"RescaleSlope": ""}, "RescaleSlope is empty", (1.0, 0.0)),
        ({"RescaleSlope": "2", "RescaleIntercept": ""}, "RescaleIntercept is empty", (2.0, 0.0)),
        ({"RescaleSlope": "2", "RescaleIntercept": "inf"}, "RescaleIntercept", (2.0, 0.0)),
        ({"RescaleSlope": "2", "RescaleIntercept": "1e30"}, "RescaleIntercept", (2.0, 0.0)),
        ({"RescaleSlope": "-2", "RescaleIntercept": "7"}, "is negative; it turns dark into bright", (-2.0, 7.0)),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on such numbers
def test_nonsense_of_rescaling_is_told_with_the_tags_name(
    tmp_path: Path, tags: dict[str, str], tag: str, kept: tuple[float, float]
) -> None:
    series, issues = read_one(tmp_path, image(2), **tags)
    assert series is not None
    assert (series.slices[0].slope, series.slices[0].intercept) == kept
    assert [issue.code for issue in issues] == ["values_repaired"]
    assert tag in issues[0].detail
