"""Pixel data of one DICOM file: sizes checked before anything is allocated, samples brought to their values."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder

from lumbar.dicom.bits import Settled, bytes_are_exchanged, declared, is_padding, lone_extreme, padding_limits, settle
from lumbar.dicom.compressed import decode_frame, decoder_of
from lumbar.dicom.flaws import IssueLog, RoomError, UnusableError
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


def check_size(dataset: Dataset, described: int, room: int) -> None:
    """Refuse what is no grey image of a sane size before anything is allocated for it.

    `described` frames have geometry. Raises RoomError where all frames together need more than `room` bytes.
    """
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


def prepare(dataset: FileDataset, frames: int, name: str, log: IssueLog) -> None:
    """Make the pixel data of a checked header fit to be decoded: no padding, no second table of offsets."""
    if "PixelData" not in dataset:
        floats = any(keyword in dataset for keyword in _PIXELS)
        why = " (pixels as floating-point numbers are not accepted)" if floats else ""
        raise UnusableError("file_unreadable", f"holds no PixelData{why}")
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:  # what is checked and what is decoded must be the same frame
            delattr(dataset, keyword)
    declared(dataset)
    if not isinstance(dataset.PixelData, bytes):
        raise UnusableError("file_unreadable", f"PixelData is {shown(dataset, 'PixelData')}, no pixels")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        decoder_of(dataset.file_meta.TransferSyntaxUID)
    else:
        _trim(dataset, frames, name, log)


def decode(dataset: FileDataset, index: int, frames: int, name: str, log: IssueLog) -> Pixels:
    """Frame `index` of `frames`; where the header contradicts its samples, how they were read is logged."""
    syntax, bits = dataset.file_meta.TransferSyntaxUID, declared(dataset)
    if syntax.is_encapsulated:
        samples, width = decode_frame(dataset, index, frames)
    else:
        width = dataset.BitsAllocated
        samples, _ = get_decoder(syntax).as_array(dataset, index=index, view_only=True, correct_unused_bits=False)
    if samples.shape != (dataset.Rows, dataset.Columns):
        raise UnusableError("file_unreadable", f"decoded to shape {samples.shape}, header says otherwise")
    kind = "i" if bits.signed else "u"
    samples = samples.astype(f"{samples.dtype.kind}{dataset.BitsAllocated // 8}", copy=False)
    samples = samples.view(f"{kind}{samples.dtype.itemsize}")
    if width == 16 == 8 * samples.dtype.itemsize and bytes_are_exchanged(samples):
        samples = samples.byteswap()
        log.add("values_repaired", _EXCHANGED, name)
    known = _padding(dataset, samples, name, log)
    settled = settle(
        samples, width, bits, is_padding(samples, known) if known else None, compressed=syntax.is_encapsulated
    )
    if settled.remark:
        log.add("values_repaired", settled.remark, name)
    settled.pixels.setflags(write=False)
    made = _with_padding(dataset, settled)
    if made.padding is None and (end := lone_extreme(made.values)) is not None:
        log.add("values_repaired", f"many pixels hold {end}, far from all others, and were taken for padding", name)
        return made._replace(padding=(end, end))
    return made


def _with_padding(dataset: FileDataset, settled: Settled) -> Pixels:
    try:
        limits = padding_limits(dataset, settled.pixels)
    except UnusableError:  # told when the samples were looked at
        limits = None
    return Pixels(settled.pixels, settled.stored_range, limits)


def _padding(dataset: FileDataset, samples: NDArray[np.generic], name: str, log: IssueLog) -> tuple[int, int] | None:
    try:
        return padding_limits(dataset, samples)
    except UnusableError as flaw:
        log.add(flaw.code, str(flaw), name)
        return None


def _trim(dataset: FileDataset, frames: int, name: str, log: IssueLog) -> None:
    """Cut padding behind uncompressed pixels; refuse so much of it that the header's rows and columns are in doubt."""
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8 * frames
    excess = len(dataset.PixelData) - expected
    what = f"{dataset.Rows} x {dataset.Columns} pixels"
    what = what if frames == 1 else f"{frames} x {what}"
    if excess < 0:
        held = f"holds {len(dataset.PixelData)} bytes of pixels"
        raise UnusableError("file_unreadable", f"{held}, less than expected: {what} take {expected}")
    if excess > MAX_EXCESS * expected:
        raise UnusableError("file_unreadable", f"{excess} bytes more than {what}")
    if excess > 1:
        dataset.PixelData = dataset.PixelData[: expected + expected % 2]
        log.add("values_repaired", f"{excess} bytes behind the pixels were ignored", name)


def is_constant(pixels: NDArray[np.generic]) -> bool:
    """Whether every pixel is the same; one row tells of most images that they are none of these."""
    middle = pixels[len(pixels) // 2]
    return bool(middle.min() == middle.max() and pixels.min() == pixels.max())
