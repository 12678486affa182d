"""The slices of one folder brought into order: one plane, stacks and stations, from right to left or feet to head."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from lumbar import geometry
from lumbar.dicom.consistency import (
    FEW,
    axes_alike,
    behind_each_other,
    fields_alike,
    stations,
    steps_as_told,
    usable_steps,
)
from lumbar.dicom.file import Slice
from lumbar.dicom.flaws import IssueLog
from lumbar.dicom.mixture import one_origin
from lumbar.geometry import Plane
from lumbar.issues import few

#: Slices whose normals differ by more belong to different stacks, degrees.
STACK_ANGLE_DEG: Final = 1.0
#: Sagittal slices turned by more than this against most of their series are a localiser's, degrees; few by the first.
FEW_ANGLE_DEG, SAGITTAL_ANGLE_DEG = 5.0, 15.0
#: The plane that a series is named after counts while it has at least this share of the slices of another.
NAMED_SHARE: Final = 1 / 5
#: A step longer than this many ordinary steps starts a new axial stack.
STACK_GAP: Final = 2.5
#: A step longer than this many ordinary steps means that slices are missing.
MISSING_GAP: Final = 1.5
#: Planes of one stack nearer than this are one position, mm.
SAME_POSITION_MM: Final = 0.05
#: A slice belongs to a series' plane while its normal is within 60 degrees of the plane's axis.
MIN_PLANE_COSINE: Final = 0.5


def arrange(
    found: Sequence[Slice], description: str, log: IssueLog
) -> tuple[list[tuple[list[Slice], list[int]]], Plane]:
    """The slices of the series' plane in patient order and the stack of each, station by station from the feet."""
    plane = _series_plane(found, description)
    axis = geometry.PLANE_AXIS[plane]
    kept: list[Slice] = []
    for item in found:
        if abs(geometry.normal(item.affine)[axis]) < MIN_PLANE_COSINE:
            own = geometry.plane_of(item.affine)
            log.add("slice_dropped", f"a {own} slice in a {plane} series", item.name)
        else:
            kept.append(item if item.plane == plane else replace(item, plane=plane))
    kept = one_origin(kept, description, plane, log)
    parts = [kept] if kept else []
    if plane == "sagittal" and kept:
        alike = axes_alike(_without_localisers(_by_orientation(kept), log), log)
        parts = [behind_each_other(part, log) for part in stations(fields_alike(alike, log), log)]
    if len(parts) > 1:
        log.add("several_stations", f"{len(parts)} stations of {_sizes(parts)} slices")
    arranged = []
    for part in parts:
        stacks = [stack for lot in _by_orientation(part) for stack in _by_position(lot, plane, log)]
        if stacks:
            steps_as_told(stacks, plane, log)
            arranged.append(_stacked(stacks, axis, log))
    return arranged, plane


def _without_localisers(lots: list[list[Slice]], log: IssueLog) -> list[Slice]:
    """Sagittal slices of the orientation that most have; those turned clearly against it are left out."""
    largest = max(lots, key=len)
    usual = geometry.normal(largest[0].affine)
    kept: list[Slice] = []
    for lot in lots:
        turned = math.degrees(math.acos(min(1.0, abs(float(geometry.normal(lot[0].affine) @ usual)))))
        if turned <= (FEW_ANGLE_DEG if len(lot) <= FEW * len(largest) else SAGITTAL_ANGLE_DEG):
            kept += lot
        else:
            what = f"turned by {turned:.0f} degrees against the orientation of the series, as a localiser is"
            log.add("slice_dropped", what, [item.name for item in lot])
    return kept


def _sizes(lots: Sequence[Sequence[Slice]]) -> str:
    return few([str(len(lot)) for lot in lots], 8)


def _stacked(stacks: list[list[Slice]], axis: int, log: IssueLog) -> tuple[list[Slice], list[int]]:
    """Stacks one behind the other along the patient's axis, and the stack of each slice."""
    stacks = sorted(stacks, key=lambda stack: float(np.mean([item.centre_mm[axis] for item in stack])))
    if len(stacks) > 1:
        log.add("several_stacks", f"{len(stacks)} stacks of {_sizes(stacks)} slices")
    slices = [item for stack in stacks for item in stack]
    return slices, [number for number, stack in enumerate(stacks) for _ in stack]


def _series_plane(found: Sequence[Slice], description: str) -> Plane:
    """The plane that the description names, where it has a fair share of the slices; else the plane of most.

    Coronal slices, which no part asks for, count only where there are no others.
    """
    planes = [geometry.plane_of(item.affine) for item in found]
    counts = {plane: planes.count(plane) for plane in geometry.PLANE_AXIS}
    if counts["sagittal"] + counts["axial"]:
        counts["coronal"] = 0
    largest = max(counts.values())
    named = description.lower()
    return max(counts, key=lambda plane: (plane in named and counts[plane] >= NAMED_SHARE * largest > 0, counts[plane]))


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
    """Slices of one orientation sorted by position, split at wide gaps; what repeats or contradicts is left out."""
    positions = geometry.positions_mm(np.stack([item.affine for item in group]), geometry.PLANE_AXIS[plane])
    ordered: list[tuple[float, Slice]] = []
    for position, item in sorted(zip(positions.tolist(), group, strict=True), key=lambda pair: pair[0]):
        if ordered and position - ordered[-1][0] < SAME_POSITION_MM:
            first = ordered[-1][1]
            twin, item = (item, first) if item.file_order > first.file_order else (first, item)
            ordered[-1] = (ordered[-1][0], item)
            log.add("slice_dropped", f"same position as {item.name}", twin.name)
        else:
            ordered.append((position, item))
    steps = np.diff([position for position, _ in ordered])
    usual = float(np.percentile(steps, 25, method="lower")) if len(steps) > 1 else math.inf
    stacks = [[ordered[0]]]
    for step, entry in zip(steps, ordered[1:], strict=True):
        if plane != "sagittal" and step > STACK_GAP * usual:
            stacks.append([])
        stacks[-1].append(entry)
    return [kept for stack in stacks if (kept := _checked(stack, usual, plane, log))]


def _checked(stack: list[tuple[float, Slice]], usual: float, plane: Plane, log: IssueLog) -> list[Slice]:
    """The slices of a stack that agree with each other; none where they lie as no slices of a spine can."""
    slices = [item for _, item in stack]
    if plane != "sagittal":  # sagittal ones were looked at in common
        alike = fields_alike(axes_alike(slices, log), log)
        found = [item for part in stations(alike, log) for item in behind_each_other(part, log)]
        slices = [item for item in slices if item in found]
    kept = [(position, item) for position, item in stack if item in slices]
    steps = np.diff([position for position, _ in kept])
    if not usable_steps(slices, steps.tolist(), plane, log):
        return []
    for step, (_, item) in zip(steps, kept[1:], strict=True):
        if step > MISSING_GAP * usual:
            log.add("slices_missing", f"{step:.1f} mm lie before it, where {usual:.1f} mm is usual", item.name)
    return slices
