"""Changes with a known meaning that `metamorphic.py` makes to a sound study: their kinds, and what must follow.

* same: nothing that matters has changed, and the answer stays.
* mirrored: the patient is mirrored left to right, and the answer changes sides.
* told: something is wrong and a header, a name or the folder shows it: an Issue or the sentence of failure names it.
* free: the answer may change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.support.draft import Draft

Kind = Literal["same", "mirrored", "told", "free"]
Make = Callable[[Draft], None]


@dataclass(frozen=True)
class Change:
    """One change. Of `causes`, codes of Issues or words in small letters, one must be named where the kind is told."""

    make: Make
    kind: Kind
    causes: tuple[str, ...] = ()
    #: Told, and yet the answer must be that of the sound study: what is wrong can be set aside without loss.
    keeps: bool = False
    #: Told, or read so well that the answer is that of the sound study.
    or_same: bool = False
    #: Files cannot be changed one by one afterwards: nothing else is done to the study.
    alone: bool = False


#: Every change by its name.
CHANGES: dict[str, Change] = {}


def _enter(change: Change) -> Make:
    name = change.make.__name__
    assert name not in CHANGES, name
    CHANGES[name] = change
    return change.make


def same(make: Make) -> Make:
    """Enter a change after which the answer stays."""
    return _enter(Change(make, "same"))


def same_alone(make: Make) -> Make:
    """Enter a change after which the answer stays, and which is made alone."""
    return _enter(Change(make, "same", alone=True))


def mirrored(make: Make) -> Make:
    """Enter a change that mirrors the patient."""
    return _enter(Change(make, "mirrored"))


def free(make: Make) -> Make:
    """Enter a change after which the answer may be any."""
    return _enter(Change(make, "free"))


def told(*causes: str, keeps: bool = False, or_same: bool = False) -> Callable[[Make], Make]:
    """Enter a fault, of which one of `causes` must be named."""
    assert all(cause == cause.lower() for cause in causes)
    return lambda make: _enter(Change(make, "told", causes, keeps=keeps, or_same=or_same))


def names(kind: Kind, *, alone: bool = True) -> list[str]:
    """The changes of a kind, with or without those that are made alone."""
    return [name for name, change in CHANGES.items() if change.kind == kind and (alone or not change.alone)]
