"""Folders are built beside and exchanged at the end: all of it or nothing, and nothing of anybody else's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lumbar.files.exchange import SUMS, exchanging, summed, write_sums
from lumbar.files.write import check_apart, check_replaceable, replacing, write_text
from lumbar.issues import InputError
from tests.conftest import ROOT
from tests.test_damage import as_nobody

Files = dict[str, bytes]


def tree(folder: Path) -> Files:
    """Every file below a folder by relative name, links as what they name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path.relative_to(folder).as_posix()] = os.fsencode(path.readlink())
        elif path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def build(folder: Path, word: str) -> None:
    """Put a small folder of ours in a place: two files, one of them in a folder, and their sums."""
    with exchanging(folder, summed, SUMS) as new:
        write_text(word, new / "a.txt")
        write_text(word, new / "below" / f"{word}.txt")
        write_sums(new)


def words(folder: Path) -> str:
    """The word of which a folder is made, through and through."""
    files = tree(folder)
    word = files["a.txt"].decode()
    assert set(files) == {"a.txt", f"below/{word}.txt", SUMS}
    assert set(summed(folder)) == set(files)
    return word


@pytest.fixture
def old(tmp_path: Path) -> Path:
    build(tmp_path / "place", "old")
    return tmp_path / "place"


def test_a_folder_of_ours_is_replaced_and_nothing_is_left_beside(old: Path) -> None:
    old.chmod(0o750)
    build(old, "new")
    assert words(old) == "new"
    assert old.stat().st_mode & 0o777 == 0o750
    assert list(old.parent.iterdir()) == [old]


def test_a_build_that_fails_leaves_the_old_folder_and_nothing_beside(old: Path) -> None:
    before = tree(old.parent)

    def fail() -> None:
        with exchanging(old, summed) as new:
            write_text("half", new / "a.txt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert tree(old.parent) == before
    assert list(old.parent.iterdir()) == [old]


#: What somebody may have done to the folder, and how the sentence names it.
FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda place: (place / "thesis.txt").write_text("mine"), "thesis.txt"),
    "a file below": (lambda place: (place / "below" / "thesis.txt").write_text("mine"), "below/thesis.txt"),
    "a folder of files": (lambda place: shutil.copytree(place / "below", place / "mine"), "mine"),
    "an empty folder": (lambda place: (place / "mine").mkdir(), "mine"),
    "a changed file": (lambda place: (place / "a.txt").write_text("mine"), "a.txt"),
    "a link": (lambda place: (place / "link").symlink_to("a.txt"), "link"),
    "a link in the place of a file": (lambda place: _link(place / "a.txt"), "a.txt"),
    "a link in the place of a folder": (lambda place: _link(place / "below"), "below"),
    "a pipe": (lambda place: os.mkfifo(place / "pipe"), "pipe"),
    "no list": (lambda place: (place / SUMS).unlink(), "a.txt, below,"),
    "another list": (lambda place: (place / SUMS).write_bytes(b"\xff\0"), f"{SUMS}, a.txt, below,"),
}


def _link(path: Path) -> None:
    """Move what is there out of the folder, and link to it."""
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_anything_that_is_not_our_own_stops_the_exchange_with_its_name(old: Path, what: str, when: str) -> None:
    spoil, named = FOREIGN[what]

    def exchange() -> None:
        if when == "before":
            spoil(old)
        with exchanging(old, summed) as new:
            assert when == "meanwhile", "refused before anything is built"
            write_text("new", new / "a.txt")
            spoil(old)

    with pytest.raises(InputError) as caught:
        exchange()
    assert f"{old} holds {named}" in str(caught.value)
    assert "move that away or give another folder" in str(caught.value)
    undisturbed = old.parent / "again" / "place"
    build(undisturbed, "old")
    spoil(undisturbed)
    left = {name: content for name, content in tree(old.parent).items() if not name.startswith("again/")}
    assert left.keys() == set(tree(undisturbed.parent))
    assert {p.name for p in old.parent.iterdir()} <= {"place", "again", "elsewhere"}


def test_a_link_to_a_folder_stays_a_link(old: Path) -> None:
    link = old.parent / "link"
    link.symlink_to(old)
    build(link, "new")
    assert link.is_symlink()
    assert words(old) == "new"
    (old.parent / "dangling").symlink_to(old.parent / "far" / "away")
    build(old.parent / "dangling", "new")
    assert words(old.parent / "far" / "away") == "new"


def test_the_folder_that_one_works_in_stays_and_its_files_are_exchanged(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old / "below")
    number = old.stat().st_ino
    build(Path(".."), "new")
    assert words(old) == "new"
    assert old.stat().st_ino == number
    assert list(old.parent.iterdir()) == [old]


def test_a_parent_that_may_not_be_written_to_is_no_hindrance(old: Path) -> None:
    for path in [old.parent, *old.parent.parents]:
        if path == Path("/tmp") or not str(path).startswith("/tmp"):
            break
        path.chmod(0o755)
    for path in [old, *old.rglob("*")]:
        shutil.chown(path, 65534)
    with as_nobody():
        build(old, "new")
        assert words(old) == "new"
        assert list(old.parent.iterdir()) == [old]
        with pytest.raises(InputError, match=r"other: cannot be written to \(Permission denied\)"):
            build(old.parent / "other", "new")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("number", range(7))
def test_whatever_rename_fails_all_of_it_is_old_or_new(
    old: Path, number: int, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses one rename; where it is the folder's own (a mount point), its entries are exchanged."""
    rename, count = Path.rename, []

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".probe"):
            return rename(self, target)
        count.append(self)
        if len(count) == number + 1 or (in_place and self == old):
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    done = False
    with suppress(InputError):
        build(old, "new")
        done = True
    assert words(old) == ("new" if done else "old")
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path, in_place: bool) -> None:
    rename = Path.rename
    for number in range(7):
        parent = tmp_path / str(number)
        build(parent / "place", "old")
        kept = tree(parent / "place")
        if (pid := os.fork()) == 0:
            count = []

            def die(self: Path, target: Path, count: list[Path] = count, last: int = number) -> Path:
                if not self.name.startswith(".probe"):
                    count.append(self)
                    if len(count) == last + 1:
                        os._exit(9)
                return rename(self, target)

            Path.rename = die  # type: ignore[method-assign]
            if in_place:
                os.chdir(parent / "place")
            build(parent / "place", "new")
            os._exit(0)
        os.waitpid(pid, 0)
        everything = tree(parent)
        if "place/a.txt" in everything and everything["place/a.txt"] == b"new":
            continue
        for name, content in kept.items():  # in its place, or beside under a name that says so
            where = [path for path, found in everything.items() if path.endswith(f"/{name}") and found == content]
            assert where, name
            assert all(path == f"place/{name}" or ".replaced-" in path for path in where)


@pytest.mark.slow
def test_a_mount_point_is_exchanged_in_place(tmp_path: Path) -> None:
    """A bind mount of the same disk: nothing but trying tells it from any other folder."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.test_exchange import build, words
place = Path({str(tmp_path / "place")!r})
number = place.stat().st_ino
build(place, "new")
assert words(place) == "new" and place.stat().st_ino == number
"""
    build(tmp_path / "place", "old")
    enter = f'mount --bind "{tmp_path}/place" "{tmp_path}/place" && exec "{sys.executable}" -c "$1"'
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to mount where only the test sees it")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    ended = subprocess.run(
        ["unshare", "--mount", "bash", "-c", enter, "enter", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert words(tmp_path / "place") == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "place"]


@pytest.mark.parametrize("place", ["/", "~", str(ROOT)])
def test_folders_full_of_other_things_are_refused_before_anything_is_built(place: str) -> None:
    def exchange() -> None:
        with exchanging(Path(place).expanduser(), summed):
            pytest.fail("built for nothing")

    with pytest.raises(InputError, match="which this command did not write there"):
        exchange()


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "place").write_text("mine")
    with pytest.raises(InputError, match="place: is a file; give a folder"):
        build(tmp_path / "place", "new")
    assert (tmp_path / "place").read_text() == "mine"


# -- single files ------------------------------------------------------------------------------------------------------


def is_ours(path: Path) -> bool:
    return path.read_text().startswith("ours")


@pytest.mark.parametrize("spoil", ["foreign", "link", "folder", "meanwhile"])
def test_a_file_is_replaced_only_where_it_is_ours(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "a.txt"
    with replacing(path, is_ours) as temporary:
        temporary.write_text("ours 1")
    if spoil == "link":
        path.rename(tmp_path / "b.txt")
        path.symlink_to("b.txt")
    elif spoil == "folder":
        path.unlink()
        path.mkdir()
    elif spoil == "foreign":
        path.write_text("mine")
    before = tree(tmp_path)

    def replace() -> None:
        with replacing(path, is_ours) as temporary:
            temporary.write_text("ours 2")
            path.write_text("mine")

    with pytest.raises(InputError, match=r"a\.txt: is there already, and this command did not write it"):
        replace()
    assert tree(tmp_path) == ({"a.txt": b"mine"} if spoil == "meanwhile" else before)


def test_a_link_to_nothing_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match="rename it"):
        check_replaceable(tmp_path / "a.txt", is_ours)


def test_results_among_what_is_read_are_refused_however_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "images" / "7").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    (tmp_path / "images" / "9").symlink_to(tmp_path / "far")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    for out in ("images", "images/7/out", "link/7", "images/8/../7", "images/9", "far/out"):
        with pytest.raises(InputError, match="which is read from; give a folder outside of it"):
            check_apart(tmp_path / out, tmp_path / "images")
    check_apart(tmp_path, tmp_path / "images")
    check_apart(tmp_path / "images2", tmp_path / "images")
