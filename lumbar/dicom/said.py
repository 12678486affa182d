"""What headers say, made sense of once: files of a series mostly bear the same bytes in all tags but a few.

pydicom takes a header apart into elements as they lie in the file, and turns a value into what it means when it is
asked for, which takes longer than copying the pixels. So the elements of an ordinary file are compared, as bytes, with
those of the files before it: where all tags that are read here agree, what was made of the first stands for each. What
every file has for itself (`OWN`) is read of each. Any other file is left to pydicom's `dcmread`.
"""

import re
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lumbar.dicom.content import Content, Memory
from lumbar.dicom.flaws import DAMAGE, IssueLog, UnusableError
from lumbar.dicom.kinds import PREAMBLE_BYTES, has_preamble

Made = TypeVar("Made")


def _tags(*keywords: str) -> tuple[int, ...]:
    return tuple(int(tag_for_keyword(keyword)) for keyword in keywords)  # type: ignore[arg-type]


#: What decides how letters are read, and pixels decoded.
_OF_IMAGE: Final = (
    "SpecificCharacterSet", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
#: All that is read of an ordinary file, whatever it says; `Said.dataset` has nothing else.
_ALIKE: Final = _tags(
    *_OF_IMAGE, "ImageType", "SOPClassUID", "Modality", "Manufacturer", "SeriesDescription", "PatientName",
    "PatientID", "PatientBirthDate", "BodyPartExamined", "SliceThickness", "EchoTime", "SpacingBetweenSlices",
    "EffectiveEchoTime", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope",
)  # fmt: skip
#: How an image lies: the slices of one stack say the same, those of a series need not.
_LIE: Final = _tags("ImageOrientationPatient", "PixelSpacing")
_Key = tuple[Any, ...]
#: So many kinds of images are remembered from study to study.
_MOST_KINDS: Final = 64
#: What each file has for itself, beside its pixels.
OWN: Final = _tags("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient")
_IMAGE, _, _POSITION = OWN
#: What most files have there, that need not be turned by pydicom's means: three numbers, digits and points.
_THREE_NUMBERS: Final = re.compile(rb"\\".join([rb"(-?\d{1,16}(?:\.\d{1,16})?)"] * 3) + b" ?")
_UID: Final = re.compile(rb"([0-9.]+)\0?")
_ROWS, _PIXELS = _tags("Rows", "PixelData")
#: Files with one of these are no ordinary ones: frames, tables of offsets, other kinds of pixels, overlays in them.
_ODD: Final = frozenset(
    (
        *_tags("PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *_tags("FloatPixelData", "DoubleFloatPixelData"),
        *(group << 16 | element for group in range(0x6000, 0x6020, 2) for element in (0x0102, 0x3000)),
    )
)
_READ: Final = (*_ALIKE, *_LIE, *OWN)
_LOOKED_FOR: Final[list[BaseTag | int]] = [*_READ, _PIXELS, *_ODD]
#: Ordinary files' TransferSyntaxUID as it lies in them, and whether it leaves out what kind a value is of.
_PLAIN_SYNTAXES: Final = {
    ExplicitVRLittleEndian.encode() + b"\0": False,
    ImplicitVRLittleEndian.encode() + b"\0": True,
}
#: Longer values are pixels, or in no ordinary file.
_LONG_BYTES: Final = 1024
#: Most headers are shorter.
_HEAD_BYTES: Final = 16384
#: (0002,0000), the length of the group with which a meta header begins.
_META_START: Final = b"\2\0\0\0UL\4\0"
_SYNTAX: Final[list[BaseTag | int]] = [0x00020010]


class Remarks(IssueLog):
    """What is told of one header, to be told of every file that has it."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.told: list[tuple[str, str]] = []

    def add(self, code: str, reason: str, names: object = ()) -> None:
        """Keep the reason; which file it is told of plays no part."""
        self.told.append((code, reason))


class _Outcome(NamedTuple):
    value: Any
    error: Exception | None
    remarks: list[tuple[str, str]]


class Said:
    """A header: that of one odd file, or what it has in common with others (`dataset` has no other tags then)."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        #: Type of the stored samples, where pydicom has read such a file's.
        self.samples: np.dtype[Any] | None = None
        self._made: dict[Callable[..., Any], _Outcome] = {}

    def of(self, make: Callable[[Dataset], Made]) -> Made:
        """What a function makes of the header; what it raises is raised for each file."""
        outcome = self._made.get(make)
        if outcome is None:
            outcome = self._made[make] = _tried(lambda: make(self.dataset), [])
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)
        return outcome.value

    def told(self, make: Callable[[Dataset, str, IssueLog], Made], name: str, log: IssueLog) -> Made:
        """As `of`; what the function logs is logged for each file."""
        outcome = self._made.get(make)
        if outcome is None:
            remarks = Remarks()
            outcome = self._made[make] = _tried(lambda: make(self.dataset, name, remarks), remarks.told)
        for code, reason in outcome.remarks:
            log.add(code, reason, name)
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)
        return outcome.value


def _tried(make: Callable[[], object], remarks: list[tuple[str, str]]) -> _Outcome:
    try:
        return _Outcome(make(), None, remarks)
    except (UnusableError, *DAMAGE) as error:
        return _Outcome(None, error, remarks)


class Opened:
    """A file's header: all of it, or its own tags where it says else what files before it said."""

    def __init__(self, said: Said, lie: Said, dataset: Dataset | None = None) -> None:
        #: `lie`: how the image lies.
        self.said, self.lie = said, lie
        self._dataset = dataset
        self._own: dict[int, RawDataElement] = {}
        #: Its uncompressed samples, where `dataset` lacks them.
        self.pixels: memoryview | None = None

    @classmethod
    def alike(cls, said: Said, lie: Said, elements: dict[int, RawDataElement], content: Content) -> "Opened":
        """A file that says what others say."""
        opened = cls(said, lie)
        opened._own = elements
        pixels = elements[_PIXELS]
        opened.pixels = memoryview(content)[pixels.value_tell : pixels.value_tell + pixels.length]
        return opened

    @property
    def dataset(self) -> Dataset:
        """The whole header, or the file's own tags."""
        if self._dataset is None:
            self._dataset = _part(self.said.dataset, self._own, OWN)
        return self._dataset

    @property
    def position(self) -> list[float] | None:
        """ImagePositionPatient, where it is written as usual; else None, and `dataset` has it."""
        found = self._plain(_POSITION, "DS", _THREE_NUMBERS)
        return None if found is None else [float(number) for number in found.groups()]

    @property
    def image(self) -> str | None:
        """SOPInstanceUID, as `position`."""
        found = self._plain(_IMAGE, "UI", _UID)
        return None if found is None else found[1].decode()

    def _plain(self, tag: int, kind: str, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        element = self._own.get(tag)
        if element is None or element.VR not in (kind, None) or not element.value:
            return None
        return pattern.fullmatch(element.value)


class Headers:
    """Opens files of one study, one after the other, and remembers what their headers say."""

    #: By what a header says of its pixels and letters: the last one that said so, of whichever study.
    _last: ClassVar[dict[_Key, tuple[_Key, Said]]] = {}

    def __init__(self) -> None:
        self.memory = Memory()
        self._known: dict[_Key, Said] = {}
        self._lies: dict[_Key, Said] = {}

    def opened(self, content: Content, parse: Callable[[], FileDataset]) -> Opened:
        """The header of a file that holds `content`; `parse` reads all of it by pydicom."""
        elements = taken_apart(content)
        key = None if elements is None else _key(elements, _ALIKE)
        where = None if elements is None else _key(elements, _LIE)
        if elements is None or key is None or where is None or not _is_ordinary(elements):
            return _odd(parse())
        of_image = key[: len(_OF_IMAGE)], elements[_PIXELS].VR, elements[_PIXELS].is_implicit_VR
        key, where = (*of_image, key), (*of_image, where)
        said, lie = self._known.get(key), self._lies.get(where)
        if said is None and (last := self._last.get(of_image)) is not None:
            said = self._known[key] = _told_anew(key, elements, *last)
        if said is None or said.samples is None:
            dataset = parse()
            found = {int(tag): element for tag, element in dataset.items()}
            said = self._known.setdefault(key, Said(_part(dataset, found, _ALIKE)))
            said.dataset.file_meta = dataset.file_meta
            lie = self._lies.setdefault(where, Said(_part(dataset, found, _LIE)))
            return Opened(said, lie, dataset)
        if len(self._last) > _MOST_KINDS:
            self._last.clear()
        self._last[of_image] = key, said
        if lie is None:
            lie = self._lies[where] = Said(_part(said.dataset, elements, _LIE))
        return Opened.alike(said, lie, elements, content)


def _odd(dataset: Dataset) -> Opened:
    said = Said(dataset)
    return Opened(said, said, dataset)


def _told_anew(key: _Key, elements: Mapping[int, RawDataElement], last_key: _Key, last: Said) -> Said:
    """The header of a file whose pixels lie as the last one's; what is the same in both need not be turned again."""
    known = {int(tag): element for tag, element in last.dataset.items()}
    same = {tag for tag, one, other in zip(_ALIKE, key[-1], last_key[-1], strict=True) if one == other}
    said = Said(_part(last.dataset, {tag: known[tag] if tag in same else elements[tag] for tag in elements}, _ALIKE))
    said.dataset.file_meta = last.dataset.file_meta
    said.samples = last.samples
    return said


def _part(dataset: Dataset, elements: Mapping[int, Any], tags: tuple[int, ...]) -> Dataset:
    """A dataset with the elements of those tags, to be understood as those of `dataset`."""
    part = Dataset({elements[tag].tag: elements[tag] for tag in tags if tag in elements})
    part.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)
    return part


def taken_apart(content: Content) -> dict[int, RawDataElement] | None:
    """The elements that are read of a file, as they lie in it, long ones without their value; None where it is no
    ordinary file."""
    elements = _apart(bytes(content[:_HEAD_BYTES]))
    pixels = None if elements is None else elements.get(_PIXELS)
    if len(content) <= _HEAD_BYTES or (pixels is not None and pixels.value_tell + pixels.length >= len(content)):
        return elements
    return _apart(bytes(content))  # the header goes on behind what was looked at


def _apart(content: bytes) -> dict[int, RawDataElement] | None:
    """What `dcmread` finds of those elements in an uncompressed little endian file, by the same means."""
    if not has_preamble(content) or content[PREAMBLE_BYTES : PREAMBLE_BYTES + len(_META_START)] != _META_START:
        return None
    stream = BytesIO(content)
    stream.seek(PREAMBLE_BYTES)
    try:
        meta = data_element_generator(stream, False, True, _behind_meta, specific_tags=_SYNTAX)
        syntax = list(meta)[-1]
        implicit = _PLAIN_SYNTAXES[syntax.value] if syntax.VR == "UI" else None
        first = content[stream.tell() : stream.tell() + 6]
        if implicit is None or first[:2] == b"\0\0" or _looks_implicit(first) != implicit:
            return None
        found = data_element_generator(stream, implicit, True, defer_size=_LONG_BYTES, specific_tags=_LOOKED_FOR)
        return {int(element.tag): element for element in found}  # type: ignore[misc]
    except DAMAGE:
        return None  # pydicom says what is wrong


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >> 16 != 2


def _looks_implicit(first: bytes) -> bool:
    """As pydicom tells it: where no two capitals stand behind the first tag."""
    return not (len(first) == 6 and 0x40 < first[4] < 0x5B and 0x40 < first[5] < 0x5B)


def _is_ordinary(elements: dict[int, RawDataElement]) -> bool:
    """Whether a file holds one image of uncompressed samples, and what each file has for itself is short."""
    pixels = elements.get(_PIXELS)
    if not isinstance(pixels, RawDataElement) or pixels.VR not in ("OB", "OW", None):
        return False
    if pixels.value is not None or pixels.length == 0:  # short, or none at all
        return False
    return _ROWS in elements and _ODD.isdisjoint(elements) and _key(elements, OWN) is not None


def _key(elements: dict[int, RawDataElement], tags: tuple[int, ...]) -> _Key | None:
    """Equal where headers say the same in those tags; None where one of them is long or holds other elements."""
    key: list[Any] = []
    for tag in tags:
        element = elements.get(tag)
        if element is None:
            key.append(None)
        elif element.__class__ is not RawDataElement or (element.value is None and element.length):
            return None
        else:
            key.append((element.VR, element.value))
    return tuple(key)
