"""Flips of a training sample as a whole: in the mirror, slices or pictures from the other end. Sides swap by name."""

from dataclasses import dataclass

import numpy as np

from lumbar.recipe.augment import Augment


@dataclass(frozen=True)
class Flips:
    """How a sample is flipped as a whole."""

    mirrored: bool  # the study as in a mirror: sides swap by name
    backwards: bool  # axial slices from the other end: sides stay
    columns: bool  # sagittal pictures front to back: sides stay
    rows: bool  # pictures upside down, axial ones front to back: sides stay
    front_back: bool = False  # all pictures front to back: sides stay

    def turned(self, *, axial: bool) -> dict[str, bool]:
        """Whether columns and rows of a picture are reversed, leaving out those that are the mirror's."""
        columns, rows = (False, self.front_back) if axial else (self.columns ^ self.front_back, False)
        return {"columns": columns, "rows": self.rows ^ rows}


def flips(rng: np.random.Generator, augment: Augment, *, sagittal: bool, axial: bool) -> Flips:
    """The random flips of a sample that shows pictures of these planes.

    Sagittal slices in opposite order, and axial pictures with opposite columns, are the mirrored study's, so that
    whatever else the sample shows is mirrored, too.
    """
    mirrored = rng.random() < augment.mirror_p

    def happens(share: float) -> bool:
        return bool(share) and bool(rng.random() < share)

    reversed_sagittal, reversed_axial = (plane and happens(augment.reverse_p) for plane in (sagittal, axial))
    flipped_sagittal, flipped_axial = (plane and happens(augment.flip_columns_p) for plane in (sagittal, axial))
    return Flips(
        mirrored=bool(mirrored ^ reversed_sagittal ^ flipped_axial),
        backwards=reversed_axial,
        columns=flipped_sagittal,
        rows=happens(augment.flip_rows_p),
        front_back=happens(augment.front_back_p),
    )
