"""All that is wrong with checked data, not the first layer alone: what is wrong is taken out, and the rest asked again.

pydantic asks for rules between keys where every key by itself is right, and for values where no key is unknown. No
torch.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from lumbar.recipe.strict import LENIENT, Strict, UnknownKeysError

Data = TypeVar("Data", bound=Strict)
Place = tuple[int | str, ...]
#: Every round takes out what is wrong a layer deeper; no recipe has so many.
_ROUNDS: Final = 50


@dataclass(frozen=True)
class Examined(Generic[Data]):
    """What an examination found: errors as pydantic has them, and the data without what is wrong; None where too much
    is missing.

    `blamed`: places of the keys that are wrong. In `data` they hold their defaults or, where there is none, the nearest
    word; rules between keys need not hold there.
    """

    data: Data | None
    errors: list[Any] = field(default_factory=list)
    blamed: list[Place] = field(default_factory=list)


def examine(model: type[Data], values: Any) -> Examined[Data]:
    """Every fault of some values for a model: values that cannot be, and rules that are not kept, on every layer."""
    left: Any = copy.deepcopy(values)
    errors: list[Any] = []
    blamed: list[Place] = []
    words: dict[Place, str] = {}  # in place of required ones that are none of the allowed
    for _ in range(_ROUNDS):
        try:
            data = model.model_validate(left, context={LENIENT: True})
        except ValidationError as error:
            wrong: list[Any] = error.errors()
        else:
            broken = [one for one in _broken(data, ()) if not guessed(one["msg"], blamed, one["loc"])]
            return Examined(data, errors + broken, blamed)
        known = {(one["loc"], one["msg"]) for one in errors}
        errors += [one for one in wrong if one["loc"] not in blamed and (one["loc"], one["msg"]) not in known]
        taken = _mended(wrong, left, words)
        blamed += taken
        if not taken:
            break
    return Examined(None, errors, blamed)


def guessed(sentence: str, blamed: Iterable[Place], below: Place) -> bool:
    """Whether a sentence quotes the value of a key that is wrong, below a place: it waits until that is mended."""
    keys = {str(place[-1]) for place in blamed if place[: len(below)] == below}
    return any(re.search(rf"\b{re.escape(key)} = ", sentence) for key in keys)


def _broken(value: Any, place: Place) -> Iterator[Any]:
    """The rules that some data does not keep, whatever deep, as pydantic's errors."""
    if isinstance(value, Strict):
        for fault in dict.fromkeys(value.rules()):
            yield {"loc": place, "type": "value_error", "msg": fault, "input": value, "ctx": {}}
        children: Iterable[tuple[Any, Any]] = iter(value)
    elif isinstance(value, dict):
        children = value.items()
    else:
        children = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, child in children:
        yield from _broken(child, (*place, key))


def _mended(errors: Sequence[Any], values: Any, words: dict[Place, str]) -> list[Place]:
    """Take what errors are about out of the values; the places of the keys that went."""
    gone: dict[Place, None] = {}
    blamed: list[Place] = []
    for error in errors:
        why, place = error.get("ctx", {}).get("error"), error["loc"]
        if isinstance(why, UnknownKeysError):
            gone |= dict.fromkeys((*place, key) for key in why.keys)
            near = [difflib.get_close_matches(str(key), why.known, n=1) for key in why.keys]
            blamed += [(*place, *each) for each in near if each]
        elif error["type"] == "missing":
            if place in words:
                _table(values, place[:-1])[place[-1]] = words.pop(place)
                blamed.append(place)
        elif reached := _reached(values, place):
            gone[reached] = None
            if error["type"] == "literal_error" and reached == place:
                allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
                words[place] = difflib.get_close_matches(str(error["input"]), allowed, n=1, cutoff=0)[0]
    for place in gone:
        _table(values, place[:-1]).pop(place[-1], None)
    return [*gone, *blamed]


def _reached(values: Any, place: Place) -> Place:
    """As much of a place as leads through tables: pydantic adds kinds and numbers of entries behind."""
    reached: list[int | str] = []
    for part in place:
        if not isinstance(values, dict) or part not in values:
            break
        reached.append(part)
        values = values[part]
    return tuple(reached)


def _table(values: Any, place: Place) -> dict[Any, Any]:
    """The table at a place; an empty one where there is none any more."""
    for part in place:
        if isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}
