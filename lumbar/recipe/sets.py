"""Several sets of keypoints: which detectors find which, and why they cannot. No torch.

Each set is found by its own members of stage 1, a grader answers once a set, or once each of those that its `sets`
names, and its answers are averaged. Keypoints that a result shows are the first set's.
"""

from collections.abc import Mapping, Sequence

from lumbar.issues import InputError, few, numbered
from lumbar.recipe import chain
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec

#: Names of members by the name of the set.
Sets = Mapping[str, Sequence[str]]


def of(sets: Sets, specs: Mapping[str, DetectorSpec]) -> list[dict[str, DetectorSpec]]:
    """The detectors of each set, in their own order; where none is named, all are one set."""
    if not sets:
        return [dict(specs)]
    return [{name: spec for name, spec in specs.items() if name in names} for names in sets.values()]


def around(sets: Sets, spec: GraderSpec) -> list[int]:
    """The numbers of the sets around which a grader answers, in their order; 0 where there is one set."""
    return [number for number, name in enumerate(sets or {"": ()}) if not spec.sets or name in spec.sets]


def of_graders(sets: Sets, graders: Mapping[str, GraderSpec]) -> list[str]:
    """A sentence for each set that graders, by name, ask for and that is none."""
    told: dict[str, str] = {}
    known = f"there are {few(list(sets))}" if sets else "stage1.sets names none"
    for name, spec in graders.items():
        for each in spec.sets:
            if each not in sets:
                told.setdefault(each, f"{name}: sets names {each!r}, which is no set of keypoints; {known}")
    return list(told.values())


def faults(sets: Sets, specs: Mapping[str, DetectorSpec], graders: Mapping[str, GraderSpec]) -> list[str]:
    """What is wrong with these detectors, their sets, and graders that answer around several: a sentence each."""
    if not sets:
        return chain.faults(specs)
    told = []
    for name, names in sets.items():
        if strangers := [each for each in names if each not in specs]:
            told.append(f"sets.{name} names {strangers[0]!r}, which is no detector here; there are {few(list(specs))}")
        if len(set(names)) < len(names):
            told.append(f"sets.{name} names a member twice; name each once")
    if told:  # nobody knows who was meant
        return told + chain.faults(specs)
    if idle := [name for name in specs if not any(name in names for names in sets.values())]:
        told.append(f"{idle[0]} is in no set of stage1.sets; name it in one, or leave it out")
    every = of(sets, specs)
    found = [dict.fromkeys(kind for spec in own.values() if spec.says_places for kind in spec.types) for own in every]
    for number, (name, own) in enumerate(zip(sets, every, strict=True)):
        beside = {other for spec in graders.values() if number in (all_of := around(sets, spec)) for other in all_of}
        if missing := [kind for other in sorted(beside) for kind in found[other] if kind not in found[number]]:
            told.append(
                f"sets.{name} finds no points on {missing[0]}, which others do and graders look at; add a member for it"
            )
        told += [f"sets.{name}: {fault}" for fault in chain.faults(own)]
    return list(dict.fromkeys(told))


def refuse(sets: Sets, specs: Mapping[str, DetectorSpec], graders: Mapping[str, GraderSpec], source: str) -> None:
    """Raise InputError, which names the source, with all that is wrong (see `faults` and `of_graders`)."""
    if told := [*faults(sets, specs, graders), *of_graders(sets, graders)]:
        raise InputError(f"{source}: {numbered(told)}")
