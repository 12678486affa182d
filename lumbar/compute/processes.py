"""Work on many studies spread over processes, with a progress bar. No torch: a reading process must start fast."""

from collections.abc import Callable, Sequence

import cv2

from lumbar.pool import spread
from lumbar.terminal import bar


def each(function: Callable[[int], None], items: Sequence[int], title: str, processes: int) -> None:
    """Call `function` on every item with a progress bar, over `processes` fresh processes where there are many items.

    Raises InputError where a process dies (out of memory) instead of waiting for ever.
    """
    shown = bar(title, len(items), show=None if items else False)
    if processes <= 1 or len(items) < 4 * processes:
        for item in items:
            function(item)
            shown.update()
    else:
        lost = f"{title}: a reading process died, most likely out of memory; set loop.read_processes lower"
        for _ in spread(_call, items, processes, lost=lost, prepare=(_install, function)):
            shown.update()
    shown.close()


_installed: list[Callable[[int], None]] = []


def _install(function: Callable[[int], None]) -> None:
    """Give a fresh process its work once, not once an item."""
    cv2.setNumThreads(1)
    _installed[:] = [function]


def _call(item: int) -> None:
    _installed[0](item)
