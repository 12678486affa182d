"""A thread pool whose threads, *lanes*, compute a study each on a core of their own: small layers leave a second core
idle otherwise."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import torch


class Lanes:
    """`count` threads that compute on one core each; a single lane is the calling thread with all its cores."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, "lane", _on_one_core, (count,)) if count > 1 else None

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, call: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Call it with every item; back when all are done. Raises what the first of them raised."""
        if self._pool is None:
            for item in items:
                call(item)
        else:
            list(self._pool.map(call, items))

    def answers(self, call: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """What it returns for every item, in their order; one item more than there are lanes waits at most."""
        if self._pool is None:
            yield from map(call, items)
            return
        at_work: deque[Future[Any]] = deque()
        for item in items:
            at_work.append(self._pool.submit(call, item))
            del item  # whoever takes it may let go of it
            if len(at_work) > self.count:
                yield at_work.popleft().result()
        while at_work:
            yield at_work.popleft().result()


_here: Final = threading.local()


def count_here() -> int:
    """How many lanes there are where this is called from one, else 1."""
    return getattr(_here, "count", 1)


def _on_one_core(count: int) -> None:
    torch.set_num_threads(1)  # of this thread
    _here.count = count
