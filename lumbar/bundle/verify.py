"""What a file of weights is by its content: the one that the manifest means, or something else under its name."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lumbar.files.write import sha256
from lumbar.issues import InputError

#: First bytes of a zip archive (today's `torch.save`) and of a bare pickle.
_ZIP: Final = b"PK\x03\x04"
PICKLE_STARTS: Final = (_ZIP, b"\x80")


def refuse_stand_in(path: Path) -> None:
    """Raise InputError where a file holds what downloads and copies leave in the place of another."""
    with path.open("rb") as stream:
        start = stream.read(200)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start.strip(b"\0"):
        reason = "it is empty" if not path.stat().st_size else "it begins with zeros only"
        remedy = "copy or download it again"
    elif text.startswith(b"version https://git-lfs"):
        reason, remedy = "it is a git-lfs pointer, not the file itself", "run `git lfs pull`"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        reason, remedy = "it is a web page, such as a login or an error", "download the file itself"
    elif start.startswith(_ZIP) and not zipfile.is_zipfile(path):
        reason, remedy = "its end is missing", "copy or download it again"
    else:
        return
    raise InputError(f"{path}: cannot be read ({reason}); {remedy}")


def check_file(file: Path, expected: str) -> None:
    """InputError where a file is a pickle or not the one that the manifest means."""
    _refuse_pickle(file)
    found = sha256(file)
    if found != expected:
        refuse_stand_in(file)
        raise InputError(
            f"{file}: SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…; the file was changed or "
            "damaged, copy the bundle again"
        )


def inside(folder: Path, owner: str, name: str, suffixes: Sequence[str] = (".safetensors",)) -> Path:
    """A file of the bundle; InputError where it is missing, of another kind by name, or outside the folder."""
    given = Path(name)
    path = folder / given
    if given.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: {owner} points outside the bundle ({name}); do not use this bundle")
    if path.suffix not in suffixes:
        raise InputError(f"{path}: only safetensors files are loaded, since others can run code; convert the weights")
    if not path.is_file():
        raise InputError(f"{path}: the file of {owner} is missing; copy the whole bundle again")
    return path


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[8:] != b"{" and start.startswith(PICKLE_STARTS):  # a header's length may begin with the same byte
        raise InputError(f"{path}: holds pickled data, which can run code; convert the weights to safetensors")
