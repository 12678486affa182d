"""What a caller may fix about phantom studies; everything left alone is drawn at random."""

from dataclasses import dataclass
from typing import Literal

from lumbar.phantom.surface_coil import PARTS, Part
from lumbar.phantom.vertebrae import Vertebrae


@dataclass(frozen=True)
class PhantomOptions:
    """Overrides of one or all studies. None means: drawn at random with the frequencies of the real data."""

    #: Reader's slips in the labels; the anatomy stays.
    label_noise: bool = False
    #: Number and kind of the lumbar vertebrae, see `vertebrae`; never drawn at random.
    vertebrae: Vertebrae = "usual"
    #: Matrix sizes to draw from (square, pixels).
    matrices: tuple[int, ...] = (256, 256, 288, 320, 320, 384)
    #: Fewest and most sagittal slices.
    sagittal_slices: tuple[int, int] = (11, 17)
    #: block: parallel slices without gaps in coverage; angled: a stack parallel to each disc.
    axial_kind: Literal["block", "angled"] | None = None
    #: Fewest and most slices of each angled stack.
    stack_slices: tuple[int, int] = (3, 5)
    #: The share of studies whose axial pictures look as a surface coil makes them (see `surface_coil`).
    surface_coil: float = 0.0
    #: What of that look they have.
    surface_parts: tuple[Part, ...] = PARTS
    two_axial: bool | None = None
    #: The axial series begin below L1/L2.
    axial_misses_level: bool | None = None
    without_t1: bool = False
    without_t2: bool = False
    stir: bool | None = None
    #: RLE Lossless instead of plain explicit little endian.
    compressed: bool = False
    #: First sagittal instance on the patient's left or right.
    order: Literal["left", "right"] | None = None
    #: plain: 1 … N; offset: N numbers from somewhere else; gapped: with holes.
    numbering: Literal["plain", "offset", "gapped"] | None = None
