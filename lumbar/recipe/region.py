"""What a grader's region of one view looks like, as checked data: its box, its slices, its grey values. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from pydantic import Field

from lumbar.recipe.strict import MAX_SIDE, MAX_SLICES, Strict

#: What the unit of a box is: millimetres; the distance to the neighbouring levels; height and width of the image; the
#: distance between the left and the right point, along which the box lies where the view shows both; the point's own
#: height and width, where a detector tells them; the distance from a disc's back end to its front end, where a detector
#: tells that; height and width of the upright box around the left and the right point, a thirtieth of the image farther
#: each way (union); or the box is the whole image.
Box = Literal["mm", "levels", "share", "pair", "own", "disc", "union", "whole"]
Intensity = Literal["standard", "percentile", "minmax"]
Scope = Literal["slice", "series", "crop"]
#: Height and width of a box, in its unit, where a recipe does not say; of mm it is `roi_mm`.
EXTENT: Final[dict[Box, float]] = {
    "levels": 2.0,
    "share": 0.25,
    "pair": 2.0,
    "own": 1.5,
    "disc": 2.0,
    "union": 2.0,
    "whole": 1.0,
}
#: So much of the box's width a side's `half` of an axial region is (third place).
AXIAL_HALF: Final = 0.6
#: So large a share of the image the box around two points reaches farther than they, each way (second place).
UNION: Final = 1 / 30

Extent = Annotated[float, Field(gt=0, le=1000)]
Shift = Annotated[float, Field(ge=-1000, le=1000)]
Side = Annotated[int, Field(ge=16, le=MAX_SIDE)]
Percent = Annotated[float, Field(ge=0, le=100)]
Span = Literal["neighbours", "spine", "median"]
Rotate = Literal["none", "canal", "disc"]
PointOf = Literal["own", "canal", "middle"]
Percentiles = tuple[Percent, Percent]


class RegionSpec(Strict):
    """The region of one view, or of all; what is left out is as the member's other values say."""

    box: Box | None = None
    #: The unit of the width, where it is another than that of the height.
    across: Box | None = None
    #: Height and width in the box's unit.
    extent: tuple[Extent, Extent] | None = None
    #: How far the box's middle lies from the point, (x, y) in the box's unit. Sagittal: x to the back, y to the feet.
    #: Axial: x outwards from the middle of the body, where the view has no side to the patient's left; y to the back.
    shift: tuple[Shift, Shift] | None = None
    #: The same for L5/S1, where the canal bends.
    shift_l5_s1: tuple[Shift, Shift] | None = None
    #: neighbours: a level's own distance to the levels above and below (box "levels"), its own disc (box "disc");
    #: spine: the mean of all; median: the median of all (second place).
    span: Span | None = None
    #: canal: turned so that the canal at this level runs from top to bottom; disc: so that the disc's ends lie level,
    #: upright where a detector tells none.
    rotate: Rotate | None = None
    #: Height and width in pixels.
    size: tuple[Side, Side] | None = None
    slices: Annotated[int, Field(ge=1, le=MAX_SLICES)] | None = None
    #: Millimetres from slice to slice; None: the series' own slices.
    slice_mm: Annotated[float, Field(gt=0, le=50)] | None = None
    #: Every slice with the one before and the one after as three channels.
    neighbours: bool | None = None
    #: offset: sagittal slices in the middle of the series, or beside it; point: around the point's own slice; level:
    #: all slices of the level (of a sagittal series all), brought to `slices` at equal steps; series: all slices of the
    #: series (axially of all series, one after the other), empty ones behind those of a shorter one.
    around: Literal["offset", "point", "level", "series"] | None = None
    #: around "level": a series of fewer slices is followed by empty ones, not stretched (fourth place).
    pad: bool | None = None
    #: Of a sagittal series only so large a share of its slices, around its middle (around "level").
    inner: Annotated[float, Field(gt=0, le=1)] | None = None
    #: own: around the view's own point; canal: around the level's canal point, whatever the view shows, and around its
    #: own where there is none (third place: one point a level for all sagittal slices); middle: of an axial view,
    #: halfway between left and right, on the slice halfway between theirs (second place).
    point: PointOf | None = None
    #: Of a side's slices on sagittal T2, around "point": how far from the canal's slice to that of the side's foramen
    #: they lie; 0: the canal's, 1: the foramen's (second place).
    towards_foramen: Annotated[float, Field(ge=0, le=1)] | None = None
    #: Each slice is cut around the place that a detector shows on it, where it tells one (maps with a slice axis): the
    #: fifth place's moving point. Else, and in training around labels, around the point itself.
    follow: bool | None = None
    #: Which axial slices are a level's, where `around` is "level": segments (the default), all that cut its part of the
    #: canal; found, those around the slices of its points, as far as halfway to the next level's (seventh place).
    levels_by: Literal["segments", "found"] | None = None
    #: Only the side's half: of a sagittal series the slices from outside in (around "point": the point's own and those
    #: beside it outwards, seventh place), of an axial region 60 % of its width.
    half: bool | None = None
    #: standard: mean 0 and deviation 1; percentile: what lies between two percentiles, minmax: all values, to -1 … 1.
    intensity: Intensity | None = None
    #: Over what that is reckoned: each whole slice, the whole series, or the region.
    scope: Scope | None = None
    percentiles: Percentiles | None = None

    LATER = frozenset(
        {
            "box",
            "extent",
            "shift",
            "shift_l5_s1",
            "span",
            "rotate",
            "size",
            "slices",
            "slice_mm",
            "neighbours",
            "around",
            "pad",
            "inner",
            "point",
            "across",
            "towards_foramen",
            "follow",
            "levels_by",
            "half",
            "intensity",
            "scope",
            "percentiles",
        }
    )

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        if self.percentiles is not None and not self.percentiles[0] < self.percentiles[1]:
            yield f"percentiles = {list(self.percentiles)} must rise; give the lower one first"


@dataclass(frozen=True)
class Region:
    """The region of one view with every value decided, see `RegionSpec`."""

    size: tuple[int, int]
    slices: int
    extent: tuple[float, float] | None
    box: Box = "mm"
    shift: tuple[float, float] = (0.0, 0.0)
    shift_l5_s1: tuple[float, float] | None = None
    span: Span = "neighbours"
    rotate: Rotate = "none"
    slice_mm: float | None = None
    neighbours: bool = False
    around: Literal["offset", "point", "level", "series"] | None = None
    pad: bool = False
    inner: float = 1.0
    point: PointOf = "own"
    across: Box | None = None
    towards_foramen: float = 0.0
    follow: bool = False
    levels_by: Literal["segments", "found"] | None = None
    half: bool = False
    intensity: Intensity = "standard"
    scope: Scope = "crop"
    percentiles: tuple[float, float] = (1.0, 99.0)

    @property
    def units(self) -> tuple[Box, Box]:
        """The units of its height and of its width."""
        return self.box, self.across or self.box

    @property
    def channels(self) -> int:
        """Images that a network sees of every slice."""
        return 3 if self.neighbours else 1

    @property
    def frames(self) -> int:
        """Images of the region: every slice's channels one after the other."""
        return self.slices * self.channels

    @property
    def plain(self) -> bool:
        """Whether grey values are standardised over the region."""
        return (self.intensity, self.scope) == ("standard", "crop")

    def over(self, own: RegionSpec | None) -> "Region":
        """This region with a view's own values in place of its."""
        if own is None or not own.model_fields_set:
            return self
        changed = replace(self, **{name: value for name, value in own if value is not None})
        if (changed.box, changed.across) != (self.box, self.across) and own.extent is None:  # another unit
            changed = replace(changed, extent=None)
        return changed
