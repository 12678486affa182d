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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from lumbar.card import Card
from lumbar.issues import InputError
from lumbar.member import DetectorSpec, GraderSpec, MemberSpec, Strict
from lumbar.training.settings import Blend, Folds, Loop, Training

Table = dict[str, Any]
_SPECS: dict[str, type[Strict]] = {"stage1": DetectorSpec, "stage2": GraderSpec}
#: Keys that hold for a stage as a whole, not for its members.
_STAGE_ONLY: dict[str, tuple[str, ...]] = {"stage1": (), "stage2": ("keypoints",)}


class Member(Strict):
    """One network to train, once a fold."""

    spec: MemberSpec
    training: Training


class Stage(Strict):
    """The members of one stage, by name."""

    members: dict[str, Member]
    #: Stage 2 cuts its training regions around: keypoints that stage 1 found on studies it had not seen, or the
    #: label table's (faster; to be used with jitter).
    keypoints: Literal["out_of_fold", "labels"] = "out_of_fold"


class Recipe(Strict):
    """A whole system: folds, stage 1, stage 2, blend."""

    name: str
    description: str = ""
    seed: int = 42
    #: A table with a column `row_id`, such as an earlier run's suspect_labels.csv: labels that graders do not train on.
    #: They count in every score all the same.
    leave_out: str = ""
    folds: Folds = Folds()
    loop: Loop = Loop()
    blend: Blend = Blend()
    #: What the bundle's card says of data, licences, commands and limits.
    card: Card = Card()
    stage1: Stage
    stage2: Stage

    def members(self) -> dict[str, Member]:
        """All members by name, stage 1 first."""
        return {**self.stage1.members, **self.stage2.members}

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        both = self.stage1.members.keys() & self.stage2.members.keys()
        if both:
            raise ValueError(f"member {sorted(both)[0]!r} stands in both stages; names must differ")
        types = {member.spec.series_type for member in self.stage1.members.values()}  # type: ignore[union-attr]
        if "sagittal_t2" not in types and "axial_t2" in types:
            raise ValueError("an axial detector needs a sagittal_t2 one: its planes are chosen by T2 keypoints")
        return self


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe, apply `key=value` overrides and check everything.

    Raises InputError with one sentence: file, key, what is wrong, the nearest known name.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: the recipe cannot be read ({error.strerror}); give the path of a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from error
    for text in overrides:
        _override(raw, text)
    for stage in _SPECS:
        raw[stage] = _expand(stage, raw.get(stage), path)
    raw.setdefault("name", Path(path).stem)
    return check_recipe(raw, str(path))


def check_recipe(values: Table, source: str) -> Recipe:
    """A recipe from its expanded values (also the stored form of a run). Raises InputError."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """All faults of a pydantic check in one sentence: where and what."""
    faults = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"] if part not in {"keypoints", "grading"})
        what = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{place}: {what}" if place else what)
    return "; ".join(dict.fromkeys(faults))


def _expand(stage: str, table: Any, path: Path) -> Table:
    """Shared values and member entries of one stage -> the fields of `Stage`."""
    if not isinstance(table, dict) or not isinstance(table.get("members"), dict) or not table["members"]:
        raise InputError(f"{path}: [{stage}] has no members; add a table [{stage}.members.<name>]")
    own = {"members", *(_STAGE_ONLY[stage])}
    shared = {key: value for key, value in table.items() if key not in own}
    members: Table = {}
    for name, entry in table["members"].items():
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {stage}.members.{name} is {entry!r}; write a table [{stage}.members.{name}]")
        merged = _merge(shared, entry)
        tasks = merged.pop("tasks", None)
        if tasks is None:
            members[name] = _split(stage, merged, f"{path}: {stage}.members.{name}")
            continue
        for task in tasks:
            members[f"{task}_{name}"] = _split(stage, {**merged, "task": task}, f"{path}: {stage}.members.{name}")
    return {"members": members} | {key: table[key] for key in _STAGE_ONLY[stage] if key in table}


def _split(stage: str, values: Table, place: str) -> Table:
    spec = _SPECS[stage]
    known = _stage_keys(stage)
    for key in values:
        if key in _STAGE_ONLY[stage]:
            raise InputError(f"{place}: {key!r} holds for all members of a stage; write it below [{stage}]")
        if key not in known:
            raise InputError(f"{place}: unknown key {key!r}; {_nearest(key, [*known, *_STAGE_ONLY[stage]])}")
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
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _override(raw: Table, text: str) -> None:
    """Apply one `a.b=value`; the value is TOML, or a bare word."""
    path, equals, written = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {text}: write it as key=value, e.g. stage2.epochs=1")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    _check_override(raw, keys, text)
    if keys[0] in _SPECS and keys[1] != "members":
        for entry in raw.get(keys[0], {}).get("members", {}).values():
            _remove(entry, keys[1:])
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    table[keys[-1]] = value


def _check_override(raw: Table, keys: list[str], text: str) -> None:
    """Refuse what the recipe cannot hold before it is written: every key on the way must be known."""
    known: Sequence[str] = list(Recipe.model_fields)
    for depth, key in enumerate(keys):
        if known and key not in known:
            raise InputError(f"--set {text}: unknown key {key!r}; {_nearest(key, known)}")
        known = _known_below(raw, keys[: depth + 1])
    if known and keys[-1] != "members":
        raise InputError(f"--set {text}: {'.'.join(keys)} is a table; set one of {', '.join(known)}")
    if keys[0] in _SPECS and (len(keys) == 1 or (keys[1] == "members" and len(keys) < 4)):
        raise InputError(f"--set {text}: name a key, e.g. {keys[0]}.epochs=1")


def _known_below(raw: Table, keys: list[str]) -> Sequence[str]:
    """Keys that may follow a path; empty where anything may (or nothing does)."""
    if keys[0] in _SPECS:
        if len(keys) == 1:
            return [*_stage_keys(keys[0]), "members", *_STAGE_ONLY[keys[0]]]
        if keys[1] == "members" and len(keys) == 2:
            return list(raw.get(keys[0], {}).get("members", {}))
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


def _remove(table: Table, keys: list[str]) -> None:
    for key in keys[:-1]:
        table = table.get(key, {})
    table.pop(keys[-1], None)
