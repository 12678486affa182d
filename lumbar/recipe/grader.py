"""What a stage-2 member is: the regions it sees, its network and what that answers, as checked data. No torch."""

from typing import Literal

from pydantic import Field, model_validator

from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.strict import (
    MAX_NUMBER,
    MAX_SIDE,
    MAX_SLICES,
    Arguments,
    NetworkName,
    OffsetMm,
    Strict,
    refuse_many_pixels,
)

TaskName = Literal["spinal", "foraminal", "subarticular", "global"]


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
        refuse_many_pixels("slices", self.slices, self.image_size)
        return self
