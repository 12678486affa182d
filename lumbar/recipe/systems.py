"""A recipe of whole systems: others that it names are put together to one, each with its own members, keypoints, blend.

    [systems]
    third = "third_place.toml"      # beside this file; its members are called third_…

What comes of it is a recipe's tables like any other. No torch.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from lumbar.issues import InputError, cut, few, named
from lumbar.recipe.blend import Mixture
from lumbar.recipe.expanded import STAGE_ONLY, Table
from lumbar.recipe.member import MEMBER_NAME
from lumbar.recipe.sets import Sets
from lumbar.recipe.stage import Stage

KEY: Final = "systems"
#: Members that another one names.
_NAMES: Final = ("begins_with", "taught_by")


class _System(Protocol):
    """What is taken over from a recipe."""

    @property
    def blend(self) -> Mixture: ...
    @property
    def stage1(self) -> Stage[Any]: ...
    @property
    def stage2(self) -> Stage[Any]: ...


def together(raw: Table, path: Path, load: Callable[[Path], _System]) -> Table:
    """A recipe's tables, those of `path`, with the systems that they name in their place; as they are where there are
    none.

    `load` reads a system's recipe. Raises InputError where a system cannot be read, or two of their names are one.
    """
    if KEY not in raw:
        return raw
    listed, rest = raw[KEY], {key: value for key, value in raw.items() if key != KEY}
    _check(listed, rest, path)
    members: dict[str, Table] = {"stage1": {}, "stage2": {}}
    sets: dict[str, list[str]] = {}
    inner: Table = {}
    whose: dict[str, str] = {}
    for name, file in listed.items():
        system = load(path.parent / file)
        own = {stage: dict(_members(name, stage, system)) for stage in members}
        own_sets = sets_among(name, system.stage1.sets, system.stage1.bundled())
        for each in (*own["stage1"], *own["stage2"], *own_sets):
            if whose.setdefault(each, name) != name:
                raise InputError(
                    f"{path}: systems.{whose[each]} and systems.{name} both have a {cut(each)!r} then; give one "
                    "another name"
                )
        for stage, entries in own.items():
            members[stage] |= entries
        sets |= own_sets
        heard = [called(name, each) for each in system.stage2.bundled()]
        inner[name] = _blend(name, system.blend) | {"members": heard}
    blend = rest.get("blend", {})
    if both := sorted(inner.keys() & blend.get("inner", {}).keys()):
        raise InputError(f"{path}: blend.inner.{both[0]} has the name of a system, whose blend that is; choose another")
    return {
        **rest,
        "blend": {"method": "weighted", **blend, "inner": {**inner, **blend.get("inner", {})}},
        "stage1": {"members": members["stage1"], "sets": sets},
        "stage2": {**rest.get("stage2", {}), "members": members["stage2"]},
    }


def _check(listed: Any, rest: Table, path: Path) -> None:
    """Refuse what cannot be put together before anything of it is read."""
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise InputError(f'{path}: systems names recipes by a name for each, as third = "third_place.toml"')
    if strange := [name for name in listed if not MEMBER_NAME.fullmatch(name)]:
        raise InputError(f"{path}: systems.{cut(strange[0])}: a name holds letters, digits, '.', '_' and '-' only")
    for name, file in listed.items():
        if not (path.parent / file).is_file():
            raise InputError(f"{path}: systems.{name} names {cut(repr(file))}, and there is no such file beside it")
    tables = {key: rest.get(key, {}) for key in (*STAGE_ONLY, "blend")}
    for key, table in tables.items():
        if not isinstance(table, dict) or not isinstance(table.get("inner", {}), dict):
            raise InputError(f"{path}: {key} is {cut(repr(table))}; write a table [{key}]")
    allowed = {"stage1": set[str](), "stage2": set(STAGE_ONLY["stage2"])}
    for stage, keys in allowed.items():
        if strange := sorted(set(tables[stage]) - keys):
            raise InputError(
                f"{path}: [{stage}] is what its systems have there, and cannot hold {named(strange)}; write it into "
                "their recipes, or give it as --set"
            )


def refuse_cycle(path: Path, within: Iterable[Path]) -> None:
    """InputError where a system's recipe is one of those that it stands `within`."""
    before = [os.path.realpath(each) for each in within]  # a link that leads to itself is found out by reading it
    if os.path.realpath(path) in before:
        names = few([Path(each).name for each in before])
        raise InputError(f"{before[-1]}: systems come back to {path}, by {names}; leave it out")


def called(system: str, name: str) -> str:
    """What a system's member, or set of keypoints, is called among others."""
    return f"{system}_{name}"


def _members(system: str, stage: str, recipe: _System) -> Iterable[tuple[str, Table]]:
    """The members of a stage under their new names, as a recipe's file has them."""
    sets = sets_among(system, recipe.stage1.sets, recipe.stage1.bundled())
    for name, member in getattr(recipe, stage).members.items():
        spec = member.spec.model_dump(mode="json", exclude_unset=True)
        entry = {**spec, **member.training.model_dump(mode="json", exclude_unset=True)}
        entry.pop("stage", None)
        entry |= {key: called(system, entry[key]) for key in _NAMES if entry.get(key)}
        if stage == "stage2":
            entry["sets"] = [called(system, each) for each in member.spec.sets] or [*sets]
        yield called(system, name), entry


def sets_among(system: str, sets: Sets, detectors: Iterable[str]) -> dict[str, list[str]]:
    """A system's sets of keypoints among others; where all its detectors find one, that is called like the system."""
    named = {called(system, name): names for name, names in sets.items()} or {system: list(detectors)}
    return {name: [called(system, each) for each in names] for name, names in named.items()}


def _blend(system: str, blend: Mixture) -> Table:
    """A system's blend, of members under their new names."""
    inner = set(blend.inner)

    def renamed(name: str) -> str:
        return name if name in inner else called(system, name)

    def all_renamed(weights: Mapping[str, Mapping[str, Any]]) -> Table:
        return {group: {renamed(name): weight for name, weight in own.items()} for group, own in weights.items()}

    told: Table = blend.model_dump(mode="json", exclude_unset=True) | {"method": blend.method}
    if "weights" in told:
        told["weights"] = all_renamed(told["weights"])
    if "stands_in" in told:
        told["stands_in"] = {renamed(one): renamed(other) for one, other in told["stands_in"].items()}
    if blend.inner:
        told["inner"] = {name: _blend(system, each) for name, each in blend.inner.items()}
        for name, each in blend.inner.items():
            if each.members:
                told["inner"][name]["members"] = [called(system, one) for one in each.members]
            else:
                del told["inner"][name]["method"]
    return told
