"""Files out: written whole or not at all, and never over what is somebody else's.

Whatever a command writes goes through `replacing` (a file) or `lumbar.files.exchange` (a folder of its own). What
stands there is replaced only where its content proves that the command wrote it; else one sentence names it, and it
stays.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from lumbar.issues import InputError

#: Whether a file is one that the asking command wrote.
Own = Callable[[Path], bool]


@contextmanager
def replacing(path: Path | str, own: Own | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place when the block ends well.

    For writers that want a path of their own (safetensors, a figure). The folder is made where it is missing. Readers
    see the old file or the new one, never a part; where the block raises, the old file stays and the temporary one
    goes. The temporary name keeps the suffix, since writers choose their format by it. `own`: see `check_replaceable`;
    None where the place itself tells, as within a run. OSError where the disk refuses.
    """
    path = Path(path)
    check_replaceable(path, own)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        check_replaceable(path, own)  # somebody may have come in the meantime
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        sync(path.parent)


def check_replaceable(path: Path | str, own: Own | None) -> None:
    """InputError where something stands at `path` that is no file or that `own` does not know; None: knows any file."""
    path = Path(path)
    if own is None or not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file() or not own(path):
        raise InputError(
            f"{path}: is there already, and this command did not write it, or somebody changed it since; rename it or "
            "give another folder"
        )


def check_apart(out: Path | str, images: Path) -> None:
    """InputError where `out` lies in a folder of images or in a study linked into it: it would change what is read."""
    linked = [path for path in images.iterdir() if path.is_symlink()] if images.is_dir() else []
    for folder in (images, *linked):
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder)):
            raise InputError(f"{out} lies in {folder}, which is read from; give a folder outside of it")


@contextmanager
def writing_into(folder: Path | str) -> Iterator[None]:
    """What the disk refuses in this block becomes an InputError: a full disk, a folder that may not be written to."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = disk_reason(error) if isinstance(error, SafetensorError) else error.strerror or _first_reason(error)
        if reason is None:
            raise
        raise InputError(
            f"{folder}: cannot be written to ({reason}); make room there or give another folder"
        ) from error


def disk_reason(error: SafetensorError) -> str | None:
    """What the disk refused, which safetensors puts into words of its own; None where it was something else."""
    found = re.search(r"I/O error: (.*?)(?: \(os error \d+\))?$", str(error))
    return found[1] if found else None


def _first_reason(error: OSError) -> str:
    """What an error without a reason of the system's says; of those that `shutil.copytree` gathers, the first."""
    gathered = error.args[0] if isinstance(error, shutil.Error) and error.args else None
    if isinstance(gathered, list) and gathered:
        reason = str(gathered[0][-1])  # of (from, to, reason), where the reason may name both once more
        return re.sub(r"^\[\w+ \d+\] ", "", reason).partition(": ")[0]
    return str(error)


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
        try:
            write_bytes(b"", probe)
        finally:
            probe.unlink(missing_ok=True)


def sync(path: Path) -> None:
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


def json_text(value: Any) -> str:
    """`value` as indented JSON; numpy numbers and arrays become plain ones.

    NaN and infinity are refused (ValueError), since JSON has no word for them.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def write_json(value: Any, path: Path | str) -> None:
    """Write `json_text`, whole or not at all."""
    write_text(json_text(value), path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def csv_text(frame: pd.DataFrame) -> str:
    """A table without its index as CSV; a float gets the fewest digits that read back as itself."""
    return frame.to_csv(index=False, lineterminator="\n")


def write_csv(frame: pd.DataFrame, path: Path | str) -> None:
    """Write `csv_text`, whole or not at all."""
    write_text(csv_text(frame), path)
