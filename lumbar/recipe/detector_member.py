"""A detector of a recipe: what it is asked for, and what does not go together in it. No torch."""

from collections.abc import Iterator
from typing import Final

from lumbar.recipe import losses
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.stage import Member, of_training, strange_losses

#: Decodes that find nothing where an answer is too faint for them.
MAY_BE_SILENT: Final = ("sums", "change", "sides")


class DetectorMember(Member[DetectorSpec]):
    """A member of stage 1 and how it is trained."""

    @property
    def losses(self) -> dict[str, float]:
        """See `Member`."""
        return losses.of_detector(self.spec, self.training)

    def faults(self) -> Iterator[str]:
        """See `Member`."""
        spec, training = self.spec, self.training
        yield from strange_losses(training, losses.OF_ANSWERS[spec.answer], f"answer {spec.answer!r}")
        if spec.classes and [*self.losses] != ["cross_entropy"]:
            yield (
                f'decode = "{spec.decode}" reads classes of slices, which learn by cross_entropy alone; leave other '
                "losses out"
            )
        yield from self._mixing()
        yield from of_training(training)
        if training.taught_by and (spec.answer != "slices" or [*self.losses] != ["bce"]):
            yield "taught_by teaches scores of slices by bce alone; give answer = 'slices', loss = { bce = 1.0 }"
        if training.soft_labels:
            yield "soft_labels are severities, and a detector has none; write it below [stage2]"
        if training.slice_shift:
            yield "slice_shift moves the windows of graders' regions; write it below [stage2]"
        if training.labelled_p:
            yield "labelled_p chooses the keypoints of graders' regions; write it below [stage2]"
        if training.second_level:
            yield "second_level learns from severities, and a detector has none; write it below [stage2]"
        if training.slice_class_weights is not None:
            yield "slice_class_weights are of severities, and a detector has none; write them below [stage2]"
        if training.condition_weights or training.far_errors != 1:
            yield "condition_weights, far_errors are of severities, and a detector has none; write them below [stage2]"
        if training.unlabelled != "empty" and "mse" not in self.losses:
            yield 'unlabelled = "unasked" holds for the loss mse of heatmaps only; name it in loss, or leave it out'
        if training.best_by == "error_mm" and spec.decoded in MAY_BE_SILENT:
            yield (
                f'best_by = "error_mm" counts points that are found, and decode = "{spec.decoded}" may find none; take '
                '"loss" or "last"'
            )
        if training.best_by == "score":
            yield "best_by = 'score' is no figure of a detector; take 'error_mm', 'loss' or 'last'"

    def _mixing(self) -> Iterator[str]:
        spec, augment = self.spec, self.training.augment
        if (
            augment.mix in ("cutmix", "sides")
            or augment.mixup_p
            or (augment.mix != "none" and augment.mix_on == "features")
        ):
            yield "a detector's pictures can be mixed by mixup of images only; set augment.mix to mixup"
        if augment.mix != "none" and (
            spec.answer != "heatmaps" or spec.depth or not set(self.losses) <= {"mse", "bce", "dice"}
        ):
            yield "maps can be mixed where the loss is mse, bce or dice of plain heatmaps; set augment.mix to none"
