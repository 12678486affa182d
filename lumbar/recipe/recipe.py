"""What to train: a TOML recipe read into frozen, checked data. Nothing here imports torch.

A recipe's stage holds settings that all its members share, and a table of members with what differs:

    [stage2]                      # shared by the stage's members
    epochs = 5
    [stage2.members.resnet18]     # one entry; `tasks` makes one member a task, named <task>_resnet18
    tasks = ["spinal", "global"]
    backbone = "resnet18"

Every key is one of `Training` or of the member's spec (`DetectorSpec` in stage 1, `GraderSpec` in stage 2). A command
line override `stage2.epochs=1` holds for every member of the stage, `stage2.members.resnet18.epochs=1` for that entry.
"""

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, model_validator

from lumbar.arguments import LARGEST_SEED
from lumbar.files.read import parse_toml, read_text
from lumbar.issues import InputError, cut, few, named, numbered, printable
from lumbar.recipe import combinations, needs, sets
from lumbar.recipe.blend import Blend
from lumbar.recipe.card import Card
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.detector_member import DetectorMember
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.member import MEMBER_NAME
from lumbar.recipe.settings import Folds, Loop, Training
from lumbar.recipe.stage import Stage
from lumbar.recipe.strict import Strict, refuse
from lumbar.recipe.wording import describe

Table = dict[str, Any]
#: What a member consists of here, and not in the file.
_PARTS: Final = ("spec", "training")
#: So many known keys are named where none is near.
KNOWN = 8
_SPECS: dict[str, type[Strict]] = {"stage1": DetectorSpec, "stage2": GraderSpec}
#: Keys that hold for a stage as a whole, not for its members.
_STAGE_ONLY: dict[str, tuple[str, ...]] = {"stage1": ("sets",), "stage2": ("keypoints", "keypoint_trust_mm")}


class Recipe(Strict):
    """A whole system: folds, stage 1, stage 2, blend."""

    name: str
    description: str = ""
    seed: int = Field(42, ge=0, le=LARGEST_SEED)
    #: A table with a column `row_id`, such as an earlier run's suspect_labels.csv: labels that graders do not train on.
    #: They count in every score all the same.
    leave_out: str = ""
    folds: Folds = Folds()
    loop: Loop = Loop()
    blend: Blend = Blend()
    #: What the bundle's card says of data, licences, commands and limits.
    card: Card = Card()
    stage1: Stage[DetectorMember]
    stage2: Stage[GraderMember]

    def members(self) -> dict[str, DetectorMember | GraderMember]:
        """All members by name, stage 1 first."""
        return {**self.stage1.members, **self.stage2.members}

    def folds_of(self, name: str) -> tuple[int, ...]:
        """The folds that a member trains, in the recipe's order."""
        own = self.members()[name].training.folds
        return tuple(fold for fold in self.folds.train if not own or fold in own)

    def to_train(self) -> list[tuple[str, int]]:
        """Every member and fold, fold by fold."""
        return [(name, fold) for fold in self.folds.train for name in self.members() if fold in self.folds_of(name)]

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        refuse(self._wrong())
        return self

    def _wrong(self) -> Iterator[str]:
        """What is wrong with the names of members."""
        for strange in self.members():
            if not MEMBER_NAME.fullmatch(strange):
                yield f"member name {cut(strange)!r} may hold letters, digits, '.', '_' and '-' only"
        if both := sorted(self.stage1.members.keys() & self.stage2.members.keys()):
            yield f"member {named(both)} stands in both stages; names must differ"
        yield from self.blend.faults({name: member.answered for name, member in self.stage2.bundled().items()})


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe, apply `key=value` overrides and check everything.

    Raises InputError with one sentence: file, key, what is wrong, the nearest known name.
    """
    remedy = "give the path of a TOML file"
    text = read_text(path, remedy)
    parse_toml(text, str(path), remedy)
    try:
        return _resolved(text, overrides, str(path))
    except InputError:
        blamed = _blamed(text, overrides)
        if not blamed:
            raise
        return _resolved(text, overrides, f"--set {few([cut(each) for each in blamed], 2)}")


def _resolved(text: str, overrides: Sequence[str], source: str) -> Recipe:
    """The recipe of a TOML text with overrides; InputError, which names the source, where it cannot be."""
    raw = tomllib.loads(text)
    for each in overrides:
        _override(raw, each)
    if empty := next(_empty_lists(raw), None):
        raise InputError(f"{source}: {empty} is an empty list; name what it should hold, or leave it out")
    for stage in _SPECS:
        raw[stage] = _expand(stage, raw.get(stage), source)
    raw.setdefault("name", printable(Path(source).stem))
    return check_recipe(raw, source)


def _blamed(text: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that make a sound recipe a wrong one: the one without which it is sound, else those wrong alone."""

    def sound(chosen: Sequence[str]) -> bool:
        try:
            _resolved(text, chosen, "")
        except InputError:
            return False
        return True

    if not overrides or not sound(()):
        return []
    others = [[*overrides[:place], *overrides[place + 1 :]] for place in range(len(overrides))]
    needed = [one for one, rest in zip(overrides, others, strict=True) if sound(rest)]
    return needed or [one for one in overrides if not sound([one])] or list(overrides)


def _empty_lists(value: Any, place: str = "") -> Iterator[str]:
    """Where a recipe holds lists without anything in them."""
    if isinstance(value, list) and not value:
        yield place
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in entries:
        yield from _empty_lists(child, f"{place}.{cut(str(key))}".lstrip("."))


def check_recipe(values: Table, source: str) -> Recipe:
    """A recipe from its expanded values (also the stored form of a run). Raises InputError with all its faults."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error, _PARTS)}") from error
    detectors = {name: member.spec for name, member in recipe.stage1.bundled().items()}
    graders = {name: member.spec for name, member in recipe.stage2.members.items()}
    wrong = [
        *combinations.faults(recipe.stage1, recipe.stage2, recipe.folds.train),
        *sets.faults(recipe.stage1.sets, detectors),
        *needs.faults(detectors, graders),
    ]
    if wrong:
        raise InputError(f"{source}: {numbered(wrong)}")
    return recipe


def _expand(stage: str, table: Any, source: str) -> Table:
    """Shared values and member entries of one stage -> the fields of `Stage`."""
    if not isinstance(table, dict) or not isinstance(table.get("members"), dict) or not table["members"]:
        raise InputError(f"{source}: [{stage}] has no members; add a table [{stage}.members.<name>]")
    own = {"members", *(_STAGE_ONLY[stage])}
    shared = {key: value for key, value in table.items() if key not in own}
    members: Table = {}
    for name, entry in table["members"].items():
        if not isinstance(entry, dict):
            raise InputError(
                f"{source}: {stage}.members.{name} is {cut(repr(entry))}; write a table [{stage}.members.{name}]"
            )
        merged = _merge(shared, entry)
        tasks = merged.pop("tasks", None)
        if tasks is not None and not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
            wrong = f"tasks is {cut(repr(tasks))}"
            raise InputError(f'{source}: {stage}.members.{name}: {wrong}; write a list of names, as ["spinal"]')
        if tasks is None:
            members[name] = _split(stage, merged, f"{source}: {stage}.members.{name}")
            continue
        for task in tasks:
            members[f"{task}_{name}"] = _split(stage, {**merged, "task": task}, f"{source}: {stage}.members.{name}")
    return {"members": members} | {key: table[key] for key in _STAGE_ONLY[stage] if key in table}


def _split(stage: str, values: Table, place: str) -> Table:
    spec = _SPECS[stage]
    known = _stage_keys(stage)
    for key in values:
        if key in _STAGE_ONLY[stage]:
            raise InputError(f"{place}: {key!r} holds for all members of a stage; write it below [{stage}]")
        if key not in known:
            raise InputError(f"{place}: unknown key {cut(key)!r}; {_nearest(key, [*known, *_STAGE_ONLY[stage]])}")
    return {
        "spec": {"stage": spec.model_fields["stage"].default}
        | {key: value for key, value in values.items() if key in spec.model_fields},
        "training": {key: value for key, value in values.items() if key in Training.model_fields},
    }


def _merge(base: Table, over: Table) -> Table:
    out = dict(base)
    for key, value in over.items():
        deep = isinstance(value, dict) and isinstance(out.get(key), dict) and not key.endswith("_args")
        out[key] = _merge(out[key], value) if deep else value
    return out


def _stage_keys(stage: str) -> list[str]:
    extra = ["tasks"] if stage == "stage2" else []
    return [*Training.model_fields, *(key for key in _SPECS[stage].model_fields if key != "stage"), *extra]


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {few(known, KNOWN)}"


def _override(raw: Table, text: str) -> None:
    """Apply one `a.b=value`; the value is TOML, or a bare word."""
    path, equals, written = text.partition("=")
    keys, place = path.strip().split("."), f"--set {cut(text)}"
    if not equals or not all(keys):
        raise InputError(f"{place}: write it as key=value, e.g. stage2.epochs=1")
    value = _value(written, place)
    _check_override(raw, keys, place)
    if keys[0] in _SPECS and keys[1] != "members":
        for entry in _members(raw, keys[0]).values():
            _remove(entry, keys[1:])
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise InputError(f"{place}: {key} is {cut(repr(table))} in the recipe, no table; set {key} itself")
    table[keys[-1]] = value


def _value(written: str, place: str) -> Any:
    try:
        return parse_toml(f"value = {written}", place, "write a plainer value")["value"]
    except InputError as error:
        if isinstance(error.__cause__, ValueError):  # no TOML: a bare word
            return written.strip()
        raise


def _members(raw: Table, stage: str) -> Table:
    """The entries of a stage's members; what is no table is refused later, as of a recipe without overrides."""
    table = raw.get(stage)
    members = table.get("members") if isinstance(table, dict) else None
    return members if isinstance(members, dict) else {}


def _check_override(raw: Table, keys: list[str], place: str) -> None:
    """Refuse what the recipe cannot hold before it is written: every key on the way must be known."""
    known: Sequence[str] = list(Recipe.model_fields)
    for depth, key in enumerate(keys):
        if known and key not in known:
            raise InputError(f"{place}: unknown key {cut(key)!r}; {_nearest(key, known)}")
        known = _known_below(raw, keys[: depth + 1])
    if known and keys[-1] != "members":
        raise InputError(f"{place}: {'.'.join(keys)} is a table; set one of {few(known, KNOWN)}")
    if keys[0] in _SPECS and (len(keys) == 1 or (keys[1] == "members" and len(keys) < 4)):
        raise InputError(f"{place}: name a key, e.g. {keys[0]}.epochs=1")


def _known_below(raw: Table, keys: list[str]) -> Sequence[str]:
    """Keys that may follow a path; empty where anything may (or nothing does)."""
    if keys[0] in _SPECS:
        if len(keys) == 1:
            return [*_stage_keys(keys[0]), "members", *_STAGE_ONLY[keys[0]]]
        if keys[1] == "members" and len(keys) == 2:
            return list(_members(raw, keys[0]))
        rest = keys[3:] if keys[1] == "members" else keys[1:]
        if not rest:
            return _stage_keys(keys[0])
        fields = {**Training.model_fields, **_SPECS[keys[0]].model_fields}
    else:
        rest, fields = keys, dict(Recipe.model_fields)
    kind: Any = None
    for key in rest:
        kind = fields[key].annotation if key in fields else None
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, Strict) else {}
    return list(fields)


def _remove(table: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        table = table.get(key) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(keys[-1], None)
