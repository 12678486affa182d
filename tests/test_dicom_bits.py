"""Bits that the header declares, compared with what the samples and codestreams hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from lumbar.dicom.series import Slice, read_series
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study import standardise
from tests.support.tiny_dicom import ORIGIN, image, read_one, smooth, write_slice

#: Spots that an overlay plane would mark, one in twenty pixels.
MARKED = np.random.default_rng(1).random((64, 48)) < 0.05


def read_pixels(folder: Path, pixels: NDArray[Any], **tags: Any) -> tuple[Slice, list[str]]:
    """The one slice of a series and the sentences about it."""
    series, issues = read_one(folder, pixels, **tags)
    assert series is not None, issues
    assert {issue.code for issue in issues} <= {"values_repaired"}
    return series.slices[0], [issue.detail for issue in issues]


def jpeg_2000(pixels: NDArray[Any], bits: int) -> dict[str, Any]:
    """Options of `write_slice` for a codestream of that precision, signed as the pixels are."""
    stream = encode_array(np.ascontiguousarray(pixels), bits_stored=bits, photometric_interpretation=2, codec_format=0)
    return {"syntax": JPEG2000Lossless, "codestream": bytes(stream)}


# -- what fits the header is what pydicom gives ---------------------------------------------------------------------


@pytest.mark.parametrize("low", [0, -700])
@pytest.mark.parametrize("coding", ["native", "RLE", "JPEG 2000"])
def test_sound_bits_give_pydicoms_numbers_without_a_word(tmp_path: Path, coding: str, low: int) -> None:
    pixels = (smooth(1800) + low).astype("int16" if low else "uint16")
    tags: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    tags |= {"native": {}, "RLE": {"syntax": RLELossless}, "JPEG 2000": jpeg_2000(pixels, 12)}[coding]
    item, told = read_pixels(tmp_path, pixels, **tags)
    assert told == []
    assert np.array_equal(item.pixels, dcmread(item.path).pixel_array)
    assert item.pixels.dtype == pixels.dtype
    assert item.stored_range == ((-2048, 2047) if low else (0, 4095))


def test_signed_samples_may_leave_the_upper_bits_at_zero(tmp_path: Path) -> None:
    pixels = smooth(1800) - 700
    item, told = read_pixels(tmp_path, (pixels & 0xFFF).astype("int16"), BitsStored=12, HighBit=11)
    assert told == []
    assert np.array_equal(item.pixels, pixels)
    assert np.array_equal(item.pixels, dcmread(item.path).pixel_array)


# -- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [8, 10, 12, 15])
@pytest.mark.parametrize("kind", ["smooth", "noise", "signed"])
def test_values_beyond_bits_stored_stay_whole(tmp_path: Path, kind: str, stored: int) -> None:
    pixels = smooth(60000).astype("uint16")
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 60000, (40, 36)).astype("uint16")
    if kind == "signed":
        pixels = (smooth(40000) - 9000).astype("int16")
    item, told = read_pixels(tmp_path, pixels, BitsStored=stored, HighBit=stored - 1)
    assert np.array_equal(item.pixels, pixels)
    assert item.stored_range == ((-32768, 32767) if kind == "signed" else (0, 65535))
    assert [f"BitsStored is {stored}, but values reach {pixels.max()}" in text for text in told] == [True]


def test_monochrome1_is_turned_within_the_range_that_the_samples_use(tmp_path: Path) -> None:
    """All slices within one, though the header of one of them is wrong."""
    pixels = smooth(30000)
    for number, stored in enumerate((16, 12, 16), start=1):
        tags = {"BitsStored": stored, "HighBit": stored - 1, "PhotometricInterpretation": "MONOCHROME1"}
        write_slice(tmp_path / f"{number}.dcm", (65535 - pixels).astype("uint16"), [4 * number, 0, 0], **tags)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    assert [issue.code for issue in issues] == ["values_repaired"]
    for item in series.slices:
        assert np.array_equal(standardise.slice_values(item, Preprocessing(orientation="stored"))[0], pixels)


def test_monochrome1_of_32_bits_is_not_lost_in_rounding(tmp_path: Path) -> None:
    pixels = smooth(4000)
    tags = {"PhotometricInterpretation": "MONOCHROME1"}
    item, _ = read_pixels(tmp_path, (2**32 - 1 - pixels).astype("uint32"), **tags)
    values = standardise.slice_values(item, Preprocessing(orientation="stored"))[0]
    assert np.corrcoef(values.ravel(), pixels.ravel())[0, 1] > 0.99
    item, _ = read_pixels(tmp_path, (4000 - pixels).astype("uint32"), **tags)
    assert np.ptp(standardise.slice_values(item, Preprocessing(orientation="stored"))[0] - pixels) == 0


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("coding", ["native", "RLE", "JPEG 2000"])
def test_samples_at_the_upper_end_are_moved_down(tmp_path: Path, coding: str, signed: bool) -> None:
    pixels = smooth(1800) - 700 * signed
    moved = (pixels << 4).astype("int16" if signed else "uint16")
    tags: dict[str, Any] = {"BitsStored": 12, "HighBit": 15}
    tags |= {"native": {}, "RLE": {"syntax": RLELossless}, "JPEG 2000": jpeg_2000(moved, 16)}[coding]
    item, told = read_pixels(tmp_path, moved, **tags)
    assert np.array_equal(item.pixels, pixels)
    assert ["HighBit is 15 where BitsStored is 12; the samples were moved down 4 bits" in text for text in told] == [
        True
    ]


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (12, 13), (16, 11), (12, 3), (12, 40), (16, 0)])
def test_a_high_bit_that_the_samples_contradict_is_told_and_changes_nothing(
    tmp_path: Path, stored: int, high: int
) -> None:
    pixels = smooth(3000).astype("uint16")
    item, told = read_pixels(tmp_path, pixels, BitsStored=stored, HighBit=high)
    assert np.array_equal(item.pixels, pixels)
    assert [f"HighBit is {high} where BitsStored is {stored}" in text for text in told] == [True]


def test_overlay_bits_below_the_samples_are_cut_where_they_are_declared(tmp_path: Path) -> None:
    pixels = smooth(3000)
    path = write_slice(tmp_path / "1.dcm", ((pixels << 4) | MARKED).astype("uint16"), ORIGIN, BitsStored=12, HighBit=15)
    declare_overlay(path, 0)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    assert np.array_equal(series.slices[0].pixels, pixels)
    assert [issue.code for issue in issues] == ["values_repaired"]


def declare_overlay(path: Path, bit: int) -> None:
    dataset = dcmread(path)
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", bit)
    dataset.save_as(path)


@pytest.mark.parametrize("bit", [12, 15])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("coding", ["native", "RLE", "JPEG 2000"])
def test_overlay_bits_above_the_samples_are_cut(tmp_path: Path, coding: str, declared: bool, bit: int) -> None:
    """Declared: without a word. Not declared: told; neighbouring pixels say that they are no part of the value."""
    pixels = smooth(3800)
    marked = (pixels | (MARKED.astype(int) << bit)).astype("uint16")
    tags: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    tags |= {"native": {}, "RLE": {"syntax": RLELossless}, "JPEG 2000": jpeg_2000(marked, 16)}[coding]
    path = write_slice(tmp_path / "1.dcm", marked, ORIGIN, **tags)
    if declared:
        declare_overlay(path, bit)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    assert np.array_equal(series.slices[0].pixels, pixels)
    assert series.slices[0].stored_range == (0, 4095)
    assert [issue.code for issue in issues] == ([] if declared else ["values_repaired"])
    assert declared or "no image and was cut" in issues[0].detail


def test_jpeg_2000_of_noise_is_cut_to_bits_stored(tmp_path: Path) -> None:
    pixels = image(3, (64, 48), "uint16")
    marked = (pixels | (MARKED.astype(int) << 13)).astype("uint16")
    item, told = read_pixels(tmp_path, marked, BitsStored=12, HighBit=11, **jpeg_2000(marked, 16))
    assert np.array_equal(item.pixels, pixels)
    assert len(told) == 1


def test_jpeg_2000_whose_values_reach_beyond_bits_stored_stays_whole(tmp_path: Path) -> None:
    pixels = smooth(30000).astype("uint16")
    item, told = read_pixels(tmp_path, pixels, BitsStored=12, HighBit=11, **jpeg_2000(pixels, 16))
    assert np.array_equal(item.pixels, pixels)
    assert ["values reach" in text for text in told] == [True]


# -- signs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["native", "JPEG 2000"])
@pytest.mark.parametrize("stored", [12, 16])
def test_negative_values_under_an_unsigned_header_keep_their_sign(tmp_path: Path, stored: int, coding: str) -> None:
    pixels = (smooth(1500) - 40).astype("int16")
    tags: dict[str, Any] = {"PixelRepresentation": 0, "BitsStored": stored, "HighBit": stored - 1}
    tags |= jpeg_2000(pixels, 16) if coding == "JPEG 2000" else {}
    item, told = read_pixels(tmp_path, pixels, **tags)
    assert np.array_equal(item.pixels, pixels)
    assert ["PixelRepresentation says unsigned, but the samples are signed" in text for text in told] == [True]


@pytest.mark.parametrize(("high", "stored"), [(3900, 12), (60000, 16)])
def test_large_values_under_a_signed_header_do_not_turn_negative(tmp_path: Path, high: int, stored: int) -> None:
    pixels = smooth(high).astype("uint16")
    item, told = read_pixels(tmp_path, pixels, PixelRepresentation=1, BitsStored=stored, HighBit=stored - 1)
    assert np.array_equal(item.pixels, pixels)
    assert item.stored_range == (0, 2**stored - 1)
    assert ["PixelRepresentation says signed, but the samples are unsigned" in text for text in told] == [True]


def test_an_unsigned_codestream_of_signed_samples_keeps_their_sign(tmp_path: Path) -> None:
    pixels = (smooth(1500) - 300).astype("int16")
    stream = jpeg_2000((pixels & 0xFFF).astype("uint16"), 12)
    item, told = read_pixels(tmp_path, pixels, BitsStored=12, HighBit=11, **stream)
    assert told == []
    assert np.array_equal(item.pixels, pixels)
    assert np.array_equal(item.pixels, dcmread(item.path).pixel_array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("what", ["saturated", "wide", "noise"])
def test_samples_that_use_their_whole_range_are_no_contradiction(tmp_path: Path, dtype: str, what: str) -> None:
    top = np.iinfo(dtype).max
    pixels = smooth(top)
    if what == "saturated":
        pixels = np.where(pixels > np.median(pixels), top, smooth(top // 20))
    if what == "noise":
        pixels = np.random.default_rng(0).integers(0, top + 1, (64, 48))
    item, told = read_pixels(tmp_path, pixels.astype(dtype))
    assert told == []
    assert np.array_equal(item.pixels, pixels)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"BitsStored": 0}, "BitsStored is 0 where BitsAllocated is 16"),
        ({"BitsStored": 17}, "BitsStored is 17 where BitsAllocated is 16"),
        ({"BitsStored": None}, "BitsStored is missing"),
        ({"PixelRepresentation": 7}, "PixelRepresentation is 7, not 0 or 1"),
    ],
)
def test_bits_that_cannot_be_true_are_refused_by_name(tmp_path: Path, tags: dict[str, Any], words: str) -> None:
    series, issues = read_one(tmp_path, image(1), **tags)
    assert series is None
    assert issues[0].code == "file_unreadable"
    assert words in issues[0].detail
