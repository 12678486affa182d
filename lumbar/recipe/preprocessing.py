"""How a member chooses pixels, slices and regions, as checked data. No torch."""

from collections.abc import Iterator
from typing import Literal

from lumbar.recipe.strict import Strict

#: Which axial slices belong to a level, see `lumbar.study.levels`: the one nearest to its canal point; all that cut its
#: segment of the canal; those around the slices that a detector found.
LevelsBy = Literal["nearest", "segments", "found"]


class Preprocessing(Strict):
    """How pixels, slices and regions are chosen. Defaults are sound; the alternatives are the original 9th place's.

    Each pair is described, with its effect, in docs/systems/ninth_place.md.
    """

    #: modality: rescale slope and intercept applied, MONOCHROME1 inverted; stored: `pixel_array` as it is.
    values: Literal["modality", "stored"] = "modality"
    #: position: along the slice normal; file: natural file order, reversed where the last slice lies before the first.
    order: Literal["position", "file"] = "position"
    #: canonical: in-plane axes turned to the usual display (sagittal: rows to the feet, columns to the back;
    #: axial: rows to the back, columns to the patient's left); stored: as they are.
    orientation: Literal["canonical", "stored"] = "canonical"
    #: nearest: the window is centred as well as slices allow, left as right; ceil: the original's rounding.
    window_center: Literal["nearest", "ceil"] = "nearest"
    #: repeat: a window past the end repeats the border slice; inside: it is moved inwards (sixth place), and only one
    #: longer than its series repeats, both borders alike; zeros: it is cut and filled with zeros.
    window_end: Literal["repeat", "inside", "zeros"] = "repeat"
    #: centre: coordinates name pixel centres, so a region lies around its point, left as right; corner: the original's
    #: boxes, half a pixel towards the top left.
    box_origin: Literal["centre", "corner"] = "centre"
    #: edge: a region past the border repeats the border pixels; zeros: the whole region becomes zeros.
    border: Literal["edge", "zeros"] = "edge"
    #: positions: slice spacing from positions; tag: SpacingBetweenSlices, and the middle window where it is missing.
    spacing: Literal["positions", "tag"] = "positions"
    #: series: sagittal T1 windows are counted from the middle of the series; canal: from the spinal canal, wherever the
    #: series lies (see `lumbar.study.canal`); T2 windows move where it lies a slice or more off. The default is what
    #: members saw before there was a choice.
    middle: Literal["series", "canal"] = "series"
    #: best: of several series of one type the one with most slices, then the finest; first: the first listed; all:
    #: detectors look at each, and of each keypoint the surest place counts (a grader takes the best).
    series: Literal["best", "first", "all"] = "best"
    #: medial: sagittal slices of a side run from the middle outwards, so that right looks like left; patient: they run
    #: from the patient's right to left on both sides.
    side_order: Literal["medial", "patient"] = "medial"
    #: silent: a member says nothing where its region is missing; zeros: it grades an all-zero region, and the two
    #: sagittal types stand in for each other.
    missing: Literal["silent", "zeros"] = "silent"
    #: repair: read between pixels, implausible keypoints replaced from their neighbours; keep: argmax as it is.
    keypoints: Literal["repair", "keep"] = "repair"

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        if self.middle == "canal" and (self.order, self.spacing) != ("position", "positions"):
            yield 'middle = "canal" goes by positions; it needs order = "position", spacing = "positions"'
