"""Compressed frames: decoders chosen by name, codestreams checked before anything is allocated for them."""

import importlib.util
import itertools
import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lumbar.dicom.flaws import UnusableError
from lumbar.dicom.jpeg import is_whole

#: The decoder that is not in requirements.txt: Lumbar runs without it.
OPTIONAL: Final = "imagecodecs"
#: Decoders of each compressed syntax, best first, named so that pydicom never picks python-gdcm, which aborts the
#: process on corrupt JPEG 2000. Other compressed syntaxes are refused.
DECODERS: Final[dict[UID, tuple[str, ...]]] = {
    RLELossless: ("pylibjpeg", "pydicom"),
    JPEG2000: ("pylibjpeg",),
    JPEG2000Lossless: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
    HTJ2KLossless: ("pylibjpeg",),
    HTJ2KLosslessRPCL: ("pylibjpeg",),
    JPEGLossless: (OPTIONAL,),
    JPEGLosslessSV1: (OPTIONAL,),
    JPEGLSLossless: (OPTIONAL,),
    JPEGLSNearLossless: (OPTIONAL,),
}
#: Start-of-frame marker of each JPEG syntax: lossless Huffman coding (process 14), JPEG-LS.
_FRAME_MARKER: Final = {
    JPEGLossless: 0xC3,
    JPEGLosslessSV1: 0xC3,
    JPEGLSLossless: 0xF7,
    JPEGLSNearLossless: 0xF7,
}
_START_OF_SCAN: Final = 0xDA
#: Item and sequence delimitation item of encapsulated pixels (PS3.5, A.4), little endian.
_ITEM, END_OF_SEQUENCE = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_LOST_ITS_WAY: Final = "is damaged: its lossless JPEG image holds another number of bits than its pixels take"
_END_OF_IMAGE: Final = b"\xff\xd9"


class Codestream(NamedTuple):
    """What a codestream says of itself."""

    rows: int
    columns: int
    components: int
    precision: int


def decoder_of(syntax: UID) -> str:
    """Name of the decoder for a compressed syntax; UnusableError where none is known or installed."""
    if syntax not in DECODERS:
        raise UnusableError("file_unreadable", f"cannot decode {syntax.name}; convert it to RLE or JPEG 2000 Lossless")
    if OPTIONAL in DECODERS[syntax]:
        installed: tuple[str, ...] = (OPTIONAL,) if importlib.util.find_spec(OPTIONAL) else ()
    else:
        installed = get_decoder(syntax).available_plugins
    plugin = next((name for name in DECODERS[syntax] if name in installed), None)
    if plugin is None:
        needed = DECODERS[syntax][0]
        remedy = f"install it with `pip install {needed}`"
        if needed == OPTIONAL:
            remedy += " or convert the file to JPEG 2000 Lossless"
        raise UnusableError(
            "file_unreadable", f"cannot decode {syntax.name}: it needs {needed}, which is not installed; {remedy}"
        )
    return plugin


def has_whole_items(dataset: FileDataset) -> bool:
    """Whether a dataset has compressed pixels whose last item ends where the pixels do."""
    value = dataset.get("PixelData") or b""
    at = 0
    while value[at : at + 4] == _ITEM:
        at += 8 + int.from_bytes(value[at + 4 : at + 8], "little")
    return 0 < at == len(value)


def decode_frame(dataset: FileDataset, index: int, frames: int) -> tuple[NDArray[np.generic], int]:
    """Samples (H, W) of frame `index` of `frames` as the decoder gives them, and how many of their bits it may use.

    A frame that claims to hold another image than the header's is refused before it is decoded.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = decoder_of(syntax)
    frame = get_frame(dataset.PixelData, index, number_of_frames=frames)
    if syntax == RLELossless:
        _check_rle(frame, dataset.Rows * dataset.Columns, dataset.BitsAllocated // 8)
        precision = dataset.BitsAllocated
    else:
        claim = _jpeg_claim(frame, _FRAME_MARKER[syntax]) if syntax in _FRAME_MARKER else _jpeg_2000_claim(frame)
        if claim[:3] != (dataset.Rows, dataset.Columns, 1):
            what = f"{claim.rows} rows, {claim.columns} columns and {claim.components} components"
            raise UnusableError("file_unreadable", f"its codestream has {what}, the header says otherwise")
        precision = claim.precision
        if not 2 <= precision <= dataset.BitsAllocated:
            what = f"{precision} bits a pixel where BitsAllocated is {dataset.BitsAllocated}"
            raise UnusableError("file_unreadable", f"its codestream has {what}")
    try:
        if plugin == OPTIONAL:
            return _decode_jpeg(frame, syntax), precision
        samples, _ = get_decoder(syntax).as_array(
            dataset, index=index, decoding_plugin=plugin, correct_unused_bits=False, apply_j2k_sign_correction=False
        )
    except RuntimeError as error:
        raise UnusableError("file_unreadable", "is damaged: its compressed pixels cannot be decoded") from error
    return samples, precision


def _decode_jpeg(frame: bytes, syntax: UID) -> NDArray[np.generic]:
    """Samples of a checked JPEG or JPEG-LS frame.

    Lossless JPEG is left to libjpeg-turbo: liblj92 and jpg_0xc3, which imagecodecs holds too, crash on damaged files.
    """
    import imagecodecs

    if _FRAME_MARKER[syntax] == 0xC3:
        pixels = imagecodecs.jpeg8_decode(frame)
        if not is_whole(frame, pixels):
            raise UnusableError("file_unreadable", _LOST_ITS_WAY)
        return pixels
    # CharLS computes for many seconds where a codestream ends without a marker
    return imagecodecs.jpegls_decode(frame + _END_OF_IMAGE)


def _check_rle(frame: bytes, pixels: int, segments: int) -> None:
    """Refuse an RLE frame (PS3.5 annex G) unless each segment, one a byte of a pixel, unpacks to one byte a pixel.

    pylibjpeg-rle 2.2 panics, which is no Exception, where a run passes the end of the image.
    """
    if len(frame) < 64:
        raise UnusableError("file_unreadable", f"an RLE frame of {len(frame)} bytes ends before its header does")
    count, *starts = struct.unpack_from("<16L", frame)
    bounds = [*starts[:segments], len(frame)]
    if count != segments or bounds[0] != 64 or any(starts[segments:]) or bounds != sorted(set(bounds)):
        raise UnusableError(
            "file_unreadable", f"its RLE header cannot be true: {count} segments, the first at byte {starts[0]}"
        )
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


def _jpeg_2000_claim(frame: bytes) -> Codestream:
    """What a JPEG 2000 codestream claims (ISO 15444-1, marker SIZ), before it is decoded."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 44:
        raise UnusableError("file_unreadable", "holds no JPEG 2000 codestream")
    x_size, y_size, x_offset, y_offset = struct.unpack_from(">4I", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    return Codestream(y_size - y_offset, x_size - x_offset, components, (depth & 0x7F) + 1)


def _jpeg_claim(frame: bytes, wanted: int) -> Codestream:
    """What a JPEG or JPEG-LS codestream claims (ISO 10918-1, marker SOF), before it is decoded.

    Exactly one frame of the wanted coding, and an end: decoders fill up what is cut off and say nothing.
    """
    found, at = None, 2
    if frame[:2] != b"\xff\xd8":
        raise UnusableError("file_unreadable", "holds no JPEG codestream")
    while at + 4 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != _START_OF_SCAN:
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if marker != wanted or found is not None or at + 10 > len(frame):
                raise UnusableError("file_unreadable", "its codestream is of another kind of JPEG than the header says")
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            found = Codestream(rows, columns, components, precision)
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    if found is None or frame[at : at + 2] != bytes((0xFF, _START_OF_SCAN)):
        raise UnusableError("file_unreadable", "its JPEG codestream has no image")
    if _END_OF_IMAGE not in frame[-8:]:
        raise UnusableError("file_unreadable", "its JPEG codestream ends too early")
    return found
