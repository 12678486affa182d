"""What does not go together in a recipe: a sentence for each, all of them at once. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from lumbar.issues import cut, few
from lumbar.recipe.chain import one_step, same_stacks
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.detector_member import DetectorMember
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.settings import Training
from lumbar.recipe.stage import Stage

#: What a second level and its first one have in common.
_SHARED: Final = ("views", "conditions", "levels", "region", "regions", "image_size", "slices", "preprocessing")


def faults(stage1: Stage[DetectorMember], stage2: Stage[GraderMember], folds: Sequence[int]) -> list[str]:
    """What is wrong with members in the order of a recipe that trains `folds`: a sentence each, with the remedy."""
    found: dict[str, str] = {}  # by what is wrong: members share settings
    before: dict[str, DetectorMember | GraderMember] = {}
    members: Mapping[str, DetectorMember | GraderMember] = {**stage1.members, **stage2.members}
    for name, member in members.items():
        trainings = {each: one.training for each, one in before.items()}
        first = before.get(member.training.begins_with)
        for wrong in [
            *member.faults(),
            *_among(member.training, trainings, folds),
            *_second_level(member, first, folds),
        ]:
            found.setdefault(wrong, f"{name}: {wrong}")
        before[name] = member
    for name, member in stage2.members.items():
        if member.training.labelled_p and stage2.keypoints == "labels":
            wrong = (
                'labelled_p has no effect beside keypoints = "labels"; leave it out, or set keypoints to out_of_fold'
            )
            found.setdefault(wrong, f"{name}: {wrong}")
    earlier: dict[str, DetectorMember] = {}
    for name, detector in stage1.members.items():
        for wrong in _taught(detector, earlier):
            found.setdefault(wrong, f"{name}: {wrong}")
        earlier[name] = detector
    unheard = [
        f"{stage}: every member has bundled = false, so nothing is left that answers; keep one"
        for stage, own in (("stage1", stage1.bundled()), ("stage2", stage2.bundled()))
        if not own
    ]
    detectors = stage1.bundled()
    parts = [{name: detectors[name] for name in names if name in detectors} for names in stage1.sets.values()]
    lacking = [each for part in parts or [detectors] for each in _not_found(part, folds)]
    return [*found.values(), *unheard, *dict.fromkeys(lacking)]


def alone(members: Mapping[str, DetectorMember | GraderMember]) -> list[str]:
    """What is wrong with single members, whatever else there is."""
    found: dict[str, str] = {}
    for name, member in members.items():
        for wrong in member.faults():
            found.setdefault(wrong, f"{name}: {wrong}")
    return list(found.values())


def _among(training: Training, before: Mapping[str, Training], folds: Sequence[int]) -> Iterator[str]:
    """What is wrong with a member beside those that stand before it and the recipe's folds."""
    own = training.folds or tuple(folds)
    if strange := sorted(set(own) - set(folds)):
        yield f"folds names {few([str(fold) for fold in strange])}, which folds.train leaves out; name some of it"
    if len(set(training.folds)) < len(training.folds):
        yield "folds names a fold twice; name each once"
    if not training.begins_with:
        return
    begun = before.get(training.begins_with)
    if begun is None:
        named = f"begins_with = {cut(training.begins_with)!r}"
        yield f"{named} is no member that stands before it; known there: {few(list(before)) or 'none'}"
    elif missing := sorted(set(own) - set(begun.folds or folds)):
        yield f"begins with {training.begins_with!r}, which does not train fold {missing[0]}; let both train the same"


def _second_level(
    member: DetectorMember | GraderMember, first: DetectorMember | GraderMember | None, folds: Sequence[int]
) -> Iterator[str]:
    """What is wrong with the first level of a second one."""
    if not member.training.second_level or first is None:
        return
    same = all(getattr(first.spec, name, None) == getattr(member.spec, name, None) for name in _SHARED)
    name = cut(member.training.begins_with)
    if not same or first.training.second_level:
        yield (
            f"second_level learns from {name!r}, which must see the same and be none itself; let {', '.join(_SHARED)} "
            "be alike"
        )
    if len(first.training.folds or folds) < 2:
        yield f"second_level learns from other folds' {name!r}, which trains one fold only; let it train two or more"


def _taught(member: DetectorMember, before: Mapping[str, DetectorMember]) -> Iterator[str]:
    """What is wrong with the detector that a detector is taught by."""
    name = member.training.taught_by
    if not name:
        return
    teacher = before.get(name)
    if teacher is None:
        known = few(list(before)) or "none"
        yield f"taught_by = {cut(name)!r} is no detector that stands before it; known there: {known}"
    elif teacher.spec.answer != "slices" or [*teacher.losses] != ["bce"] or teacher.training.taught_by:
        yield f"{name!r}, by which it is taught, must answer slices, learnt from labels by loss = {{ bce = 1.0 }} alone"
    elif not same_stacks(teacher.spec, member.spec):
        yield f"{name!r}, by which it is taught, sees other stacks; give both the same place, slices and image_size"


def _not_found(members: Mapping[str, DetectorMember], folds: Sequence[int]) -> Iterator[str]:
    """Folds in which no detector finds what others of its step find elsewhere."""
    steps: list[tuple[DetectorSpec, set[int]]] = []
    for member in members.values():
        own = set(member.training.folds or folds)
        step = next((trained for first, trained in steps if one_step(first, member.spec)), None)
        if step is None:
            steps.append((member.spec, own))
        else:
            step.update(own)
    for spec, trained in steps:
        if lacking := sorted(set(folds) - trained):
            yield (
                f"stage1: no detector of {spec.series_type} ({spec.placed}) trains fold {lacking[0]}, so nothing would "
                "be found there; let one train it"
            )
