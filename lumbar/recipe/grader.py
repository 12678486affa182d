"""What a stage-2 member is: the regions it sees, its network and what that answers, as checked data. No torch."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from lumbar.labels import Condition, mirrored
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.region import EXTENT, Region, RegionSpec
from lumbar.recipe.spec import Spec
from lumbar.recipe.strict import (
    MAX_NUMBER,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_SLICES,
    Arguments,
    NetworkName,
    OffsetMm,
    many_pixels,
)
from lumbar.recipe.views import MIRROR_VIEW, View, own_views, series_of, side_of_view

TaskName = Literal["spinal", "foraminal", "subarticular", "global"]
#: What a grader looks at once more in inference, every combination of these, its answers averaged: the mirrored study,
#: whose sides swap by name; sagittal images front to back (columns), head to foot (rows; of axial ones front to back);
#: axial slices from the other end (slices); and front and back exchanged on all views together.
#: In place of these, every image turned about its middle by the angles of `ROTATIONS` (second place).
Turn = Literal["mirror", "columns", "rows", "slices", "front_back", "rotations"]
#: Degrees, beside the plain look; as many either way, so that a mirrored study is looked at alike.
ROTATIONS: Final = (-20, -15, -10, -5, 5, 10, 15, 20)


class GraderSpec(Spec):
    """A stage-2 member: regions of one or several views in, severities of one or several conditions out."""

    LATER = frozenset(
        {"task", "views", "conditions", "speaks_for", "levels", "region", "regions", "tta", "sets", "says"}
    )

    DOES = "grading"
    BACKBONE = "backbone"
    stage: Literal["grading"] = "grading"
    #: Short for usual views and conditions.
    task: TaskName | None = None
    #: What one sample shows and answers. Where it bears a side it has a mirrored twin, which is not written: left views
    #: and conditions stand for the right ones, too.
    views: tuple[View, ...] = ()
    conditions: tuple[Condition, ...] = ()
    #: Of its conditions those that count; empty: all. The others are learnt, and not heard.
    speaks_for: tuple[Condition, ...] = ()
    #: A sample is one level, all five, or the study: whole series, seen once for all five levels (eighth place).
    levels: Literal["one", "all", "study"] = "one"
    #: The regions of all views; image_size, roi_mm and slices are its own where it names none.
    region: RegionSpec = RegionSpec()
    #: What differs in single views; a left view's holds for the right one, too.
    regions: dict[View, RegionSpec] = {}
    tta: tuple[Turn, ...] = ()
    #: Of several sets of keypoints (`stage1.sets`) those around which it answers; empty: all.
    sets: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    #: What its network says of each severity: shares, whose softmax are probabilities; or odds, each severity asked
    #: apart by binary cross entropy (second place), whose sigmoids are divided by their sum.
    says: Literal["shares", "odds"] = "shares"
    network: NetworkName = "gru"
    backbone: NetworkName = "resnet18"
    backbone_args: Arguments = {}
    network_args: Arguments = {}
    image_size: int = Field(128, ge=16, le=MAX_SIDE)
    roi_mm: float = Field(50.0, ge=5, le=1000)
    #: Slices a region, each a one-channel image to the backbone.
    slices: int = Field(5, ge=1, le=MAX_SLICES)
    rnn_hidden: int = Field(512, ge=1, le=MAX_NUMBER)
    rnn_layers: int = Field(2, ge=1, le=16)
    #: Sagittal T1: distance of each level's foramen from the middle (see `Preprocessing.middle`), mm, L1/L2 to L5/S1.
    t1_offsets_mm: tuple[OffsetMm, OffsetMm, OffsetMm, OffsetMm, OffsetMm] = (14.9, 15.7, 16.7, 17.8, 18.9)
    #: Axial regions of the right side are mirrored to look like the left.
    mirror_right: bool = True
    #: Probability in training that a view is blanked. Where it is above zero the member may speak for a condition
    #: whose own view is missing, as long as it sees another.
    view_dropout: float = Field(0.0, ge=0, lt=1)
    preprocessing: Preprocessing = Preprocessing()

    @property
    def subject(self) -> str:
        """What it answers: its task, or its conditions in short."""
        if self.task is not None:
            return self.task
        short = [name.replace("_neural", "").rpartition("_")[0].replace("_", " ") for name in self.conditions]
        return " and ".join([", ".join(short[:-1]), short[-1]] if len(short) > 1 else short)

    def region_of(self, view: View) -> Region:
        """The region of a view with every value decided."""
        named = self.regions.get(view) or self.regions.get(MIRROR_VIEW[view])
        base = Region((self.image_size, self.image_size), self.slices, (self.roi_mm, self.roi_mm))
        region = base.over(self.region).over(named)
        if region.extent is None:
            side = self.roi_mm if region.box == "mm" else EXTENT[region.box]
            region = region.over(RegionSpec(extent=(side, side)))
        return region

    @property
    def pixels(self) -> str:
        """Height and width of what it sees, as a sentence names them; of several the largest."""
        tall, wide = max((self.region_of(view).size for view in self.views), default=(self.image_size,) * 2)
        return f"{tall} px" if tall == wide else f"{tall} x {wide} px"

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        yield from many_pixels("slices", self.slices, self.image_size)
        yield from self._parts()
        yield from self._cuts()
        yield from self._turns()

    def _parts(self) -> Iterator[str]:
        """What is wrong with views and conditions."""
        if (self.task is None) != bool(self.views and self.conditions):
            yield "give a task, or views and conditions; not both, and neither of the two alone"
        for what, names in (
            ("views", self.views),
            ("conditions", self.conditions),
            ("tta", self.tta),
            ("sets", self.sets),
        ):
            if len(set(names)) < len(names):
                yield f"{what} names something twice; name each once"
        for condition in self.conditions:
            if not own_views(condition, self.views):
                yield f"{condition} cannot be seen on {', '.join(self.views)}; add a view of its side"
        if self.conditions and not set(self.speaks_for) <= set(self.conditions):
            yield "speaks_for may name its conditions only; add the others to conditions, or leave them out"
        if self.task is not None and (self.speaks_for or self.regions):
            yield "speaks_for and regions need views and conditions in place of task; write these out"
        twin = {MIRROR_VIEW[view] for view in self.views}, {mirrored(name) for name in self.conditions}
        if twin != (set(self.views), set(self.conditions)) and twin[1] & set(self.conditions) - {CANAL}:
            yield (
                "its views show one side and its conditions both; let views show both sides, or name conditions of "
                "one side, whose twin is not written"
            )
        if "sagittal_series" in self.views and len(self.views) > 1:
            yield "sagittal_series, whose series are samples of their own, cannot stand beside other views"

    def _cuts(self) -> Iterator[str]:
        """What is wrong with regions."""
        for view in self.regions:
            if view not in self.views and MIRROR_VIEW[view] not in self.views:
                yield f"regions names {view}, which is none of its views; leave it out"
            if MIRROR_VIEW[view] != view and MIRROR_VIEW[view] in self.regions:
                yield f"regions names {view} and {MIRROR_VIEW[view]}, which are alike; name one of the two"
        total = 0
        for view in self.views or _TASK_VIEWS[self.task or "global"]:
            region = self.region_of(view)
            total += region.frames * region.size[0] * region.size[1]
            yield from (f"the region of {view}: {wrong}" for wrong in _wrong(region, view, self.preprocessing))
        yield from self._whole_series()
        if total * (5 if self.levels == "all" else 1) > MAX_PIXELS:
            yield f"the regions of one sample hold more than {MAX_PIXELS} numbers; make them smaller or fewer"
        exact = self.preprocessing.order == "file" or self.preprocessing.orientation == "stored"
        if exact and (self.region != RegionSpec() or self.regions):
            yield 'regions go by positions; they need preprocessing.order = "position", orientation = "canonical"'

    def _whole_series(self) -> Iterator[str]:
        """What is wrong with views of whole series."""
        views = self.views or _TASK_VIEWS[self.task or "global"]
        regions = [self.region_of(view) for view in views]
        if any((region.around == "series") != (self.levels == "study") for region in regions):
            yield 'levels = "study" and around = "series" need each other, on every view; set both, or neither'
        if self.levels != "study":
            return
        if any(side_of_view(view) is not None or view == "sagittal_series" for view in views) or self.task is not None:
            yield 'levels = "study" shows whole series: name views without a side, as sagittal_t1 and axial_middle'
        if any(region.box != "whole" for region in regions):
            yield 'levels = "study" shows whole images; set box = "whole"'
        if any(region.neighbours or region.slice_mm or region.point != "own" for region in regions):
            yield 'around = "series" takes the slices as they are; leave neighbours, slice_mm and point out'

    def _turns(self) -> Iterator[str]:
        """Turns that would exchange left and right without swapping names, or change nothing."""
        views = self.views or _TASK_VIEWS[self.task or "global"]
        planes = {series_of(view).partition("_")[0] for view in views}
        if "front_back" in self.tta and len(self.tta) > 1 and {"columns", "rows"} & set(self.tta):
            yield 'tta "front_back" turns columns and rows already; leave one of them out'
        if "rotations" in self.tta and any(self.region_of(view).box == "whole" for view in views):
            yield 'tta "rotations" turns regions around a point; box = "whole" has none: leave one of the two out'
        if "columns" in self.tta and "sagittal" not in planes:
            yield 'tta "columns" is for sagittal views; of axial ones it would exchange the sides: write "mirror"'
        if "slices" in self.tta and "axial" not in planes:
            yield 'tta "slices" is for axial views; of sagittal ones it would exchange the sides: write "mirror"'


CANAL: Condition = "spinal_canal_stenosis"
_TASK_VIEWS: dict[TaskName, tuple[View, ...]] = {
    "spinal": ("sagittal_t2", "axial_middle"),
    "foraminal": ("sagittal_t1_left",),
    "subarticular": ("axial_left",),
    "global": ("sagittal_t2", "sagittal_t1_left", "sagittal_t1_right", "axial_left", "axial_right"),
}


def _wrong(region: Region, view: View, preprocessing: Preprocessing) -> Iterator[str]:
    """What makes no sense in a region of a view."""
    axial, side = view.startswith("axial"), side_of_view(view)
    if region.box == "pair" and not axial:
        yield 'box = "pair" goes by the left and the right recess; it is for axial views'
    if region.box in ("pair", "whole") and region.rotate != "none":
        yield f'box = "{region.box}" cannot be rotated along the {region.rotate}; set rotate = "none"'
    yield from _units(region, view)
    if region.box == "whole" and (region.half or any(region.shift)):
        yield 'box = "whole" has neither half nor shift; leave them out'
    if region.follow and region.box in ("pair", "whole"):
        yield f'box = "{region.box}" does not lie around a point that follow could move; leave follow out'
    if axial and region.rotate != "none":
        yield f'rotate = "{region.rotate}" turns sagittal images; leave it out'
    if axial and region.around == "offset":
        yield 'around = "offset" is for sagittal views; choose "point" or "level"'
    if region.half and side is None:
        yield "half takes the half of a side, and this view shows both; name a view of a side"
    if region.half and not axial and region.around not in ("level", "point"):
        yield 'half takes the slices of half a series; it needs around = "level", or "point"'
    if region.slice_mm is not None and region.around == "level":
        yield 'slice_mm says how far slices lie apart, around = "level" that all are brought to `slices`; leave one out'
    if preprocessing.window_end == "zeros" and (
        region.slice_mm is not None or region.around in ("point", "level", "series")
    ):
        yield 'slice_mm and around need preprocessing.window_end = "repeat"'
    yield from _all_slices(region, axial=axial)
    yield from _far_or_small(region, both=axial and side is None)


def _units(region: Region, view: View) -> Iterator[str]:
    """What makes no sense in units that go by two points, and in points between two."""
    axial, side = view.startswith("axial"), side_of_view(view)
    if not axial and "union" in region.units:
        yield 'box = "union" lies around the left and the right recess; it is for axial views'
    if axial and "disc" in region.units:
        yield 'box = "disc" is as long as a disc from back to front; it is for sagittal views'
    if region.across is not None and {"pair", "whole"} & set(region.units):
        yield 'across gives the width a unit of its own, which box = "pair" and "whole" do not have; leave it out'
    if region.point == "middle" and not axial:
        yield 'point = "middle" lies between the left and the right recess; it is for axial views'
    if region.towards_foramen and not (view.startswith("sagittal_t2") and side and region.around == "point"):
        yield 'towards_foramen chooses slices of a side on sagittal T2; it needs around = "point" and such a view'


def _all_slices(region: Region, *, axial: bool) -> Iterator[str]:
    """What makes no sense without the slices of a whole level, or of a whole series."""
    level = region.around == "level"
    if region.inner < 1 and (axial or region.half or not level):
        yield 'inner takes the middle slices of a sagittal series; it needs around = "level" and no half'
    if axial and region.point == "canal" and not level:
        yield 'point = "canal" lies on sagittal slices; an axial view needs around = "level" with it'
    if region.pad and (axial or not level):
        yield 'pad appends empty slices to all of a sagittal series; it needs around = "level"'
    if region.pad and (region.intensity == "standard" or region.scope == "crop"):
        yield (
            'pad = true needs grey values that empty slices do not change; set intensity = "minmax" or "percentile", '
            'scope = "slice" or "series"'
        )
    if region.levels_by is not None and not (axial and level):
        yield 'levels_by says which axial slices are a level\'s; it needs an axial view and around = "level"'


def _far_or_small(region: Region, *, both: bool) -> Iterator[str]:
    """What makes no sense in a box's size and place; `both`: on an axial view of both sides."""
    others = region.units != ("mm", "mm")
    if others and region.extent is not None and max(region.extent) > 50:
        yield f'extent = {list(region.extent)} is in units of box = "{region.box}", not in mm; at most 50 are taken'
    if others and region.extent is not None and min(region.extent) < 0.05:
        yield f'extent = {list(region.extent)} is too small for box = "{region.box}"; 0.05 and more are taken'
    most, unit = (5, f'units of box = "{region.box}"') if others else (200, "mm")
    for name, shift in (("shift", region.shift), ("shift_l5_s1", region.shift_l5_s1 or (0.0, 0.0))):
        if max(map(abs, shift)) > most:
            yield f"{name} = {list(shift)} leads out of the image; at most {most} {unit} are taken"
        if both and shift[0]:
            yield f"{name} = {list(shift)} leads to one side of a view that shows both; set its first number to 0"
    if not others and region.extent is not None and min(region.extent) < 5:
        yield f"extent = {list(region.extent)} mm is too small; 5 mm and more are taken"
