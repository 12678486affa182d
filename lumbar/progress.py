"""Progress bars on standard error, in a terminal: the current stage, how many studies, how much longer."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from lumbar.issues import printable

Item = TypeVar("Item")


def bar(stage: str, total: int | None, unit: str = "study", *, show: bool | None = None, initial: int = 0) -> Any:
    """A tqdm bar named after the current stage; nothing where standard error is no terminal.

    `show` True draws it all the same (a notebook is no terminal), False never.
    """
    return tqdm(
        desc=stage,
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stderr,
        disable=None if show is None else not show,
        mininterval=0.5,
        dynamic_ncols=True,
    )


def follow(
    items: Iterable[Item],
    stage: str,
    total: int | None,
    unit: str = "study",
    *,
    show: bool | None = None,
    name: Callable[[Item], str] | None = None,
) -> Iterator[Item]:
    """The items one by one, with a bar of how many have been worked on; `name` says which one is at work."""
    with bar(stage, total, unit, show=show) as shown:
        for item in items:
            if name is not None:
                shown.set_postfix_str(printable(name(item)))
            yield item
            shown.update()
