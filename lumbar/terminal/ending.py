"""How a command ends where it cannot go on: one sentence and the exit code.

The net is for what is nobody's fault in the code: disks, memory, Ctrl-C, a reader that went away. Faults of the code
itself (TypeError and the like) pass, with their traceback.
"""

import errno
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from lumbar.issues import FaultyInputError, InputError, printable
from lumbar.terminal.stopping import Stopped
from lumbar.terminal.voice import flush, write

FAILED, STOPPED = 1, 130  # 130: what a shell shows for a program that Ctrl-C ended
_log = logging.getLogger(__name__)
#: What is true of a command after Ctrl-C, where it is not that all begins anew.
KEPT: Final = {
    "predict": "finished studies are kept, the same command goes on with the others",
    "train": "the same command goes on from the last checkpoint",
    "clean-up": "the same command goes on from the last checkpoint",
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
#: PyTorch says a lack of memory with a RuntimeError.
_NO_MEMORY: Final = "can't allocate memory"


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
    except FaultyInputError as error:
        return _told_all(name, error)
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
        write(f"{name}: {printable(reason)}\n")
    return code


def _told_all(name: str, error: FaultyInputError) -> int:
    """Several faults in a line each, below one that says where and how many; a single one as ever."""
    if len(error.faults) == 1:
        return _told(name, str(error))
    code = _told(name, f"{error.source}: {len(error.faults)} faults")
    with suppress(OSError):
        for number, fault in enumerate(error.faults, 1):
            write(f"({number}) {printable(fault)}\n")
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
