"""Work spread over fresh processes that do not need torch."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from lumbar.issues import InputError
from lumbar.terminal.stopping import without_interrupts

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def spread(
    work: Callable[[Item], Answer],
    items: Sequence[Item],
    processes: int,
    *,
    lost: str,
) -> Iterator[Answer]:
    """`work` of all items in their order, over so many processes; what it raises is raised here.

    Where a process dies, InputError with the sentence `lost`, instead of waiting for ever.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(processes, len(items))), context) as pool:
        with without_interrupts():
            answers = pool.map(work, items)
        try:
            yield from answers
        except BrokenProcessPool as error:
            raise InputError(lost) from error
