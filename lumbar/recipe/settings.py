"""The knobs of a recipe: how samples are changed, how a member is trained, how studies are split. No torch."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from lumbar.arguments import LARGEST_SEED, MOST_PROCESSES
from lumbar.ensemble.average import BLEND_METHODS, BlendMethod
from lumbar.ensemble.names import MethodName
from lumbar.recipe.member import LAST_FOLD
from lumbar.recipe.strict import Strict

#: Far above what any recipe needs, and no number that fills a machine.
MOST: Final = 100_000


class Augment(Strict):
    """Random changes to a training sample. Zero switches a change off.

    The first five are the original ninth place's; the others help where training and target scanners differ.
    """

    rotate_deg: float = Field(15.0, ge=0, le=180)
    shear_deg: float = Field(15.0, ge=0, lt=90)
    #: One of sharpening and motion blur, with this probability.
    sharpen_or_blur_p: float = Field(0.5, ge=0, le=1)
    #: Slices change places, with this probability (stage 2: axial views only).
    channel_shuffle_p: float = Field(0.5, ge=0, le=1)
    #: The study as seen in a mirror, sides swapped, with this probability.
    mirror_p: float = Field(0.0, ge=0, le=1)
    #: Zoom by a factor between 1 - zoom and 1 + zoom.
    zoom: float = Field(0.0, ge=0, lt=1)
    #: Shift by up to this share of the image (stage 2: of the region), each axis.
    shift: float = Field(0.0, ge=0, le=0.5)
    #: Intensities raised to a power between 1 / (1 + gamma) and 1 + gamma.
    gamma: float = Field(0.0, ge=0, le=10)
    #: Standard deviation of added noise, up to this share of the image's own.
    noise: float = Field(0.0, ge=0, le=10)
    #: A smooth bias field of up to this strength (log scale), as of a surface coil.
    shading: float = Field(0.0, ge=0, le=10)
    #: Half of the images lose resolution, down to this share of it.
    coarsen: float = Field(0.0, ge=0, lt=1)
    #: Height and width stretched against each other by up to this factor (pixels that are not square, other matrices).
    stretch: float = Field(0.0, ge=0, lt=1)
    #: Half of the images get dark bands along their borders, up to this share of a side wide (padded images).
    bands: float = Field(0.0, ge=0, lt=0.5)
    #: Every slice is the middle one, with this probability (series of a single slice).
    repeat_p: float = Field(0.0, ge=0, le=1)


class Training(Strict):
    """How one member is trained."""

    LATER = frozenset({"loss"})

    #: Loss words and their weights, of those that the member has outputs for (see `losses`); empty: its default.
    loss: dict[Annotated[str, Field(max_length=40)], Annotated[float, Field(gt=0, le=MOST)]] = {}
    epochs: int = Field(5, ge=1, le=MOST)
    batch_size: int = Field(16, ge=1, le=MOST)  # over all processes together
    accumulate: int = Field(1, ge=1, le=MOST)  # batches an optimizer step
    learning_rate: float = Field(1e-3, gt=0, le=1e38)
    weight_decay: float = Field(0.01, ge=0, le=100)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1)  # share of all steps with a rising rate
    step_epochs: int = Field(2, ge=1, le=MOST)  # schedule "step": every so many epochs the rate is ...
    step_factor: float = Field(0.1, gt=0, le=1)  # ... multiplied by this
    clip_norm: float = Field(0.0, ge=0, le=MOST)  # 0: gradients are not clipped
    ema_decay: float = Field(0.0, ge=0, lt=1)  # 0: no moving average of the weights
    channels_last: bool = False  # faster on CPUs and on tensor cores, same result up to rounding
    heatmap_weight: float = Field(1.0, gt=0, le=MOST)  # stage 1: error weight at a peak; 1 = plain MSE
    heatmap_weight_at: Literal["own", "any"] = "own"  # ... of the map's own point, or of any map's of the stack
    any_severe_weight: float = Field(0.0, ge=0, le=MOST)  # stage 2: the official score's any-severe term
    auxiliary_weight: float = Field(0.0, ge=0, le=MOST)  # stage 2: loss of every slice, where the network gives one
    keypoint_jitter_mm: float = Field(
        0.0, ge=0, le=100
    )  # stage 2: region centres shifted in training (standard deviation)
    #: How often an epoch takes each sample of a source named in `train_sources.csv`; others once. 0 leaves it out.
    draws: dict[str, Annotated[int, Field(ge=0, le=1000)]] = {}

    pretrained: bool | str = False  # True: an installed package of ImageNet weights; or the path of a safetensors file
    augment: Augment = Augment()


class Folds(Strict):
    """How studies are split. Every study is one group: its 25 labels never straddle a split."""

    method: Literal["kfold", "stratified_group"] = "kfold"
    count: int = Field(5, ge=2, le=LAST_FOLD + 1)
    seed: int = Field(42, ge=0, le=LARGEST_SEED)
    #: The folds to train, by number; fewer than `count` leave studies without out-of-fold results.
    train: tuple[int, ...] = (0, 1, 2, 3, 4)

    @model_validator(mode="after")
    def _check(self) -> "Folds":
        if not self.train or len(set(self.train)) < len(self.train) or not set(self.train) <= set(range(self.count)):
            raise ValueError(f"train must name different folds from 0 to {self.count - 1}, not {list(self.train)}")
        return self


class Loop(Strict):
    """How the loop runs on this machine; changes no result beyond rounding."""

    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    workers: int = Field(4, ge=0, le=MOST_PROCESSES)  # loader processes per training process; 0: none
    threads: int = Field(0, ge=0, le=1024)  # CPU threads of the network; 0: as torch chooses
    checkpoint_steps: int = Field(
        200, ge=1, le=1_000_000_000
    )  # a checkpoint every so many optimizer steps, and at every epoch's end
    tensorboard: bool = False
    read_processes: int = Field(2, ge=1, le=MOST_PROCESSES)  # processes that read the DICOM files
    region_margin: float = Field(1.5, ge=1, le=10)  # cached regions reach this much farther than the network sees


class Blend(Strict):
    """How members become one table.

    auto: the method with the best nested score on the run's own out-of-fold tables, where it is surely better than the
    plain mean; else, and below 200 labelled studies, the plain mean. Any other name is a method of `lumbar.ensemble`.
    """

    method: Literal["auto"] | MethodName = "auto"

    @property
    def average(self) -> BlendMethod:
        """The average to fall back on where nothing was fitted."""
        return next((name for name in BLEND_METHODS if name == self.method), "mean")
