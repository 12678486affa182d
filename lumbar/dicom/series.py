"""DICOM files of one series folder -> `Series`: decoded once, checked, in patient order, with an Issue for every flaw.

Only ImagePositionPatient and ImageOrientationPatient decide sides and order; a slice without them is left out.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np

from lumbar import geometry
from lumbar.dicom.arrange import arrange
from lumbar.dicom.consistency import usable_field
from lumbar.dicom.file import Slice, read_slices
from lumbar.dicom.flaws import IssueLog, RoomError, few_files
from lumbar.dicom.kinds import first_bytes, is_dicom, what_it_is
from lumbar.dicom.pixels import is_constant
from lumbar.dicom.said import Headers
from lumbar.dicom.values import levelled
from lumbar.geometry import Plane
from lumbar.issues import Issue, cut

__all__ = ["Series", "Slice", "dicom_files", "read_series", "read_stations"]

#: Folders in a series' folder are looked into down to here.
MAX_DEPTH: Final = 16
#: What desktops leave in folders.
LITTER: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
#: Decoded pixels that a study may hold; 2,000 slices of 1,024 x 1,024 pixels just fit.
MAX_STUDY_BYTES: Final = 4 * 2**30


@dataclass(frozen=True, eq=False)
class Series:
    """The usable slices of one series in patient order: sagittal from right to left, axial from the feet to the head.

    Several slabs (DICOM: stacks) are kept together slab by slab; `slabs` gives the slab of each slice, counted from 0.
    """

    series_id: int
    description: str
    plane: Plane
    slices: tuple[Slice, ...]
    slabs: tuple[int, ...]
    affines: geometry.FloatArray = field(init=False, repr=False)  # (N, 4, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "affines", np.stack([item.affine for item in self.slices]))

    def __len__(self) -> int:
        return len(self.slices)

    def ordered(self, order: Literal["position", "file"] = "position") -> tuple[Slice, ...]:
        """The slices in patient order, or in the original system's order.

        file: natural order of the file names, reversed where the last slice lies before the first along the patient
        axis on which the two differ most.
        """
        if order == "position":
            return self.slices
        natural = sorted(self.slices, key=lambda item: item.file_order)
        way = natural[-1].affine[:3, 3] - natural[0].affine[:3, 3]
        reverse = way[int(np.argmax(np.abs(way)))] < 0
        return tuple(natural[::-1] if reverse else natural)

    @cached_property
    def spacing_mm(self) -> float | None:
        """Median distance between neighbouring slices of one stack from their positions, mm; None if there are none."""
        steps = [
            np.diff(
                geometry.positions_mm(self.affines[np.asarray(self.slabs) == slab], geometry.PLANE_AXIS[self.plane])
            )
            for slab in sorted(set(self.slabs))
        ]
        joined = np.concatenate(steps)
        return float(np.median(joined)) if len(joined) else None

    @cached_property
    def bounds_mm(self) -> tuple[geometry.FloatArray, geometry.FloatArray]:
        """Smallest and largest patient coordinates (3,) of the corners of all slices."""
        corners = np.concatenate(
            [
                geometry.to_patient(
                    item.affine, [[x, y] for x in (0, item.shape[1] - 1) for y in (0, item.shape[0] - 1)]
                )
                for item in self.slices
            ]
        )
        return corners.min(axis=0), corners.max(axis=0)

    @property
    def spacing_tag(self) -> float | None:
        """SpacingBetweenSlices of the first file in natural order, mm."""
        return min(self.slices, key=lambda item: item.file_order).spacing_between


def read_series(
    folder: Path, series_id: int, description: str, study_id: int, room: int = MAX_STUDY_BYTES
) -> tuple[Series | None, list[Issue]]:
    """As `read_stations`; of several stations the one nearest to the feet, where the lumbar spine lies."""
    found, issues = read_stations(folder, series_id, description, study_id, room)
    return (found[0] if found else None), issues


def read_stations(
    source: Path | Sequence[Path],
    series_id: int,
    description: str,
    study_id: int,
    room: int = MAX_STUDY_BYTES,
    known: Headers | None = None,
) -> tuple[list[Series], list[Issue]]:
    """Read all DICOM files of a folder, or those files, each opened once; nothing where no slice is usable.

    Files of a folder are numbered by their names, where these are numbers; given ones by their InstanceNumber alone.
    A sagittal series of the whole spine comes as one `Series` a station, the one nearest to the feet first; any other
    as one. Whatever is wrong with a file's content becomes an Issue and leaves that slice out; nothing is raised for
    it. A series that needs more than `room` bytes for its pixels is left out whole, since a part would have another
    middle. `known`: what the headers of the study's other series said.
    """
    # pydicom remarks on odd files; what matters of it becomes an Issue. For the process: files are read by threads.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    log = IssueLog(study_id, series_id)

    def refused(reason: str) -> tuple[list[Series], list[Issue]]:
        log.add("series_ignored", f"series {series_id} ({cut(description, 60)}): {reason}")
        return [], log.issues

    by_name = isinstance(source, Path)
    if isinstance(source, Path):
        try:
            paths, others = _by_content(source)
        except OSError as error:
            return refused(f"folder {source.name} cannot be read ({error.strerror})")
        _tell_names(source, paths, others, log)
        if not paths:
            return refused(f"no DICOM file in {source.name}")
    else:
        paths = list(source)
    found: list[Slice] = []
    order, known = 0, known or Headers()
    for path in paths:
        try:
            slices = read_slices(path, order, log, room, known, by_name=by_name)
        except RoomError:
            return refused(f"its pixels and those before it in the study need more than {MAX_STUDY_BYTES >> 30} GB")
        order += max(len(slices), 1)
        room -= sum(item.pixels.nbytes for item in slices)
        found += slices
    arranged, plane = arrange(usable_field(_numbered(levelled(found), log), log), description, log)
    made = [Series(series_id, description, plane, tuple(slices), tuple(stacks)) for slices, stacks in arranged]
    if made and all(is_constant(item.pixels) for series in made for item in series.slices):
        log.add("series_ignored", f"all {sum(map(len, made))} slices hold one value only")
        made = []
    if not made:
        return refused("no slice is usable")
    return made, log.issues


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files below a folder in natural order (2 before 10); empty where there is no folder.

    Files are known by their content, whatever their name; what is named `.dcm` is listed in any case, so that a
    damaged file is told. Raises OSError where the folder may not be read.
    """
    return _by_content(folder)[0]


def _by_content(folder: Path) -> tuple[list[Path], list[Path]]:
    """DICOM files below a folder, and the files that are none, both in natural order."""
    if not folder.is_dir():
        return [], []
    paths: list[Path] = []
    others: list[Path] = []
    for path in _files_below(folder):
        hidden = path.name.startswith(".")
        if (path.suffix.lower() == ".dcm" and not hidden) or is_dicom(first_bytes(path)):
            paths.append(path)
        elif path.name not in LITTER and not path.name.startswith("._"):
            others.append(path)
    return paths, others


def _files_below(folder: Path, depth: int = MAX_DEPTH) -> list[Path]:
    """What is no folder below a folder, in natural order; folders of the last depth and links to any as they are."""
    found: list[Path] = []
    for path in sorted(folder.iterdir(), key=lambda path: (natural(path.stem), path.name)):
        inside = depth > 0 and path.is_dir() and not path.is_symlink() and path.suffix.lower() != ".dcm"
        found += _files_below(path, depth - 1) if inside else [path]
    return found


def _tell_names(folder: Path, paths: Sequence[Path], others: Sequence[Path], log: IssueLog) -> None:
    """Issues for files that were passed over, and for odd names beside usual ones."""
    lots: dict[tuple[str, str] | None, list[str]] = {}
    for path in others:
        lots.setdefault(what_it_is(first_bytes(path)), []).append(path.relative_to(folder).as_posix())
    for what, passed in lots.items():
        why = "do not begin as DICOM images do" if what is None else f"are {what[0]}: {what[1]} them"
        log.add("file_ignored", f"{len(passed)} file(s) were passed over ({few_files(passed)}); they {why}")
    odd = [path for path in paths if path.suffix.lower() != ".dcm" or path.name.startswith(".")]
    if 0 < len(odd) < len(paths):
        names = few_files([path.relative_to(folder).as_posix() for path in odd])
        detail = (
            f"{len(odd)} of {len(paths)} files are DICOM by their content, not by their name ({names}); they were read"
        )
        log.add("name_of_file_ignored", detail)


def _numbered(found: list[Slice], log: IssueLog) -> list[Slice]:
    """The slices with numbers of their own: where one is taken already, the next free one above all of them."""
    taken: set[int] = set()
    following = max((item.instance for item in found), default=0) + 1
    numbered = []
    for item in found:
        if item.instance in taken:
            log.add("slice_renumbered", f"number {item.instance} is taken, it is called {following}", item.name)
            item, following = replace(item, instance=following), following + 1
        taken.add(item.instance)
        numbered.append(item)
    return numbered


def natural(text: str) -> list[str | int]:
    """Sorts texts with numbers in them: 2 before 10."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", text)]
