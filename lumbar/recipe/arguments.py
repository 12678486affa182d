"""`network_args` of the networks here, read strictly: known keys, whole numbers, shares, tables. No torch."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from lumbar.issues import InputError, numbered
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec

Kind = Literal["whole", "wholes", "even", "share", "shares", "flag", "word", "table"]
_WANTED: Final[Mapping[Kind, str]] = {
    "whole": "a whole number, 1 or more",
    "wholes": "a list of whole numbers, 1 or more",
    "even": "an even whole number, 2 or more",
    "share": "a number from 0 to less than 1",
    "shares": "a list of numbers from 0 to less than 1",
    "flag": "true or false",
    "word": "a text",
    "table": "a table",
}


def read_arguments(
    spec: DetectorSpec | GraderSpec, known: Mapping[str, tuple[Kind, Any]], *, others: bool = False
) -> dict[str, Any]:
    """The arguments by name, those left out with their defaults.

    `known`: of each its kind and its default; `others`: keys that are not known are somebody else's. Raises InputError
    with all that is wrong.
    """
    given, wrong = spec.network_args, []
    for key, value in given.items():
        if key not in known:
            if not others:
                wrong.append(f"{spec.network} takes no network_args {key!r}; known: {', '.join(known) or 'none'}")
        elif not _fits(known[key][0], value):
            wrong.append(f"network_args {key} = {value!r:.40} cannot be used; give {_WANTED[known[key][0]]}")
    if wrong:
        raise InputError(f"{numbered(wrong)}")
    read = {key: given.get(key, default) for key, (_, default) in known.items()}
    return {key: _read(known[key][0], value) for key, value in read.items()}


def _read(kind: Kind, value: Any) -> Any:
    if kind == "wholes":
        return [int(each) for each in value]
    return int(value) if kind in ("whole", "even") and value else value


def _fits(kind: Kind, value: Any) -> bool:
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "word":
        return isinstance(value, str)
    if kind == "table":
        return isinstance(value, dict)
    if kind == "shares":
        return isinstance(value, list | tuple) and all(_fits("share", each) for each in value)
    if kind == "wholes":
        return isinstance(value, list | tuple) and bool(value) and all(_fits("whole", each) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind == "share":
        return 0 <= value < 1
    step = 2 if kind == "even" else 1
    return value >= step and value % step == 0
