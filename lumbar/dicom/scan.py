"""The headers of all DICOM files below a folder, each read once and without its pixels, gathered into series.

Files are known by their content. What a header says is kept as text; what it means is told elsewhere.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from lumbar import geometry
from lumbar.dicom.file import frame_headers, read_header
from lumbar.dicom.flaws import DAMAGE
from lumbar.dicom.kinds import FIRST_BYTES, first_bytes, has_preamble, is_dicom, what_it_is
from lumbar.dicom.series import LITTER, MAX_DEPTH, natural
from lumbar.geometry import Plane
from lumbar.issues import InputError

#: Field of `Facts` → the tag that it is read from.
_FACTS: Final = {
    "modality": "Modality",
    "kind": "SOPClassUID",
    "image_type": "ImageType",
    "description": "SeriesDescription",
    "protocol": "ProtocolName",
    "study_description": "StudyDescription",
    "body_part": "BodyPartExamined",
    "agent": "ContrastBolusAgent",
    "agent_volume": "ContrastBolusVolume",
    "sequence": "ScanningSequence",
    "variant": "SequenceVariant",
    "options": "ScanOptions",
    "echo": "EchoTime",
    "repetition": "RepetitionTime",
    "inversion": "InversionTime",
    "b_value": "DiffusionBValue",
    "series_number": "SeriesNumber",
}
_PATIENT: Final = ("PatientName", "PatientID", "PatientBirthDate")
_OF_FACTS: Final = tuple(_FACTS.values())
#: What files of a series mostly share, and what each has for itself.
_COMMON: Final = (
    "StudyInstanceUID", "SeriesInstanceUID", "PixelSpacing", "ImageOrientationPatient", "NumberOfFrames",
)  # fmt: skip
_OWN: Final = ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "Rows")
_FRAMES: Final = "PerFrameFunctionalGroupsSequence"
_TAG: Final = {name: tag_for_keyword(name) for name in (*_OF_FACTS, *_PATIENT, *_COMMON, *_OWN, _FRAMES)}
_CHARACTERS: Final = 0x00080005
#: Where an enhanced file says what an ordinary one has at the top, as `frame_headers` gives it.
_ENHANCED: Final = {
    "echo": "EffectiveEchoTime",
    "repetition": "RepetitionTime",
    "inversion": "InversionTimes",
    "b_value": "DiffusionBValue",
}
#: How the name of a file's folder begins where it stands for a UID that the header lacks.
NO_UID: Final = "folder "
#: Slices whose number is not told come last.
_NO_NUMBER: Final = 1 << 40


class Facts(NamedTuple):
    """What tells which part a series plays, as the header has it: empty where it has nothing, values parted by `\\`."""

    modality: str
    kind: str
    image_type: str
    description: str
    protocol: str
    study_description: str
    body_part: str
    agent: str
    agent_volume: str
    sequence: str
    variant: str
    options: str
    echo: str
    repetition: str
    inversion: str
    b_value: str
    series_number: str


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """One file: which series it belongs to, its place in it, and what it says of itself."""

    path: Path
    study: str
    series: str
    #: SOPInstanceUID and, below, the position as they were read: to be compared with those of copies.
    image: bytes | str | None
    number: int
    frames: int
    #: None where the file does not say how its image lies.
    plane: Plane | None
    #: Area of a pixel, mm².
    pixel_mm2: float
    position: bytes | str | None
    facts: Facts
    #: Name, number and birth date: read to be hidden wherever they might be said.
    patient: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """What lies below `root`: series of images (files in the order of their numbers), and what was passed over."""

    root: Path
    #: By StudyInstanceUID and SeriesInstanceUID (the folder's name for what lacks them), in the order of folders.
    series: tuple[tuple[Head, ...], ...]
    #: Files by series that say by their name or first bytes that they are DICOM, and cannot be read: told when the
    #: series is read. They lie in a folder with files of no other series.
    damaged: dict[tuple[str, str], list[Path]]
    #: How many files were passed over, by the reason.
    passed_over: Counter[str]


def scan(root: Path, follow: Callable[[Sequence[Path]], Iterable[Path]] = iter) -> Scan:
    """Read every header below a folder. `follow` hands on the files one by one, and may show how far it is."""
    # As in `read_stations`: remarks on odd files would quote them.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    passed_over: Counter[str] = Counter()
    paths = list(_files_below(root, passed_over))
    reader, heads, damaged = _Reader(root), [], []
    for path in follow(paths):
        head = reader.head(path)
        if isinstance(head, Head):
            heads.append(head)
        elif head is None:
            damaged.append(path)
        else:
            passed_over[head] += 1
    series = _gathered(heads, passed_over)
    return Scan(root, series, _belonging(damaged, heads, passed_over), passed_over)


def holds_dicom(root: Path) -> bool:
    """Whether any file below a folder holds a DICOM image; looks no farther than the first."""
    return any(is_dicom(first_bytes(path)) for path in _files_below(root, Counter()))


def _files_below(folder: Path, passed_over: Counter[str], depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Files below a folder, in natural order; links to folders are not followed, so that none leads in a circle."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: (natural(Path(entry.name).stem), entry.name))
    except OSError:
        passed_over["folders that may not be read"] += 1
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if depth > 0:
                yield from _files_below(folder / entry.name, passed_over, depth - 1)
            else:
                passed_over[f"folders more than {MAX_DEPTH} deep"] += 1
        elif entry.is_dir():
            passed_over["links to folders; give the folder itself"] += 1
        elif not entry.is_file():  # opening a pipe waits for ever
            passed_over["no ordinary files"] += 1
        elif entry.name not in LITTER and not entry.name.startswith("._"):
            yield folder / entry.name


class _Reader:
    """Reads headers. Equal bytes of the same tags are made sense of once: most files of a series say the same."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[str, ...], dict[tuple[Any, ...], tuple[str, ...]]] = {}
        self._facts: dict[tuple[str, ...], Facts] = {}

    def head(self, path: Path) -> Head | str | None:
        """A file's head; None where it is DICOM and cannot be read, the reason where it is passed over."""
        try:
            with path.open("rb") as stream:
                start = stream.read(FIRST_BYTES)
                if not is_dicom(start):
                    return self._no_dicom(path, start)
                return self._head(path, _opened(path, start, stream))
        except (InputError, *DAMAGE):
            return None

    def _no_dicom(self, path: Path, start: bytes) -> str | None:
        if path.suffix.lower() == ".dcm" and not path.name.startswith("."):
            return None
        what = what_it_is(start)
        return "no DICOM images" if what is None else f"{what[0]}: {what[1]} them"

    def _head(self, path: Path, dataset: Dataset) -> Head:
        elements = {int(tag): element for tag, element in dataset.items()}  # as they were read, not made sense of
        study, series, spacing, direction, frames = self._texts(dataset, elements, _COMMON)
        told = self._texts(dataset, elements, _OF_FACTS)
        facts = self._facts.setdefault(told, Facts(*told))
        images = (
            max(_whole(frames, 1), 1) if _TAG["Rows"] in elements else 0
        )  # 0: a report or the like, which plays no part
        if _TAG[_FRAMES] in elements:
            headers = frame_headers(dataset)
            own = {field: _plain(headers[0].get(tag)) for field, tag in _ENHANCED.items()}
            facts, images = facts._replace(**{field: text for field, text in own.items() if text}), len(headers)
            spacing, direction = (_plain(headers[0].get(name)) for name in ("PixelSpacing", "ImageOrientationPatient"))
        if not study or not series:
            place = NO_UID + path.parent.relative_to(self._root).as_posix()
            study, series = study or place, series or place
        return Head(
            path,
            study,
            series,
            _raw(elements.get(_TAG["SOPInstanceUID"])),
            _whole(_raw(elements.get(_TAG["InstanceNumber"])), _NO_NUMBER),
            images,
            _plane(direction),
            _area(spacing),
            _raw(elements.get(_TAG["ImagePositionPatient"])),
            facts,
            self._texts(dataset, elements, _PATIENT),
        )

    def _texts(self, dataset: Dataset, elements: dict[int, Any], names: tuple[str, ...]) -> tuple[str, ...]:
        """What some tags say."""
        values = [_raw(elements.get(_TAG[name])) for name in names]
        key = (dataset.original_encoding, _raw(elements.get(_CHARACTERS)), *values)
        known = self._known.setdefault(names, {})
        if key not in known:
            known[key] = tuple(_text(dataset, name) for name in names)
        return known[key]


def _raw(element: Any) -> Any:
    """An element's value as it was read, or what can be compared in its place; None where there is none."""
    value = None if element is None else element.value
    return value if value is None or isinstance(value, bytes | str) else str(value)


def _text(dataset: Dataset, name: str) -> str:
    try:
        return _plain(dataset.get(name))
    except DAMAGE:
        return ""


def _opened(path: Path, start: bytes, stream: BinaryIO) -> Dataset:
    """A header; files without a preamble, or deflated ones, are read with more care and time."""
    if not has_preamble(start) or DeflatedExplicitVRLittleEndian.encode() in start:
        return read_header(path).dataset
    stream.seek(0)
    dataset = dcmread(stream, stop_before_pixels=True)
    if not len(dataset):  # pydicom gives up everything where the file ends before it should
        raise ValueError("ends too early")
    return dataset


def _plain(value: Any) -> str:
    """A value as one line of text; of several values each."""
    if value is None:
        return ""
    several = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    return "\\".join(" ".join(str(one).strip("\0 ").split()) for one in several)


def _whole(text: str | bytes | None, default: int) -> int:
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return default


def numbers(text: str) -> list[float]:
    """The numbers of a tag's text; empty where one of them is none."""
    try:
        return [float(part) for part in text.split("\\")] if text else []
    except ValueError:
        return []


@cache
def _plane(text: str) -> Plane | None:
    direction = np.array(numbers(text))
    if direction.shape != (6,) or not np.isfinite(direction).all():
        return None
    normal = np.cross(direction[:3], direction[3:])
    if not 0.5 < np.linalg.norm(normal) < 1.5:
        return None
    return geometry.plane_of(geometry.slice_affine(np.zeros(3), direction, np.ones(2)))


@cache
def _area(text: str) -> float:
    sides = numbers(text)
    return round(sides[0] * sides[1], 6) if len(sides) == 2 else float("inf")


def _gathered(heads: Iterable[Head], passed_over: Counter[str]) -> tuple[tuple[Head, ...], ...]:
    """Series of files in the order of their numbers, where those are alike of their names; copies of an image go."""
    lots: dict[tuple[str, str], dict[tuple[Any, ...], Head]] = {}
    for head in heads:
        lot = lots.setdefault((head.study, head.series), {})
        key = (head.image, head.number, head.position, head.facts) if head.image else (head.path,)
        if key in lot:
            passed_over["copies of images that lie elsewhere in the tree"] += 1
        else:
            lot[key] = head
    return tuple(tuple(sorted(lot.values(), key=lambda head: head.number)) for lot in lots.values())


def _belonging(
    damaged: Iterable[Path], heads: Iterable[Head], passed_over: Counter[str]
) -> dict[tuple[str, str], list[Path]]:
    """Damaged files by the series that fills their folder; the others are passed over."""
    fills: dict[Path, set[tuple[str, str]]] = {}
    for head in heads:
        fills.setdefault(head.path.parent, set()).add((head.study, head.series))
    found: dict[tuple[str, str], list[Path]] = {}
    for path in damaged:
        owners = fills.get(path.parent, set())
        if len(owners) == 1:
            found.setdefault(next(iter(owners)), []).append(path)
        else:
            passed_over["damaged DICOM files"] += 1
    return found
