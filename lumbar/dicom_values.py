"""What the slices of a series have in common of their values: taken together so that float32 holds the differences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from lumbar.dicom_file import Slice

#: An intercept of so many slopes leaves float32 less than a sixteenth of a stored step.
LARGE_INTERCEPT: Final = 2.0**19


def levelled(slices: Sequence[Slice]) -> list[Slice]:
    """The slices with rescale tags that fit together.

    MONOCHROME1 slices are turned over within one range, though their bits and slopes may differ: an image is inverted
    behind its rescale slope and intercept (PS3.3, C.7.6.3.1.2). An intercept so large that the
    image would be lost in rounding is taken off all of them: what a series has in common says nothing of the patient.
    """
    ranges = [item.stored_range for item in slices if item.inverted]
    common = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else (0.0, 0.0)
    large = (item.intercept for item in slices if abs(item.intercept) > LARGE_INTERCEPT * abs(item.slope))
    offset = next(large, 0.0)
    first = next((item for item in slices if item.inverted), None)
    fitting = [replace(item, intercept=item.intercept - offset) if offset else item for item in slices]
    if first is None:
        return fitting
    turn = first.slope * turning_point(common) + 2 * (first.intercept - offset)
    return [
        replace(item, stored_range=common, intercept=turn - item.intercept - item.slope * turning_point(common))
        if item.inverted
        else item
        for item in fitting
    ]


def turning_point(stored_range: tuple[float, float]) -> float:
    """What stored values are taken from to invert an image; 0 where float32 would lose the image in so many bits."""
    turn = sum(stored_range)
    return turn if turn <= 2**24 else 0.0
