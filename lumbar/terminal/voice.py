"""What a command says: results on standard output, sentences and events beside them."""

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from lumbar.issues import printable


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
        write(line)


def is_quiet() -> bool:
    """Whether results and failures are all that is said."""
    return _Voice.quiet


def tell(sentence: str, *, of_result: bool = False) -> None:
    """Say a sentence about the work on standard error; one that a result is not to be read without, quiet or not."""
    if of_result or not _Voice.quiet:
        write(printable(sentence) + "\n")


def write(text: str) -> None:
    """Put a text on standard error, where there is one."""
    if sys.stderr is not None:
        sys.stderr.write(text)
