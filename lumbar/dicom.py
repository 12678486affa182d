"""DICOM files of one series folder -> `Series`: decoded once, checked, in patient order, with an Issue for every flaw.

Only ImagePositionPatient and ImageOrientationPatient decide sides and order; a slice without them is left out.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from lumbar import geometry
from lumbar.dicom_file import Slice, read_slices
from lumbar.dicom_pixels import IssueLog, RoomError, is_constant
from lumbar.geometry import Plane
from lumbar.issues import Issue

__all__ = ["Series", "Slice", "dicom_files", "read_series"]

#: Slices whose normals differ by more belong to different stacks, degrees.
STACK_ANGLE_DEG: Final = 1.0
#: A step longer than this many ordinary steps starts a new axial stack.
STACK_GAP: Final = 2.5
#: A step longer than this many ordinary steps means that slices are missing.
MISSING_GAP: Final = 1.5
#: Planes of one stack nearer than this are one position, mm.
SAME_POSITION_MM: Final = 0.05
#: A slice belongs to a series' plane while its normal is within 60 degrees of the plane's axis.
MIN_PLANE_COSINE: Final = 0.5
#: Decoded pixels that a study may hold; 2,000 slices of 1,024 x 1,024 pixels just fit.
MAX_STUDY_BYTES: Final = 4 * 2**30


@dataclass(frozen=True, eq=False)
class Series:
    """The usable slices of one series in patient order: sagittal from right to left, axial from the feet to the head.

    Several stacks are kept together stack by stack; `stacks` gives the stack of each slice, counted from 0.
    """

    series_id: int
    description: str
    plane: Plane
    slices: tuple[Slice, ...]
    stacks: tuple[int, ...]
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

    def stack_indices(self, index: int) -> NDArray[np.intp]:
        """Indices, in patient order, of the slices in the same stack as slice `index`."""
        return np.flatnonzero(np.asarray(self.stacks) == self.stacks[index])

    @cached_property
    def spacing_mm(self) -> float | None:
        """Median distance between neighbouring slices of one stack from their positions, mm; None if there are none."""
        steps = [
            np.diff(geometry.positions_mm(self.affines[np.asarray(self.stacks) == stack], _axis(self.plane)))
            for stack in sorted(set(self.stacks))
        ]
        joined = np.concatenate(steps)
        return float(np.median(joined)) if len(joined) else None

    @property
    def spacing_tag(self) -> float | None:
        """SpacingBetweenSlices of the first file in natural order, mm."""
        return min(self.slices, key=lambda item: item.file_order).spacing_between


def read_series(
    folder: Path, series_id: int, description: str, study_id: int, room: int = MAX_STUDY_BYTES
) -> tuple[Series | None, list[Issue]]:
    """Read all `.dcm` files of a folder, each opened once; None where no slice is usable.

    Whatever is wrong with a file's content becomes an Issue and leaves that slice out; nothing is raised for it. A
    series that needs more than `room` bytes for its pixels is left out whole, since a part would have another middle.
    """
    log = IssueLog(study_id, series_id)

    def refused(reason: str) -> tuple[None, list[Issue]]:
        log.add("series_ignored", f"series {series_id} ({description}): {reason}")
        return None, log.issues

    try:
        paths = dicom_files(folder)
    except OSError as error:
        return refused(f"folder {folder.name} cannot be read ({error.strerror})")
    found: list[Slice] = []
    order = 0
    for path in paths:
        try:
            slices = read_slices(path, order, log, room)
        except RoomError:
            return refused(f"its pixels and those before it in the study need more than {MAX_STUDY_BYTES >> 30} GB")
        order += max(len(slices), 1)
        room -= sum(item.pixels.nbytes for item in slices)
        found += slices
    slices, stacks, plane = _arrange(_numbered(found, log), description, log)
    if slices and all(is_constant(item.pixels) for item in slices):
        log.add("series_ignored", f"all {len(slices)} slices hold one value only")
        slices = []
    if not slices:
        return refused("no slice is usable" if paths else f"no .dcm file in {folder.name}")
    return Series(series_id, description, plane, tuple(slices), tuple(stacks)), log.issues


def dicom_files(folder: Path) -> list[Path]:
    """What is named `.dcm` in a folder, in natural order (2 before 10); empty where there is no folder.

    Raises OSError where the folder may not be read.
    """
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (_natural(path.stem), path.name))


def _numbered(found: list[Slice], log: IssueLog) -> list[Slice]:
    """The slices with numbers of their own: where one is taken already, the next free one above all of them."""
    taken: set[int] = set()
    following = max((item.instance for item in found), default=0) + 1
    numbered = []
    for item in found:
        if item.instance in taken:
            log.add("slice_renumbered", f"{item.name}: number {item.instance} is taken, it is called {following}")
            item, following = replace(item, instance=following), following + 1
        taken.add(item.instance)
        numbered.append(item)
    return numbered


def _natural(text: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", text)]


def _axis(plane: Plane) -> int:
    return geometry.PLANE_AXIS[plane]


def _arrange(found: Sequence[Slice], description: str, log: IssueLog) -> tuple[list[Slice], list[int], Plane]:
    """The slices of the series' plane in patient order, and the stack of each."""
    plane = _series_plane(found, description)
    axis = _axis(plane)
    kept: list[Slice] = []
    for item in found:
        if abs(geometry.normal(item.affine)[axis]) < MIN_PLANE_COSINE:
            own = geometry.plane_of(item.affine)
            log.add("slice_dropped", f"{item.name}: a {own} slice in a {plane} series")
        else:
            kept.append(replace(item, plane=plane))
    groups: list[list[Slice]] = []
    for group in _by_orientation(kept):
        groups += _by_position(group, plane, log)
    groups.sort(key=lambda group: float(np.mean([_centre(item)[axis] for item in group])))
    if len(groups) > 1:
        log.add("several_stacks", f"{len(groups)} stacks of {', '.join(str(len(group)) for group in groups)} slices")
    slices = [item for group in groups for item in group]
    return slices, [number for number, group in enumerate(groups) for _ in group], plane


def _centre(item: Slice) -> geometry.FloatArray:
    return geometry.centre_mm(item.affine, item.shape)


def _series_plane(found: Sequence[Slice], description: str) -> Plane:
    """Plane of most slices; the description decides a tie."""
    planes = [geometry.plane_of(item.affine) for item in found]
    named = description.lower()
    return max(geometry.PLANE_AXIS, key=lambda plane: (planes.count(plane), plane in named))


def _by_orientation(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices grouped by their normal."""
    groups: list[list[Slice]] = []
    limit = math.cos(math.radians(STACK_ANGLE_DEG))
    for item in slices:
        own = geometry.normal(item.affine)
        near = (group for group in groups if abs(geometry.normal(group[0].affine) @ own) >= limit)
        group = next(near, None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return groups


def _by_position(group: list[Slice], plane: Plane, log: IssueLog) -> list[list[Slice]]:
    """Slices of one orientation sorted by position, repeated positions left out, split at wide gaps."""
    positions = geometry.positions_mm(np.stack([item.affine for item in group]), _axis(plane))
    ordered: list[tuple[float, Slice]] = []
    for position, item in sorted(zip(positions.tolist(), group, strict=True), key=lambda pair: pair[0]):
        if ordered and position - ordered[-1][0] < SAME_POSITION_MM:
            first = ordered[-1][1]
            twin, item = (item, first) if item.file_order > first.file_order else (first, item)
            ordered[-1] = (ordered[-1][0], item)
            log.add("slice_dropped", f"{twin.name}: same position as {item.name}")
        else:
            ordered.append((position, item))
    if len(ordered) < 3:
        return [[item for _, item in ordered]]
    steps = np.diff([position for position, _ in ordered])
    usual = float(np.percentile(steps, 25, method="lower"))
    stacks = [[ordered[0][1]]]
    for step, (_, item) in zip(steps, ordered[1:], strict=True):
        if plane != "sagittal" and step > STACK_GAP * usual:
            stacks.append([])
        elif step > MISSING_GAP * usual:
            log.add("slices_missing", f"{step:.1f} mm before {item.name}, where {usual:.1f} mm is usual")
        stacks[-1].append(item)
    return stacks
