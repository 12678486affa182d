"""A keypoint: where a condition of a level is, in pixels of its slice and in patient millimetres."""

import math
from dataclasses import dataclass

from lumbar.labels import Condition, Level


@dataclass(frozen=True, slots=True)
class Keypoint:
    """One found point.

    `xy_px` is (column, row) in the slice as stored; `mm` is the same point in patient coordinates (LPS). `peak` and
    `spread_px` (pixels of the network's image) come from the heatmap, `confidence` (0 to 1) from both, see
    `heatmaps.confidence`. `repaired`: the position was derived from neighbours, peak and confidence are those of the
    detection that it replaces. While a study's points are looked for, one that no detector shows has NaN for a place:
    it gets one from its neighbours or is left out.
    """

    condition: Condition
    level: Level
    series_id: int
    instance: int
    xy_px: tuple[float, float]
    mm: tuple[float, float, float]
    peak: float
    spread_px: float
    confidence: float
    repaired: bool = False

    @property
    def found(self) -> bool:
        """Whether it has a place."""
        return math.isfinite(self.mm[0])
