"""Overrides of a recipe from the command line, `--set a.b=value`. No torch."""

from collections.abc import Sequence
from typing import Any

from lumbar.files.read import parse_toml
from lumbar.issues import InputError, cut, few
from lumbar.recipe.expanded import KNOWN, SPECS, STAGE_ONLY, Table, nearest, stage_keys
from lumbar.recipe.settings import Training
from lumbar.recipe.strict import Strict


def override(raw: Table, text: str, recipe: type[Strict]) -> None:
    """Apply one `a.b=value` to a recipe's values; the value is TOML, or a bare word. InputError where it cannot be."""
    path, equals, written = text.partition("=")
    keys, place = path.strip().split("."), f"--set {cut(text)}"
    if not equals or not all(keys):
        raise InputError(f"{place}: write it as key=value, e.g. stage2.epochs=1")
    value = _value(written, place)
    _check_override(raw, keys, place, recipe)
    if keys[0] in SPECS and keys[1] != "members":
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


def _check_override(raw: Table, keys: list[str], place: str, recipe: type[Strict]) -> None:
    """Refuse what the recipe cannot hold before it is written: every key on the way must be known."""
    known: Sequence[str] = list(recipe.model_fields)
    for depth, key in enumerate(keys):
        if known and key not in known:
            raise InputError(f"{place}: unknown key {cut(key)!r}; {nearest(key, known)}")
        known = _known_below(raw, keys[: depth + 1], recipe)
    if known and keys[-1] != "members":
        raise InputError(f"{place}: {'.'.join(keys)} is a table; set one of {few(known, KNOWN)}")
    if keys[0] in SPECS and (len(keys) == 1 or (keys[1] == "members" and len(keys) < 4)):
        raise InputError(f"{place}: name a key, e.g. {keys[0]}.epochs=1")


def _known_below(raw: Table, keys: list[str], recipe: type[Strict]) -> Sequence[str]:
    """Keys that may follow a path; empty where anything may (or nothing does)."""
    if keys[0] in SPECS:
        if len(keys) == 1:
            return [*stage_keys(keys[0]), "members", *STAGE_ONLY[keys[0]]]
        if keys[1] == "members" and len(keys) == 2:
            return list(_members(raw, keys[0]))
        rest = keys[3:] if keys[1] == "members" else keys[1:]
        if not rest:
            return stage_keys(keys[0])
        fields = {**Training.model_fields, **SPECS[keys[0]].model_fields}
    else:
        rest, fields = keys, dict(recipe.model_fields)
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
