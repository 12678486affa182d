"""Whether the slices of a series agree with each other and with what an image of a lumbar spine can be."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from lumbar import geometry
from lumbar.dicom.file import Slice
from lumbar.dicom.flaws import IssueLog
from lumbar.geometry import Plane

#: Height and width of an image, mm: a lumbar axial image is 120 or more, one of the whole spine less than 700.
FIELD_MM: Final = (60.0, 700.0)
#: Distance of neighbouring slices, mm: three-dimensional sequences go down to 0.4, sagittal slices lie 3 to 6 apart.
STEP_MM: Final = (0.3, 15.0)
#: Slices nearer to each other than this share of their thickness are positions in other units.
MIN_STEP_SHARE: Final = 0.2
#: Sagittal slices farther apart than this many times their thickness are positions in other units, or some are missing.
MAX_STEP_SHARE: Final = 3.0
#: The step between slices may differ from SpacingBetweenSlices by this share.
SAME_STEP: Final = 0.2
#: A slice whose field of view differs from the usual one of its stack by more than this factor is odd: of as many
#: pixels, and of another number (a cropped image has a smaller field).
SAME_FIELD, SAME_FIELD_CROPPED = 1.05, 1.25
#: Row and column axes turned by more than this against the usual ones of the stack are odd, degrees.
SAME_AXES_DEG: Final = 3.0
_SAME_AXES: Final = float(np.cos(np.radians(SAME_AXES_DEG)))
#: Slices of one stack lie behind each other: where most do to the first limit, one beyond the second is odd, mm.
BEHIND_MM, BESIDE_MM = 2.0, 5.0
#: Centres farther apart within their common plane belong to different stations of a longer spine, mm.
STATION_MM: Final = 25.0
#: Most slices: so many say what is usual.
FAIR_MOST: Final = 0.5
#: Odd slices are left out while they are at most this share of their stack.
FEW: Final = 0.25
#: Correlation with the neighbours must differ by this much before the pixels decide how an image lies.
CLEAR: Final = 0.1
_SMALL: Final = (48, 48)


def usable_field(slices: Sequence[Slice], log: IssueLog) -> list[Slice]:
    """Slices whose field of view can be that of a lumbar spine; the rest is left out, with the numbers."""
    kept: list[Slice] = []
    odd: dict[str, list[str]] = {}
    for item in slices:
        height, width = _field_mm(item)
        if FIELD_MM[0] <= min(height, width) and max(height, width) <= FIELD_MM[1]:
            kept.append(item)
        else:
            odd.setdefault(f"{height:.4g} x {width:.4g} mm", []).append(item.name)
    for size, names in odd.items():
        log.add(
            "slice_dropped",
            f"a field of view of {size} is not that of a lumbar spine "
            f"({FIELD_MM[0]:g} to {FIELD_MM[1]:g} mm); PixelSpacing or the image size is wrong",
            names,
        )
    return kept


def usable_steps(ordered: Sequence[Slice], steps_mm: Sequence[float], plane: Plane, log: IssueLog) -> bool:
    """Whether slices sorted by position lie as far apart as slices of a spine can (their usual step, mm).

    What does not is told. Axial slices may lie far apart, since some protocols take one a disc.
    """
    if not len(steps_mm):
        return True
    step = float(np.median(steps_mm))
    thickness = _thickness(ordered)
    near = step < STEP_MM[0] or (thickness is not None and step < MIN_STEP_SHARE * thickness)
    if not near and (plane != "sagittal" or step <= STEP_MM[1]):
        return True
    thick = "" if thickness is None else f", each {thickness:g} mm thick"
    log.add(
        "slice_dropped",
        f"{step:.3g} mm apart{thick}: the spacing of ImagePositionPatient cannot be that of a spine",
        [item.name for item in ordered],
    )
    return False


def steps_as_told(stacks: Sequence[Sequence[Slice]], plane: Plane, log: IssueLog) -> None:
    """Tell where the step between the slices of a series (each stack in order) contradicts what the tags say of it.

    Some scanners write the gap between the slices as SpacingBetweenSlices, which is accepted.
    """
    steps = [step for stack in stacks for step in np.diff(_along(stack, plane)).tolist()]
    if not steps:
        return
    step, slices = float(np.median(steps)), [item for stack in stacks for item in stack]
    thick = _thickness(slices)
    told = _usual([item.spacing_between or 0 for item in slices if (item.spacing_between or 0) > 0], slices)
    said = ""
    if told is not None and not any(abs(step / (told + gap) - 1) <= SAME_STEP for gap in (0.0, thick or 0.0)):
        said = f"SpacingBetweenSlices says {told:.3g} mm"
    elif told is None and plane == "sagittal" and thick is not None and step > MAX_STEP_SHARE * thick:
        said = f"each is {thick:.3g} mm thick"
    if said:
        log.add(
            "geometry_doubtful",
            f"the slices lie {step:.3g} mm apart by ImagePositionPatient, but {said}; positions may be wrong or slices "
            "missing",
        )


def _along(stack: Sequence[Slice], plane: Plane) -> geometry.FloatArray:
    return geometry.positions_mm(np.stack([item.affine for item in stack]), geometry.PLANE_AXIS[plane])


def _usual(values: Sequence[float], slices: Sequence[Slice]) -> float | None:
    return float(np.median(values)) if len(values) > len(slices) / 2 else None


def _thickness(slices: Sequence[Slice]) -> float | None:
    """SliceThickness that most slices name, mm; None where it is absent or absurd."""
    values = [item.thickness_mm for item in slices if item.thickness_mm is not None]
    return _usual(values, slices)


def _field_mm(item: Slice) -> tuple[float, float]:
    """Height and width of the image, mm."""
    (rows, columns), (between_rows, between_columns) = item.shape, item.spacing_mm
    return rows * between_rows, columns * between_columns


def fields_alike(stack: list[Slice], log: IssueLog) -> list[Slice]:
    """The slices of a stack without the few whose field of view contradicts the rest; where they are many, all."""
    if _one_grid(stack):
        return stack
    extents = np.array([_extent_mm(item, stack[0]) for item in stack])
    usual = np.median(extents, axis=0)
    shape = _usual_shape(stack)
    limit = np.array([SAME_FIELD if item.shape == shape else SAME_FIELD_CROPPED for item in stack])[:, None]
    odd = ((extents > usual * limit) | (extents < usual / limit)).any(axis=1)
    if not odd.any() or len(stack) < 3:
        return stack
    names = [item.name for item, strange in zip(stack, odd, strict=True) if strange]
    height, width = _field_mm(stack[int(np.argmax(odd))])
    rare = odd.sum() <= max(1, FEW * len(stack))
    log.add(
        "slice_dropped" if rare else "geometry_differs",
        f"a field of view of {height:.4g} x {width:.4g} mm, where the other slices have "
        f"{usual[1]:.4g} x {usual[0]:.4g} mm; PixelSpacing may be wrong",
        names,
    )
    return [item for item, strange in zip(stack, odd, strict=True) if not strange] if rare else stack


def _one_grid(stack: Sequence[Slice]) -> bool:
    """Whether all slices have one size and one grid of pixels, to the last bit, as those of nearly every stack."""
    return len({(item.shape, item.affine[:3, :2].tobytes()) for item in stack}) == 1


def behind_each_other(stack: list[Slice], log: IssueLog) -> list[Slice]:
    """The slices of a stack without the few that lie beside the line on which the middles of most lie; it is told."""
    if len(stack) < 3:
        return stack
    along = geometry.normal(stack[0].affine)
    middles = np.array([item.centre_mm for item in stack])
    middles -= (middles @ along)[:, None] * along
    beside = np.linalg.norm(middles - np.median(middles, axis=0), axis=1)
    shape = _usual_shape(stack)
    odd = (beside > BESIDE_MM) & np.array([item.shape == shape for item in stack])  # a crop has another middle
    if not odd.any() or (beside <= BEHIND_MM).mean() < FAIR_MOST:
        return stack
    names = [item.name for item, strange in zip(stack, odd, strict=True) if strange]
    rare = odd.sum() <= max(1, FEW * len(stack))
    log.add(
        "slice_dropped" if rare else "geometry_differs",
        f"{beside[odd].max():.0f} mm beside the other slices; ImagePositionPatient may be wrong",
        names,
    )
    return [item for item, strange in zip(stack, odd, strict=True) if not strange] if rare else stack


def _usual_shape(stack: Sequence[Slice]) -> tuple[int, int]:
    return Counter(item.shape for item in stack).most_common(1)[0][0]


def _extent_mm(item: Slice, first: Slice) -> tuple[float, float]:
    """Extent of the image along the row and the column axis of the first slice, mm."""
    height, width = _field_mm(item)
    rows, columns = item.axes
    return tuple(abs(rows @ way) * width + abs(columns @ way) * height for way in first.axes)  # type: ignore[return-value]


def axes_alike(stack: list[Slice], log: IssueLog) -> list[Slice]:
    """The slices of a stack without those whose rows and columns cannot run as their header says.

    Rows and columns may run another way than on the other slices. The pixels are compared with the neighbours', which
    can show that the header is wrong. Either is told.
    """
    if _one_grid(stack):
        return stack
    lots: list[list[Slice]] = []
    for item in stack:
        lot = next((lot for lot in lots if _same_axes(lot[0], item)), None)
        lots.append([item]) if lot is None else lot.append(item)
    if len(lots) < 2 or len(stack) < 3:
        return stack
    usual = max(lots, key=len)
    left: list[Slice] = []
    for lot in lots:
        if lot is not usual:
            left += _contradicting(lot, usual, log)
    return [item for item in stack if item not in left]


def _contradicting(lot: list[Slice], usual: list[Slice], log: IssueLog) -> list[Slice]:
    """The slices of a lot with axes of its own, where the pixels lie as the usual axes say and not as their own."""
    names = [item.name for item in lot]
    what = f"the in-plane axes (ImageOrientationPatient) differ from those of the other {len(usual)} slices"
    gain = float(np.mean([_fit(item, usual, own=True) - _fit(item, usual, own=False) for item in lot]))
    rare = len(lot) <= max(1, FEW * (len(lot) + len(usual)))
    if gain < -CLEAR or (gain < CLEAR and rare and len(lot) < len(usual)):
        log.add("slice_dropped", f"{what}, and the pixels do not show it; left out", names)
        return lot
    log.add("orientation_differs", f"{what}; the slices were turned as their own header says", names)
    return []


def _same_axes(one: Slice, other: Slice) -> bool:
    return all(own @ way >= _SAME_AXES for own, way in zip(one.axes, other.axes, strict=True))


def _fit(item: Slice, usual: Sequence[Slice], *, own: bool) -> float:
    """Correlation of a slice with the nearest slice of the usual axes, turned by its own axes or by those."""
    other = min(usual, key=lambda each: abs((each.affine[:3, 3] - item.affine[:3, 3]) @ item.affine[:3, 2]))
    affine = item.affine if own else other.affine
    pictures = [
        _thumbnail(pixels, axes, item.plane) for pixels, axes in ((item.pixels, affine), (other.pixels, other.affine))
    ]
    return float((pictures[0] * pictures[1]).mean())


def _thumbnail(pixels: np.ndarray, affine: geometry.FloatArray, plane: Plane) -> np.ndarray:
    """A small, standardised picture of an image as it is usually displayed."""
    turned, _ = geometry.canonical(np.asarray(pixels, np.float32), affine, plane)
    small = cv2.resize(np.ascontiguousarray(turned), _SMALL, interpolation=cv2.INTER_AREA)
    spread = float(small.std())
    return (small - small.mean()) / spread if spread else small * 0


def stations(slices: Sequence[Slice], log: IssueLog) -> list[list[Slice]]:
    """Slices of about one orientation by station, from the feet: parts of a longer spine, beside each other in plane.

    A few slices that lie beside all others are none of a station; they are left out and told.
    """
    along = geometry.normal(slices[0].affine)

    def beside_mm(one: Slice, other: Slice) -> float:
        way = one.centre_mm - other.centre_mm
        return float(np.linalg.norm(way - (way @ along) * along))

    found: list[list[Slice]] = []
    for item in slices:
        near = [part for part in found if any(beside_mm(item, one) <= STATION_MM for one in part)]
        found = [part for part in found if part not in near] + [[*(one for part in near for one in part), item]]
    largest = max(found, key=len)
    kept = []
    for part in found:
        if part is largest or len(part) > max(1, FEW * len(largest)):
            kept.append(part)
        else:
            what = f"lies {beside_mm(part[0], largest[0]):.0f} mm beside the other slices"
            log.add(
                "slice_dropped",
                f"{what}; its position or orientation may be wrong",
                [item.name for item in part],
            )
    return sorted(kept, key=lambda part: float(np.mean([one.centre_mm[2] for one in part])))
