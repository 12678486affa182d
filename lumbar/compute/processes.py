"""Work on many studies spread over processes, with a progress bar. No torch: a reading process must start fast."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import cv2

from lumbar.files.pool import spread
from lumbar.terminal.progress import bar

#: Items that a process takes at once: the bar moves this often at least.
LARGEST_CHUNK: Final = 16


def each(
    function: Callable[[int], None],
    items: Sequence[int],
    title: str,
    processes: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Call `function` on every item with a progress bar, over `processes` fresh processes where there are many items.

    `check` is called between them and may raise to stop. Raises InputError where a process dies (out of memory) instead
    of waiting for ever.
    """
    shown = bar(title, len(items), show=None if items else False)
    if processes <= 1 or len(items) < 4 * processes:
        for item in items:
            check()
            function(item)
            shown.update()
    else:
        lost = f"{title}: a reading process died, most likely out of memory; set loop.read_processes lower"
        size = max(1, min(LARGEST_CHUNK, len(items) // (4 * processes)))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        for done in spread(partial(_chunk, function), chunks, processes, lost=lost):
            shown.update(done)
            check()
    shown.close()


def _chunk(function: Callable[[int], None], items: Sequence[int]) -> int:
    """Call the function, which travels to another process once a chunk, on its items; how many there are."""
    cv2.setNumThreads(1)
    for item in items:
        function(item)
    return len(items)
