"""Zips of DICOM files that lie, lead outside or grow too much are refused, each in one sentence."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lumbar.dicom.kinds import is_dicom
from lumbar.files import unpack
from lumbar.issues import InputError
from lumbar.study.folder import open_folder
from lumbar.study.study import open_data
from tests.support.archives import VENDORS, copy_study, files_of, zipped
from tests.support.worlds import small_phantoms


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A phantom study as a disc holds it."""
    data = open_data(small_phantoms(tmp_path / "data", 1))
    copy_study(data.folder(data.study_ids[0]), tmp_path / "tree", VENDORS["GE"])
    return tmp_path / "tree"


def test_names_in_a_zip_cannot_lead_outside_and_what_is_no_image_is_not_unpacked(tree: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as packed:
        for number, path in enumerate(files_of(tree)):
            packed.write(path, f"../../../{'/' * (number % 2)}tmp/lumbar-outside/{path.relative_to(tree)}")
        packed.writestr("run.sh", "#!/bin/sh")
    place = unpack.unpacked(tmp_path / "t.zip", lambda start: start[128:132] == b"DICM")
    assert len(list(files_of(place))) == len(list(files_of(tree)))
    assert all(path.resolve().is_relative_to(place.resolve()) for path in files_of(place))
    assert not Path("/tmp/lumbar-outside").exists()
    assert place.stat().st_mode & 0o077 == 0


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("I1", b"\0" * 128 + b"DICM" + b"\0" * (1 << 24))


def _lying(path: Path) -> None:
    """Says that a file has a few bytes where a megabyte comes out."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("I1", b"\0" * 128 + b"DICM" + bytes(range(256)) * 4096)
    content = bytearray(raw.getvalue())
    size = struct.pack("<L", 132 + 256 * 4096)
    path.write_bytes(bytes(content).replace(size, struct.pack("<L", 2000)))


def _locked(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("I1", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    _bomb(path)
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\xff" * 40 + content[100:])


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "grows": (_bomb, "would grow .* times"),
    "lies": (_lying, "cannot be unpacked"),
    "locked": (_locked, "needs a password"),
    "damaged": (_cut, "cannot be unpacked"),
    "bzip2": (lambda path: _packed(path, zipfile.ZIP_BZIP2), "growth cannot be told"),
    "no zip": (lambda path: path.write_bytes(b"Rar!"), "is not a folder and no zip"),
    "no images": (lambda path: _packed(path, zipfile.ZIP_STORED), "no DICOM image"),
}


def _packed(path: Path, compression: int) -> None:
    with zipfile.ZipFile(path, "w", compression) as packed:
        packed.writestr("I1", b"x" * 1000)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_zips_are_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    make, words = HOSTILE[what]
    make(tmp_path / "t.zip")
    with pytest.raises(InputError, match=words) as caught:
        open_folder(tmp_path / "t.zip")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


LIMITS = {
    "files": (unpack.Limits(files=20), "files, 20 are the most"),
    "all bytes": (unpack.Limits(all_bytes=10_000), "are the most"),
    "bytes of a file": (unpack.Limits(file_bytes=10_000), "a file in it would grow"),
    "room": (unpack.Limits(spare=1 << 60), "are free in"),
}


@pytest.mark.parametrize("what", LIMITS)
def test_a_zip_larger_than_the_limits_or_the_disk_is_not_unpacked(what: str, tree: Path, tmp_path: Path) -> None:
    limits, words = LIMITS[what]
    with pytest.raises(InputError, match=words):
        unpack.unpacked(zipped(tree, tmp_path / "t.zip"), is_dicom, limits)
