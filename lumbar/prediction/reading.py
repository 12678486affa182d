"""Studies read ahead by threads while the device computes, with a bound on what waits in memory."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from lumbar.study.study import Study

#: Decoded pixels that may wait for the device, bytes; a study of 200 slices of 512 x 512 has 100 MB.
MAX_WAITING_BYTES: Final = 2**30


class ReadAhead:
    """Reads studies in their order, `ahead` of the one in use; use it as a context, which ends the threads."""

    def __init__(
        self,
        read: Callable[[int], Study],
        study_ids: Sequence[int],
        ahead: int = 1,
        workers: int = 1,
        most_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._read, self._coming = read, deque(study_ids)
        self._ahead, self._most_bytes = ahead, most_bytes
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="read")
        self._waiting: deque[tuple[int, Future[Study]]] = deque()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def groups(self, size: int) -> Iterator[list[tuple[int, Future[Study]]]]:
        """Up to `size` studies at a time, each read or failed, while the next ones are being read.

        A group is smaller where its studies would together hold more than `most_bytes`. Whoever takes one clears
        it, so that nothing here holds on to studies that were used.
        """
        while self._waiting or self._coming:
            group: list[tuple[int, Future[Study]]] = []
            held = 0
            while len(group) < size and held < self._most_bytes and (self._waiting or self._coming):
                self._fill(size - len(group))
                study_id, future = self._waiting.popleft()
                held += 0 if future.exception() is not None else nbytes(future.result())
                group.append((study_id, future))
            self._fill(self._ahead)
            yield group

    def _fill(self, wanted: int) -> None:
        """Start reading until so many studies wait, unless those that are read already fill the memory."""
        while self._coming and len(self._waiting) < wanted:
            if sum(nbytes(future.result()) for _, future in self._waiting if _is_there(future)) > self._most_bytes:
                return
            study_id = self._coming.popleft()
            self._waiting.append((study_id, self._pool.submit(self._read, study_id)))


def _is_there(future: Future[Study]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def nbytes(study: Study) -> int:
    """Bytes of a study's decoded pixels."""
    return sum(item.pixels.nbytes for group in study.series.values() for series in group for item in series.slices)
