"""What the slices of a series have in common of their values: taken together so that float32 holds the differences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from lumbar.dicom.bits import is_padding
from lumbar.dicom.file import Slice

#: Values so many steps away from 0 leave float32 less than a sixteenth of a step.
FAR_STEPS: Final = 2.0**19


def levelled(slices: Sequence[Slice]) -> list[Slice]:
    """The slices with rescale tags that fit together.

    MONOCHROME1 slices are turned over within one range, though their bits and slopes may differ: an image is inverted
    behind its rescale slope and intercept (PS3.3, C.7.6.3.1.2). Where values lie so far from 0 that the image would be
    lost in rounding, the way to them is taken off all slices: what a series has in common says nothing of the patient.
    """
    fitting = _turned_over(slices)
    offset = next((level for item in fitting if abs(level := _lowest(item)) > FAR_STEPS * abs(item.slope)), 0.0)
    return [replace(item, intercept=item.intercept - offset) for item in fitting] if offset else fitting


def _turned_over(slices: Sequence[Slice]) -> list[Slice]:
    """MONOCHROME1 slices with one range, and intercepts that turn all of them over around one value."""
    ranges = [item.stored_range for item in slices if item.inverted]
    if not ranges:
        return list(slices)
    common = min(low for low, _ in ranges), max(high for _, high in ranges)
    first = next(item for item in slices if item.inverted)
    turn = first.slope * turning_point(common) + 2 * first.intercept
    return [
        replace(item, stored_range=common, intercept=turn - item.intercept - item.slope * turning_point(common))
        if item.inverted
        else item
        for item in slices
    ]


def _lowest(item: Slice) -> float:
    """The value of the smallest stored number that is no padding; of 16 bits 0 does as well."""
    stored = 0.0
    if item.pixels.dtype.itemsize > 2:
        image = item.pixels if item.padding is None else item.pixels[~is_padding(item.pixels, item.padding)]
        stored = float(image.min())
    return (turning_point(item.stored_range) - stored if item.inverted else stored) * item.slope + item.intercept


def turning_point(stored_range: tuple[float, float]) -> float:
    """What stored values are taken from to invert an image; 0 where float32 would lose the image in so many bits."""
    turn = sum(stored_range)
    return turn if turn <= 2**24 else 0.0
