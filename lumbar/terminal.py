"""What a command says on the terminal, and how it ends where it cannot go on: one sentence and the exit code.

Signals that stop a command end it as Ctrl-C does. The net is for what is nobody's fault in the code: disks, memory,
Ctrl-C, a reader that went away. Faults of the code itself (TypeError and the like) pass, with their traceback.
"""

import errno
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from tqdm import TqdmWarning, tqdm

from lumbar.issues import InputError, printable

Item = TypeVar("Item")
FAILED, STOPPED = 1, 130  # 130: what a shell shows for a program that Ctrl-C ended
_log = logging.getLogger(__name__)
#: Beside Ctrl-C: what ends programs by default, and what a terminal that is closed sends. Windows lacks the latter.
_STOPS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
#: What is true of a command after Ctrl-C, where it is not that all begins anew.
KEPT: Final = {
    "predict": "finished studies are kept, the same command goes on with the others",
    "train": "the same command goes on from the last checkpoint",
}
#: What to do about what a disk refuses, by the number of the error.
_REMEDIES: Final = {
    errno.ENOSPC: "free space on that disk or give another folder",
    errno.EDQUOT: "free space there or give another folder",
    errno.EACCES: "check its permissions or give another path",
    errno.EPERM: "check its permissions or give another path",
    errno.EROFS: "give a folder that may be written to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "give a file there, it is a folder",
    errno.EEXIST: "move away what is there or give another path",
    errno.ELOOP: "take the links out that point to themselves",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.EIO: "check the disk",
}
#: Between two lines of progress where nobody watches a bar, seconds; and what such a line says.
A_MINUTE: Final = 60.0
_LINE: Final = "{desc}: {n_fmt} of {total_fmt} after {elapsed}, about {remaining} to go{postfix}"
#: PyTorch says a lack of memory with a RuntimeError.
_NO_MEMORY: Final = "can't allocate memory"


# What libraries say when a machine meets them for the first time, in a notebook in pink, to nobody's help: that Jupyter
# has no widgets for a bar that is none of ours, and that matplotlib looks for fonts.
warnings.filterwarnings("ignore", "IProgress not found", TqdmWarning)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


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


def show(result: object) -> None:
    """Print a command's result; names and descriptions from files reach the terminal as text only."""
    if sys.stdout is not None:
        lines = [str(result)] if isinstance(result, Path) else str(result).split("\n")
        plain, encoding = "\n".join(map(printable, lines)) + "\n", sys.stdout.encoding or "utf-8"
        with _on_standard_output():
            sys.stdout.write(plain.encode(encoding, "backslashreplace").decode(encoding))


@contextmanager
def _on_standard_output() -> Iterator[None]:
    """Name the place in what its disk refuses; a stream does not say its name."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def flush() -> None:
    """Bring standard output to its disk, where a full one can still be told."""
    if sys.stdout is not None:
        with _on_standard_output():
            sys.stdout.flush()


class _Voice:
    """How much is said beside results and failures, and the file that gets one line an event."""

    quiet = verbose = False
    log: TextIO | None = None


class _Heard(logging.Handler):
    """Warnings: told as ever, and events without what was put into their words, which may be a path that names a
    patient."""

    def emit(self, record: logging.LogRecord) -> None:
        event(f"{record.levelname.lower()} of {record.name}: {re.sub('%[sd]', '…', str(record.msg))}")
        tell(record.getMessage())


@contextmanager
def speaking(*, quiet: bool = False, verbose: bool = False, log: Path | None = None) -> Iterator[None]:
    """In this block: `quiet` keeps sentences, bars and warnings back; events go to `log`, `verbose` shows them, too.

    The file is appended to. OSError where it cannot be.
    """
    if not (quiet or verbose or log):
        yield
        return
    before, logger, handler = (
        (_Voice.quiet, _Voice.verbose, _Voice.log),
        logging.getLogger("lumbar"),
        _Heard(logging.WARNING),
    )
    with log.open("a", encoding="utf-8") if log else nullcontext() as stream:
        _Voice.quiet, _Voice.verbose, _Voice.log = quiet, verbose, stream
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            _Voice.quiet, _Voice.verbose, _Voice.log = before


def event(text: str) -> None:
    """One line about the work for whoever asked for it. It names studies by their number: no file, no patient."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text)}\n"
    if _Voice.log is not None:
        _Voice.log.write(line)
        _Voice.log.flush()
    if _Voice.verbose:
        _write(line)


def tell(sentence: str) -> None:
    """Say a sentence about the work on standard error."""
    if not _Voice.quiet:
        _write(printable(sentence) + "\n")


def _write(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)


class _Lines:
    """Standard error as a stream on which every state of a bar is a line of its own."""

    def write(self, text: str) -> None:
        if state := text.strip():
            _write(state + "\n")

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar whose beginning, end and steps by name are events."""

    def __init__(self, stage: str, **how: Any) -> None:
        self.stage, self.count, self.began, self.over = stage, how["initial"], time.monotonic(), False
        self.drawn = not isinstance(how["file"], _Lines)  # lines come when they are due
        super().__init__(desc=stage, **how)
        event(f"{stage} begins{'' if self.total is None else f': {self.total}'}")

    def update(self, n: float | None = 1) -> bool | None:
        self.count += n or 0
        return super().update(n)

    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        event(desc or self.stage)
        super().set_description_str(desc, refresh and self.drawn)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        if refresh:  # what changes with each batch is none
            event(f"{self.stage}: {s}")
        super().set_postfix_str(s, refresh and self.drawn)

    def close(self) -> None:
        if not self.over:
            self.over = True
            event(f"{self.stage} ends: {self.count} in {time.monotonic() - self.began:.1f} s")
        super().close()


def bar(
    stage: str,
    total: int | None,
    unit: str = "study",
    *,
    show: bool | None = None,
    initial: int = 0,
    every: float = A_MINUTE,
) -> Any:
    """A tqdm bar named after the current stage; a plain line each minute where standard error is no terminal.

    `show` True draws it all the same (a notebook is no terminal), False says nothing. `every`: seconds between lines.
    """
    watched = sys.stderr is not None and sys.stderr.isatty()
    how: dict[str, Any] = {"file": sys.stderr, "mininterval": 0.5, "dynamic_ncols": True}
    if not (watched or show):  # the first line comes after a while, so that short work says nothing
        how = {"file": _Lines(), "mininterval": every, "delay": every, "miniters": 1, "bar_format": _LINE}
    off = _Voice.quiet or show is False or sys.stderr is None
    return _Bar(stage, total=total, initial=initial, unit=unit, disable=off, **how)


def follow(
    items: Iterable[Item],
    stage: str,
    total: int | None,
    unit: str = "study",
    *,
    show: bool | None = None,
    name: Callable[[Item], str] | None = None,
) -> Iterator[Item]:
    """The items one by one, with a `bar` of how many have been worked on; `name` says which one is at work."""
    with bar(stage, total, unit, show=show) as shown:
        for item in items:
            if name is not None:
                shown.set_postfix_str(printable(name(item)))
            yield item
            shown.update()


def ended(command: Callable[[], int], name: str, kept: str | None = None) -> int:
    """Run a command and return its exit code; what stops it is told after its `name`.

    `kept`: what is true after Ctrl-C or another signal that stops, and how to go on.
    """
    try:
        try:
            code = command()
        except SystemExit:  # what argparse ends --help with
            flush()
            raise
        flush()
        return code
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        return FAILED
    except KeyboardInterrupt as error:
        by, code = (error.number.name, error.code) if isinstance(error, Stopped) else ("Ctrl-C", STOPPED)
        return _told(name, f"stopped by {by}; {kept or 'run the same command again'}", code)
    except InputError as error:
        return _told(name, str(error))
    except (OSError, MemoryError, RecursionError) as error:
        _log.debug("%s failed", name, exc_info=error)
        return _told(name, sentence(error))
    except RuntimeError as error:
        if _NO_MEMORY not in str(error):
            raise
        return _told(name, sentence(MemoryError()))


def sentence(error: OSError | MemoryError | RecursionError) -> str:
    """Where, why and what to do, as an InputError would say it."""
    if isinstance(error, MemoryError):
        asked = f" ({error})" if str(error) else ""
        return f"this machine's memory does not suffice{asked}; give less at once, or end other programs"
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply ({error}); check the files that were given"
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "check that place and run again")
    return f"{' and '.join(names) or 'a file or device'}: {reason}; {remedy}"


def _told(name: str, reason: str, code: int = FAILED) -> int:
    with suppress(OSError):  # nobody may be left to read it
        _write(f"{name}: {printable(reason)}\n")
    return code


def let_go_of_output() -> None:
    """Drop what a broken output did not take: at its end Python would try again, and say so with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
