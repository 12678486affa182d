"""What does not go together in a recipe: a sentence for each, all of them at once. No torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lumbar.issues import cut, few
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, Condition
from lumbar.recipe.augment import Augment
from lumbar.recipe.chain import one_step
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import OF_ANSWERS, OF_GRADERS, losses_of
from lumbar.recipe.region import RegionSpec
from lumbar.recipe.settings import MOST_SHIFT, Training
from lumbar.recipe.strict import Strict
from lumbar.recipe.views import MIRROR_VIEW, TASK_VIEWS, VIEWS

Members = Mapping[str, tuple[DetectorSpec | GraderSpec, Training]]


def faults(members: Members, folds: Sequence[int], sets: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with members in the order of a recipe that trains `folds`: a sentence each, with the remedy.

    `sets`: the names of those that find each set of keypoints; empty where there is one set.
    """
    found: dict[str, str] = {}  # by what is wrong: members share settings
    before: dict[str, Training] = {}
    for name, (spec, training) in members.items():
        for wrong in [*_own(spec, training), *_among(training, before, folds)]:
            found.setdefault(wrong, f"{name}: {wrong}")
        before[name] = training
    parts = [{name: members[name] for name in names if name in members} for names in sets.values()]
    lacking = [each for part in parts or [dict(members)] for each in _not_found(part, folds)]
    return [*found.values(), *_unheard(members), *dict.fromkeys(lacking)]


def answered(spec: GraderSpec) -> tuple[Condition, ...]:
    """The conditions that a grader's answers count for, of one side where it shows one."""
    if spec.task is None:
        return spec.speaks_for or spec.conditions
    return CONDITIONS if spec.task == "global" else CONDITION_GROUPS[spec.task]


def of_sound_parts(values: Any) -> list[str]:
    """What is wrong with single members of a recipe's table of which other parts cannot be read."""
    found: dict[str, str] = {}
    for stage, kind in (("stage1", DetectorSpec), ("stage2", GraderSpec)):
        for name, entry in _table(_table(_table(values).get(stage)).get("members")).items():
            parts = _table(entry)
            spec, training = _read(kind, parts.get("spec")), _read(Training, parts.get("training"))
            if isinstance(training, Training):
                wrong = _of_training(training, detects=kind is DetectorSpec)
                if isinstance(spec, DetectorSpec | GraderSpec):
                    wrong = _own(spec, training)
                for each in wrong:
                    found.setdefault(each, f"{name}: {each}")
    return list(found.values())


def _table(value: Any) -> Mapping[str, Any]:
    """A table of a file; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _read(kind: type[Strict], values: Any) -> Strict | None:
    try:
        return kind.model_validate(values)
    except ValidationError:
        return None


def _own(spec: DetectorSpec | GraderSpec, training: Training) -> Iterator[str]:
    """What is wrong with one member, whatever else there is."""
    yield from _of_detector(spec, training) if isinstance(spec, DetectorSpec) else _of_grader(spec, training)


def _of_detector(spec: DetectorSpec, training: Training) -> Iterator[str]:
    """What is wrong with a detector and how it is trained."""
    augment, wanted = training.augment, losses_of(spec, training)
    yield from _strange_losses(training, OF_ANSWERS[spec.answer], f"answer {spec.answer!r}")
    if spec.decode == "change" and [*wanted] != ["cross_entropy"]:
        yield 'decode = "change" reads classes of slices, which learn by cross_entropy alone; leave other losses out'
    yield from _said_twice(training)
    if augment.mix == "cutmix" or (augment.mix != "none" and augment.mix_on == "features"):
        yield "a detector's pictures can be mixed by mixup of images only; set augment.mix to mixup"
    if augment.mix != "none" and (spec.answer != "heatmaps" or spec.depth or not set(wanted) <= {"mse", "bce"}):
        yield "maps can be mixed where the loss is mse or bce of plain heatmaps; set augment.mix to none"
    yield from _of_training(training, detects=True)


def _of_grader(spec: GraderSpec, training: Training) -> Iterator[str]:
    """What is wrong with a grader and how it is trained."""
    if training.loss and "severity" not in training.loss and training.bundled:
        yield "loss leaves out the severities, which is what a grader answers; add severity, or set bundled to false"
    yield from _said_twice(training)
    if training.slice_class_weights is not None and "slice_scores" not in training.loss:
        yield "slice_class_weights hold for the loss slice_scores only; name it in loss, or leave them out"
    yield from _mixing(spec, training)
    yield from _of_training(training, detects=False)
    yield from _unused(spec)
    if training.slice_shift and training.slice_shift != "own" and spec.preprocessing.window_end == "zeros":
        yield 'slice_shift needs preprocessing.window_end = "repeat": other windows stop at a series\' ends'
    if training.slice_shift and all(spec.region_of(view).around == "level" for view in spec.views or VIEWS):
        yield 'slice_shift has no effect, as around = "level" shows all slices of a level; leave one of the two out'


def _unused(spec: GraderSpec) -> Iterator[str]:
    """What regions say without effect: values that only another box or intensity looks at."""
    places: dict[str, RegionSpec] = {"region": spec.region} | {f"regions.{at}": own for at, own in spec.regions.items()}
    seen = {view: spec.region_of(view) for view in spec.views or (*TASK_VIEWS, *spec.regions)}
    for place, own in places.items():
        view = place.removeprefix("regions.")
        of = [region for at, region in seen.items() if place == "region" or view in (at, MIRROR_VIEW[at])]
        if own.percentiles is not None and all(region.intensity != "percentile" for region in of):
            yield f'{place}.percentiles holds for intensity = "percentile" only; set that, or leave it out'
        if own.span is not None and all(region.box != "levels" for region in of):
            yield f'{place}.span holds for box = "levels" only; set that, or leave it out'


def _of_training(training: Training, *, detects: bool) -> Iterator[str]:
    """What is wrong with how a detector or a grader is trained, whatever it is."""
    if training.floor and training.schedule in ("step", "constant"):
        yield f"floor is where a falling rate ends, and schedule = {training.schedule!r} has no end; leave it out"
    if training.schedule == "one_cycle" and training.warmup > 0.95:
        yield "one_cycle falls after its warm-up; set warmup to 0.95 or less"
    if training.fresh and not training.begins_with:
        yield "fresh names what begins anew in a member that begins with another; name that as begins_with"
    if training.soft_mix and not training.soft_labels:
        yield "soft_mix mixes labels with a table's; name the table as soft_labels"
    if detects and training.soft_labels:
        yield "soft_labels are severities, and a detector has none; write it below [stage2]"
    if detects and training.slice_shift:
        yield "slice_shift moves the windows of graders' regions; write it below [stage2]"
    if not isinstance(training.slice_shift, str) and training.slice_shift:
        shares = training.slice_shift
        if not math.isclose(sum(shares), 1, abs_tol=1e-6):
            yield f"slice_shift holds probabilities of 0, ±1, ±2 … slices; they sum to {sum(shares):g}, not 1"
        if len(shares) > MOST_SHIFT + 1:
            yield f"slice_shift names {len(shares) - 1} shifts; at most {MOST_SHIFT} are taken"
    yield from _idle_augment(training.augment)
    if training.best_by == ("score" if detects else "error_mm"):
        other, kind = ("error_mm", "a detector") if detects else ("score", "a grader")
        yield f"best_by = {training.best_by!r} is no figure of {kind}; take {other!r}, 'loss' or 'last'"
    if not detects:
        yield from _strange_losses(training, tuple(OF_GRADERS), "a grader")


def _idle_augment(augment: Augment) -> Iterator[str]:
    """What augmentation says of changes that never happen."""
    if not augment.holes_p and {"holes", "hole_size"} & _changed(augment):
        yield "augment.holes and hole_size need a probability; set augment.holes_p, or leave them out"
    if augment.mix == "none" and {"mix_on", "mix_p", "mix_alpha"} & _changed(augment):
        yield "augment.mix_on, mix_p and mix_alpha say how samples are mixed; set augment.mix, or leave them out"


def _changed(values: Strict) -> set[str]:
    """The fields that do not hold their defaults."""
    return {name for name, field in type(values).model_fields.items() if getattr(values, name) != field.default}


def _strange_losses(training: Training, known: Sequence[str], what: str) -> Iterator[str]:
    for word in training.loss:
        if word not in known:
            yield f"loss names {cut(word, 40)!r}, and {what} has no such output; known: {', '.join(known)}"


def _said_twice(training: Training) -> Iterator[str]:
    olds = {"any_severe_weight": "any_severe", "auxiliary_weight": "slices"}
    for old, word in olds.items():
        if training.loss and getattr(training, old):
            yield f"{old} and loss say the same; write loss = {{ {word} = {getattr(training, old):g}, … }} alone"


def _mixing(spec: GraderSpec, training: Training) -> Iterator[str]:
    augment, wanted = training.augment, losses_of(spec, training)
    if augment.mix == "none":
        return
    counts = [str(each) for each in sorted({spec.region_of(view).slices for view in spec.views})]
    if augment.mix == "cutmix" and augment.mix_on == "features" and len(counts) > 1:
        yield f"cutmix of features takes one run of slices from all, which have {' and '.join(counts)}; mix images"
    of_runs = augment.mix == "cutmix" and augment.mix_on == "features"
    for word in sorted(wanted):
        mixes = OF_GRADERS[word].mixes if word in OF_GRADERS else "always"  # strange words are told elsewhere
        if mixes == "studies" and spec.levels == "one":
            yield f"mixed samples have no label for the loss {word!r}; leave it out or set augment.mix to none"
        if mixes == "slices stay" and of_runs:
            yield f"slices of two studies stand in one sample, which the loss {word!r} cannot tell apart; mix images"


def _among(training: Training, before: Mapping[str, Training], folds: Sequence[int]) -> Iterator[str]:
    """What is wrong with a member beside those that stand before it and the recipe's folds."""
    own = training.folds or tuple(folds)
    if strange := sorted(set(own) - set(folds)):
        yield f"folds names {few([str(fold) for fold in strange])}, which folds.train leaves out; name some of it"
    if len(set(own)) < len(own):
        yield "folds names a fold twice; name each once"
    if not training.begins_with:
        return
    begun = before.get(training.begins_with)
    if begun is None:
        named = f"begins_with = {cut(training.begins_with)!r}"
        yield f"{named} is no member that stands before it; known there: {few(list(before)) or 'none'}"
    elif missing := sorted(set(own) - set(begun.folds or folds)):
        yield f"begins with {training.begins_with!r}, which does not train fold {missing[0]}; let both train the same"


def _unheard(members: Members) -> Iterator[str]:
    """Stages without any result."""
    for stage, kind in (("stage1", DetectorSpec), ("stage2", GraderSpec)):
        if not any(isinstance(spec, kind) and training.bundled for spec, training in members.values()):
            yield f"{stage}: every member has bundled = false, so nothing is left that answers; keep one"


def _not_found(members: Members, folds: Sequence[int]) -> Iterator[str]:
    """Folds in which no detector finds what others of its step find elsewhere."""
    steps: list[tuple[DetectorSpec, set[int]]] = []
    for spec, training in members.values():
        if isinstance(spec, DetectorSpec) and training.bundled:
            own = set(training.folds or folds)
            step = next((trained for first, trained in steps if one_step(first, spec)), None)
            if step is None:
                steps.append((spec, own))
            else:
                step.update(own)
    for spec, trained in steps:
        if lacking := sorted(set(folds) - trained):
            yield (
                f"stage1: no detector of {spec.series_type} ({spec.placed}) trains fold {lacking[0]}, so nothing would "
                "be found there; let one train it"
            )
