"""Whether a lossless JPEG frame (ISO 10918-1, process 14) was decoded from what it holds.

libjpeg-turbo fills up what damage takes away and says nothing. The decoded pixels tell how many bits their code takes,
however: another number than the frame holds shows that the decoder lost its way.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SOF3, _DHT, _SOS, _DRI = 0xC3, 0xC4, 0xDA, 0xDD
_FIRST_RESTART, _LAST_RESTART = 0xD0, 0xD7
_END_OF_IMAGE: Final = b"\xff\xd9"
#: Bytes that an encoder may leave unused at the end of each interval.
SPARE_BYTES: Final = 2


def is_whole(frame: bytes, pixels: NDArray[Any]) -> bool:
    """Whether a checked lossless frame of one component has as many bits as the pixels (H, W) decoded from it take.

    True also where that cannot be told: a restart interval that is no whole number of rows.
    """
    tables: dict[int, NDArray[np.int64]] = {}
    precision = interval = predictor = shift = table = 0
    scan = b""
    for marker, content, after in _segments(frame):
        if marker == _DHT:
            tables |= _code_lengths(content)
        elif marker == _SOF3:
            precision = content[0]
        elif marker == _DRI:
            interval = int.from_bytes(content[:2], "big")
        elif marker == _SOS:
            table, predictor, shift = content[2] >> 4, content[3], content[5] & 15
            scan = frame[after : frame.rfind(_END_OF_IMAGE)]
    height, width = pixels.shape
    if interval % width:
        return True
    if not 1 <= predictor <= 7 or precision <= shift or table not in tables:
        return False
    lengths, rows = tables[table], interval // width or height
    held = _bytes_held(scan)
    step = _steps(pixels.astype(np.int64) >> shift, predictor, 1 << (precision - shift - 1), rows)
    size = np.zeros(step.shape, np.int64)
    np.frexp(np.abs(step).astype(np.float64), None, size, casting="unsafe")  # the bits of a number are its exponent
    if (lengths[size] == 0).any():
        return False
    bits = (lengths[size] + np.where(size < 16, size, 0)).sum(axis=1)
    starts = np.arange(0, height, rows)
    needed = int((-(-np.add.reduceat(bits, starts) // 8)).sum())
    return held is not None and needed <= held <= needed + SPARE_BYTES * len(starts)


def _segments(frame: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Markers before the image, what they hold, and where what follows begins; the last one starts the scan."""
    at, marker = 2, 0
    while at + 4 <= len(frame) and marker != _SOS:
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        yield marker, frame[at + 4 : end].ljust(6, b"\0"), end
        at = end


def _code_lengths(content: bytes) -> dict[int, NDArray[np.int64]]:
    """By table: the length of the code of each size of a step (17,), 0 where it has none."""
    tables = {}
    while len(content) > 17:
        counts = list(content[1:17])
        lengths = np.zeros(256, np.int64)
        lengths[list(content[17 : 17 + sum(counts)])] = np.repeat(np.arange(1, 17), counts)[: len(content) - 17]
        tables[content[0]] = lengths[:17]
        content = content[17 + sum(counts) :]
    return tables


def _bytes_held(scan: bytes) -> int | None:
    """Bytes of code in a scan, without those stuffed and without restarts; None where another marker stands in it."""
    content = np.frombuffer(scan, np.uint8)
    after = content[1:][content[:-1] == 0xFF]
    stuffed = int((after == 0).sum())
    restarts = int(((after >= _FIRST_RESTART) & (after <= _LAST_RESTART)).sum())
    fill = int((after == 0xFF).sum())
    if len(after) > stuffed + restarts + fill:
        return None
    return len(content) - stuffed - 2 * restarts - fill


def _steps(values: NDArray[np.int64], predictor: int, first: int, rows: int) -> NDArray[np.int64]:
    """What is coded (H, W): each value less its prediction, modulo 2^16; the prediction starts anew each `rows`."""
    left = np.empty_like(values)
    above, corner = np.zeros_like(values), np.zeros_like(values)
    left[:, 1:] = values[:, :-1]
    above[1:] = values[:-1]
    corner[1:, 1:] = values[:-1, :-1]
    ways = {
        1: lambda: left,
        2: lambda: above,
        3: lambda: corner,
        4: lambda: left + above - corner,
        5: lambda: left + ((above - corner) >> 1),
        6: lambda: above + ((left - corner) >> 1),
        7: lambda: (left + above) >> 1,
    }
    left[:, 0] = above[:, 0]
    predicted = ways[predictor]().copy()
    predicted[:, 0] = above[:, 0]
    predicted[::rows] = left[::rows]
    predicted[::rows, 0] = first
    return (values - predicted + 0x7FFF) % 0x10000 - 0x7FFF
