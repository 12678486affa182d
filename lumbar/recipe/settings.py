"""The knobs of a recipe: how a member is trained, how studies are split, how the loop runs. No torch."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from lumbar.arguments import LARGEST_SEED, MOST_PROCESSES
from lumbar.labels import Condition
from lumbar.recipe.augment import Augment
from lumbar.recipe.member import LAST_FOLD
from lumbar.recipe.strict import Strict

#: Far above what any recipe needs, and no number that fills a machine.
MOST: Final = 100_000


#: The beginnings of parameters' names, up to a dot.
Prefixes = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]
ClassWeight = Annotated[float, Field(gt=0, le=1000)]
#: Slices that a window can be shifted by, either way.
MOST_SHIFT: Final = 8


class Training(Strict):
    """How one member is trained."""

    LATER = frozenset(
        {
            "loss",
            "class_weights",
            "slice_class_weights",
            "condition_weights",
            "far_errors",
            "begins_with",
            "taught_by",
            "fresh",
            "frozen",
            "bundled",
            "second_level",
            "floor",
            "folds",
            "soft_labels",
            "soft_mix",
            "slice_shift",
            "labelled_p",
            "optimizer",
            "decay_norms",
            "best_by",
            "unlabelled",
        }
    )

    #: Loss words and their weights, of those that the member has outputs for (see `losses`); empty: its default.
    loss: dict[Annotated[str, Field(max_length=40)], Annotated[float, Field(gt=0, le=MOST)]] = {}
    #: How much a severity counts in losses: as in the official score, or all alike.
    class_weights: Literal["1/2/4", "none"] = "1/2/4"
    #: The same in the loss `slice_scores`, for normal or mild, moderate, severe; None: as `class_weights`.
    slice_class_weights: tuple[ClassWeight, ClassWeight, ClassWeight] | None = None
    #: How much each of a grader's conditions counts in losses of severities; one that is not named counts 1.
    condition_weights: dict[Condition, ClassWeight] = {}
    #: In the loss `severity` a row counts so many times where normal or mild was answered and severe is right, or the
    #: other way round (third place: 2); of soft labels the share that is so far off.
    far_errors: float = Field(1.0, ge=1, le=100)
    #: A member that stands before this one in the recipe and whose weights of the same fold it begins with, wherever
    #: they fit; those below the prefixes `fresh` begin anew.
    begins_with: Annotated[str, Field(max_length=200)] = ""
    fresh: Prefixes = ()
    #: Prefixes of parameters that do not learn (`encoders` is all of `encoders.…`); norms there keep their numbers.
    frozen: Prefixes = ()
    #: A detector of slices that stands before this one: in training its probabilities of every slice, of studies that
    #: its fold had not seen, are what this one learns, in place of labels (second place). Studies of folds that it does
    #: not train keep their labels.
    taught_by: Annotated[str, Field(max_length=200)] = ""
    #: False: trained only, as a step that others begin with; no result of the run or the bundle knows of it.
    bundled: bool = True
    #: A grader of whole series: it learns from what `begins_with` answers slice by slice of studies that its folds had
    #: not seen, in place of the pictures (stacking).
    second_level: bool = False
    #: The folds to train, of those that the recipe trains; empty: all of them.
    folds: tuple[Annotated[int, Field(ge=0, le=LAST_FOLD)], ...] = ()
    #: 0: it learns nothing and answers with the weights of `begins_with`, from views of its own.
    epochs: int = Field(5, ge=0, le=MOST)
    batch_size: int = Field(16, ge=1, le=MOST)  # over all processes together
    accumulate: int = Field(1, ge=1, le=MOST)  # batches an optimizer step
    learning_rate: float = Field(1e-3, gt=0, le=1e38)
    weight_decay: float = Field(0.01, ge=0, le=100)
    #: Adam with decoupled decay (Loshchilov & Hutter 2019); or rectified Adam (Liu et al. 2020) with every fifth step
    #: halfway back (Lookahead, Zhang et al. 2019).
    optimizer: Literal["adamw", "radam_lookahead"] = "adamw"
    decay_norms: bool = True  # False: no weight decay on biases and norms
    schedule: Literal["cosine", "step", "constant", "linear", "one_cycle"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1)  # share of all steps with a rising rate; one_cycle: 0 means 0.3
    floor: float = Field(0.0, ge=0, le=1)  # cosine, linear, one_cycle end at this share of the rate
    step_epochs: int = Field(2, ge=1, le=MOST)  # schedule "step": every so many epochs the rate is ...
    step_factor: float = Field(0.1, gt=0, le=1)  # ... multiplied by this
    clip_norm: float = Field(0.0, ge=0, le=MOST)  # 0: gradients are not clipped
    ema_decay: float = Field(0.0, ge=0, lt=1)  # 0: no moving average of the weights
    #: Faster on CPUs and on tensor cores, same result up to rounding. Not for convolutions of 1 × 1 and stride 2 that
    #: take 8 channels, in float32 on a CPU: PyTorch 2.10 ends there with "double free or corruption", going backwards.
    channels_last: bool = False
    heatmap_weight: float = Field(1.0, gt=0, le=MOST)  # stage 1: error weight at a peak; 1 = plain MSE
    heatmap_weight_at: Literal["own", "any"] = "own"  # ... of the map's own point, or of any map's of the stack
    #: stage 1: a map without a label is taught to be empty, or is not asked for anything (fourth place; loss mse).
    unlabelled: Literal["empty", "unasked"] = "empty"
    any_severe_weight: float = Field(0.0, ge=0, le=MOST)  # stage 2: the official score's any-severe term
    auxiliary_weight: float = Field(0.0, ge=0, le=MOST)  # stage 2: loss of every slice, where the network gives one
    keypoint_jitter_mm: float = Field(
        0.0, ge=0, le=100
    )  # stage 2: region centres shifted in training (standard deviation)
    #: Windows of slices shifted in training: the probabilities of 0, ±1, ±2, … slices; or "own": as far as the run's
    #: detectors of that series type were off on studies that they had not seen, up to ±2.
    slice_shift: Literal["own"] | tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    #: Stage 2: a training sample lies around labelled keypoints in place of found ones, with this probability, where
    #: the label table has all that it shows (seventh place).
    labelled_p: float = Field(0.0, ge=0, le=1)
    #: A table in the submission's form, such as a run's `predictions/blend.csv`: in training, the severities of rows
    #: without a label, and a share `soft_mix` of those with one. They count in no validation and no score.
    soft_labels: str = ""
    soft_mix: float = Field(0.0, ge=0, le=1)
    #: Which epoch's weights are kept: that of the least validation loss, of the best official score of what a grader
    #: answers, of the least error of keypoints, or the last.
    best_by: Literal["loss", "score", "error_mm", "last"] = "loss"
    #: How often an epoch takes each sample of a source named in `train_sources.csv`; others once. 0 leaves it out.
    draws: dict[str, Annotated[int, Field(ge=0, le=1000)]] = {}

    #: True: backbones begin with the pretrained weights that their name's tag says, as `convnext_nano.d1h_in1k` (with
    #: none: timm's first), wherever the call finds them. Or the path of a safetensors file that fills them.
    pretrained: bool | str = False
    augment: Augment = Augment()


class Folds(Strict):
    """How studies are split. Every study is one group: its 25 labels never straddle a split."""

    method: Literal["kfold", "stratified_group"] = "kfold"
    count: int = Field(5, ge=2, le=LAST_FOLD + 1)
    seed: int = Field(42, ge=0, le=LARGEST_SEED)
    #: The folds to train, by number; fewer than `count` leave studies without out-of-fold results.
    train: tuple[int, ...] = (0, 1, 2, 3, 4)

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        if not self.train or len(set(self.train)) < len(self.train) or not set(self.train) <= set(range(self.count)):
            yield f"train must name different folds from 0 to {self.count - 1}, not {list(self.train)}"


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
