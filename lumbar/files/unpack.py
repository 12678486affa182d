"""The wanted files of a zip, unpacked into a folder of their own that goes when the process ends.

A zip can claim more than any disk holds: nothing is unpacked before what it claims was looked at, and no file grows
beyond what it claims.
"""

import atexit
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from lumbar.files.write import writing_into
from lumbar.issues import InputError


class Limits(NamedTuple):
    """What a zip may hold. Slices have less than a megabyte, a study hundreds of them."""

    files: int = 200_000
    file_bytes: int = 2**28
    all_bytes: int = 2**36
    #: Pictures shrink to a half or a tenth; what grows more than this, and beyond `small`, was made to do so.
    growth: int = 300
    small: int = 2**20
    #: What must stay free on the disk.
    spare: int = 2**28


USUAL: Final = Limits()
_START: Final = 1024
_ENCRYPTED: Final = 1
_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpacked(path: Path, wanted: Callable[[bytes], bool], limits: Limits = USUAL) -> Path:
    """Unpack the files of a zip whose first kilobyte is `wanted`, names and folders as they are; returns the folder.

    They bear the time of the zip, so that whoever compares times sees the same files again. InputError where it is no
    zip, encrypted, damaged, or grows beyond the limits or the disk.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a folder and no zip; give the folder that holds the studies")
    folder = Path(tempfile.mkdtemp(prefix="lumbar-"))  # nobody else may look into it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    changed = path.stat().st_mtime_ns
    with writing_into(folder):
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in _checked(archive, path, folder, wanted, limits):
                    os.utime(archive.extract(entry, folder), ns=(changed, changed))
        except _DAMAGE as error:
            raise InputError(
                f"{path} cannot be unpacked ({str(error)[:100]}); unpack it, and give the folder"
            ) from error
    return folder


def _checked(
    archive: zipfile.ZipFile, path: Path, folder: Path, wanted: Callable[[bytes], bool], limits: Limits
) -> list[zipfile.ZipInfo]:
    """The wanted files in a zip; InputError where they are too many or too large, or need a password."""

    def refuse(why: str, remedy: str = "unpack what you trust of it, and give the folder") -> None:
        raise InputError(f"{path}: {why}; {remedy}")

    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > limits.files:
        refuse(f"it holds {len(entries)} files, {limits.files} are the most")
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        refuse("it needs a password")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        refuse("it is packed in a way whose growth cannot be told beforehand")  # bzip2 and LZMA hand out all at once
    entries = [entry for entry in entries if wanted(_start(archive, entry))]
    total = sum(entry.file_size for entry in entries)
    room = max(shutil.disk_usage(folder).free - limits.spare, 0)
    if total > limits.all_bytes:
        refuse(f"it would grow to {total >> 30} GB, {limits.all_bytes >> 30} GB are the most")
    if total > room:
        refuse(
            f"it would grow to {total >> 20} MB, and {room >> 20} MB are free in {folder.parent}", "free space there"
        )
    for entry in entries:
        if entry.file_size > limits.file_bytes:
            refuse(f"a file in it would grow to {entry.file_size >> 20} MB, {limits.file_bytes >> 20} MB are the most")
        if entry.file_size > max(limits.small, limits.growth * entry.compress_size):
            refuse(f"a file in it would grow {entry.file_size // max(entry.compress_size, 1)} times, no picture does")
    return entries


def _start(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        return stream.read(_START)
