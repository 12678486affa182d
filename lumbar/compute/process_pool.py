"""A process pool of forked children, one core each: threads of one process would wait for each other's Python (GIL)."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, TypeVar

import cv2
import torch

from lumbar.issues import InputError
from lumbar.terminal.ending import sentence
from lumbar.terminal.stopping import without_interrupts

#: fork(): children begin as copies of this process, networks and all, within milliseconds. Other systems lack it.
POSSIBLE: Final = sys.platform == "linux"


class LostProcessError(InputError):
    """A process of the pool ended before its work; what others had finished was handed over."""


Item = TypeVar("Item")
Answer = TypeVar("Answer")


def share(items: Sequence[Item], part: int, parts: int) -> list[Item]:
    """The items of part `part` (counted from 1) of `parts`: every `parts`-th, which mixes long and short work."""
    return list(items[part - 1 :: parts])


@contextmanager
def no_cv2_threads() -> Iterator[None]:
    """End OpenCV's threads while children are born, who do not inherit them and would wait for them for ever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def answers(
    work: Callable[[list[Item]], Iterable[Answer]], items: Sequence[Item], processes: int
) -> Generator[Answer, None, None]:
    """What `work` yields for all items, one for each, in their order; each process takes every `processes`-th item.

    Raises the InputError that `work` raised, and LostProcessError where a process was killed. Closing it ends the
    processes.
    """
    context = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    children: list[BaseProcess] = []
    try:
        with no_cv2_threads(), without_interrupts():
            for part in range(1, processes + 1):
                end, its_end = context.Pipe(duplex=False)
                ends.append(end)
                call = (work, share(items, part, processes), its_end, list(ends))
                begun = context.Process(target=_child, args=call, daemon=True)
                begun.start()
                children.append(begun)
                its_end.close()
        for index in range(len(items)):
            yield _received(ends[index % processes], children[index % processes])
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.join()
        for end in ends:
            end.close()


def _received(end: Connection, child: BaseProcess) -> Any:
    try:
        answer, error = end.recv()
    except EOFError:
        child.join()
        killed = (child.exitcode or 0) < 0
        what = "was killed, most likely out of memory" if killed else "stopped with the error above"
        raise LostProcessError(f"a process of this run {what}; run again, finished studies are kept") from None
    if error is not None:
        raise error
    return answer


def _child(work: Callable[[Any], Iterable[Any]], items: Any, its_end: Connection, others: list[Connection]) -> None:
    """One process: the answers to its items, then nothing; where something is raised, that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    for end in others:  # so that a parent that dies is noticed
        end.close()
    torch.set_num_threads(1)
    try:
        for answer in work(items):
            its_end.send((answer, None))
    except BrokenPipeError:
        return
    except InputError as error:
        its_end.send((None, error))
    except (OSError, MemoryError, RecursionError) as error:
        its_end.send((None, InputError(sentence(error))))
    its_end.close()
