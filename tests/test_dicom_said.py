"""Headers that say the same are made sense of once: what is read and told is what each file alone would give."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from lumbar.dicom import said
from lumbar.dicom.bits import SAMPLED_ROWS, SMOOTHER, bytes_are_exchanged
from lumbar.dicom.content import Content, Memory
from lumbar.dicom.said import Headers, Opened
from lumbar.dicom.series import Slice, read_series, read_stations
from tests.support.tiny_dicom import image, write_slice, write_stack

PLACES = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0)
TAGS = {"PatientID": "A", "SeriesDescription": "T1 sag", "EchoTime": "11", "SliceThickness": "4", "RescaleSlope": "1"}
#: What the fourth file of six says otherwise.
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"PatientID": "B"},
    {"PatientName": "Müller", "SpecificCharacterSet": "ISO_IR 192"},
    {"SeriesDescription": "another"},
    {"EchoTime": "110"},
    {"EchoTime": ["11", "12"]},
    {"SliceThickness": ""},
    {"RescaleSlope": "-2", "RescaleIntercept": "7"},
    {"RescaleSlope": ["1", "2"]},
    {"PixelSpacing": ["3.5", "0.001"]},
    {"ImageOrientationPatient": ["0", "1.004", "0", "0", "0", "-1"]},
    {"ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]},
    {"ImagePositionPatient": ["1e1", "0", "0"]},
    {"ImagePositionPatient": ["1", "2"]},
    {"ImagePositionPatient": ["99999", "0", "0"]},
    {"ImagePositionPatient": ["12.00", "-0", "+0.5"]},
    {"InstanceNumber": 2},
    {"SOPInstanceUID": ""},
    {"Modality": "CT"},
    {"SOPClassUID": CTImageStorage},
    {"SOPClassUID": SecondaryCaptureImageStorage},
    {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    {"BodyPartExamined": "KNEE"},
    {"Rows": 20},
    {"Rows": 200},
    {"BitsStored": 12, "HighBit": 11},
    {"HighBit": 3},
    {"PixelRepresentation": 0},
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"PhotometricInterpretation": "RGB"},
    {"NumberOfFrames": 2},
    {"PixelPaddingValue": 0},
    {"Manufacturer": "Lumbar phantom"},
    {"PixelData": b"\0" * 100},
    {"PixelData": b""},
)


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Each test begins with no header known."""
    Headers._last.clear()
    yield
    Headers._last.clear()


def change(path: Path, tags: dict[str, Any]) -> None:
    """Write a file's tags anew, whatever they hold."""
    dataset = dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    if "PixelPaddingValue" in tags:
        dataset["PixelPaddingValue"].VR = "SS"
    dataset.save_as(path)


def told(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Everything that is read of a series: its slices, field by field, and its Issues."""
    series, issues = read_series(folder, 7, "Sagittal T1", 1)
    slices = [] if series is None else series.slices
    names = [field.name for field in fields(Slice) if field.name not in ("pixels", "affine")]
    rows: list[dict[str, Any]] = [{name: getattr(item, name) for name in names} for item in slices]
    for row, item in zip(rows, slices, strict=True):
        assert not item.pixels.flags.writeable
        row |= {"pixels": item.pixels.tolist(), "kind": item.pixels.dtype, "affine": item.affine.tolist()}
    return rows, [str(issue) for issue in issues]


@pytest.mark.parametrize("tags", CHANGES, ids=lambda tags: "-".join(tags) or "none")
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_what_a_file_says_otherwise_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, Any], syntax: Any
) -> None:
    write_stack(tmp_path, PLACES, **TAGS, **({} if syntax is None else {"syntax": syntax}))
    change(tmp_path / "4.dcm", tags)
    together = told(tmp_path)
    again = told(tmp_path)  # with what the first reading has left
    monkeypatch.setattr(said, "taken_apart", lambda content: None)
    assert told(tmp_path) == together == again


def test_what_is_wrong_with_all_is_told_of_all(tmp_path: Path) -> None:
    write_stack(tmp_path, PLACES, RescaleSlope="-1", BodyPartExamined="KNEE")
    _, issues = told(tmp_path)
    assert len(issues) == 2
    assert all("6 files (1.dcm, 2.dcm, 3.dcm and 3 more)" in issue for issue in issues)


class Counted(Headers):
    """Counts the files of which pydicom reads all."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = 0

    def opened(self, content: Content, parse: Callable[[], FileDataset]) -> Opened:
        def counted() -> FileDataset:
            self.whole += 1
            return parse()

        return super().opened(content, counted)


def whole_files(folder: Path) -> int:
    known = Counted()
    assert read_stations(folder, 7, "Sagittal T1", 1, known=known)[0]
    return known.whole


def test_only_the_first_of_files_that_agree_is_read_whole(tmp_path: Path) -> None:
    write_stack(tmp_path, PLACES, **TAGS)
    assert whole_files(tmp_path) == 1
    assert whole_files(tmp_path) == 0  # nor is that of another study whose pixels lie in the same way
    change(tmp_path / "4.dcm", {"PatientID": "B"})
    assert whole_files(tmp_path) == 0
    change(tmp_path / "4.dcm", {"BitsStored": 12})
    assert whole_files(tmp_path) == 1


def test_headers_may_be_long_and_go_on_behind_the_pixels(tmp_path: Path) -> None:
    write_stack(tmp_path, PLACES, **TAGS)
    plain = told(tmp_path)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new(0x00091001, "OB", b"\1" * 40_000)
        dataset.add_new(0x00204000, "LT", "a" * 3_000)
        dataset.add_new(0xFFFCFFFC, "OB", b"\0" * 50)
        dataset.save_as(path)
    assert told(tmp_path) == plain


def test_no_slice_loses_its_pixels_to_a_later_file(tmp_path: Path) -> None:
    write_stack(tmp_path, PLACES, **TAGS)
    change(tmp_path / "3.dcm", {"Modality": "CT"})
    write_slice(tmp_path / "5.dcm", image(5), [PLACES[4], 0, 0], syntax=RLELossless, InstanceNumber=5, **TAGS)
    (tmp_path / "6.dcm").write_bytes((tmp_path / "6.dcm").read_bytes()[:-100])
    rows, _ = told(tmp_path)
    assert sorted(row["instance"] for row in rows) == [1, 2, 4, 5]
    assert all(row["pixels"] == image(row["instance"]).tolist() for row in rows)


def test_memory_is_shared_and_taken_back(tmp_path: Path) -> None:
    contents = [bytes([number]) * size for number, size in enumerate((5_000, 70, 3_000_000, 64, 0, 1_000_000))]
    memory, kept = Memory(), []
    for number, content in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(content)
        kept.append(memory.read(path, len(content)))
        memory.read(path, len(content))  # another, whose place is taken by the next one
        memory.forget()
        memory.forget()
    assert [bytes(content) for content in kept] == contents
    (tmp_path / "0").write_bytes(b"longer by now" * 1000)
    assert memory.read(tmp_path / "0", 5_000) == b"longer by now" * 1000
    assert memory.read(tmp_path / "0", 50_000) == b"longer by now" * 1000


def test_exchanged_bytes_are_found_as_by_both_medians() -> None:
    random, found = np.random.default_rng(5), []
    for number in range(400):
        pixels = random.integers(0, random.choice([2, 9, 300, 5_000, 65_536]), (random.integers(2, 50), 40))
        pixels = np.cumsum(pixels - pixels.mean(), axis=1).astype("u2") if number % 3 else pixels.astype("u2")
        pixels = pixels.byteswap() if number % 2 else pixels
        words = pixels[:: -(-len(pixels) // SAMPLED_ROWS)]
        steps = [np.abs(np.diff(each).view("i2").astype(int)) for each in (words, words.byteswap())]
        differ = steps[0] > 0
        medians = [float(np.median(step[differ])) if differ.any() else 0.0 for step in steps]
        low = words & 0xFF
        found.append(bool(low.min() != low.max() and SMOOTHER * medians[1] < medians[0]))
        assert bytes_are_exchanged(pixels) == found[-1]
    assert 40 < sum(found) < 360
