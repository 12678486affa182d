"""Files out: written whole or not at all."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar.issues import InputError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place when the block ends well.

    For writers that want a path of their own (safetensors, a figure). The folder is made where it is missing. Readers
    see the old file or the new one, never a part; where the block raises, the old file stays and the temporary one
    goes. The temporary name keeps the suffix, since writers choose their format by it. OSError where the disk refuses.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync(path.parent)


@contextmanager
def writing_into(folder: Path | str) -> Iterator[None]:
    """What the disk refuses in this block becomes an InputError: a full disk, a folder that may not be written to."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{folder}: cannot be written to ({reason}); make room there or give another folder"
        ) from error


def check_writable(folder: Path | str) -> None:
    """Try to write into a folder before hours are spent on results for it; InputError where that fails.

    A folder that is not there is not made, since the command may still fail: what will hold it is tried.
    """
    folder = Path(folder)
    with writing_into(folder):
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()  # a name that is too long, a loop of links
        there = next(place for place in (folder, *folder.parents, Path()) if os.path.lexists(place))
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there.name} is no folder")
        probe = there / f"probe.{secrets.token_hex(6)}.tmp"  # other processes may try at the same time
        write_bytes(b"", probe)
        probe.unlink()


def _sync(path: Path) -> None:
    """Make sure that a file's content (or, on POSIX, a folder's names) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def write_bytes(data: bytes, path: Path | str) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(text: str, path: Path | str) -> None:
    """Write `text` as UTF-8 with the line ends it has, whole or not at all; what UTF-8 cannot hold is escaped."""
    write_bytes(text.encode(errors="backslashreplace"), path)


def write_json(value: Any, path: Path | str) -> None:
    """Write `value` as indented JSON, whole or not at all; numpy numbers and arrays become plain ones.

    NaN and infinity are refused (ValueError), since JSON has no word for them.
    """
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n", path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_csv(frame: pd.DataFrame, path: Path | str) -> None:
    """Write a table without its index, whole or not at all; a float gets the fewest digits that read back as itself."""
    write_text(frame.to_csv(index=False, lineterminator="\n"), path)
