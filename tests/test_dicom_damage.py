"""The reader on damaged and hostile files: told, left out, never a crash."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from lumbar.dicom.series import read_series
from tests.support.tiny_dicom import (
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
    steps = series.affines[0][:3, :2] / [3.0, 3.5]
    assert np.allclose(steps.T @ steps, np.eye(2), atol=1e-12)


def test_rounded_orientations_stay_as_they_are(tmp_path: Path) -> None:
    direction = (0.02684, 0.999638, 0.001381, -0.018573, 0.00188, -0.999825)  # of the real study
    series, issues = read_one(tmp_path, image(1), iop=direction)
    assert issues == []
    assert series is not None
    assert np.array_equal(series.affines[0][:3, 0], np.array(direction[:3]) * 3.0)


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


def test_a_codestream_of_absurd_size_is_refused_before_decoding(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=JPEG2000Lossless)
    content = path.read_bytes()
    marker = content.index(b"\xff\x4f\xff\x51") + 8
    path.write_bytes(content[:marker] + b"\x00\x01\x00\x00" * 2 + content[marker + 8 :])
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert "65536" in issues[0].detail


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
    assert read(tmp_path)[1] == ["file_unreadable"]
    for folder in ("empty", "absent"):
        if folder == "empty":
            (tmp_path / folder).mkdir()
        series, issues = read_series(tmp_path / folder, 7, "Axial T2", 1)
        assert series is None
        assert [issue.code for issue in issues] == ["series_ignored"]
        assert "no DICOM file" in issues[0].detail


@pytest.mark.parametrize("file", sorted(path.name for path in PYDICOM_FILES.glob("*.dcm")))
def test_no_file_of_pydicoms_collection_raises(tmp_path: Path, file: str) -> None:
    shutil.copy(PYDICOM_FILES / file, tmp_path / "1.dcm")
    series, issues = read_series(tmp_path, 7, "Axial T2", 1)
    assert series is not None or issues


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@given(data=st.data())
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
