"""Which bits of a file's samples are the image: what the header says is compared with what the samples hold."""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lumbar.dicom.flaws import UnusableError
from lumbar.dicom.said import Said
from lumbar.dicom.tags import shown, whole

#: Rows that are looked at where bits are in doubt.
SAMPLED_ROWS: Final = 16
#: Neighbouring pixels of an image differ by less than this share of the range of their bits.
SMOOTH: Final = 1 / 8
#: A step of this share of the range is no step of an image: the value has wrapped.
WRAPPED: Final = 1 / 2

#: Neighbouring pixels differ by so many times less where the two bytes of 16-bit samples are exchanged: the samples are
#: stored in the other byte order. What is small in one order is 256 times as large in the other.
SMOOTHER: Final = 8

#: Images have at least so many bits; a header that says fewer of samples that use more is believed in nothing.
FEWEST_BITS: Final = 8

#: So many pixels of one value, so many times farther from the others than these reach, are no part of an image, which
#: takes more values than a mask.
MANY_PIXELS, FAR, MANY_VALUES = 16, 3, 8
#: Share of the border of an image that such a background takes at least.
BORDER: Final = 0.75

Samples = NDArray[Any]


class Bits(NamedTuple):
    """What a header says of its samples: how many bits count, whether they are signed, and which bits are overlays."""

    stored: int
    high: int
    signed: bool
    overlays: tuple[int, ...] = ()


class Settled(NamedTuple):
    """Samples (H, W) with the value that they stand for; the smallest and the largest that their bits can hold."""

    pixels: Samples
    stored_range: tuple[float, float]
    #: Smallest and largest value.
    ends: tuple[int, int]
    remark: str = ""


def declared(dataset: Dataset) -> Bits:
    """The header's words on its bits; UnusableError where they cannot be true of any samples."""
    allocated, stored = whole(dataset, "BitsAllocated"), whole(dataset, "BitsStored")
    if not 1 <= stored <= allocated:
        raise UnusableError("file_unreadable", f"BitsStored is {stored} where BitsAllocated is {allocated}")
    signed = whole(dataset, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise UnusableError("file_unreadable", f"PixelRepresentation is {signed}, not 0 or 1")
    return Bits(stored, whole(dataset, "HighBit", stored - 1), bool(signed), tuple(_overlays(dataset)))


def _overlays(dataset: Dataset) -> Iterator[int]:
    """Bits of a sample that hold an overlay plane and no image (retired, but still written)."""
    for group in range(0x6000, 0x6020, 2):
        # an overlay with data of its own (60xx,3000) has its position 0 for the sake of form
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            position = dataset[group, 0x0102].value
            if isinstance(position, int):
                yield position


def settle(samples: Samples, width: int, bits: Bits, padding: Samples | None, *, compressed: bool) -> Settled:
    """Samples (H, W) as decoded -> the values of the image.

    `width` bits of a sample can hold something: BitsAllocated, or the precision of a codestream. Samples that fit the
    header stay as they are. Others are read so that values do not wrap between neighbouring pixels: unused bits that
    hold something else are cut (in a codestream also where that is in doubt), a value too large for BitsStored stays
    whole. `padding` marks samples that are no image.
    """
    word = np.dtype(f"u{samples.dtype.itemsize}")
    pattern = samples.view(word)
    if width < 8 * word.itemsize:
        pattern = pattern & word.type((1 << width) - 1)
    stored, signed, remarks = min(bits.stored, width), bits.signed, []
    if bits.high != bits.stored - 1:
        pattern, width, remark = _moved_down(pattern, width, bits)
        remarks.append(remark)
    above = sum(1 << bit for bit in bits.overlays if stored <= bit < width)
    if above:
        pattern = pattern & word.type((1 << stored) - 1 if signed else (1 << width) - 1 - above)
    untouched = pattern
    if padding is not None:  # says nothing of the bits
        pattern = np.where(padding, pattern[~padding][0], pattern)
    pixels, used = _read(pattern, width, signed), stored
    ends = ends_of(pixels)
    if not _fits(ends, stored, signed):
        used, remark = _true_width(pattern, pixels, width, stored, compressed)
        pixels = _read(pattern, used, signed)
        ends = ends_of(pixels)
        remarks += [remark] if remark else []
    if _sign_is_wrong(pattern, pixels, ends, used, signed):
        signed = not signed
        pixels = _read(pattern, used, signed)
        ends = ends_of(pixels)
        remarks = [f"PixelRepresentation says {_word(not signed)}, but the samples are {_word(signed)}; read as such"]
    if padding is not None:
        pixels = np.where(padding, _read(untouched, width, signed), pixels)
        ends = ends_of(pixels)
    return Settled(pixels, value_range(used, signed), ends, "; ".join(remarks))


def ends_of(pixels: Samples) -> tuple[int, int]:
    """Smallest and largest value."""
    return int(pixels.min()), int(pixels.max())


def bytes_are_exchanged(samples: Samples) -> bool:
    """Whether 16-bit samples (H, W) are an image only with their two bytes exchanged.

    Where the lower byte is always the same, either order shows the same image, and nothing is said.
    """
    words = samples[:: -(-len(samples) // SAMPLED_ROWS)].view("u2")
    other = words.byteswap()
    steps = [np.abs(np.diff(each, axis=1).view("i2")).view("u2") for each in (words, other)]
    largest = int(steps[0].max())
    if largest == 0:
        return False
    # where most steps with the bytes exchanged are no smaller than this, neither is their median: nearly every image
    if 2 * np.count_nonzero(steps[1] >= -(-largest // SMOOTHER)) > np.count_nonzero(steps[0]):
        return False
    low = words & np.uint16(0xFF)
    if low.min() == low.max():
        return False
    differ = steps[0] > 0
    as_read, exchanged = (float(np.median(step[differ])) for step in steps)
    return SMOOTHER * exchanged < as_read


def padding_limits(said: Said, pixels: Samples) -> tuple[int, int] | None:
    """Smallest and largest stored value that is padding and no image; None where no pixel is.

    PixelPaddingValue may be written as signed or unsigned, whatever the pixels are. UnusableError where it cannot be
    read or every pixel is padding.
    """
    ends = [_own_sign(end, pixels.dtype) for end in said.of(_padding_tags)]
    if not ends or None in ends:
        return None
    limits = min(ends), max(ends)  # type: ignore[type-var]
    padded = is_padding(pixels, limits)  # type: ignore[arg-type]
    if padded.all():
        raise UnusableError("values_repaired", "PixelPaddingValue and PixelPaddingRangeLimit leave no pixel; ignored")
    return limits if padded.any() else None  # type: ignore[return-value]


def lone_extreme(pixels: Samples, ends: tuple[int, int]) -> int | None:
    """The smallest or largest stored value (`ends`), where most of the border holds it, far from all others; else None.

    Such is a background outside of the value range (-1 read as 65535, or -32768) that no tag calls padding.
    """
    low, high = ends
    quarter = (high - low) / 4
    middle = len(pixels) // 8 * 4
    for sample in (pixels[middle : middle + 1, ::4], pixels[::4, ::4]):  # one row tells of nearly every image
        if ((sample > low + quarter) & (sample < high - quarter)).any():
            return None
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    for end in (low, high):
        rest = pixels[pixels != end]
        if (border == end).mean() < BORDER or pixels.size - rest.size < MANY_PIXELS or not rest.size:
            continue
        reach = int(rest.max()) - int(rest.min())
        if reach >= MANY_VALUES and min(abs(end - int(rest.min())), abs(end - int(rest.max()))) > FAR * reach:
            return end
    return None


def is_padding(pixels: Samples, limits: tuple[float, float]) -> NDArray[np.bool_]:
    """Which stored pixels (H, W) lie between the limits, both included."""
    return (pixels >= limits[0]) & (pixels <= limits[1])


def _padding_tags(dataset: Dataset) -> list[int]:
    found = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword not in dataset or shown(dataset, keyword) == "empty":
            break
        value = dataset.get(keyword)
        if isinstance(value, bytes):  # neither US nor SS
            value = int.from_bytes(value, "little" if dataset.file_meta.TransferSyntaxUID.is_little_endian else "big")
        if isinstance(value, str | float) and re.fullmatch(r"-?\d{1,19}(\.0*)?", str(value).strip()):
            value = int(float(value))  # DS or IS instead of US or SS
        if not isinstance(value, int):
            raise UnusableError("values_repaired", f"{keyword} is {shown(dataset, keyword)}, no number; it was ignored")
        found.append(value)
    return found


def _own_sign(value: int, dtype: np.dtype[Any]) -> int | None:
    """The value as pixels of that type hold it; None where they cannot."""
    bits = 8 * dtype.itemsize
    if not -(2 ** (bits - 1)) <= value < 2**bits:
        return None
    value %= 2**bits
    return value - 2**bits if dtype.kind == "i" and value >= 2 ** (bits - 1) else value


def value_range(bits: int, signed: bool) -> tuple[float, float]:
    """Smallest and largest value that the bits can hold."""
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def _word(signed: bool) -> str:
    return "signed" if signed else "unsigned"


def _moved_down(pattern: Samples, width: int, bits: Bits) -> tuple[Samples, int, str]:
    """The samples with their highest bit at BitsStored - 1, where they are not there already whatever HighBit says."""
    says = f"HighBit is {bits.high} where BitsStored is {bits.stored}"
    shift = bits.high + 1 - bits.stored
    low = (1 << max(shift, 0)) - 1 - sum(1 << bit for bit in bits.overlays if bit < shift)
    if 0 < shift <= width - bits.stored and not (pattern & pattern.dtype.type(low)).any():
        return pattern >> pattern.dtype.type(shift), width - shift, f"{says}; the samples were moved down {shift} bits"
    return pattern, width, f"{says}; the samples say {bits.stored - 1}"


def _read(pattern: Samples, width: int, signed: bool) -> Samples:
    """The lowest `width` bits of the samples as numbers, signed in two's complement; a view where it can be."""
    spare = 8 * pattern.dtype.itemsize - width
    if not signed:
        return pattern if spare == 0 else pattern & pattern.dtype.type((1 << width) - 1)
    if spare == 0:
        return pattern.view(f"i{pattern.dtype.itemsize}")
    shift = pattern.dtype.type(spare)
    return (pattern << shift).view(f"i{pattern.dtype.itemsize}") >> np.dtype(f"i{pattern.dtype.itemsize}").type(spare)


def _fits(ends: tuple[int, int], bits: int, signed: bool) -> bool:
    low, high = value_range(bits, signed)
    return ends[0] >= low and ends[1] <= high


def _true_width(pattern: Samples, pixels: Samples, width: int, stored: int, compressed: bool) -> tuple[int, str]:
    """How many bits count in samples of `width` bits that use more than BitsStored, and what to say of it."""
    upper = pattern >> pattern.dtype.type(stored)
    if pixels.dtype.kind == "i" and not upper.any():
        return stored, ""  # signed in BitsStored bits, the others left at 0
    step = _usual_step(_read(pattern, stored, signed=False), upper)
    if step is not None and step < (WRAPPED if compressed else SMOOTH) * 2.0**stored:
        return stored, f"BitsStored is {stored}; what the bits above it hold is no image and was cut"
    reach = max(int(pixels.max()), int(pixels.min()), key=abs)
    if stored < FEWEST_BITS:
        raise UnusableError("file_unreadable", f"BitsStored is {stored}, but values reach {reach}")
    return width, f"BitsStored is {stored}, but values reach {reach}; they were read whole"


def _sign_is_wrong(pattern: Samples, pixels: Samples, ends: tuple[int, int], bits: int, signed: bool) -> bool:
    """Whether values wrap as they are read and do not when read with the other sign.

    Both ends of the range must be used, each by more than one value: what is saturated or padded proves nothing.
    """
    low, high = value_range(bits, signed)
    quarter = (high - low + 1) / 4
    if ends[0] >= low + quarter or ends[1] < high + 1 - quarter:
        return False
    if any(part.min() == part.max() for part in (pixels[pixels < low + quarter], pixels[pixels >= high + 1 - quarter])):
        return False
    top = pattern >> pattern.dtype.type(bits - 1) & pattern.dtype.type(1)
    step = _usual_step(_read(pattern, bits, not signed), top)
    return step is not None and step < SMOOTH * 2.0**bits


def _usual_step(values: Samples, marks: Samples) -> float | None:
    """Median difference of neighbouring pixels between which `marks` changes; None where it changes nowhere."""
    every = -(-len(values) // SAMPLED_ROWS)
    values, marks = values[::every], marks[::every]
    changes = marks[:, 1:] != marks[:, :-1]
    if not changes.any():
        return None
    return float(np.median(np.abs(np.diff(values.astype(np.float64), axis=1)[changes])))
