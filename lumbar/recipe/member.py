"""What one trained network of the ensemble is: its inputs, network and preprocessing, as checked data.

The same models describe a member in a recipe (what to train) and in a bundle's manifest (what was trained), so a member
can be rebuilt and run from its entry alone. Nothing here imports torch.
"""

import difflib
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lumbar.issues import cut, few
from lumbar.labels import SeriesType

#: Bounds of what a manifest may ask for, far above what any network here uses: inputs of more would fill the memory.
MAX_SIDE, MAX_SLICES = 2048, 256
#: A member's name is its file's name, too.
MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
#: Numbers in one input or output of one sample: 67 MB in float32, as 64 slices of 512 x 512 pixels.
MAX_PIXELS = 2**24
#: Folds are numbered from 0 to this.
LAST_FOLD = 99
#: Bounds of what a spec may hand to a network's constructor, where numbers become layers and channels.
MAX_NUMBER, MAX_ITEMS, MAX_LETTERS, MAX_DEPTH = 2**16, 64, 200, 4
TaskName = Literal["spinal", "foraminal", "subarticular", "global"]


class Strict(BaseModel):
    """Frozen data of finite numbers that refuses unknown keys and names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"known: {few(list(cls.model_fields), 5)}"
                    raise ValueError(f"unknown key {cut(str(key), 40)!r}; {hint}")
        return values


class Preprocessing(Strict):
    """How pixels, slices and regions are chosen. Defaults are sound; the alternatives are the original 9th place's.

    Each pair is described, with its effect, in docs/ninth_place.md.
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
    #: repeat: a window past the end repeats the border slice; zeros: it is cut and filled with zeros.
    window_end: Literal["repeat", "zeros"] = "repeat"
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
    #: best: of several series of one type the one with most slices, then the finest; first: the first listed.
    series: Literal["best", "first"] = "best"
    #: medial: sagittal slices of a side run from the middle outwards, so that right looks like left; patient: they run
    #: from the patient's right to left on both sides.
    side_order: Literal["medial", "patient"] = "medial"
    #: silent: a member says nothing where its region is missing; zeros: it grades an all-zero region, and the two
    #: sagittal types stand in for each other.
    missing: Literal["silent", "zeros"] = "silent"
    #: repair: read between pixels, implausible keypoints replaced from their neighbours; keep: argmax as it is.
    keypoints: Literal["repair", "keep"] = "repair"

    @model_validator(mode="after")
    def _check(self) -> "Preprocessing":
        if self.middle == "canal" and (self.order, self.spacing) != ("position", "positions"):
            raise ValueError('middle = "canal" goes by positions; it needs order = "position", spacing = "positions"')
        return self


def _modest(value: Any, depth: int = 0) -> Any:
    """The arguments of a constructor; ValueError where they are no plain values, or ask for more than a network has."""
    if isinstance(value, dict | list | tuple):
        if depth >= MAX_DEPTH or len(value) > MAX_ITEMS:
            raise ValueError(f"tables and lists hold at most {MAX_ITEMS} values and {MAX_DEPTH - 1} more within them")
        for each in (*value, *value.values()) if isinstance(value, dict) else value:
            _modest(each, depth + 1)
    elif isinstance(value, str):
        if len(value) > MAX_LETTERS:
            raise ValueError(f"a word of {len(value)} letters; at most {MAX_LETTERS} are taken")
    elif isinstance(value, int | float):
        if not abs(value) <= MAX_NUMBER:  # not a number, too
            raise ValueError(f"{value!r:.30} is not a number from -{MAX_NUMBER} to {MAX_NUMBER}")
    elif value is not None:
        raise ValueError(f"{type(value).__name__} is no number, word, list or table")
    return value


#: Arguments of a network's constructor.
Arguments = Annotated[dict[str, Any], AfterValidator(_modest)]
#: The name of a network.
NetworkName = Annotated[str, Field(min_length=1, max_length=MAX_LETTERS)]
#: Distance in mm from the middle of a series: no spine is wider.
OffsetMm = Annotated[float, Field(ge=0, le=100)]


class DetectorSpec(Strict):
    """A stage-1 member: a stack of slices in, one Gaussian heatmap a keypoint out."""

    stage: Literal["keypoints"] = "keypoints"
    series_type: SeriesType
    network: NetworkName = "deeplabv3plus"
    encoder: NetworkName = "resnet34"
    encoder_args: Arguments = {}
    network_args: Arguments = {}
    image_size: int = Field(512, ge=32, le=MAX_SIDE)
    #: Slices in the stack, which are the network's input channels.
    in_chans: int = Field(5, ge=1, le=MAX_SLICES)
    #: Heatmaps out: 5 levels on sagittal series, left and right on axial ones.
    num_classes: int = Field(5, ge=1, le=256)
    #: Sagittal T1: how far left (+) and right (−) of the middle (see `Preprocessing.middle`) the two stacks lie, mm.
    offset_mm: OffsetMm = 16.8
    #: Axial: farther than this from the T2 keypoint, a plane counts as none, mm.
    max_plane_distance_mm: float = Field(5.0, ge=0, le=1000)
    #: Width of the target Gaussian in pixels of the resized image.
    sigma_px: float = Field(10.0, ge=0.5, le=64)
    preprocessing: Preprocessing = Preprocessing()

    @property
    def subject(self) -> str:
        """What it looks at: the type of series."""
        return self.series_type

    @property
    def backbone(self) -> str:
        """Its encoder, as a grader would call it."""
        return self.encoder

    @property
    def named_backbone(self) -> str:
        """Its encoder, as a sentence names it."""
        return f"encoder {self.encoder!r}"

    @property
    def given(self) -> dict[str, object]:
        """What its recipe says to the libraries that build the network."""
        return {**self.encoder_args, **self.network_args, "image_size": self.image_size}

    @property
    def what(self) -> str:
        """What it does, in a few words."""
        return f"keypoints on {self.subject}, {self.network} on {self.backbone}"

    @model_validator(mode="after")
    def _fits_memory(self) -> "DetectorSpec":
        _refuse_many_pixels("in_chans", self.in_chans, self.image_size)
        _refuse_many_pixels("num_classes", self.num_classes, self.image_size)
        return self


class GraderSpec(Strict):
    """A stage-2 member: regions of one or several views in, severities of one or several conditions out."""

    stage: Literal["grading"] = "grading"
    task: TaskName
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
        """What it answers: its task."""
        return self.task

    @property
    def named_backbone(self) -> str:
        """Its backbone, as a sentence names it."""
        return f"backbone {self.backbone!r}"

    @property
    def given(self) -> dict[str, object]:
        """What its recipe says to the libraries that build the network."""
        return {**self.backbone_args, **self.network_args, "image_size": self.image_size}

    @property
    def what(self) -> str:
        """What it does, in a few words."""
        return f"grading {self.subject}, {self.network} on {self.backbone}"

    @model_validator(mode="after")
    def _fits_memory(self) -> "GraderSpec":
        _refuse_many_pixels("slices", self.slices, self.image_size)
        return self


def _refuse_many_pixels(what: str, count: int, side: int) -> None:
    if count * side**2 > MAX_PIXELS:
        raise ValueError(f"{what} = {count} and image_size = {side} together are more than {MAX_PIXELS} numbers")


MemberSpec = Annotated[DetectorSpec | GraderSpec, Field(discriminator="stage")]
