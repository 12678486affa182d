"""What a stage-1 member is: its inputs, its network and what that answers, as checked data. No torch."""

from typing import Literal

from pydantic import Field, model_validator

from lumbar.labels import SeriesType
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.strict import MAX_SIDE, MAX_SLICES, Arguments, NetworkName, OffsetMm, Strict, refuse_many_pixels


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
        refuse_many_pixels("in_chans", self.in_chans, self.image_size)
        refuse_many_pixels("num_classes", self.num_classes, self.image_size)
        return self
