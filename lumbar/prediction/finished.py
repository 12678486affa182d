"""The folder `finished` in a folder of results: whose it is, who computes there now, and when it goes.

Finished studies are kept in it, a file each, until all are there. Several processes may compute the same run into it at
once (shards, GPUs, the same command started twice): each holds a shared lock meanwhile, and only who is alone removes.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lumbar.files.write import check_replaceable, writing_into
from lumbar.issues import InputError

if sys.platform != "win32":  # where nobody is told of the others
    import fcntl

FINISHED: Final = "finished"
#: Locked by who computes, and says what: the identity of the run. It goes with the last one.
_LOCK: Final = ".running"
_RUN: Final = re.compile(rb"[0-9a-f]{0,64}")
#: A header longer than this is none of ours.
_MAX_HEADER: Final = 1 << 26


def kept_path(out: Path, study_id: int) -> Path:
    """The file of a finished study."""
    return Path(out) / FINISHED / f"{study_id}.safetensors"


def is_kept(path: Path) -> bool:
    """Whether a file is one of a finished study, cut short or not, of whatever run and version."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= _MAX_HEADER else b""
    try:
        words = json.loads(json.loads(header)["__metadata__"]["words"])
        return {"run", "files", "study_id"} <= set(words)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def check_finished(out: Path, study_ids: Iterable[int]) -> None:
    """InputError where `finished`, or what bears the name of one of these studies in it, is something else."""
    folder = Path(out) / FINISHED
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder}: is no folder, and finished studies are kept in one of that name; rename it or give another "
            "folder as --out"
        )
    for study_id in study_ids:
        check_replaceable(kept_path(out, study_id), is_kept)
    check_replaceable(folder / _LOCK, lambda path: _RUN.fullmatch(path.read_bytes()) is not None)


def remove_finished(out: Path, study_ids: Iterable[int]) -> None:
    """Remove what was kept of these studies, and the folder where nothing else is in it.

    All stays where somebody still computes there.
    """
    _leave(Path(out) / FINISHED, [kept_path(out, study_id) for study_id in study_ids])


@contextmanager
def computing(out: Path, run: str) -> Iterator[None]:
    """Say that `run` (its identity) computes here. InputError where somebody else computes another one."""
    folder = Path(out) / FINISHED
    lock = _share(folder, run)
    try:
        if lock is not None and os.pread(lock, 100, 0).decode() != run:
            raise InputError(
                f"{out}: another predict computes there, with other weights, data or options; wait until it has ended, "
                "or give another folder"
            )
        yield
    finally:
        if lock is not None:
            os.close(lock)
        _leave(folder)


def _share(folder: Path, run: str) -> int | None:
    """The lock, shared with others who compute; who is alone writes down its run."""
    while True:
        with writing_into(folder):
            with suppress(BlockingIOError):
                alone = _lock(folder)
                if alone is not None:
                    os.ftruncate(alone, 0)
                    os.pwrite(alone, run.encode(), 0)
                    os.close(alone)
            lock = _lock(folder, shared=True)
        if lock is None or os.fstat(lock).st_size:
            return lock
        os.close(lock)  # somebody else was alone in between, and left


def _leave(folder: Path, kept: Iterable[Path] = ()) -> None:
    """Remove these finished studies, the lock, and the folder where it is empty then; nothing where others compute."""
    if folder.is_symlink() or not folder.is_dir():
        return
    try:
        lock = _lock(folder)
    except OSError:
        return
    for path in kept:
        with suppress(OSError):
            if path.is_file() and not path.is_symlink() and is_kept(path):
                path.unlink()
    with suppress(OSError):
        (folder / _LOCK).unlink()
    with suppress(OSError):
        folder.rmdir()
    if lock is not None:
        os.close(lock)


def _lock(folder: Path, *, shared: bool = False) -> int | None:
    """The lock's open file, locked: shared, or for this process alone (BlockingIOError where another one has it).

    None where files cannot be locked.
    """
    if sys.platform == "win32":
        return None
    path = folder / _LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # who was alone here has just removed the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise
        except FileNotFoundError:
            pass
        except OSError:  # some network disks cannot
            os.close(lock)
            return None
        os.close(lock)  # removed before it was locked
