"""What is said of bad files: each reason once, in plain words, short, with what the file really holds."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.tag import Tag
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEG2000Lossless,
    RLELossless,
    RTStructureSetStorage,
)

from lumbar.dicom.file import read_header
from lumbar.dicom.flaws import IssueLog
from lumbar.dicom.series import read_series
from lumbar.issues import InputError
from tests.support.tiny_dicom import AXIAL, ORIGIN, image, merge_into_enhanced, read, write_slice, write_stack

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's remarks on damaged files
#: Words of Python and pydicom that tell a reader nothing.
JARGON = re.compile(r"Error\b|object|attribute|argument|NoneType|Dataset|None\b|<class|literal|plugin|unpack requires")
Harm = Callable[[Path], None]


def change(act: Callable[[Dataset], object]) -> Harm:
    def harm(path: Path) -> None:
        dataset = dcmread(path)
        act(dataset)
        dataset.save_as(path)

    return harm


def content(act: Callable[[bytes], bytes]) -> Harm:
    return lambda path: path.write_bytes(act(path.read_bytes())) and None


def raw(keyword: str, text: bytes, vr: str) -> Harm:
    """The tag with exactly these bytes."""

    def act(dataset: Dataset) -> None:
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, vr, len(text), text, 0, False, True)

    return change(act)


def nested(data: bytes) -> bytes:
    """A sequence in a sequence, 3,000 times, before the pixels."""
    at = data.index(b"\xe0\x7f\x10\x00OW")
    step = b"\x08\x00\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    return data[:at] + 3000 * step + data[at:]


def other_kind(uid: str) -> Harm:
    def act(dataset: Dataset) -> None:
        for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated", "PixelSpacing", "Modality"):
            delattr(dataset, keyword)
        dataset.SOPClassUID = uid

    return change(act)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (change(lambda ds: delattr(ds.file_meta, "TransferSyntaxUID")), "does not say how it is coded"),
        (content(lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")), "an unknown way"),
        (content(lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.5.1.4\0")), "an unknown way"),
        (content(lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"spoilt by something\0")), "UID spoilt by some"),
        (raw("PixelSpacing", b"0,75\\0,75 ", "DS"), r"PixelSpacing is '0,75\\0,75', not 2 finite numbers"),
        (raw("PixelSpacing", b"0.75\\0.75 ", "UT"), r"PixelSpacing is '0.75\\0.75', not 2 finite numbers"),
        (raw("PixelSpacing", b"0.75", "DS"), "PixelSpacing is '0.75', not 2 finite numbers"),
        (raw("PixelSpacing", b"", "DS"), "PixelSpacing is empty, not 2 finite numbers"),
        (raw("ImagePositionPatient", b"1,5\\2\\3 ", "DS"), r"ImagePositionPatient is '1,5\\2\\3', not 3"),
        (raw("ImageOrientationPatient", b"x" * 3000, "LT"), "ImageOrientationPatient is 'xxxx"),
        (raw("Rows", b"forty ", "LO"), "Rows is 'forty', no whole number"),
        (raw("NumberOfFrames", b"a few ", "LO"), "NumberOfFrames is 'a few', no whole number"),
        (raw("BitsAllocated", b"", "US"), "BitsAllocated is empty"),
        (raw("PhotometricInterpretation", b"grey" * 5000, "LT"), "only grey images are accepted"),
        (content(nested), "nested too deeply"),
        (change(lambda ds: setattr(ds, "PixelData", ds.PixelData[:1000])), "1000 bytes of pixels, less than expected"),
        (change(lambda ds: delattr(ds, "PixelData")), "holds no PixelData"),
        (other_kind(ComprehensiveSRStorage), "is no image but Comprehensive SR"),
        (other_kind(GrayscaleSoftcopyPresentationStateStorage), "image but Grayscale Softcopy Presentation State"),
        (other_kind(RTStructureSetStorage), "is no image but RT Structure Set"),
        (content(lambda data: data[:400]), "cut off"),
        (content(lambda data: data[:200]), ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_plain_words(
    tmp_path: Path, harm: Harm, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.settings, "_writing_validation_mode", config.IGNORE)
    harm(write_slice(tmp_path / "1.dcm", image(1), ORIGIN))
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is None
    assert issues[0].code in ("file_unreadable", "slice_dropped")
    assert issues[0].detail.startswith("1.dcm: ")
    assert words in issues[0].detail
    assert not JARGON.search(issues[0].detail)
    assert all(len(issue.detail) <= 300 and "\n" not in issue.detail for issue in issues)


def test_a_header_that_cannot_be_read_is_one_plain_sentence(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN)
    change(lambda ds: delattr(ds.file_meta, "TransferSyntaxUID"))(path)
    with pytest.raises(InputError, match=r"does not say how it is coded .*; check the file$") as caught:
        read_header(path)
    assert not JARGON.search(str(caught.value))


# -- the end of compressed pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_pixels_without_their_end_mark_are_read_and_told(tmp_path: Path, syntax: Any) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=syntax)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    series, codes = read(tmp_path)
    assert codes == ["values_repaired"]
    assert np.array_equal(series.slices[0].pixels, image(1))
    for missing in (9, 50, 700):  # into the pixels
        path.write_bytes(whole[:-missing])
        _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
        assert [issue.code for issue in issues] == ["file_unreadable", "series_ignored"]
        assert "is damaged: it ends too early" in issues[0].detail


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (RLELossless, b"\1\0\0\0"),
        (RLELossless, bytes(64)),
        (JPEG2000Lossless, b"no such thing"),
        (JPEG2000Lossless, None),
    ],
)
def test_compressed_pixels_that_are_none_are_told_plainly(tmp_path: Path, syntax: Any, stream: bytes | None) -> None:
    path = write_slice(tmp_path / "1.dcm", image(1), ORIGIN, syntax=syntax)
    dataset = dcmread(path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[:100] + bytes(200) if stream is None else stream])
    dataset.save_as(path)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is None
    assert issues[0].code == "file_unreadable"
    assert not JARGON.search(issues[0].detail)


# -- many files ------------------------------------------------------------------------------------------------------


def test_a_reason_that_many_files_share_is_said_once(tmp_path: Path) -> None:
    write_stack(tmp_path, [4.0 * number for number in range(60)], spacing=None)
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert [issue.code for issue in issues] == ["slice_dropped", "series_ignored"]
    assert issues[0].detail == (
        "60 files (1.dcm, 2.dcm, 3.dcm and 57 more): PixelSpacing is missing or not 2 finite numbers"
    )


def test_frames_are_counted_as_frames(tmp_path: Path) -> None:
    write_stack(tmp_path, [4.0 * number for number in range(5)])
    dataset = dcmread(merge_into_enhanced(tmp_path))
    for groups in dataset.PerFrameFunctionalGroupsSequence[:4]:
        del groups.PlanePositionSequence
    dataset.save_as(tmp_path / "1.dcm")
    _, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert issues[0].detail.startswith("4 frames (1.dcm frame 1, 1.dcm frame 2, 1.dcm frame 3 and 1 more): ")


def test_reasons_that_differ_in_numbers_only_are_one(tmp_path: Path) -> None:
    write_stack(tmp_path, [0, 4, 8])
    for number in range(12):
        write_slice(tmp_path / f"{40 + number}.dcm", image(number), [0, 0, 20000 + number])
    write_slice(tmp_path / "60.dcm", image(1), ORIGIN, AXIAL)
    series, issues = read_series(tmp_path, 7, "Sagittal T1", 1)
    assert series is not None
    assert [issue.detail for issue in issues] == [
        "12 files (40.dcm, 41.dcm, 42.dcm and 9 more): "
        "ImagePositionPatient [0.0, 0.0, 20000.0] lies outside any scanner (so the first)",
        "60.dcm: a axial slice in a sagittal series",
    ]


def test_one_file_keeps_its_sentence_and_codes_stay_apart() -> None:
    log = IssueLog(1, 7)
    log.add("file_unreadable", "is empty", "1.dcm")
    log.add("slice_dropped", "is empty", "2.dcm")
    log.add("several_stacks", "2 stacks of 3, 4 slices")
    log.add("several_stacks", "2 stacks of 3, 4 slices")
    log.add("file_unreadable", "is empty", "x" * 200)
    assert [issue.detail for issue in log.issues] == [
        f"2 files (1.dcm, {'x' * 39}…): is empty",
        "2.dcm: is empty",
        "2 stacks of 3, 4 slices",
        "2 stacks of 3, 4 slices",
    ]


def test_a_description_without_end_is_cut(tmp_path: Path) -> None:
    write_slice(tmp_path / "1.dcm", image(1), None, syntax=ExplicitVRLittleEndian)
    _, issues = read_series(tmp_path, 7, "Sagittal " * 300_000, 1)
    assert all(len(issue.detail) <= 300 for issue in issues)
