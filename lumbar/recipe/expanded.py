"""A recipe's table of a stage as its file has it -> the fields of `Stage`: shared values, tasks, specs and training.

What is wrong on the way is told, and left out. No torch.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lumbar.issues import cut, few
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.recipe.strict import Strict
from lumbar.recipe.thorough import Place

Table = dict[str, Any]
#: So many known keys are named where none is near.
KNOWN: Final = 8
SPECS: Final[Mapping[str, type[Strict]]] = {"stage1": DetectorSpec, "stage2": GraderSpec}
#: Keys that hold for a stage as a whole, not for its members.
STAGE_ONLY: Final[Mapping[str, tuple[str, ...]]] = {
    "stage1": ("sets",),
    "stage2": ("keypoints", "keypoint_trust_mm"),
}


@dataclass(frozen=True)
class Told:
    """What is wrong with a file's tables: sentences, and the places of keys that they are about."""

    faults: list[str] = field(default_factory=list)
    blamed: list[Place] = field(default_factory=list)


def without_empty(value: Any, told: Told, place: str = "") -> Any:
    """A recipe's values without lists that hold nothing, which are told."""
    if isinstance(value, dict):
        each = {key: without_empty(child, told, f"{place}.{cut(str(key))}".lstrip(".")) for key, child in value.items()}
        return {key: child for key, child in each.items() if child != [] or key == "tasks"}
    if isinstance(value, list) and value:
        return [without_empty(child, told, f"{place}.{number}") for number, child in enumerate(value)]
    if value == []:
        told.faults.append(f"{place} is an empty list; name what it should hold, or leave it out")
    return value


def expand(stage: str, table: Any, told: Told) -> Table:
    """Shared values and member entries of one stage -> the fields of `Stage`."""
    if not isinstance(table, dict) or not isinstance(table.get("members"), dict) or not table["members"]:
        told.faults.append(f"[{stage}] has no members; add a table [{stage}.members.<name>]")
        table = {**(table if isinstance(table, dict) else {}), "members": {}}
    own = {"members", *STAGE_ONLY[stage]}
    shared = {key: value for key, value in table.items() if key not in own}
    members: Table = {}
    wrong = list(_strange(stage, shared, stage))
    for name, entry in table["members"].items():
        place = f"{stage}.members.{name}"
        if not isinstance(entry, dict):
            told.faults.append(f"{place} is {cut(repr(entry))}; write a table [{place}]")
            continue
        wrong += _strange(stage, entry, place)
        merged = _merge(shared, entry)
        tasks = merged.pop("tasks", None) if stage == "stage2" else None
        if tasks is not None and not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
            told.faults.append(f'{place}: tasks is {cut(repr(tasks))}; write a list of names, as ["spinal"]')
            tasks = []
        if tasks == []:  # told; so that the rest can be asked
            tasks = None if merged.get("task") or merged.get("views") else ["spinal"]
        for task in tasks if tasks is not None else (None,):
            whole = merged if task is None else {**merged, "task": task}
            full = name if task is None else f"{task}_{name}"
            members[full] = _split(stage, whole)
            near = [_near(key, stage_keys(stage)) for key in whole if key not in stage_keys(stage)]
            parts = {key: "spec" if key in SPECS[stage].model_fields else "training" for key in near if key}
            told.blamed.extend((stage, "members", full, part, key) for key, part in parts.items())
    told.faults.extend(wrong)
    return {"members": members} | {key: table[key] for key in STAGE_ONLY[stage] if key in table}


def _strange(stage: str, values: Table, place: str) -> Iterator[str]:
    """Keys that no member of a stage has."""
    known = stage_keys(stage)
    for key in values:
        if key in STAGE_ONLY[stage]:
            yield f"{place}: {key!r} holds for all members of a stage; write it below [{stage}]"
        elif key not in known:
            yield f"{place}: unknown key {cut(key)!r}; {nearest(key, [*known, *STAGE_ONLY[stage]])}"


def _split(stage: str, values: Table) -> Table:
    spec = SPECS[stage]
    return {
        "spec": {"stage": spec.model_fields["stage"].default}
        | {key: value for key, value in values.items() if key in spec.model_fields and key != "stage"},
        "training": {key: value for key, value in values.items() if key in Training.model_fields},
    }


def _merge(base: Table, over: Table) -> Table:
    out = dict(base)
    for key, value in over.items():
        deep = isinstance(value, dict) and isinstance(out.get(key), dict) and not key.endswith("_args")
        out[key] = _merge(out[key], value) if deep else value
    return out


def stage_keys(stage: str) -> list[str]:
    """The keys that may stand below a stage or one of its members."""
    extra = ["tasks"] if stage == "stage2" else []
    return [*Training.model_fields, *(key for key in SPECS[stage].model_fields if key != "stage"), *extra]


def nearest(key: str, known: Sequence[str]) -> str:
    """The known key that looks like `key`, else the first known ones, as a sentence ends with it."""
    near = _near(key, known)
    return f"did you mean {near!r}?" if near else f"known: {few(known, KNOWN)}"


def _near(key: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)
