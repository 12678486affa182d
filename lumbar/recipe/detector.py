"""What a stage-1 member is: its inputs, its network and what that answers, as checked data. No torch."""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from lumbar.labels import LEVELS, SIDES, SeriesType
from lumbar.recipe.answers import DECODES, Answer, Decode
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.region import Intensity, Percentiles
from lumbar.recipe.spec import Spec
from lumbar.recipe.strict import (
    MAX_SIDE,
    MAX_SLICES,
    MAX_VOLUMES,
    Arguments,
    NetworkName,
    OffsetMm,
    many_pixels,
)

#: Which slices a detector sees: the middle ones of the series; beside the middle, one stack a side; around the axial
#: plane of a level; the whole series, brought to `in_chans` slices; around the slices that were found before.
Place = Literal["middle", "offset", "plane", "whole", "found"]
#: Which keypoints one stack shows: its own (5 levels of a series or side, left and right of an axial level); all of its
#: series (T1: left and right, axial: left and right of five levels); every condition at every level.
Points = Literal["stack", "series", "every"]
#: How a stack can be turned: the study as in a mirror, sides exchanged; columns or rows of each image reversed; slices
#: in opposite order.
Turn = Literal["mirror", "columns", "rows", "slices"]
_PLACES: dict[SeriesType, Place] = {"sagittal_t2": "middle", "sagittal_t1": "offset", "axial_t2": "plane"}
POINTS: Final[tuple[Points, ...]] = ("stack", "series", "every")
_MAPS: dict[Points, dict[SeriesType, int]] = {
    "stack": {"sagittal_t2": 5, "sagittal_t1": 5, "axial_t2": 2},
    "series": {"sagittal_t2": 5, "sagittal_t1": 10, "axial_t2": 10},
    "every": {"sagittal_t2": 25, "sagittal_t1": 25, "axial_t2": 25},
}


class DetectorSpec(Spec):
    """A stage-1 member: a stack of slices in, where its keypoints are out."""

    LATER = frozenset(
        {"place", "points", "answer", "depth", "stride", "decode", "join", "needs"}
        | {"target", "resample", "pad", "slice_mm", "beside", "levels_by", "tta", "unfound", "apart"}
        | {"intensity", "scope", "percentiles", "beyond", "looks", "ends", "canal_distances"}
    )

    DOES = "keypoints on"
    BACKBONE = "encoder"
    stage: Literal["keypoints"] = "keypoints"
    series_type: SeriesType
    network: NetworkName = "deeplabv3plus"
    encoder: NetworkName = "resnet34"
    encoder_args: Arguments = {}
    network_args: Arguments = {}
    image_size: int = Field(512, ge=32, le=MAX_SIDE)
    #: Slices in the stack, which are the network's input channels.
    in_chans: int = Field(5, ge=1, le=MAX_SLICES)
    #: Keypoints that it answers for: 5 levels on sagittal series, left and right on axial ones.
    num_classes: int = Field(5, ge=1, le=256)
    #: None: what suits the series type: T2 middle, T1 offset, axial plane.
    place: Place | None = None
    #: None: as `num_classes` tells.
    points: Points | None = None
    answer: Answer = "heatmaps"
    #: Sagittal T2: beside the canal points, which are taken for the discs' ends at the back, the discs' front ends,
    #: which stand behind them in its answer (second place); where the data has a table of them, see `study.tables`.
    ends: bool = False
    #: Its answer has a slice axis, too: maps (K, T, s, s), points (x, y, z).
    depth: bool = False
    #: Pixels of the image a pixel of its maps.
    stride: int = Field(1, ge=1, le=32)
    #: None: the plainest of the answer: maximum, of points the place.
    decode: Decode | None = None
    #: How the answers of several members about the same points become one.
    join: Literal["mean", "median"] = "mean"
    #: Series types whose points must have been found before; None: axial planes need sagittal_t2, `found` its own.
    needs: tuple[SeriesType, ...] | None = None
    #: Sagittal T1: how far left (+) and right (−) of the middle (see `Preprocessing.middle`) the two stacks lie, mm.
    offset_mm: OffsetMm = 16.8
    #: Axial: farther than this from the T2 keypoint, a plane counts as none, mm.
    max_plane_distance_mm: float = Field(5.0, ge=0, le=1000)
    #: Width of the target Gaussian in pixels of the resized image.
    sigma_px: float = Field(10.0, ge=0.5, le=64)
    #: What a heatmap is taught to show: a Gaussian of peak 1; window, the same around the map's nearest pixel and
    #: nothing beyond a square of 6 sigma (CornerNet); a disc of 1 as large as that Gaussian at half height.
    target: Literal["gaussian", "window", "disc"] = "gaussian"
    #: place "whole": how a series is brought to `in_chans` slices: nearest takes slice floor(i n / T) for place i,
    #: nearest-exact floor((i + 1/2) n / T), whole numbers towards the middle, linear mixes the two slices beside
    #: (i + 1/2) n / T - 1/2.
    resample: Literal["nearest", "nearest-exact", "linear"] = "nearest-exact"
    #: place "whole": a series of fewer slices is followed by empty ones, not stretched.
    pad: bool = False
    #: place "whole" with pad: the series is brought to slices that lie so far apart, as many as it is long (seventh
    #: place: as often as its step holds this, rounded down); None: its own.
    slice_mm: Annotated[float, Field(gt=0, le=50)] | None = None
    #: pad: what an answer beyond the last slice means: that slice; or the usual one of its name (first place), for the
    #: canal the middle of the series, for a foramen the slice a third of them in from its side.
    beyond: Literal["last", "usual"] = "last"
    #: Grey values: mean 0 and deviation 1; or what lies between two percentiles, or all values, to 0 … 1, where slices
    #: that are not there are 0.
    intensity: Intensity = "standard"
    #: Over what that is reckoned: all slices of the stack together, or each by itself.
    scope: Literal["stack", "slice"] = "stack"
    percentiles: Percentiles = (1.0, 99.0)
    #: place "whole": the series of this type, brought to as many slices, follows as channels of its own; empty where it
    #: is missing. The detector answers for its keypoints, too.
    beside: SeriesType | None = None
    #: place "whole", axial: behind the slices follow as many planes, each of how far its slice lies from the levels'
    #: canal points, which must have been found before (second place; see `keypoints.distances`).
    canal_distances: bool = False
    #: place "plane": which axial slices belong to a level; of several the middle one is looked at.
    levels_by: Literal["nearest", "segments"] = "nearest"
    #: place "found" on sagittal series, where no slice was found: middle looks all the same, in the middle on T2 and
    #: `offset_mm` beside it on T1 (first place), with an Issue; none does not look.
    unfound: Literal["none", "middle"] = "none"
    #: place "found" on axial series: left and right of a level are each looked for on the slice that was found for it
    #: (seventh place); else both on the middle one between.
    apart: bool = False
    #: Test-time augmentation: each is a second look at the turned stack, whose answer is turned back and averaged.
    tta: tuple[Turn, ...] = Field((), max_length=3)
    #: each: one turn at a time; every: each combination of them, too (fourth place).
    looks: Literal["each", "every"] = "each"
    preprocessing: Preprocessing = Preprocessing()

    @property
    def channels(self) -> int:
        """Channels of its input: the slices that it sees, then the planes of their distances."""
        return self.slices_seen * (2 if self.canal_distances else 1)

    @property
    def slices_seen(self) -> int:
        """The slices of its series, then those of the one beside it."""
        return self.in_chans * len(self.types)

    @property
    def types(self) -> tuple[SeriesType, ...]:
        """The types of the series whose slices it sees."""
        return (self.series_type,) if self.beside is None else (self.series_type, self.beside)

    @property
    def decoded(self) -> Decode:
        """How its raw answer is read."""
        return self.decode or DECODES[self.answer][0]

    @property
    def _of_sides(self) -> bool:
        """Whether its flat maps show left and right of axial slices, and implausible points are put right."""
        return self.series_type == "axial_t2" and not self.depth and self.preprocessing.keypoints == "repair"

    @property
    def map_size(self) -> int:
        """Rows, and columns, of its maps."""
        return self.image_size // self.stride

    @property
    def stacks(self) -> int:
        """How many of its stacks a study has that lacks nothing: one, one a side, or one a level."""
        if self.placed in ("middle", "whole") or self.series_type == "sagittal_t2":
            return 1
        return len(SIDES) if self.series_type == "sagittal_t1" else len(LEVELS)

    @property
    def names_slices(self) -> bool:
        """Whether its answer tells a keypoint's slice."""
        return self.depth or self.answer == "slices"

    @property
    def classes(self) -> int | None:
        """Of how many classes it says of every slice which one it is of; None: it scores slices for names."""
        return {"change": len(LEVELS) + 1, "sides": 2}.get(self.decoded)

    @property
    def says_places(self) -> bool:
        """Whether its answer tells places in slices, so that it finds keypoints; else it tells slices alone."""
        return self.answer != "slices" and self.decoded != "slice"

    @property
    def placed(self) -> Place:
        """Which slices it sees."""
        return self.place or _PLACES[self.series_type]

    @property
    def shows(self) -> Points:
        """Which keypoints one of its stacks shows."""
        if self.points is not None:
            return self.points
        return next((points for points in _MAPS if self.names_of(points) == self.num_classes), "stack")

    def names_of(self, points: Points) -> int:
        """How many keypoints a stack shows that shows those."""
        if points == "stack" or self.beside is None:
            return _MAPS[points][self.series_type] + (len(LEVELS) if self.ends else 0)
        return _MAPS[points][self.series_type] + (_MAPS[points][self.beside] if points == "series" else 0)

    @property
    def needed(self) -> tuple[SeriesType, ...]:
        """Series types whose points must have been found before."""
        if self.needs is not None:
            return self.needs
        by_place = {"plane": ("sagittal_t2",), "found": (self.series_type,)}.get(self.placed, ())
        return ("sagittal_t2",) if self.canal_distances else by_place  # type: ignore[return-value]

    @property
    def subject(self) -> str:
        """What it looks at: the type of series."""
        return self.series_type

    @property
    def backbone(self) -> str:
        """Its encoder, as a grader would call it."""
        return self.encoder

    @property
    def backbone_args(self) -> dict[str, Any]:
        """Its encoder's arguments, as a grader would call them."""
        return self.encoder_args

    @property
    def pixels(self) -> str:
        """How large what it sees is, as a sentence names it."""
        return f"{self.image_size} px"

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        yield from self._memory()
        yield from self._answers()

    @property
    def plain(self) -> bool:
        """Whether grey values are standardised over the stack."""
        return (self.intensity, self.scope) == ("standard", "stack")

    def _memory(self) -> Iterator[str]:
        """What would not fit into memory."""
        yield from many_pixels("in_chans", self.channels, self.image_size)
        yield from many_pixels("num_classes", self.num_classes, self.image_size)
        if self.depth and self.answer == "heatmaps":
            count = self.num_classes * self.in_chans
            yield from many_pixels("num_classes x in_chans", count, self.map_size, MAX_VOLUMES)

    def _names(self) -> Iterator[str]:
        """What its names do not suit."""
        if self.ends and (self.types, self.answer, self.depth) != (("sagittal_t2",), "points", False):
            yield "ends are those of discs on sagittal T2, told as points without depth; leave the key out"
        elif self.ends and self.shows != "stack":
            yield f'ends stand behind canal points; set points = "stack" and num_classes = {2 * len(LEVELS)}'
        if self.decode in ("change", "rolling") and self.num_classes % len(LEVELS):
            yield f'decode = "{self.decode}" needs names of all levels: num_classes {len(LEVELS)}, or twice as many'

    def _answers(self) -> Iterator[str]:
        """What does not suit its answer."""
        decodes = DECODES[self.answer]
        if self.decode is not None and self.decode not in decodes:
            yield f"decode = {self.decode!r} does not read {self.answer}, which take one of {', '.join(decodes)}"
        if self.decode == "pair" and not self._of_sides:
            yield (
                'decode = "pair" reads left and right of an axial level together; it needs series_type = "axial_t2", '
                'depth = false and preprocessing.keypoints = "repair"'
            )
        if self.decode == "slice" and not self.depth:
            yield 'decode = "slice" reads the slice of points; set depth = true'
        if self.depth and self.answer not in ("heatmaps", "points"):
            yield f"depth = true is for heatmaps and points; leave it out of {self.answer}"
        if self.stride > 1 and self.answer not in ("heatmaps", "boxes"):
            yield f"stride = {self.stride} is for heatmaps and boxes; {self.answer} are no maps, leave it out"
        elif self.image_size % self.stride:
            yield f"stride = {self.stride} does not divide image_size = {self.image_size}; choose one that does"
        if self.target != "gaussian" and self.answer != "heatmaps":
            yield f"target = {self.target!r} is for heatmaps; leave it out"
        if self.percentiles != (1.0, 99.0) and self.intensity != "percentile":
            yield 'percentiles hold for intensity = "percentile" only; set that, or leave them out'
        if not self.percentiles[0] < self.percentiles[1]:
            yield f"percentiles = {list(self.percentiles)} must rise"
        yield from self._names()
        if self.looks != "each" and len(self.tta) < 2:
            yield 'looks = "every" combines turns, and tta names fewer than two; name more there, or leave looks out'
