"""What a recipe trains: members of a stage, and what can be wrong with the training of either kind. No torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from lumbar.issues import cut
from lumbar.recipe.augment import Augment
from lumbar.recipe.settings import MOST_SHIFT, Training
from lumbar.recipe.spec import Spec
from lumbar.recipe.strict import Strict

AnySpec = TypeVar("AnySpec", bound=Spec)


class Member(Strict, Generic[AnySpec]):
    """One network to train, once a fold."""

    spec: AnySpec
    training: Training

    @property
    def losses(self) -> dict[str, float]:
        """Every loss that it is asked for and its weight, old spellings included."""
        raise NotImplementedError

    def faults(self) -> Iterator[str]:
        """What does not go together in it, whatever else there is: a sentence each, with the remedy."""
        raise NotImplementedError


AnyOne = TypeVar("AnyOne", bound=Member[Any])


class Stage(Strict, Generic[AnyOne]):
    """The members of one stage, by name."""

    LATER = frozenset({"keypoint_trust_mm", "sets"})

    members: dict[str, AnyOne]
    #: Stage 2 cuts its training regions around: keypoints that stage 1 found on studies it had not seen, or the
    #: label table's (faster; to be used with jitter).
    #: With out_of_fold_or_label, found points farther than `keypoint_trust_mm` from the label give way to it.
    keypoints: Literal["out_of_fold", "labels", "out_of_fold_or_label"] = "out_of_fold"
    keypoint_trust_mm: float = Field(10.0, gt=0, le=1000)
    #: Stage 1: several sets of keypoints, each by members of its own; none: all members find one (see `sets`).
    sets: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    def bundled(self) -> dict[str, AnyOne]:
        """The members whose answers count: those that are no mere step of training."""
        return {name: member for name, member in self.members.items() if member.training.bundled}


def of_training(training: Training) -> Iterator[str]:
    """What is wrong with how a member of either stage is trained."""
    yield from _said_twice(training)
    if training.floor and training.schedule in ("step", "constant"):
        yield f"floor is where a falling rate ends, and schedule = {training.schedule!r} has no end; leave it out"
    if training.schedule == "one_cycle" and training.warmup > 0.95:
        yield "one_cycle falls after its warm-up; set warmup to 0.95 or less"
    if training.fresh and not training.begins_with:
        yield "fresh names what begins anew in a member that begins with another; name that as begins_with"
    if not training.epochs and (not training.begins_with or training.fresh):
        yield (
            "epochs = 0 learns nothing and takes all weights from another member; name that as begins_with and leave "
            "fresh out, or set epochs to 1 or more"
        )
    if training.soft_mix and not training.soft_labels:
        yield "soft_mix mixes labels with a table's; name the table as soft_labels"
    if not isinstance(training.slice_shift, str) and training.slice_shift:
        shares = training.slice_shift
        if not math.isclose(sum(shares), 1, abs_tol=1e-6):
            yield f"slice_shift holds probabilities of 0, ±1, ±2 … slices; they sum to {sum(shares):g}, not 1"
        if len(shares) > MOST_SHIFT + 1:
            yield f"slice_shift names {len(shares) - 1} shifts; at most {MOST_SHIFT} are taken"
    yield from _idle_augment(training.augment)
    yield from _unused_mixup(training.augment)


def strange_losses(training: Training, known: Sequence[str] | Mapping[str, object], what: str) -> Iterator[str]:
    """A sentence for each loss word that is none of `known`, which `what` has."""
    for word in training.loss:
        if word not in known:
            yield f"loss names {cut(word, 40)!r}, and {what} has no such output; known: {', '.join(known)}"


def _said_twice(training: Training) -> Iterator[str]:
    olds = {"any_severe_weight": "any_severe", "auxiliary_weight": "slices"}
    for old, word in olds.items():
        if training.loss and getattr(training, old):
            yield f"{old} and loss say the same; write loss = {{ {word} = {getattr(training, old):g}, … }} alone"


def _idle_augment(augment: Augment) -> Iterator[str]:
    """What augmentation says of changes that never happen."""
    if not augment.holes_p and {"holes", "hole_size"} & _changed(augment):
        yield "augment.holes and hole_size need a probability; set augment.holes_p, or leave them out"
    if augment.mix == "none" and {"mix_on", "mix_p", "mix_alpha", "mixup_p"} & _changed(augment):
        yield "augment.mix_on, mix_p, mix_alpha, mixup_p say how samples are mixed; set augment.mix, or leave them out"


def _unused_mixup(augment: Augment) -> Iterator[str]:
    """A second kind of mixing that is the first, or comes after one that leaves nothing."""
    if augment.mixup_p and (augment.mix == "mixup" or (augment.mix != "none" and augment.mix_p == 1)):
        yield "augment.mixup_p mixes what mix leaves as it is; set mix to another than mixup, and mix_p below 1"


def _changed(values: Strict) -> set[str]:
    """The fields that do not hold their defaults."""
    return {name for name, field in type(values).model_fields.items() if getattr(values, name) != field.default}
