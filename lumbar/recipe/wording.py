"""What pydantic, timm and torch find wrong with settings, in plain words: which value, what is wrong, what may be."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from lumbar.issues import cut
from lumbar.recipe.strict import FaultsError

#: So many faults are told where there are more.
TOLD: Final = 10
#: Letters of a sentence about one fault, and about one of several.
_ONE, _OF_MANY = 300, 160
#: What is wanted, by the beginning of pydantic's name for the fault.
_WANTED: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string_type": "a text",
    "string_pattern": "a text of another form",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
}
#: Bounds, by the names that pydantic gives them.
_BOUNDS: Final = {
    "ge": "{} or more",
    "gt": "more than {}",
    "le": "{} or less",
    "lt": "less than {}",
    "min_length": "{} or more",
    "max_length": "{} or fewer",
}
_MISSING: Final = "is missing"
_TAGS: Final = ("keypoints", "grading")
_MEMBER: Final = re.compile(r"\bmembers\.[^.]+\.")
#: Where pydantic tries one kind after another, it adds the kind to the place.
_KIND: Final = re.compile(r"bool|str|int|float|none|.*\[.*\]")


def describe(error: ValidationError) -> str:
    """One sentence, without its end: a fault, or the number of faults and the first ones."""
    faults = sentences(error.errors())
    if len(faults) == 1:
        return cut(faults[0], _ONE)
    first = "; ".join(f"({number}) {cut(fault, _OF_MANY)}" for number, fault in enumerate(faults[:TOLD], 1))
    return f"{len(faults)} values are wrong: {first}"


def sentences(wrong: Sequence[Any], hidden: Collection[str] = ()) -> list[str]:
    """What pydantic's `errors()` say, a sentence each; the same in several members is told once.

    `hidden`: parts of places that whoever wrote the file did not write.
    """
    told: dict[tuple[str, str], dict[str, dict[str, None]]] = {}  # places and what is allowed, by what members share
    places = [_place(fault["loc"], hidden) for fault in wrong]
    for fault, place in zip(wrong, places, strict=True):
        if fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]:
            continue  # its entries have faults of their own
        if _of_kind(fault["loc"]) and any(other.startswith(f"{place}.") for other in places):
            continue  # it is of another kind, whose entries have faults
        for what, allowed in _words(fault["type"], fault["msg"], fault["input"], fault.get("ctx", {})):
            told.setdefault((_MEMBER.sub("", place), what), {}).setdefault(place, {})[allowed] = None
    return [_told(shared, what, places) for (shared, what), places in told.items()]


def _told(shared: str, what: str, places: Mapping[str, Mapping[str, None]]) -> str:
    """What is wrong in one place, or in the same way in several members."""
    place = next(iter(places))
    if len(places) > 1:
        place = shared if shared.startswith("stage") else f"{place} (and {len(places) - 1} more)"
    allowed = ", or ".join(filter(None, dict.fromkeys(each for found in places.values() for each in found)))
    link = " " if allowed or what == _MISSING else ": "
    return (f"{place}{link}{what}" if place else what) + (f"; allowed: {allowed}" if allowed else "")


def _place(parts: Iterable[int | str], hidden: Collection[str]) -> str:
    names = [str(part) for part in parts]
    names = [name for at, name in enumerate(names) if not _KIND.fullmatch(name) or (at and names[at - 1] == "members")]
    # a tag after `spec` says which kind of member it is
    names = [name for at, name in enumerate(names) if not (at and names[at - 1] == "spec" and name in _TAGS)]
    place = ".".join(cut(name, 40) for name in names if name not in hidden)
    return place if len(place) <= 90 else f"…{place[-89:]}"


def _of_kind(parts: Sequence[int | str]) -> bool:
    """Whether a fault is about one of several kinds that a value may be of."""
    return bool(parts) and _KIND.fullmatch(str(parts[-1])) is not None


def _words(kind: str, message: str, value: Any, context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong, and what is allowed where that is not part of it; of a rule of ours each of its sentences."""
    if kind != "value_error":
        return [_word(kind, value, context)]
    error, said = context.get("error"), message.removeprefix("Value error, ")
    return [(str(each), "") for each in (error.args if isinstance(error, FaultsError) else [said])]


def _word(kind: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    if kind == "missing":
        return _MISSING, ""
    if kind == "union_tag_not_found":
        return f"{context['discriminator']} is missing".replace("'", ""), ""
    if kind == "union_tag_invalid":
        return f"{context['discriminator']} is {context['tag']!r}".replace("'", "", 2), str(context["expected_tags"])
    if kind == "literal_error":
        return f"is {_shown(value)}", str(context["expected"])
    if kind.startswith(("too_", "string_too_")):
        unit = "letters" if isinstance(value, str) else "entries"
        return f"has {len(value) if hasattr(value, '__len__') else 'too many'} {unit}", _bound(context)
    if bound := _bound(context):
        return f"is {_shown(value)}", bound
    wanted = next((words for name, words in _WANTED.items() if kind.startswith(name)), "")
    return f"is {_shown(value)}", wanted or "what this version writes there"


def _bound(context: Mapping[str, Any]) -> str:
    bounds = ((words, context[name]) for name, words in _BOUNDS.items() if name in context)
    return next((words.format(f"{end:g}" if isinstance(end, float) else end) for words, end in bounds), "")


def _shown(value: Any) -> str:
    """A value as the file has it, if it is short."""
    if isinstance(value, dict):
        return "a table"
    return cut(repr(value) if isinstance(value, str) else json.dumps(value, default=str), 40)


#: What timm, segmentation-models-pytorch and torch say of settings that they refuse, and what it means.
_REFUSALS: Final = (
    (r"unexpected keyword argument '(\w+)", "it takes no argument '{}'"),
    (r"multiple values for keyword argument '(\w+)", "its argument '{}' follows from other settings"),
    (r"Unknown model|Wrong encoder name", "there is no network of that name"),
    (
        r"Input \w+ ?\w* ?\((\d+)[^)]*\) doesn't match model \((\d+)",
        "it takes images of {1} pixels, not of {0}",
    ),
    (
        r"shape height=(\d+).* divisible by (\d+)",
        "it takes images of {1}, {1} x 2, … pixels, not of {0}",
    ),
)
_JARGON: Final = re.compile(
    r"__|\(\)|\b(object|attribute|tensor|tuple|NoneType|size mismatch|torch|could not convert|invalid literal)\b|`"
)


def why_refused(error: Exception, given: Mapping[str, Any]) -> str:
    """Why a library refused to build or call a network with the arguments `given`, without its own jargon."""
    said = " ".join(str(error).split())
    for pattern, meaning in _REFUSALS:
        if found := re.search(pattern, said):
            return meaning.format(*found.groups())
    if isinstance(error, ValueError | AssertionError) and said and not _JARGON.search(said):
        return cut(said.rstrip("."), 120)
    settings = cut(", ".join(f"{name} = {_shown(value)}" for name, value in given.items()), 80)
    return f"its settings ({settings}) do not fit it or each other" if settings else "its settings do not fit"
