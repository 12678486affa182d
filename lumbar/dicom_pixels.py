"""Pixel data of one DICOM file: sizes checked before anything is allocated, decoders chosen by name."""

import itertools
import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    RLELossless,
)

from lumbar.issues import Issue

#: Decoders of each compressed syntax, best first, named so that pydicom never picks python-gdcm, which aborts the
#: process on corrupt JPEG 2000. Other compressed syntaxes are refused.
DECODERS: Final[dict[UID, tuple[str, ...]]] = {
    RLELossless: ("pylibjpeg", "pydicom"),
    JPEG2000: ("pylibjpeg",),
    JPEG2000Lossless: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
    HTJ2KLossless: ("pylibjpeg",),
    HTJ2KLosslessRPCL: ("pylibjpeg",),
}
#: What pydicom and the decoders raise on damaged files (found by mutating files).
DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,  # includes NotImplementedError and RecursionError
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
#: Lumbar MR images have 256 to 1,024 pixels a side.
MIN_SIDE_PX, MAX_SIDE_PX = 16, 4096
#: Share of bytes behind the image that passes for padding.
MAX_EXCESS: Final = 0.05


class UnusableError(Exception):
    """A file that cannot become a slice: issue code and reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RoomError(Exception):
    """The pixels of a file do not fit into the memory that its study may take."""


class IssueLog:
    """Collects the issues of one series."""

    def __init__(self, study_id: int, series_id: int) -> None:
        self.study_id, self.series_id = study_id, series_id
        self.issues: list[Issue] = []

    def add(self, code: str, detail: str) -> None:
        self.issues.append(Issue(code, self.study_id, self.series_id, detail))


def check_size(dataset: Dataset, described: int, room: int) -> None:
    """Refuse what is no grey image of a sane size before anything is allocated for it.

    `described` frames have geometry. Raises RoomError where all frames together need more than `room` bytes.
    """
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not (MIN_SIDE_PX <= rows <= MAX_SIDE_PX and MIN_SIDE_PX <= columns <= MAX_SIDE_PX):
        raise UnusableError("file_unreadable", f"an image of {rows} rows and {columns} columns is not accepted")
    frames = int(dataset.get("NumberOfFrames") or 1)
    bits = int(dataset.BitsAllocated)
    if bits not in (8, 16, 32, 64):
        raise UnusableError("file_unreadable", f"{bits} bits a pixel are not accepted")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if frames != described or samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        what = f"{frames} frames of {samples} samples ({photometric}), {described} with geometry"
        raise UnusableError("file_unreadable", f"{what}; only grey images are accepted, each with its own place")
    if rows * columns * bits // 8 * frames > room:
        raise RoomError


def prepare(dataset: FileDataset, frames: int, name: str, log: IssueLog) -> None:
    """Make the pixel data of a checked header fit to be decoded: no padding, no second table of offsets."""
    if "PixelData" not in dataset:
        raise UnusableError("file_unreadable", "holds no PixelData (pixels as floating-point numbers are not accepted)")
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:  # what is checked and what is decoded must be the same frame
            delattr(dataset, keyword)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _decoder(dataset.file_meta.TransferSyntaxUID)
    else:
        _trim(dataset, frames, name, log)


def decode(dataset: FileDataset, index: int, frames: int) -> NDArray[np.generic]:
    """Pixels (H, W) of frame `index` of `frames` as stored, read-only, in native byte order."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = ""
    if syntax.is_encapsulated:
        plugin = _decoder(syntax)
        _check_frame(dataset, syntax, index, frames)
    view = not plugin and dataset.BitsStored == dataset.BitsAllocated
    pixels, _ = get_decoder(syntax).as_array(dataset, index=index, decoding_plugin=plugin, view_only=view)
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise UnusableError("file_unreadable", f"decoded to shape {pixels.shape}, header says otherwise")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    pixels.setflags(write=False)
    return pixels


def _trim(dataset: FileDataset, frames: int, name: str, log: IssueLog) -> None:
    """Cut padding behind uncompressed pixels; refuse so much of it that the header's rows and columns are in doubt."""
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8 * frames
    excess = len(dataset.PixelData) - expected
    if excess > MAX_EXCESS * expected:
        what = f"{dataset.Rows} x {dataset.Columns} pixels"
        raise UnusableError(
            "file_unreadable", f"{excess} bytes more than {what if frames == 1 else f'{frames} x {what}'}"
        )
    if excess > 1:
        dataset.PixelData = dataset.PixelData[: expected + expected % 2]
        log.add("values_repaired", f"{name}: {excess} bytes behind the pixels were ignored")


def _decoder(syntax: UID) -> str:
    """Name of the decoder for a compressed syntax."""
    if syntax not in DECODERS:
        raise UnusableError("file_unreadable", f"cannot decode {syntax.name}; convert it to RLE or JPEG 2000 Lossless")
    installed = get_decoder(syntax).available_plugins
    plugin = next((name for name in DECODERS[syntax] if name in installed), None)
    if plugin is None:
        raise UnusableError(
            "file_unreadable", f"cannot decode {syntax.name}: it needs {DECODERS[syntax][0]}, which is not installed"
        )
    return plugin


def _check_frame(dataset: FileDataset, syntax: UID, index: int, frames: int) -> None:
    """Refuse a compressed frame that claims to hold another image than the header's, before it is decoded."""
    frame = get_frame(dataset.PixelData, index, number_of_frames=frames)
    if syntax == RLELossless:
        _check_rle(frame, dataset.Rows * dataset.Columns, dataset.BitsAllocated // 8)
        return
    size = _codestream_size(frame)
    if size != (dataset.Rows, dataset.Columns, 1):
        raise UnusableError("file_unreadable", f"its codestream has size {size}, the header says otherwise")


def _check_rle(frame: bytes, pixels: int, segments: int) -> None:
    """Refuse an RLE frame (PS3.5 annex G) unless each segment, one a byte of a pixel, unpacks to one byte a pixel.

    pylibjpeg-rle 2.2 panics, which is no Exception, where a run passes the end of the image.
    """
    count, *starts = struct.unpack_from("<16L", frame)
    bounds = [*starts[:segments], len(frame)]
    if count != segments or bounds[0] != 64 or any(starts[segments:]) or bounds != sorted(set(bounds)):
        raise UnusableError("file_unreadable", f"RLE header with {count} segments at {starts} cannot be true")
    for start, end in itertools.pairwise(bounds):
        unpacked, at = 0, start
        while at < end - 1:  # the last byte may be padding
            run = frame[at]
            if run < 128:
                unpacked += run + 1
                at += run + 2
            elif run > 128:
                unpacked += 257 - run
                at += 2
            else:
                at += 1
        if unpacked != pixels or at > end:
            raise UnusableError("file_unreadable", f"RLE segment of {unpacked} pixels, the header says {pixels}")


def _codestream_size(frame: bytes) -> tuple[int, int, int]:
    """(rows, columns, components) that a JPEG 2000 codestream claims (ISO 15444-1, marker SIZ), before decoding it."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 44:
        raise ValueError("no JPEG 2000 codestream found")
    x_size, y_size, x_offset, y_offset = struct.unpack_from(">4I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    return y_size - y_offset, x_size - x_offset, components


def is_constant(pixels: NDArray[np.generic]) -> bool:
    """Whether every pixel is the same; one row tells of most images that they are none of these."""
    middle = pixels[len(pixels) // 2]
    return bool(middle.min() == middle.max() and pixels.min() == pixels.max())
