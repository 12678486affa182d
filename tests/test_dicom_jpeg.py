"""JPEG Lossless and JPEG-LS: decoded where imagecodecs is installed, a sentence with the remedy where it is not."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from lumbar.dicom import compressed
from lumbar.dicom.jpeg import is_whole
from lumbar.dicom.series import read_series
from tests.support.tiny_dicom import (
    ORIGIN,
    PYDICOM_FILES,
    image,
    instances,
    merge_into_enhanced,
    read,
    smooth,
    write_slice,
)

SYNTAXES = (JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless)
needs_decoder = pytest.mark.skipif(not importlib.util.find_spec("imagecodecs"), reason="needs imagecodecs")


def encoded(pixels: NDArray[Any], syntax: UID, bits: int) -> bytes:
    """A codestream, two's complement where the pixels are signed."""
    import imagecodecs

    unsigned = (pixels.astype(np.int64) & (2**bits - 1)).astype("uint8" if bits == 8 else "uint16")
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 6
        return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits))
    return bytes(imagecodecs.jpegls_encode(unsigned))


def write_coded(path: Path, pixels: NDArray[Any], syntax: UID, bits: int = 16, **tags: Any) -> Path:
    return write_slice(path, pixels, ORIGIN, syntax=syntax, codestream=encoded(pixels, syntax, bits), **tags)


@needs_decoder
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(
    ("dtype", "stored", "bits", "low"),
    [
        ("uint8", 8, 8, 0),
        ("uint16", 12, 12, 0),
        ("uint16", 16, 16, 0),
        ("uint16", 12, 16, 0),
        ("uint16", 16, 8, 0),
        ("int16", 16, 16, -700),
        ("int16", 12, 12, -700),
        ("int16", 12, 16, -700),
    ],
)
def test_every_depth_gives_the_stored_pixels(
    tmp_path: Path, syntax: UID, dtype: str, stored: int, bits: int, low: int
) -> None:
    pixels = (smooth(200 if bits == 8 else 2000) + low).astype(dtype)
    write_coded(tmp_path / "1.dcm", pixels, syntax, bits, BitsStored=stored, HighBit=stored - 1)
    series, codes = read(tmp_path)
    assert codes == []
    assert np.array_equal(series.slices[0].pixels, pixels)
    assert series.slices[0].pixels.dtype == np.dtype(dtype)
    assert not series.slices[0].pixels.flags.writeable


@needs_decoder
@pytest.mark.parametrize("syntax", SYNTAXES[1:3], ids=lambda syntax: syntax.name)
def test_an_enhanced_file_gives_each_frame_its_place(tmp_path: Path, syntax: UID) -> None:
    for number in (1, 2, 3):
        write_slice(tmp_path / f"{number}.dcm", image(number), [-4 * number, 0, 0])
    dataset = dcmread(merge_into_enhanced(tmp_path))
    dataset.PixelData = encapsulate([encoded(image(number), syntax, 16) for number in (1, 2, 3)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "1.dcm")
    series, codes = read(tmp_path)
    assert codes == []
    assert instances(series) == [3, 2, 1]
    assert all(np.array_equal(item.pixels, image(item.instance)) for item in series.slices)


@needs_decoder
@pytest.mark.parametrize("syntax", SYNTAXES[1:3], ids=lambda syntax: syntax.name)
def test_bits_above_bits_stored_are_cut_from_a_codestream(tmp_path: Path, syntax: UID) -> None:
    pixels = smooth(3000)
    marked = (pixels | (np.random.default_rng(1).random(pixels.shape) < 0.05).astype(int) << 14).astype("uint16")
    write_coded(tmp_path / "1.dcm", marked, syntax, BitsStored=12, HighBit=11)
    series, codes = read(tmp_path)
    assert codes == ["values_repaired"]
    assert np.array_equal(series.slices[0].pixels, pixels)


@needs_decoder
def test_pydicoms_own_jpeg_ls_file_is_the_image_of_the_others(tmp_path: Path) -> None:
    dataset = dcmread(PYDICOM_FILES / "MR_small_jpeg_ls_lossless.dcm")
    dataset.PixelSpacing = [3.0, 3.0]  # a part of an image, of 20 mm
    dataset.save_as(tmp_path / "1.dcm")
    series, codes = read(tmp_path, "Axial T2")
    assert codes == []
    assert np.array_equal(series.slices[0].pixels, dcmread(PYDICOM_FILES / "MR_small.dcm").pixel_array)


@needs_decoder
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(
    "harm", ["other size", "huge", "colour", "cut off", "empty", "no image", "another coding", "two"]
)
def test_a_codestream_that_claims_something_else_is_refused_before_it_is_decoded(
    tmp_path: Path, syntax: UID, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "_decode_jpeg", lambda *_: pytest.fail("was decoded"))
    stream = bytearray(encoded(image(1), syntax, 16))
    marker = b"\xff\xc3" if syntax in SYNTAXES[:2] else b"\xff\xf7"
    at = stream.index(marker)
    if harm in ("other size", "huge"):
        stream[at + 5 : at + 9] = b"\x00\x20\x00\x20" if harm == "other size" else b"\xff\xff\xff\xff"
    elif harm == "colour":
        stream[at + 9] = 3
    elif harm == "another coding":
        stream[at + 1] = 0xC1
    elif harm == "two":
        stream[at:at] = stream[at : at + 2 + stream[at + 3]]
    else:
        stream = {"cut off": stream[:-300], "empty": bytearray(2), "no image": stream[: at + 2] + stream[-2:]}[harm]
    write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=syntax, codestream=bytes(stream))
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is None
    assert issues[0].code == "file_unreadable"
    assert "codestream" in issues[0].detail


def cut(stream: bytearray) -> bytearray:
    return stream[:-900] + stream[-2:]


def overwritten(stream: bytearray) -> bytearray:
    stream[-900:-700] = bytes(200)
    return stream


def marked(stream: bytearray) -> bytearray:
    stream[-900:-898] = b"\xff\xc1"
    return stream


def another_table(stream: bytearray) -> bytearray:
    """Codes of another length: the sizes of steps are exchanged."""
    at = stream.index(b"\xff\xc4") + 5
    many = sum(stream[at : at + 16])
    stream[at + 16 : at + 16 + many] = stream[at + 16 : at + 16 + many][::-1]
    return stream


@needs_decoder
@pytest.mark.parametrize("syntax", SYNTAXES[:2], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("harm", [cut, overwritten, marked, another_table])
def test_damage_inside_a_lossless_image_is_told_and_nothing_else(
    tmp_path: Path, syntax: UID, harm: Callable[[bytearray], bytearray]
) -> None:
    stream = harm(bytearray(encoded(smooth(2000), syntax, 16)))
    write_slice(tmp_path / "1.dcm", smooth(2000).astype("uint16"), ORIGIN, syntax=syntax, codestream=bytes(stream))
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is None
    assert [issue.code for issue in issues] == ["file_unreadable", "series_ignored"]
    assert "1.dcm: is damaged: its " in issues[0].detail


@needs_decoder
@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_takes_the_bits_that_the_image_holds(predictor: int) -> None:
    import imagecodecs

    for bits, pixels in ((8, smooth(200)), (12, smooth(4000)), (16, image(3)), (16, image(4, low=-900) * 37)):
        stored = (pixels.astype(np.int64) & (2**bits - 1)).astype("uint8" if bits == 8 else "uint16")
        frame = imagecodecs.jpeg8_encode(stored, lossless=True, predictor=predictor, bitspersample=bits)
        assert is_whole(bytes(frame), stored)
        assert not is_whole(bytes(frame[:-40] + frame[-2:]), stored)


def test_without_its_decoder_the_sentence_names_it_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for number in range(9):
        syntax = SYNTAXES[1]
        write_slice(tmp_path / f"{number}.dcm", image(1), [number, 0, 0], syntax=syntax, codestream=b"\xff\xd8")
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert [issue.code for issue in issues] == ["file_unreadable", "series_ignored"]
    assert issues[0].detail.startswith("9 files (0.dcm, 1.dcm, 2.dcm and 6 more): cannot decode JPEG Lossless")
    assert "pip install imagecodecs" in issues[0].detail
    assert len(issues[0].detail) <= 300


def test_what_no_decoder_is_known_for_says_so(tmp_path: Path) -> None:
    write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=JPEGExtended12Bit, codestream=b"\xff\xd8")
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert "cannot decode JPEG Extended" in issues[0].detail
    assert "convert it" in issues[0].detail


@pytest.mark.slow
@needs_decoder
def test_mutated_codestreams_neither_abort_nor_hang(tmp_path: Path) -> None:
    """In a process of its own, with glibc's checks of the heap where it has them; the large run is `fuzz_jpeg.py`."""
    script = Path(__file__).parent / "support" / "fuzz_jpeg.py"
    command = [sys.executable, str(script), "--mutations", "200", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["findings"] == []
    for kind in ("JPEG Lossless", "JPEG-LS"):
        assert sum(report["outcomes"][kind].values()) == 100
        assert min(report["outcomes"][kind][word] for word in ("decoded", "refused")) > 0
