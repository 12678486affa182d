"""What the slices of a series have in common of their values: taken together so that float32 holds the differences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from lumbar.dicom_file import Slice

#: An intercept of so many slopes leaves float32 less than a sixteenth of a stored step.
LARGE_INTERCEPT: Final = 2.0**19


def levelled(slices: Sequence[Slice]) -> list[Slice]:
    """The slices with rescale tags that fit together.

    MONOCHROME1 slices are turned over within one range, though their bits may differ. An intercept so large that the
    image would be lost in rounding is taken off all of them: what a series has in common says nothing of the patient.
    """
    ranges = [item.stored_range for item in slices if item.inverted]
    common = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else (0.0, 0.0)
    large = (item.intercept for item in slices if abs(item.intercept) > LARGE_INTERCEPT * abs(item.slope))
    offset = next(large, 0.0)
    return [
        replace(item, intercept=item.intercept - offset, stored_range=common if item.inverted else item.stored_range)
        if offset or item.inverted
        else item
        for item in slices
    ]
