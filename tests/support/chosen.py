"""Which of many cases a run takes: the first of each kind by default, all in the long run."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import pytest

Case = TypeVar("Case")


def few_of_each(
    cases: Mapping[str, Case], kind: Callable[[Case], Hashable], few: int, needed: tuple[str, ...] = ()
) -> list[Any]:
    """The cases' names as parameters: those after the first `few` of a kind are slow, but for the `needed` ones."""
    seen: Counter[Hashable] = Counter()
    chosen = []
    for name, case in cases.items():
        seen[kind(case)] += 1
        slow = seen[kind(case)] > few and name not in needed
        chosen.append(pytest.param(name, marks=pytest.mark.slow if slow else ()))
    return chosen


def asked_for(request: pytest.FixtureRequest) -> set[str]:
    """Names of the cases that the tests of this file will ask for, so that a fixture makes no other."""
    found = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    return {spec.params["name"] for spec in found if spec is not None and "name" in spec.params}
