"""Signals that stop a command end it as Ctrl-C does, and not in the middle of what must be whole."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

#: Beside Ctrl-C: what ends programs by default, and what a terminal that is closed sends. Windows lacks the latter.
_STOPS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C's told the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)

    @property
    def code(self) -> int:
        """What a shell shows for a program that the signal ended."""
        return 128 + self.number


class _Ear:
    """How often stopping is held back, and the signal that came meanwhile."""

    depth = 0
    waiting: int | None = None


def _hear(number: int, frame: Any) -> None:
    if _Ear.depth:
        _Ear.waiting = number
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Stopped(number)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Begin processes that do not hear Ctrl-C, which reaches all of a terminal's: this one ends them, without noise.

    They inherit what is held back here; a Ctrl-C in between is heard at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stoppable() -> Iterator[None]:
    """In this block, signals that would end the process without a word raise `Stopped`.

    Those that somebody ignores (nohup) or handles stay as they are, as do all in a thread that is not the main one, and
    in one of several training processes: their launcher ends them, and none must wait for another.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread() and int(os.environ.get("WORLD_SIZE") or 1) <= 1:
        usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(_STOPS, signal.SIG_DFL)}
        before = {number: signal.getsignal(number) for number in usual}
        before = {number: handler for number, handler in before.items() if handler == usual[signal.Signals(number)]}
    try:
        for number in before:
            signal.signal(number, _hear)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """In this block nothing stops a command that is `stoppable`, Ctrl-C included; at its end, what came meanwhile does.

    For moments in which files change places, and for clearing away.
    """
    _Ear.depth += 1
    try:
        yield
    finally:
        _Ear.depth -= 1
        if not _Ear.depth and _Ear.waiting is not None:
            number, _Ear.waiting = _Ear.waiting, None
            _hear(number, None)


def _in_child() -> None:
    """A child is ended by its parent, at once, whatever it is at."""
    _Ear.depth, _Ear.waiting = 0, None
    for number in _STOPS:
        if signal.getsignal(number) is _hear:
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
