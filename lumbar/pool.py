"""Work spread over fresh processes that do not need torch."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from lumbar.issues import InputError
from lumbar.terminal import without_interrupts

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def spread(
    work: Callable[[Item], Answer],
    items: Sequence[Item],
    processes: int,
    *,
    lost: str,
    prepare: tuple[Callable[..., None], Any] | None = None,
) -> Iterator[Answer]:
    """`work` of all items in their order, over so many processes; what it raises is raised here.

    `prepare`: a function that each process calls first, and its argument. Where a process dies, InputError with the
    sentence `lost`, instead of waiting for ever.
    """
    context = multiprocessing.get_context("spawn")
    first: dict[str, Any] = {"initializer": prepare[0], "initargs": prepare[1:]} if prepare else {}
    with ProcessPoolExecutor(max(1, min(processes, len(items))), context, **first) as pool:
        with without_interrupts():
            answers = pool.map(work, items)
        try:
            yield from answers
        except BrokenProcessPool as error:
            raise InputError(lost) from error
