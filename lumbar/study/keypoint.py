"""A keypoint: where a condition of a level is, in pixels of its slice and in patient millimetres."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lumbar.labels import Condition, Level

Name = tuple[Condition, Level]
#: Where a keypoint's slice comes from: the middle of its series; so many mm beside the middle, or beside the canal; the
#: axial plane of its level; the slice that an earlier detector found; the detector's own answer; the label table.
SliceFrom = Literal["middle", "offset", "canal", "plane", "found", "answer", "label"]


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """The slice on which a condition of a level shows, and how sure a detector is of it."""

    condition: Condition
    level: Level
    series_id: int
    instance: int
    confidence: float

    @property
    def name(self) -> Name:
        """Which keypoint it is the slice of."""
        return self.condition, self.level


@dataclass(frozen=True, slots=True)
class Keypoint:
    """One found point.

    `xy_px` is (column, row) in the slice as stored; `mm` is the same point in patient coordinates (LPS). `peak` and
    `spread_px` (pixels of the network's image) come from the heatmap, `confidence` (0 to 1) from both, see
    `heatmaps.confidence`; of answers without maps the peak is the confidence and the spread 0, and of points on slices
    that an earlier detector found it is how sure that one was of the slice. `repaired`: the position was derived from
    neighbours, peak and confidence are those of the detection that it replaces. `slice_from` says how its slice was
    chosen, None where nobody wrote it down; `size_mm` is width and height where a detector tells them.
    `trail`: where the point lies on other slices of its series, (instance, column, row) as stored, where a detector
    tells that, too. `front_mm`: of a canal point, where its disc ends in front, in the patient, where a detector or a
    table tells that; the point itself is taken for its end at the back.
    Where the detector answers places between slices, `mm` lies between them and `xy_px` on the nearest. While a study's
    points are looked for, one that no detector shows has NaN for a place: it gets one from its neighbours or is left
    out.
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
    slice_from: SliceFrom | None = None
    size_mm: tuple[float, float] | None = None
    trail: tuple[tuple[int, float, float], ...] | None = None
    front_mm: tuple[float, float, float] | None = None

    @property
    def name(self) -> Name:
        """Which keypoint it is."""
        return self.condition, self.level

    def as_dict(self) -> dict[str, Any]:
        """Its values by name, without those that nobody wrote down: equal to what was stored before they came."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def found(self) -> bool:
        """Whether it has a place."""
        return math.isfinite(self.mm[0])
