"""A grader of a recipe: what it is asked for, and what does not go together in it. No torch."""

from collections.abc import Iterator

from lumbar.issues import few
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, Condition
from lumbar.recipe import losses
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import OF_GRADERS
from lumbar.recipe.region import RegionSpec
from lumbar.recipe.stage import Member, of_training, strange_losses
from lumbar.recipe.views import MIRROR_VIEW, TASK_VIEWS, VIEWS


class GraderMember(Member[GraderSpec]):
    """A member of stage 2 and how it is trained."""

    @property
    def losses(self) -> dict[str, float]:
        """See `Member`."""
        return losses.of_grader(self.training)

    @property
    def answered(self) -> tuple[Condition, ...]:
        """The conditions that its answers count for, of one side where it shows one."""
        if self.spec.task is None:
            return self.spec.speaks_for or self.spec.conditions
        return CONDITIONS if self.spec.task == "global" else CONDITION_GROUPS[self.spec.task]

    def faults(self) -> Iterator[str]:
        """See `Member`."""
        training = self.training
        if training.loss and "severity" not in training.loss and training.bundled:
            yield (
                "loss leaves out the severities, which is what a grader answers; add severity, or set bundled to false"
            )
        yield from strange_losses(training, OF_GRADERS, "a grader")
        if training.slice_class_weights is not None and "slice_scores" not in training.loss:
            yield "slice_class_weights hold for the loss slice_scores only; name it in loss, or leave them out"
        if training.taught_by:
            yield "taught_by is for detectors of slices; a grader learns from soft_labels"
        yield from self._weights()
        yield from self._mixing()
        yield from self._second_level()
        yield from of_training(training)
        yield from _unused(self.spec)
        yield from self._shifts()
        yield from self._padded()
        if training.unlabelled != "empty":
            yield "unlabelled is of maps, and a grader has none; write it below [stage1]"
        if training.best_by == "error_mm":
            yield "best_by = 'error_mm' is no figure of a grader; take 'score', 'loss' or 'last'"

    def _weights(self) -> Iterator[str]:
        """What is wrong with how much conditions and errors count."""
        training = self.training
        known = self.spec.conditions or self.answered
        if strange := [name for name in training.condition_weights if name not in known]:
            yield f"condition_weights name {few(strange)}, which it does not answer; name some of {', '.join(known)}"
        if self.spec.says == "odds" and (training.far_errors != 1 or training.slice_class_weights is not None):
            yield 'far_errors and slice_class_weights hold for says = "shares"; leave them out, or says'
        if training.far_errors != 1 and "severity" not in self.losses:
            yield "far_errors hold for the loss severity only; name it in loss, or leave them out"

    def _mixing(self) -> Iterator[str]:
        spec, augment = self.spec, self.training.augment
        if augment.mix == "none":
            return
        if augment.mix == "sides":
            if augment.mix_on != "features":
                yield 'mix = "sides" takes the features of slices; set augment.mix_on to "features"'
            if not all(view in ("sagittal_t1", "sagittal_t2") for view in spec.views) or not spec.views:
                yield 'mix = "sides" halves sagittal series; it needs views that show both sides, sagittal_t1 or _t2'
            if others := [word for word in self.losses if word != "severity"]:
                yield f'mix = "sides" has labels for the loss "severity" alone; leave {few(others)} out'
        of_runs = augment.mix in ("cutmix", "sides") and augment.mix_on == "features"
        counts = [str(each) for each in sorted({spec.region_of(view).slices for view in spec.views})]
        if of_runs and len(counts) > 1:
            yield f"cutmix of features takes one run of slices from all, which have {' and '.join(counts)}; mix images"
        for word in sorted(self.losses):
            mixes = OF_GRADERS[word].mixes if word in OF_GRADERS else "always"  # strange words are told elsewhere
            if mixes == "never" or (mixes == "studies" and spec.levels == "one"):
                yield f"mixed samples have no label for the loss {word!r}; leave it out or set augment.mix to none"
            if mixes == "slices stay" and of_runs:
                yield f"slices of two studies in one sample cannot be told apart for the loss {word!r}; mix images"

    def _second_level(self) -> Iterator[str]:
        training = self.training
        for word in ("heatmaps", "correspondence"):
            if word in training.loss and self.spec.levels != "study":
                yield f'loss "{word}" asks for places on whole series; it needs levels = "study"'
        if "correspondence" in training.loss and len(self.spec.views) < 2:
            yield 'loss "correspondence" asks what two views show alike; name another view'
        if training.loss and not {"severity", "any_severe"} & set(training.loss) and training.best_by != "last":
            yield "loss names nothing that validation could tell the best epoch by; set best_by = 'last'"
        if not training.second_level:
            return
        if not training.begins_with or self.spec.levels != "study" or not training.epochs:
            yield (
                "second_level learns from what the member that it begins with answers of whole series; name that as "
                'begins_with, with levels = "study" and epochs of its own'
            )
        if training.augment.mix != "none":
            yield "second_level looks at answers, not at pictures; set augment.mix to none"

    def _padded(self) -> Iterator[str]:
        spec = self.spec
        asked = [word for word in sorted(self.losses) if word in OF_GRADERS and OF_GRADERS[word].by_slice]
        if asked and any(spec.region_of(view).pad for view in spec.views):
            yield f"the loss {asked[0]!r} asks which slices are annotated, and pad = true moves them; leave one out"

    def _shifts(self) -> Iterator[str]:
        spec, shift = self.spec, self.training.slice_shift
        if shift and shift != "own" and spec.preprocessing.window_end == "zeros":
            yield 'slice_shift needs preprocessing.window_end = "repeat": other windows stop at a series\' ends'
        if shift and all(spec.region_of(view).around in ("level", "series") for view in spec.views or VIEWS):
            yield 'slice_shift has no effect, as around = "level" shows all slices of a level; leave one of the two out'
        if shift and any((region := spec.region_of(view)).half and region.around == "point" for view in spec.views):
            yield 'slice_shift moves windows by their middle, and half with around = "point" has none; leave one out'


def _unused(spec: GraderSpec) -> Iterator[str]:
    """What regions say without effect: values that only another box or intensity looks at."""
    places: dict[str, RegionSpec] = {"region": spec.region} | {f"regions.{at}": own for at, own in spec.regions.items()}
    seen = {view: spec.region_of(view) for view in spec.views or (*TASK_VIEWS, *spec.regions)}
    for place, own in places.items():
        view = place.removeprefix("regions.")
        of = [region for at, region in seen.items() if place == "region" or view in (at, MIRROR_VIEW[at])]
        if own.percentiles is not None and all(region.intensity != "percentile" for region in of):
            yield f'{place}.percentiles holds for intensity = "percentile" only; set that, or leave it out'
        if own.span is not None and all(not {"levels", "disc"} & set(region.units) for region in of):
            yield f'{place}.span holds for box = "levels" or "disc" only; set that, or leave it out'
