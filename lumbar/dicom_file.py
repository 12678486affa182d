"""One DICOM file -> one checked `Slice`: header and pixels in one read, nothing allocated on a header's word alone."""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    RLELossless,
)

from lumbar import geometry
from lumbar.geometry import Plane
from lumbar.issues import Issue

#: Decoder of each compressed syntax, named so that pydicom picks no other: python-gdcm aborts the process on corrupt
#: JPEG 2000, and pylibjpeg-rle 2.2 panics (no Exception) on a run past the end of a frame. Others are refused.
DECODERS: Final[dict[UID, str]] = {
    RLELossless: "pydicom",
    JPEG2000: "pylibjpeg",
    JPEG2000Lossless: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
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
MAX_FILE_BYTES: Final = 256 * 2**20
#: Lumbar MR images have 256 to 1,024 pixels a side.
MIN_SIDE_PX, MAX_SIDE_PX = 16, 4096
MIN_SPACING_MM, MAX_SPACING_MM = 0.02, 20.0
MAX_POSITION_MM: Final = 10_000.0
#: Orientation vectors: rounding of the decimal strings is kept, up to the second limit it is repaired.
EXACT_ORIENTATION, REPAIRABLE_ORIENTATION = 1e-3, 2e-2


@dataclass(frozen=True, eq=False)
class Slice:
    """One decoded image. `pixels` (H, W) as stored, read-only; `affine` (4, 4) as in `lumbar.geometry`."""

    path: Path
    #: The number in the file name if it is one, else InstanceNumber.
    instance: int
    pixels: NDArray[np.generic]
    affine: geometry.FloatArray
    slope: float = 1.0
    intercept: float = 0.0
    #: MONOCHROME1: the smallest stored value is white.
    inverted: bool = False
    #: SpacingBetweenSlices in mm as the tag says.
    spacing_between: float | None = None
    #: Rank in the natural order of the file names of the series folder.
    file_order: int = 0
    #: Smallest and largest value that the stored bits can hold.
    stored_range: tuple[float, float] = (0.0, 0.0)
    #: Plane of the series that the slice belongs to.
    plane: Plane = "sagittal"

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        return geometry.spacing_mm(self.affine)


class UnusableError(Exception):
    """A file that cannot become a slice: issue code and reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class IssueLog:
    """Collects the issues of one series."""

    def __init__(self, study_id: int, series_id: int) -> None:
        self.study_id, self.series_id = study_id, series_id
        self.issues: list[Issue] = []

    def add(self, code: str, detail: str) -> None:
        self.issues.append(Issue(code, self.study_id, self.series_id, detail))


def read_slice(path: Path, order: int, log: IssueLog) -> Slice:
    """One file as a Slice, its plane not yet decided; raises UnusableError."""
    dataset = _open(path)
    try:
        affine = _affine(dataset, path, log)
        _check_size(dataset)
        pixels = _decode(dataset)
        instance = int(path.stem) if path.stem.isdecimal() else _number(dataset, "InstanceNumber")
        stored_range = _stored_range(int(dataset.BitsStored), bool(dataset.PixelRepresentation))
        inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    except DAMAGE as error:
        raise UnusableError("file_unreadable", _sentence(error)) from error
    if is_constant(pixels):
        log.add("pixels_constant", f"{path.name}: every pixel is {pixels.flat[0]}")
    slope, intercept = _rescale(dataset, path, log)
    spacing = _number(dataset, "SpacingBetweenSlices")
    return Slice(
        path=path,
        instance=order + 1 if instance is None else int(instance),
        pixels=pixels,
        affine=affine,
        slope=slope,
        intercept=intercept,
        inverted=inverted,
        spacing_between=spacing,
        file_order=order,
        stored_range=stored_range,
    )


def _open(path: Path) -> FileDataset:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnusableError("file_unreadable", f"larger than {MAX_FILE_BYTES >> 20} MB")
        content = path.read_bytes()
        if DeflatedExplicitVRLittleEndian.encode() in content[:1024]:
            _check_inflated(content)
        return dcmread(BytesIO(content))
    except DAMAGE as error:
        raise UnusableError("file_unreadable", _sentence(error)) from error


def _check_inflated(content: bytes) -> None:
    """Refuse a deflated file that would grow beyond the limit; its meta header's length stands at byte 140."""
    start = 144 + int.from_bytes(content[140:144], "little")
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], MAX_FILE_BYTES + 1)
    if len(inflated) > MAX_FILE_BYTES:
        raise UnusableError("file_unreadable", f"inflates to more than {MAX_FILE_BYTES >> 20} MB")


def _stored_range(bits: int, signed: bool) -> tuple[float, float]:
    """Smallest and largest value that the bits can hold."""
    if not 1 <= bits <= 64:
        raise ValueError(f"BitsStored is {bits}")
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    """The `count` finite numbers of a tag, or None where it is missing, malformed or of another length."""
    try:
        value = dataset.get(keyword)
        numbers = np.array([float(item) for item in (value if count > 1 else [value])])
    except DAMAGE:
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword, 1)
    return None if numbers is None else float(numbers[0])


def _required(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    numbers = _numbers(dataset, keyword, count)
    if numbers is None:
        raise UnusableError("slice_dropped", f"{keyword} is missing or not {count} finite numbers")
    return numbers


def _affine(dataset: Dataset, path: Path, log: IssueLog) -> geometry.FloatArray:
    """Affine of a file, or UnusableError where a tag is missing or cannot be true."""
    position = _required(dataset, "ImagePositionPatient", 3)
    direction = _required(dataset, "ImageOrientationPatient", 6)
    spacing = _required(dataset, "PixelSpacing", 2)
    if np.abs(position).max() > MAX_POSITION_MM:
        raise UnusableError("slice_dropped", f"ImagePositionPatient {position.tolist()} lies outside any scanner")
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
        log.add("geometry_repaired", f"{path.name}: ImageOrientationPatient was orthonormal only to {flaw:.3f}")
    return geometry.slice_affine(position, direction, spacing)


def _rescale(dataset: Dataset, path: Path, log: IssueLog) -> tuple[float, float]:
    """Rescale slope and intercept; (1, 0) where they are absent or unusable."""
    if "RescaleSlope" not in dataset and "RescaleIntercept" not in dataset:
        return 1.0, 0.0
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if not slope or intercept is None or abs(slope) > 1e6 or abs(intercept) > 1e9:
        log.add("values_repaired", f"{path.name}: rescale slope {slope} and intercept {intercept} were ignored")
        return 1.0, 0.0
    return slope, intercept


def _check_size(dataset: Dataset) -> None:
    """Refuse what is no single grey image of a sane size before anything is allocated for it."""
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not (MIN_SIDE_PX <= rows <= MAX_SIDE_PX and MIN_SIDE_PX <= columns <= MAX_SIDE_PX):
        raise UnusableError("file_unreadable", f"an image of {rows} rows and {columns} columns is not accepted")
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if frames != 1 or samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnusableError(
            "file_unreadable", f"{frames} frames of {samples} samples ({photometric}), not one grey image"
        )


def _decode(dataset: FileDataset) -> NDArray[np.generic]:
    """Pixels (H, W) as stored, read-only, in native byte order."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = _decoder(dataset, syntax) if syntax.is_encapsulated else ""
    pixels, _ = get_decoder(syntax).as_array(dataset, decoding_plugin=plugin, view_only=True)
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise UnusableError("file_unreadable", f"decoded to shape {pixels.shape}, header says otherwise")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UnusableError("file_unreadable", "holds values that are not finite")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    pixels.setflags(write=False)
    return pixels


def _decoder(dataset: FileDataset, syntax: UID) -> str:
    """Name of the decoder for a compressed file; refuses a codestream of another size than the header's."""
    if syntax not in DECODERS:
        raise UnusableError("file_unreadable", f"transfer syntax {syntax.name} is not supported")
    plugin = DECODERS[syntax]
    if plugin not in get_decoder(syntax).available_plugins:
        raise UnusableError("file_unreadable", f"{syntax.name} needs {plugin}, which is not installed")
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if len(frame) > 2 * dataset.Rows * dataset.Columns * 8 + 1024:
        raise UnusableError("file_unreadable", f"{len(frame)} compressed bytes are more than the image can need")
    if syntax != RLELossless:
        size = _codestream_size(frame)
        if size != (dataset.Rows, dataset.Columns, 1):
            raise UnusableError("file_unreadable", f"its codestream has size {size}, the header says otherwise")
    return plugin


def _codestream_size(frame: bytes) -> tuple[int, int, int]:
    """(rows, columns, components) that a JPEG 2000 codestream claims (ISO 15444-1, marker SIZ), before decoding it."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 44:
        raise ValueError("no JPEG 2000 codestream found")
    x_size, y_size, x_offset, y_offset = struct.unpack_from(">4I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    return y_size - y_offset, x_size - x_offset, components


def is_constant(pixels: NDArray[np.generic]) -> bool:
    return bool(pixels.min() == pixels.max())
