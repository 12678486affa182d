"""Pixel data of one DICOM file: sizes checked before anything is allocated, samples brought to their values."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder

from lumbar.dicom.bits import Settled, bytes_are_exchanged, declared, is_padding, lone_extreme, padding_limits, settle
from lumbar.dicom.compressed import decode_frame, decoder_of
from lumbar.dicom.flaws import IssueLog, RoomError, UnusableError
from lumbar.dicom.said import Opened, Said
from lumbar.dicom.tags import shown, whole
from lumbar.issues import cut

#: Lumbar MR images have 256 to 1,024 pixels a side.
MIN_SIDE_PX, MAX_SIDE_PX = 16, 4096
#: Share of bytes behind the image that passes for padding.
MAX_EXCESS: Final = 0.05


class Pixels(NamedTuple):
    """One decoded frame: values (H, W) as stored, read-only, in native byte order; what their bits can hold."""

    values: NDArray[np.generic]
    stored_range: tuple[float, float]
    #: Smallest and largest value that is padding and no image, where there are such pixels.
    padding: tuple[int, int] | None
    #: Smallest and largest value.
    ends: tuple[int, int]


class Claim(NamedTuple):
    """The size of an image as its header claims it."""

    rows: int
    columns: int
    frames: int
    bits: int
    samples: int
    photometric: str


def _claim(dataset: Dataset) -> Claim:
    """What a header claims; UnusableError where that is no image of a sane size."""
    if "Rows" not in dataset and not any(keyword in dataset for keyword in _PIXELS):
        kind = cut(str(getattr(dataset.get("SOPClassUID"), "name", "")))
        if "Storage" in kind and "Image" not in kind:
            raise UnusableError("file_unreadable", f"is no image but {kind.removesuffix(' Storage')}")
        raise UnusableError("file_unreadable", "holds no image (it may be cut off)")
    rows, columns = whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)
    if not (MIN_SIDE_PX <= rows <= MAX_SIDE_PX and MIN_SIDE_PX <= columns <= MAX_SIDE_PX):
        raise UnusableError("file_unreadable", f"an image of {rows} rows and {columns} columns is not accepted")
    frames = whole(dataset, "NumberOfFrames", 1)
    bits = whole(dataset, "BitsAllocated")
    if bits not in (8, 16, 32, 64):
        raise UnusableError("file_unreadable", f"{bits} bits a pixel are not accepted")
    samples = whole(dataset, "SamplesPerPixel", 1)
    photometric = cut(str(dataset.get("PhotometricInterpretation", "MONOCHROME2")), 40)
    return Claim(rows, columns, frames, bits, samples, photometric)


def check_size(said: Said, described: int, room: int) -> None:
    """Refuse what is no grey image of a sane size before anything is allocated for it.

    `described` frames have geometry. Raises RoomError where all frames together need more than `room` bytes.
    """
    rows, columns, frames, bits, samples, photometric = said.of(_claim)
    if frames != described or samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        what = f"{frames} frames of {samples} samples ({photometric}), {described} with geometry"
        raise UnusableError("file_unreadable", f"{what}; only grey images are accepted, each with its own place")
    if rows * columns * bits // 8 * frames > room:
        raise RoomError


_EXCHANGED: Final = (
    "the bytes of its samples are not in the order that TransferSyntaxUID says (neighbouring pixels agree only with "
    "each two exchanged); read in the other order"
)
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def prepare(opened: Opened, frames: int, name: str, log: IssueLog) -> None:
    """Make the pixel data of a checked header fit to be decoded: no padding, no second table of offsets."""
    said = opened.said
    if opened.pixels is not None:
        said.of(declared)
        _kept(len(opened.pixels), said, frames, name, log)
        return
    dataset = opened.dataset
    if "PixelData" not in dataset:
        floats = any(keyword in dataset for keyword in _PIXELS)
        why = " (pixels as floating-point numbers are not accepted)" if floats else ""
        raise UnusableError("file_unreadable", f"holds no PixelData{why}")
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:  # what is checked and what is decoded must be the same frame
            delattr(dataset, keyword)
    said.of(declared)
    if not isinstance(dataset.PixelData, bytes):
        raise UnusableError("file_unreadable", f"PixelData is {shown(dataset, 'PixelData')}, no pixels")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        decoder_of(dataset.file_meta.TransferSyntaxUID)
    elif (kept := _kept(len(dataset.PixelData), said, frames, name, log)) is not None:
        dataset.PixelData = dataset.PixelData[:kept]


def decode(opened: Opened, index: int, frames: int, name: str, log: IssueLog) -> Pixels:
    """Frame `index` of `frames`; where the header contradicts its samples, how they were read is logged."""
    said, bits, compressed = opened.said, opened.said.of(declared), False
    rows, columns, width = said.of(_stored)
    allocated = width
    if opened.pixels is not None and said.samples is not None:
        samples = np.frombuffer(opened.pixels, said.samples, rows * columns).reshape(rows, columns)
    else:
        dataset = opened.dataset
        syntax = dataset.file_meta.TransferSyntaxUID
        compressed = syntax.is_encapsulated
        if compressed:
            samples, width = decode_frame(dataset, index, frames)
        else:
            samples, _ = get_decoder(syntax).as_array(dataset, index=index, view_only=True, correct_unused_bits=False)
        if samples.shape != (rows, columns):
            raise UnusableError("file_unreadable", f"decoded to shape {samples.shape}, header says otherwise")
        if not compressed:
            said.samples = samples.dtype
    kind = "i" if bits.signed else "u"
    samples = samples.astype(f"{samples.dtype.kind}{allocated // 8}", copy=False)
    samples = samples.view(f"{kind}{samples.dtype.itemsize}")
    if width == 16 == 8 * samples.dtype.itemsize and bytes_are_exchanged(samples):
        samples = samples.byteswap()
        log.add("values_repaired", _EXCHANGED, name)
    known = _padding(said, samples, name, log)
    settled = settle(samples, width, bits, is_padding(samples, known) if known else None, compressed=compressed)
    if settled.remark:
        log.add("values_repaired", settled.remark, name)
    settled.pixels.setflags(write=False)
    made = _with_padding(said, settled)
    if made.padding is None and (end := lone_extreme(made.values, settled.ends)) is not None:
        log.add("values_repaired", f"many pixels hold {end}, far from all others, and were taken for padding", name)
        return made._replace(padding=(end, end))
    return made


def _with_padding(said: Said, settled: Settled) -> Pixels:
    try:
        limits = padding_limits(said, settled.pixels)
    except UnusableError:  # told when the samples were looked at
        limits = None
    return Pixels(settled.pixels, settled.stored_range, limits, settled.ends)


def _padding(said: Said, samples: NDArray[np.generic], name: str, log: IssueLog) -> tuple[int, int] | None:
    try:
        return padding_limits(said, samples)
    except UnusableError as flaw:
        log.add(flaw.code, str(flaw), name)
        return None


def _stored(dataset: Dataset) -> tuple[int, int, int]:
    """Rows, columns and bits of a sample as a checked header has them."""
    return dataset.Rows, dataset.Columns, dataset.BitsAllocated


def _kept(held: int, said: Said, frames: int, name: str, log: IssueLog) -> int | None:
    """How many bytes are pixels of uncompressed ones, None where all are; refuse so much padding behind them that the
    header's rows and columns are in doubt."""
    rows, columns, bits = said.of(_stored)
    expected = rows * columns * bits // 8 * frames
    excess = held - expected
    what = f"{rows} x {columns} pixels"
    what = what if frames == 1 else f"{frames} x {what}"
    if excess < 0:
        raise UnusableError(
            "file_unreadable", f"holds {held} bytes of pixels, less than expected: {what} take {expected}"
        )
    if excess > MAX_EXCESS * expected:
        raise UnusableError("file_unreadable", f"{excess} bytes more than {what}")
    if excess <= 1:
        return None
    log.add("values_repaired", f"{excess} bytes behind the pixels were ignored", name)
    return expected + expected % 2


def is_constant(pixels: NDArray[np.generic]) -> bool:
    """Whether every pixel is the same; one row tells of most images that they are none of these."""
    middle = pixels[len(pixels) // 2]
    return bool(middle.min() == middle.max() and pixels.min() == pixels.max())
