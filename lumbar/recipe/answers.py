"""What a detector can answer and how that is read: the recipe's words. A new one has its word here. No torch."""

from collections.abc import Mapping
from typing import Final, Literal

#: What kind of thing it says, see the file of that name in `lumbar.keypoints.answers`.
Answer = Literal["heatmaps", "points", "slices", "boxes"]
#: How a raw answer is read.
Decode = Literal[
    "maximum", "centroid", "box", "sums", "pair", "expectation", "change", "sides", "rolling", "place", "slice"
]  # fmt: skip
#: The decodes of each answer, the default first; "box" is the third place's, "sums", "change" and "sides" are the
#: fourth's, "slice" is the first's: of points with depth that alone counts; "centroid" of slices is the seventh's.
DECODES: Final[Mapping[Answer, tuple[Decode, ...]]] = {
    "heatmaps": ("maximum", "centroid", "box", "sums", "pair"),
    "points": ("place", "slice"),
    "slices": ("maximum", "expectation", "change", "sides", "centroid", "rolling"),
    "boxes": ("maximum",),
}
