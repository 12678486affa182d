"""Work on many studies spread over processes, with a progress bar. No torch: a reading process must start fast."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2
from tqdm import tqdm

from lumbar.issues import InputError


def each(function: Callable[[int], None], items: Sequence[int], title: str, processes: int) -> None:
    """Call `function` on every item with a progress bar, over `processes` fresh processes where there are many items.

    Raises InputError where a process dies (out of memory) instead of waiting for ever.
    """
    wait = 0.5 if sys.stderr.isatty() else 20.0
    bar = tqdm(total=len(items), desc=title, unit="study", file=sys.stderr, mininterval=wait, disable=not items)
    if processes <= 1 or len(items) < 4 * processes:
        for item in items:
            function(item)
            bar.update()
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_install, initargs=(function,)) as pool:
            try:
                for _ in pool.map(_call, items):
                    bar.update()
            except BrokenProcessPool as error:
                raise InputError(
                    f"{title}: a reading process died, most likely out of memory; set loop.read_processes lower"
                ) from error
    bar.close()


_installed: list[Callable[[int], None]] = []


def _install(function: Callable[[int], None]) -> None:
    """Give a fresh process its work once, not once an item."""
    cv2.setNumThreads(1)
    _installed[:] = [function]


def _call(item: int) -> None:
    _installed[0](item)
