"""Where the inputs are mounted, which device works, what Kaggle's image lacks. The same code on Kaggle and a laptop.

Folders are recognised by their marker files, never by a path: Kaggle mounts an input as `/kaggle/input/<slug>` or,
since August 2026, as `/kaggle/input/{competitions/<slug>,datasets/<owner>/<slug>,models/...,notebooks/...}`.
"""

import hashlib
import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lumbar.files.read import read_json
from lumbar.issues import InputError, few, printable

KAGGLE: Final = Path("/kaggle")
COMPETITION: Final = "rsna-2024-lumbar-spine-degenerative-classification"
DATA_VARIABLE, WEIGHTS_VARIABLE, OUT_VARIABLE = "LUMBAR_DATA", "LUMBAR_WEIGHTS", "LUMBAR_OUT"
#: Distributions that Kaggle's image lacks; a weights dataset carries their wheels in a folder of this name.
WHEELS: Final = ("segmentation-models-pytorch", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle")
WHEELS_FOLDER: Final = "wheels"
TABLE_MARKERS: Final = ("test_series_descriptions.csv", "train_series_descriptions.csv")
BUNDLE_MARKER: Final = "manifest.json"
#: Deepest marker: models/<owner>/<model>/<framework>/<variation>/<version>/<folder> below `/kaggle/input`.
_MAX_DEPTH: Final = 7
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The data folder (competition layout), the weights bundle and the folder for results."""

    data: Path
    weights: Path
    out: Path

    def __str__(self) -> str:
        return printable(f"data: {self.data} · weights: {self.weights} · results go to: {self.out}")


def find_inputs(
    *,
    kaggle: Path = KAGGLE,
    here: Path | None = None,
    environment: Mapping[str, str] | None = None,
    say: Say = print,
) -> Inputs:
    """Find data, weights and output folder: environment variables first, then what is attached, then what ships.

    What is attached on Kaggle goes before a `sample_data` or `weights` in the current folder, so that a checkout there
    cannot stand in for the competition's studies. Says one line of what was found. Raises InputError, one sentence that
    says what to attach, where something is missing or two different ones are attached.
    """
    here = Path.cwd() if here is None else here
    environment = os.environ if environment is None else environment
    attached = list(folders(kaggle / "input"))
    data = _given_data(environment) or _attached_data(attached)
    data = data or _shipped(here / "sample_data", TABLE_MARKERS)
    weights = folder_given(WEIGHTS_VARIABLE, BUNDLE_MARKER, environment=environment) or _attached_bundle(attached)
    weights = weights or _shipped(here / "weights", (BUNDLE_MARKER,))
    if data is None or weights is None:
        raise InputError(_what_to_attach(data, weights, kaggle, here))
    working = kaggle / "working"
    out = environment.get(OUT_VARIABLE) or (working if working.is_dir() else here)
    found = Inputs(data, weights, Path(out))
    say(str(found))
    return found


def is_competition_rerun(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this is Kaggle's hidden rerun, where a missing submission costs everything and nobody reads a message."""
    return bool((os.environ if environment is None else environment).get("KAGGLE_IS_COMPETITION_RERUN"))


def install_missing_wheels(*, kaggle: Path = KAGGLE, say: Say = print, wanted: Sequence[str] = WHEELS) -> list[str]:
    """Install what Kaggle's image lacks from the attached wheels, without network; returns what was installed.

    Nothing happens outside Kaggle or where nothing is missing. Call it before pydicom is imported, which looks for its
    decoders once. A missing wheel is told in a sentence and is no error here: who needs the package says so.
    """
    missing = [name for name in wanted if not _is_installed(name)]
    if not missing or not (kaggle / "input").is_dir():
        return []
    found = [folder for folder in folders(kaggle / "input") if folder.name == WHEELS_FOLDER]
    if not found:
        say(f"Not installed: {', '.join(missing)}; attach the weights dataset, which carries their wheels.")
        return []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += [f"--find-links={folder}" for folder in found]
    installed = []
    for name in missing:
        ended = subprocess.run([*command, name], capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            installed.append(name)
        else:
            reason = (ended.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            say(f"Not installed from the attached wheels: {name} ({reason}).")
    importlib.invalidate_caches()
    return installed


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _given_data(environment: Mapping[str, str]) -> Path | None:
    """What the variable names: a folder with tables, or whatever holds DICOM files; InputError where it is none."""
    value = environment.get(DATA_VARIABLE)
    if value and _shipped(Path(value), TABLE_MARKERS) is None:
        from lumbar.dicom.scan import holds_dicom  # loads pydicom, which looks for its decoders once

        if Path(value).is_file() or holds_dicom(Path(value)):
            return Path(value)
    return folder_given(DATA_VARIABLE, *TABLE_MARKERS, environment=environment)


def folder_given(variable: str, *markers: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that an environment variable names, None where it names none.

    InputError where it holds none of the `markers`, if there are any.
    """
    value = environment.get(variable)
    if not value:
        return None
    folder = Path(value)
    if markers and not any((folder / marker).is_file() for marker in markers):
        raise InputError(f"{variable}={value}: there is no {' or '.join(markers)} in it; point it to another folder")
    return folder


def _shipped(folder: Path, markers: tuple[str, ...]) -> Path | None:
    return folder if any((folder / marker).is_file() for marker in markers) else None


def _attached_data(attached: list[Path]) -> Path | None:
    """The competition's own folder, else the one folder with a test table, else the one with a training table."""
    for marker in TABLE_MARKERS:
        holders = [folder for folder in attached if (folder / marker).is_file()]
        holders = [folder for folder in holders if folder.name == COMPETITION] or holders
        if holders:
            return only_one(holders, marker, "data folders", DATA_VARIABLE)
    return None


def _attached_bundle(attached: list[Path]) -> Path | None:
    holders = [folder for folder in attached if _is_bundle(folder)]
    return only_one(holders, BUNDLE_MARKER, "weights bundles", WEIGHTS_VARIABLE) if holders else None


def _is_bundle(folder: Path) -> bool:
    """Whether the folder's manifest is a bundle's: other datasets have files of that name, too."""
    try:
        manifest = read_json(folder / BUNDLE_MARKER, "take it away")
    except InputError:
        return False
    return isinstance(manifest, dict) and {"members", "prior"} <= manifest.keys()


def only_one(holders: Sequence[Path], marker: str, what: str, variable: str) -> Path:
    """The one folder meant: what ships inside a checkout steps back, a folder that is mounted twice is one folder.

    InputError where several different ones are left.
    """
    holders = [folder for folder in holders if not (folder.parent / "lumbar" / "labels.py").is_file()] or holders
    different = {hashlib.sha256((folder / marker).read_bytes()).digest(): folder for folder in reversed(holders)}
    if len(different) > 1:
        names = few([str(folder) for folder in sorted(different.values())])
        raise InputError(f"several {what} are attached ({names}); detach all but one, or set {variable}")
    return holders[0]


def folders(root: Path) -> Iterator[Path]:
    """Folders below `root` that may hold a marker, nearest first; the competition's image folders are not entered."""
    level = [root] if root.is_dir() else []
    for _ in range(_MAX_DEPTH + 1):
        yield from level
        level = [child for folder in level for child in _children(folder)]


def _children(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # unlike iterdir, it knows a folder without another look at the disk
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.endswith("_images"))


def _what_to_attach(data: Path | None, weights: Path | None, kaggle: Path, here: Path) -> str:
    wanted = []
    if data is None:
        wanted.append(f"studies in the competition layout (the competition {COMPETITION}, or set {DATA_VARIABLE})")
    if weights is None:
        wanted.append(f"weights bundle (the weights dataset, or set {WEIGHTS_VARIABLE})")
    places = f"{kaggle / 'input'} and {here}"
    return f"found no {' and no '.join(wanted)}; looked in {places}: on Kaggle, attach it with 'Add Input'"
