"""One DICOM file -> its checked `Slice`s: header and pixels in one read, nothing allocated on a header's word alone.

An ordinary file holds one slice; an enhanced (multi-frame) MR file holds one a frame.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lumbar import geometry
from lumbar.dicom.compressed import END_OF_SEQUENCE, has_whole_items
from lumbar.dicom.content import Content, Memory
from lumbar.dicom.flaws import DAMAGE, IssueLog, UnusableError, plain
from lumbar.dicom.identity import Identity, read_identity
from lumbar.dicom.kinds import FIRST_BYTES, PREAMBLE_BYTES, has_preamble, lacks_preamble, what_it_is
from lumbar.dicom.pixels import check_size, decode, prepare
from lumbar.dicom.said import Headers, Opened, Said
from lumbar.dicom.subject import check_subject
from lumbar.dicom.tags import number, required, rescale
from lumbar.geometry import Plane
from lumbar.issues import InputError, cut

MAX_FILE_BYTES: Final = 256 * 2**20
MIN_SPACING_MM, MAX_SPACING_MM = 0.02, 20.0
MIN_THICKNESS_MM, MAX_THICKNESS_MM = 0.3, 12.0
MAX_POSITION_MM: Final = 10_000.0
#: Orientation vectors: rounding of the decimal strings is kept, up to the second limit it is repaired.
EXACT_ORIENTATION, REPAIRABLE_ORIENTATION = 1e-3, 2e-2
#: Where an enhanced file keeps what an ordinary one has at the top, once for all frames or frame by frame.
_FUNCTIONAL_GROUPS: Final = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime",),
    "MRModifierSequence": ("InversionTimes",),
    "MRDiffusionSequence": ("DiffusionBValue",),
}


@dataclass(frozen=True, eq=False)
class Slice:
    """One decoded image. `pixels` (H, W) as stored, read-only; `affine` (4, 4) as in `lumbar.geometry`."""

    path: Path
    #: The number in the file name if it is one and names were given by numbers, else InstanceNumber; of an enhanced
    #: file the frame's number. No two slices of a series share one.
    instance: int
    pixels: NDArray[np.generic]
    affine: geometry.FloatArray
    slope: float = 1.0
    intercept: float = 0.0
    #: MONOCHROME1: the smallest stored value is white.
    inverted: bool = False
    #: SpacingBetweenSlices in mm as the tag says.
    spacing_between: float | None = None
    #: Rank in the natural order of the file names of the series folder, frames of one file in their order.
    file_order: int = 0
    #: Frame of an enhanced file, counted from 1; None in an ordinary file.
    frame: int | None = None
    #: Smallest and largest value that the stored bits can hold.
    stored_range: tuple[float, float] = (0.0, 0.0)
    #: Smallest and largest stored value that is padding and no image, where there are such pixels.
    padding: tuple[int, int] | None = None
    #: Plane of the series that the slice belongs to.
    plane: Plane = "sagittal"
    #: SliceThickness in mm as the tag says; None where it is absent or that of no MR image.
    thickness_mm: float | None = None
    #: Whose image it is.
    identity: Identity = field(default_factory=Identity)
    #: PixelSpacing in mm as the tag says, (row, column): the lengths of the affine's columns differ from it where
    #: ImageOrientationPatient is rounded. None in a slice that comes from no file.
    pixel_spacing: tuple[float, float] | None = None
    #: What stands for the file's name where that may not be said.
    called: str = ""

    @property
    def name(self) -> str:
        """File name, and the frame where the file holds several."""
        return _name(self.path.with_name(self.called) if self.called else self.path, self.frame)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @cached_property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        return geometry.spacing_mm(self.affine)

    @cached_property
    def axes(self) -> tuple[geometry.FloatArray, geometry.FloatArray]:
        """Unit vectors (3,) along a row and along a column."""
        between_rows, between_columns = self.spacing_mm
        return self.affine[:3, 0] / between_columns, self.affine[:3, 1] / between_rows

    @cached_property
    def centre_mm(self) -> geometry.FloatArray:
        """Patient mm (3,) of the middle of the image."""
        return geometry.centre_mm(self.affine, self.shape)


def read_slices(
    path: Path, order: int, log: IssueLog, room: int, known: Headers, *, by_name: bool = True
) -> list[Slice]:
    """The slices of one file, their plane not yet decided; what is unusable is logged and left out.

    `order` is the rank of its first slice; `known`: what headers before it said; `by_name`: a file name that is a
    number is the slice's. Raises RoomError where its pixels need more than `room` bytes.
    """
    opened, found = None, []
    try:
        content = _content(path, known.memory)
        opened = known.opened(content, lambda: _parse(content, path.name, log))
        opened.said.told(check_subject, path.name, log)
        headers = [None] if opened.pixels is not None else _several(opened.dataset)
        check_size(opened.said, len(headers), room)
        prepare(opened, len(headers), path.name, log)
    except UnusableError as flaw:
        log.add(flaw.code, str(flaw), path.name)
    except DAMAGE as error:
        log.add("file_unreadable", plain(error), path.name)
    else:
        found = list(_slices(opened, headers, path, order, log, by_name=by_name))
    if opened is None or opened.pixels is None or not found:
        known.memory.forget()
    return found


def _slices(
    opened: Opened, headers: Sequence[Dataset | None], path: Path, order: int, log: IssueLog, *, by_name: bool
) -> Iterator[Slice]:
    """The usable slices of an opened file; the header of each frame, None of an ordinary file's only one."""
    for index, header in enumerate(headers):
        frame = None if header is None else index + 1
        try:
            item = _slice(opened, header, path, index, frame, order + index, log)
        except UnusableError as flaw:
            log.add(flaw.code, str(flaw), _name(path, frame))
            continue
        if frame is None and not by_name:
            told = number(opened.dataset, "InstanceNumber")
            item = replace(item, instance=order + 1 if told is None else int(told))
        yield item


class Header(NamedTuple):
    """One file without its pixels: the dataset, and for each usable frame its number (as in `Slice`) and affine."""

    dataset: FileDataset
    affines: list[tuple[int | None, geometry.FloatArray]]


def read_header(path: Path) -> Header:
    """A file's header; InputError where it cannot be read."""
    log = IssueLog(0, 0)  # what the geometry lacks was told when the study was read
    try:
        dataset = _parse(_content(path), path.name, log, stop_before_pixels=True)
        headers = frame_headers(dataset)
    except (UnusableError, *DAMAGE) as error:
        raise InputError(f"{path}: {plain(error)}; check the file") from error
    affines = []
    for index, header in enumerate(headers):
        with suppress(UnusableError):
            frame = None if header is dataset else index + 1
            affines.append((frame, _affine(_position(header), Said(header), path.name, log)))
    return Header(dataset, affines)


def _several(dataset: Dataset) -> Sequence[Dataset | None]:
    """The headers of an enhanced file's frames; None where the file is an ordinary one."""
    headers = frame_headers(dataset)
    return [None] if headers and headers[0] is dataset else headers


def _slice(
    opened: Opened, header: Dataset | None, path: Path, index: int, frame: int | None, order: int, log: IssueLog
) -> Slice:
    """One frame (counted from 0) as a Slice; raises UnusableError."""
    name, said = _name(path, frame), opened.said
    of_frame = said if header is None else Said(header)
    lie = opened.lie if header is None else of_frame
    try:
        told = opened.position
        if told is None:
            position = _position(opened.dataset if header is None else header)
        else:
            position = np.array(told)
        affine = _affine(position, lie, name, log)
        pixels = decode(opened, index, said.of(_frames), name, log)
        instance = frame or (int(path.stem) if path.stem.isdecimal() else number(opened.dataset, "InstanceNumber"))
    except DAMAGE as error:
        raise UnusableError("file_unreadable", plain(error)) from error
    if pixels.ends[0] == pixels.ends[1]:
        log.add("pixels_constant", f"every pixel is {pixels.values.flat[0]}", name)
    slope, intercept = of_frame.told(rescale, name, log)
    return Slice(
        path=path,
        instance=order + 1 if instance is None else int(instance),
        pixels=pixels.values,
        affine=affine,
        slope=slope,
        intercept=intercept,
        inverted=said.of(_is_inverted),
        spacing_between=of_frame.of(_spacing_between),
        file_order=order,
        frame=frame,
        stored_range=pixels.stored_range,
        thickness_mm=of_frame.of(_thickness),
        identity=read_identity(opened, of_frame),
        padding=pixels.padding,
        pixel_spacing=lie.of(_pixel_spacing),
    )


def _frames(dataset: Dataset) -> int:
    return len(dataset.get("PerFrameFunctionalGroupsSequence") or [0])


def _is_inverted(dataset: Dataset) -> bool:
    return bool(dataset.get("PhotometricInterpretation") == "MONOCHROME1")


def _spacing_between(header: Dataset) -> float | None:
    return number(header, "SpacingBetweenSlices")


def _name(path: Path, frame: int | None) -> str:
    return path.name if frame is None else f"{path.name} frame {frame}"


def _content(path: Path, memory: Memory | None = None) -> Content:
    """The bytes of what may be a DICOM file, in `memory` where it is given; else UnusableError."""
    try:
        if not path.is_file():
            raise UnusableError("file_unreadable", "is a folder or a link to nothing, not a file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UnusableError("file_unreadable", f"larger than {MAX_FILE_BYTES >> 20} MB")
        content = path.read_bytes() if memory is None else memory.read(path, size)
    except OSError as error:
        raise UnusableError("file_unreadable", f"cannot be read ({error.strerror})") from error
    start = bytes(content[:FIRST_BYTES])
    if not has_preamble(start) and not lacks_preamble(start):
        what = what_it_is(start)
        flaw = "is no DICOM file" if what is None else f"is no DICOM file but {what[0]}; {what[1]} it"
        raise UnusableError("file_unreadable", flaw if content else "is empty")
    if DeflatedExplicitVRLittleEndian.encode() in start:
        _check_inflated(content)
    return content


def _parse(content: Content, name: str, log: IssueLog, *, stop_before_pixels: bool = False) -> FileDataset:
    """The dataset of a file's bytes; a file that only lacks its preamble, or the mark behind its compressed pixels, is
    read too."""
    bare = lacks_preamble(bytes(content[:FIRST_BYTES]))
    dataset = dcmread(BytesIO(content), stop_before_pixels=stop_before_pixels, force=bare)
    if bare:
        log.add("values_repaired", "its preamble and the letters DICM are missing; it was read all the same", name)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            implicit = dataset.original_encoding[0]
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    if not len(dataset):  # pydicom gives up everything where the file ends before it should
        ended = BytesIO(bytes(content) + END_OF_SEQUENCE)
        dataset = dcmread(ended, stop_before_pixels=stop_before_pixels, force=bare)
        if not has_whole_items(dataset):
            raise UnusableError("file_unreadable", "is damaged: it ends too early")
        log.add(
            "values_repaired", "the mark behind its compressed pixels is missing; they were read all the same", name
        )
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnusableError("file_unreadable", "does not say how it is coded (its TransferSyntaxUID is missing)")
    if not syntax.is_transfer_syntax:
        raise UnusableError("file_unreadable", f"is coded in an unknown way (TransferSyntaxUID {cut(syntax, 64)})")
    return dataset


def frame_headers(dataset: Dataset) -> list[Dataset]:
    """Geometry, rescale tags and times of each frame; the dataset itself where the file is an ordinary one."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return [dataset]
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    headers = []
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        header = Dataset()
        for source in (*shared, groups):  # what a frame says for itself counts
            for sequence, keywords in _FUNCTIONAL_GROUPS.items():
                for item in list(source.get(sequence) or [])[:1]:
                    for keyword in keywords:
                        if keyword in item:
                            header.add(item[keyword])
        headers.append(header)
    return headers


def _check_inflated(content: Content) -> None:
    """Refuse a deflated file that would grow beyond the limit; its meta header's length stands behind 12 bytes."""
    meta = 0 if lacks_preamble(bytes(content[:FIRST_BYTES])) else PREAMBLE_BYTES
    start = meta + 12 + int.from_bytes(content[meta + 8 : meta + 12], "little")
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], MAX_FILE_BYTES + 1)
    if len(inflated) > MAX_FILE_BYTES:
        raise UnusableError("file_unreadable", f"inflates to more than {MAX_FILE_BYTES >> 20} MB")


def _thickness(header: Dataset) -> float | None:
    value = number(header, "SliceThickness")
    return value if value is not None and MIN_THICKNESS_MM <= value <= MAX_THICKNESS_MM else None


def _pixel_spacing(dataset: Dataset) -> tuple[float, float]:
    """PixelSpacing, (row, column) mm; UnusableError where there is none."""
    between_rows, between_columns = required(dataset, "PixelSpacing", 2).tolist()
    return between_rows, between_columns


def _position(header: Dataset) -> geometry.FloatArray:
    return required(header, "ImagePositionPatient", 3)


def _affine(position: geometry.FloatArray, lie: Said, name: str, log: IssueLog) -> geometry.FloatArray:
    """Affine of a file, or UnusableError where a tag is missing or cannot be true."""
    lie.of(_directions)
    spacing = np.array(lie.of(_pixel_spacing))
    if np.abs(position).max() > MAX_POSITION_MM:
        raise UnusableError("slice_dropped", f"ImagePositionPatient {position.tolist()} lies outside any scanner")
    return geometry.slice_affine(position, lie.told(_axes, name, log), spacing)


def _directions(dataset: Dataset) -> geometry.FloatArray:
    return required(dataset, "ImageOrientationPatient", 6)


def _axes(dataset: Dataset, name: str, log: IssueLog) -> geometry.FloatArray:
    """Directions (6,) of rows and columns as they should be; UnusableError where they or the pixels' spacing cannot be
    true."""
    spacing, direction = np.array(_pixel_spacing(dataset)), _directions(dataset)
    if spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
        raise UnusableError("slice_dropped", f"PixelSpacing {spacing.tolist()} is not that of an MR image")
    row, column = direction[:3], direction[3:]
    flaw = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if flaw > REPAIRABLE_ORIENTATION:
        raise UnusableError("slice_dropped", f"ImageOrientationPatient {direction.tolist()} is not orthonormal")
    if flaw > EXACT_ORIENTATION:
        row = row / np.linalg.norm(row)
        column = column - (column @ row) * row
        direction = np.concatenate([row, column / np.linalg.norm(column)])
        log.add("geometry_repaired", f"ImageOrientationPatient was orthonormal only to {flaw:.3f}", name)
    return direction
