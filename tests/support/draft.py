"""A study on disk that is being changed: what changes need to find its files and to rewrite their headers and pixels.

The sound study is number 1 of a data folder; its series 1 is sagittal T1, 2 sagittal T2, 3 axial T2.
"""

import csv
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom import config, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.conftest import ROOT

T1, T2, AX = 1, 2, 3
SERIES = (T1, T2, AX)
SAMPLES = ROOT / "sample_data" / "train_images"
#: Series of two phantoms of the sample data in the order of `SERIES`: the sound study, and another patient.
SOUND = ("100001/794108896", "100001/3456246721", "100001/3913907269")
OTHER = ("100002/3065588025", "100002/2005121167", "100002/2767234767")
TABLE = "study_id,series_id,series_description\n1,1,Sagittal T1\n1,2,Sagittal T2/STIR\n1,3,Axial T2\n"
Edit = Callable[[FileDataset], None]


def with_tags(tags: Mapping[str, Any]) -> Callable[[FileDataset], None]:
    """What gives a header some tags; None takes a tag away."""

    def change(dataset: FileDataset) -> None:
        for keyword, value in tags.items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)

    return change


@dataclass
class Draft:
    """One copy of the sound study; `options` are further words for `predict`."""

    root: Path
    dealer: random.Random
    options: list[str] = field(default_factory=list)
    #: Files added beside the slices: no later change minds them.
    extra: set[Path] = field(default_factory=set)

    @property
    def images(self) -> Path:
        """The study's folder, whatever zeros stand before its number."""
        return _numbered(self.root / "data" / "test_images", 1)

    @property
    def table(self) -> Path:
        """The table of the series."""
        return self.root / "data" / "test_series_descriptions.csv"

    def folder(self, series: int) -> Path:
        """A series' folder, whatever zeros stand before its number."""
        return _numbered(self.images, series)

    def files(self, series: int) -> list[Path]:
        """The DICOM files of a series, known by their content, in natural order of their names."""
        paths = (path for path in self.folder(series).rglob("*") if path not in self.extra)
        return sorted((path for path in paths if _is_dicom(path)), key=_natural)

    def listed(self) -> list[tuple[int, int, str]]:
        """Study, series and description of each row of the table, however it is written."""
        with self.table.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row][1:]
        return [(int(float(row[0])), int(float(row[1])), row[2]) for row in rows]

    def list_series(self, rows: Iterable[tuple[object, object, str]]) -> None:
        """Write the table anew."""
        lines = [f"{study},{series},{words}\n" for study, series, words in rows]
        self.table.write_text("".join([TABLE.partition("\n")[0] + "\n", *lines]), encoding="utf-8")

    def one(self) -> int:
        """One of the three series."""
        return self.dealer.choice(SERIES)

    def some(self) -> list[int]:
        """One to three of the series, in any order."""
        return self.dealer.sample(SERIES, self.dealer.randint(1, 3))

    def place(self, series: int) -> int:
        """The place of one of the files of a series."""
        return self.dealer.randrange(len(self.files(series)))

    def edit(self, series: int | Iterable[int], change: Edit, only: Iterable[int] | None = None) -> None:
        """Change the files of the series, or those at certain places."""
        for number in [series] if isinstance(series, int) else series:
            paths = self.files(number)
            for path in paths if only is None else [paths[place] for place in only]:
                dataset = dcmread(path)
                change(dataset)
                write(dataset, path)

    def put(self, series: int | Iterable[int], only: Iterable[int] | None = None, **tags: Any) -> None:
        """Give tags a value; None takes the tag away."""
        self.edit(series, with_tags(tags), only)

    def uid(self) -> UID:
        """A new UID, the same in every run."""
        return generate_uid(entropy_srcs=[str(self.dealer.getrandbits(64))])

    def add(self, series: int, source: Path, name: str, change: Edit) -> None:
        """Put a changed copy of a file, an instance of its own, into the folder of a series."""
        dataset = dcmread(source)
        change(dataset)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = self.uid()
        path = self.folder(series) / name
        write(dataset, path)
        self.extra.add(path)

    def is_plain(self, series: int) -> bool:
        """Whether stored values are the image as it is shown, with nothing to be applied to them."""
        for path in self.files(series):
            dataset = dcmread(path, stop_before_pixels=True)
            if "RescaleSlope" in dataset or "PixelPaddingValue" in dataset:
                return False
            if dataset.PhotometricInterpretation != "MONOCHROME2":
                return False
        return True


def sound(root: Path, dealer: random.Random) -> Draft:
    """A fresh copy of the sound study in an empty folder."""
    draft = Draft(root, dealer)
    folder = root / "data" / "test_images" / "1"
    folder.mkdir(parents=True)
    for number, source in zip(SERIES, SOUND, strict=True):
        shutil.copytree(SAMPLES / source, folder / str(number))
    draft.table.write_text(TABLE)
    return draft


@contextmanager
def anything_goes() -> Iterator[None]:
    """Inside, pydicom reads and writes values that the standard forbids without a remark."""
    before = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE
    try:
        yield
    finally:
        config.settings.reading_validation_mode, config.settings.writing_validation_mode = before


def floats(values: Iterable[Any]) -> NDArray[np.float64]:
    """Values of a tag as numbers."""
    return np.array([float(value) for value in values])


def decimals(values: Iterable[float], digits: int = 8) -> list[str]:
    """Decimal strings of at most 16 characters, as the standard wants them."""
    return [f"{value:.{digits}g}" for value in values]


def pixels(dataset: FileDataset) -> NDArray[np.int64]:
    """Stored values (H, W)."""
    return dataset.pixel_array.astype(np.int64)


def store(dataset: FileDataset, values: ArrayLike, kind: str = "<i4", bits: int | None = None) -> None:
    """Other stored values (H, W), uncompressed, as numbers of a numpy type of which `bits` are said to be used."""
    array = np.ascontiguousarray(np.asarray(values).astype(kind))
    dataset.Rows, dataset.Columns = array.shape
    dataset.BitsAllocated = 8 * array.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = array.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"


def write(dataset: FileDataset, path: Path) -> None:
    """Save a file in the encoding that its header names."""
    syntax = dataset.file_meta.TransferSyntaxUID
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)


def put_text(dataset: FileDataset, keyword: str, text: str | bytes) -> None:
    """Give an element exactly these bytes, whatever its kind of value allows."""
    content = text if isinstance(text, bytes) else text.encode("utf-8")
    content += b" " * (len(content) % 2)
    tag = Tag(tag_for_keyword(keyword))
    implicit = bool(dataset.original_encoding[0])
    dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(content), content, 0, implicit, True)


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isascii() and part.isdecimal() else (-1, part) for part in parts]


def _numbered(folder: Path, number: int) -> Path:
    found = [path for path in folder.iterdir() if path.name.isdecimal() and int(path.name) == number]
    return found[0] if found else folder / str(number)
