"""Folders of our own (bundles, packs, phantoms, blends): built beside, exchanged at the end, nothing of others touched.

A command says by a `Proof` which files of the folder that stands there it wrote: those that a manifest names with
their hash, those whose sums are listed, slices that bear its UIDs. One file more, and the folder stays as it is.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from lumbar.files.write import sha256, sync, write_text, writing_into
from lumbar.issues import InputError, few

#: Names (relative, `a/b.csv`) of those files in a folder that the asking command can prove to be its own.
Proof = Callable[[Path], Collection[str]]
#: The list of a folder's files and their hashes, in the form that `sha256sum --check` reads.
SUMS: Final = "SHA256SUMS"


@contextmanager
def exchanging(folder: Path | str, proof: Proof, marker: str = "") -> Iterator[Path]:
    """Give a new folder beside `folder`; it takes its place when the block ends well.

    What stands there is replaced only where `check_own` finds it to be our own, before the block and again after it.
    Where the block raises, the old folder stays and the new one goes. The old one is renamed, the new one takes its
    name, and the old one is removed: a crash in between leaves it beside, as `NAME.replaced-…`. A folder that cannot
    be renamed (a mount point, the folder one works in, one in a parent that may not be written to) stays, and what it
    holds is exchanged; there `marker`, the file without which the others do not count, goes first and comes last.
    """
    place = Path(os.path.realpath(folder))
    with writing_into(folder):
        check_own(folder, proof)
        place.parent.mkdir(parents=True, exist_ok=True)
        new = _building_site(place) / f".{place.name[:100]}.{secrets.token_hex(6)}.tmp"
        new.mkdir()
    try:
        yield new
        with writing_into(folder):
            own = check_own(folder, proof, besides=new)
            _exchange(new, place, own, marker)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_own(folder: Path | str, proof: Proof, besides: Path | None = None) -> list[str]:
    """The files in a folder (relative names), all of which `proof` names; InputError tells of anything else in it.

    Links are not followed and are nobody's own. A folder that is missing or empty is fine. `besides`: a folder in it
    that does not count. OSError where it cannot be looked through.
    """
    place = Path(os.path.realpath(folder))
    if not place.exists():
        return []
    if not place.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    if all(entry == besides for entry in place.iterdir()):
        return []
    own = set(proof(place))
    above = {str(parent) for name in own for parent in PurePosixPath(name).parents}
    found: list[str] = []
    strange: list[str] = []
    for path, folders, files in os.walk(place, onerror=_raise):
        names = {entry: Path(path, entry).relative_to(place).as_posix() for entry in (*folders, *files)}
        good = [entry for entry in folders if names[entry] in above and not Path(path, entry).is_symlink()]
        strange += [names[entry] for entry in folders if entry not in good and Path(path, entry) != besides]
        folders[:] = good
        for entry in files:
            file = Path(path, entry)
            known = names[entry] in own and file.is_file() and not file.is_symlink()
            (found if known else strange).append(names[entry])
    if strange:
        raise InputError(
            f"{folder} holds {few(sorted(strange))}, which this command did not write there, or which somebody changed "
            "since; move that away or give another folder"
        )
    return found


def remove_own(folder: Path, names: Iterable[str]) -> None:
    """Remove these files of a folder, and what folders are empty then; whatever else is there stays."""
    for name in names:
        with suppress(OSError):
            (folder / name).unlink()
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(path).rmdir()


def _raise(error: OSError) -> None:
    raise error


def _building_site(place: Path) -> Path:
    """Where a folder can be made that a rename brings to `place`: its parent, else the folder itself.

    Else: the folder is a mount point, or its parent may not be written to. Only trying tells.
    """
    if not place.exists():
        return place.parent
    probe = place.parent / f".probe.{secrets.token_hex(6)}.tmp"
    try:
        probe.mkdir()
    except OSError:
        return place
    try:
        probe = probe.rename(place / probe.name)
    except OSError:
        return place
    finally:
        probe.rmdir()
    return place.parent


def _exchange(new: Path, place: Path, own: Sequence[str], marker: str) -> None:
    """Put `new` in the place of a folder that holds the files `own` and nothing else; all of it or nothing."""
    if not place.exists():
        new.rename(place)
        sync(place.parent)
        return
    for path, _, files in os.walk(new):  # on the disk before the old one goes
        for name in files:
            sync(Path(path, name))
    new.chmod(place.stat().st_mode & 0o7777)
    old = place.with_name(f"{place.name}.replaced-{secrets.token_hex(6)}")
    with ExitStack() as undo:

        def move(source: Path, target: Path) -> None:
            source.rename(target)
            undo.callback(target.rename, source)

        whole = new.parent != place and not Path.cwd().is_relative_to(place)
        if whole:
            try:
                move(place, old)
            except OSError:
                whole = False
        if whole:
            move(new, place)
        else:
            old = place / old.name
            old.mkdir()
            undo.callback(old.rmdir)
            for entry in sorted(place.iterdir(), key=lambda entry: entry.name != marker):
                if entry not in (new, old):
                    move(entry, old / entry.name)
            for entry in sorted(new.iterdir(), key=lambda entry: entry.name == marker):
                move(entry, place / entry.name)
        undo.pop_all()
    sync(place)
    sync(place.parent)
    remove_own(old, own)


def write_sums(folder: Path) -> None:
    """List the files of a folder with their hashes in it, so that `summed` knows them again."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    write_text("".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files), folder / SUMS)


def summed(folder: Path) -> list[str]:
    """Names of the files that are as `write_sums` found them, the list itself among them; empty where there is none."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines() if (folder / SUMS).is_file() else []
    except (OSError, UnicodeDecodeError):
        lines = []
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    same = [name for name, digest in listed.items() if (folder / name).is_file() and sha256(folder / name) == digest]
    return [*same, SUMS] if listed else []
