"""Folders of our own (bundles, packs, phantoms, blends): built beside, exchanged at the end, nothing of others touched.

A command says by a `Proof` which files of the folder that stands there it wrote: those that a manifest names with
their hash, those whose sums are listed, slices that bear its UIDs. One file more, and the folder stays as it is.
"""

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from lumbar.files.write import sha256, sync, write_text, writing_into
from lumbar.issues import InputError, few
from lumbar.terminal.stopping import held_back

if sys.platform != "win32":  # where what a kill leaves is not cleared away
    import fcntl

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
    What a kill left half built, or half exchanged in place, the next call clears away first (see `_token`).
    """
    place = Path(os.path.realpath(folder))
    new, lock = None, None
    try:
        with writing_into(folder):
            check_own(folder, proof)
            place.parent.mkdir(parents=True, exist_ok=True)
            site = _building_site(place)
            new = site / f".{place.name[:100]}.{_token(place.name)}.tmp"
            new.mkdir()
            lock = _lock(new)
        yield new
        with writing_into(folder):
            own = check_own(folder, proof, besides=new)
            with held_back():
                _exchange(new, place, own, marker)
    finally:
        with held_back():
            if new is not None:
                shutil.rmtree(new, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _token(name: str, drawn: str = "") -> str:
    """Letters for the name of a folder that this module makes: drawn ones, and a sum that proves them its own."""
    drawn = drawn or secrets.token_hex(6)
    return drawn + hashlib.sha256(f"lumbar {name} {drawn}".encode(errors="surrogateescape")).hexdigest()[:12]


def _left_in(site: Path, name: str, before: str, after: str) -> list[tuple[Path, str]]:
    """Folders called `before`, a token of this name, `after`, which only this module makes; and their tokens."""
    found = []
    for path in site.iterdir() if site.is_dir() and os.access(site, os.R_OK | os.X_OK) else ():
        token = path.name.removeprefix(before).removesuffix(after)
        ours = path.name == before + token + after and token == _token(name, token[:12])
        if ours and path.is_dir() and not path.is_symlink():
            found.append((path, token))
    return found


def _clear_leftovers(place: Path) -> None:
    """Bring a folder whose exchange in place a kill broke off to its old state or its new one; remove what it built."""
    name = place.name
    with held_back():
        built = {
            token: path
            for site in (place.parent, place)
            for made, shown in ((name, name[:100]), ("probe", "probe"))
            for path, token in _left_in(site, made, f".{shown}.", ".tmp")
            if _is_free(path)
        }
        for old, token in _left_in(place, name, f"{name}.replaced-", ".part"):
            if token in built:  # it was going out: the old one comes back
                for entry in sorted(old.iterdir()):
                    entry.rename(place / entry.name)
                old.rmdir()
        for old, token in _left_in(place, name, f"{name}.replaced-", ""):
            if token in built:  # all of it was out: the rest of the new one comes in
                for entry in sorted(built[token].iterdir()):
                    entry.rename(place / entry.name)
                shutil.rmtree(old, ignore_errors=True)
        for path in built.values():
            shutil.rmtree(path, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    """An open lock on a folder, which goes with this process; None where folders cannot be locked.

    BlockingIOError where another process holds it.
    """
    if sys.platform == "win32":
        return None
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # some network disks cannot
        os.close(lock)
        return None
    return lock


def _is_free(folder: Path) -> bool:
    """Whether no process is building in a folder, as far as that can be known."""
    try:
        lock = _lock(folder)
    except BlockingIOError:
        return False
    if lock is not None:
        os.close(lock)
    return lock is not None


def check_own(folder: Path | str, proof: Proof, besides: Path | None = None) -> list[str]:
    """The files in a folder (relative names), all of which `proof` names; InputError tells of anything else in it.

    Links are not followed and are nobody's own. A folder that is missing or empty is fine. `besides`: what this call
    builds, in it or beside, which does not count; without it, what a killed call built there is cleared away. OSError
    where it cannot be looked through.
    """
    place = Path(os.path.realpath(folder))
    if besides is None:
        _clear_leftovers(place)
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
    probe = place.parent / f".probe.{_token('probe')}.tmp"
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
    token = new.name.removesuffix(".tmp").rpartition(".")[2]
    old = place.with_name(f"{place.name}.replaced-{token}")
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
            part = place / f"{old.name}.part"  # until all of it is out
            part.mkdir()
            undo.callback(part.rmdir)
            for entry in sorted(place.iterdir(), key=lambda entry: entry.name != marker):
                if entry not in (new, part):
                    move(entry, part / entry.name)
            move(part, old)
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
