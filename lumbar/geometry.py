"""The only home of coordinate arithmetic: pixels, patient millimetres, planes, windows of slices and boxes of pixels.

A slice's affine is a (4, 4) float64 matrix that takes (column, row, distance along the normal in mm, 1) to patient
millimetres (DICOM's LPS: x to the patient's left, y to the back, z to the head). Pixel centres lie at whole numbers.
Its first column is the step of one pixel along a row of the image, its second the step from row to row, its third the
unit normal (cross product of the two, right-handed), its fourth the centre of pixel (0, 0).
"""

from collections.abc import Sequence
from math import ceil, floor, isfinite
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = Literal["sagittal", "coronal", "axial"]
FloatArray = NDArray[np.float64]
Pixel = TypeVar("Pixel", bound=np.generic)

#: Patient axis that a plane's normal follows.
PLANE_AXIS: Final[dict[Plane, int]] = {"sagittal": 0, "coronal": 1, "axial": 2}
#: Usual display: where the columns and the rows of a plane run to, as (patient axis, sign).
DISPLAY: Final[dict[Plane, tuple[tuple[int, int], tuple[int, int]]]] = {
    "sagittal": ((1, +1), (2, -1)),  # columns to the back, rows to the feet
    "coronal": ((0, +1), (2, -1)),  # columns to the patient's left, rows to the feet
    "axial": ((0, +1), (1, +1)),  # columns to the patient's left, rows to the back
}
#: Sides by the sign of patient x in DICOM's LPS: the one place that says where left is.
LEFTWARDS: Final[dict[Literal["left", "right"], int]] = {"left": +1, "right": -1}
#: Below this part of a slice step two window positions count as equally near.
_TIE: Final = 1e-6


def slice_affine(ipp: ArrayLike, iop: ArrayLike, pixel_spacing: ArrayLike) -> FloatArray:
    """Affine of a slice from ImagePositionPatient (3,), ImageOrientationPatient (6,), PixelSpacing (row, column) mm."""
    direction = np.asarray(iop, np.float64)
    spacing = np.asarray(pixel_spacing, np.float64)
    affine = np.eye(4)
    affine[:3, 0] = direction[:3] * spacing[1]
    affine[:3, 1] = direction[3:] * spacing[0]
    affine[:3, 3] = np.asarray(ipp, np.float64)
    return _with_normal(affine)


def to_patient(affine: FloatArray, xy_px: ArrayLike) -> FloatArray:
    """Patient mm (..., 3) of in-plane points (..., 2) given as (column, row)."""
    xy = np.asarray(xy_px, np.float64)
    return xy @ affine[:3, :2].T + affine[:3, 3]


def to_pixel(affine: FloatArray, mm: ArrayLike) -> FloatArray:
    """(column, row, signed distance from the plane in mm) (..., 3) of patient points (..., 3)."""
    offset = np.asarray(mm, np.float64) - affine[:3, 3]
    return offset @ np.linalg.inv(affine[:3, :3]).T


def normal(affine: FloatArray) -> FloatArray:
    """Unit normal (..., 3) of one affine (4, 4) or of many (..., 4, 4)."""
    return np.asarray(affine)[..., :3, 2]


def spacing_mm(affine: FloatArray) -> tuple[float, float]:
    """Distance between rows and between columns in mm: the order of the PixelSpacing tag."""
    return float(np.linalg.norm(affine[:3, 1])), float(np.linalg.norm(affine[:3, 0]))


def centre_mm(affine: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Patient mm (3,) of the middle of an image of shape (rows, columns)."""
    return to_patient(affine, ((shape[1] - 1) / 2, (shape[0] - 1) / 2))


def plane_of(affine: FloatArray) -> Plane:
    """The anatomical plane that is nearest to the slice, by the largest component of its normal."""
    axis = int(np.argmax(np.abs(normal(affine))))
    return next(plane for plane, index in PLANE_AXIS.items() if index == axis)


def positions_mm(affines: FloatArray, axis: int | None = None) -> FloatArray:
    """Position (N,) of each plane along the common normal, in mm; `affines` is (N, 4, 4)."""
    affines = np.asarray(affines, np.float64)
    return affines[:, :3, 3] @ common_normal(affines, axis) if len(affines) else np.zeros(0)


def common_normal(affines: FloatArray, axis: int | None = None) -> FloatArray:
    """Unit mean normal (3,) of planes (N, 4, 4), N > 0, whichever way each is turned.

    It points so that its component along patient `axis` (default: its largest) is positive.
    """
    normals = normal(np.asarray(affines, np.float64))
    normals = normals * np.where(normals @ normals[0] < 0, -1.0, 1.0)[:, None]
    mean = normals.mean(axis=0)
    mean /= np.linalg.norm(mean)
    turned = mean[int(np.argmax(np.abs(mean))) if axis is None else axis] < 0
    return -mean if turned else mean


def plane_distances(affines: FloatArray, point_mm: ArrayLike) -> FloatArray:
    """Distance (N,) in mm, never negative, of a patient point (3,) from each of the planes (N, 4, 4)."""
    affines = np.asarray(affines, np.float64).reshape(-1, 4, 4)
    offsets = np.asarray(point_mm, np.float64) - affines[:, :3, 3]
    return np.abs(np.einsum("ni,ni->n", offsets, normal(affines)))


def above_mm(affines: FloatArray, points_mm: ArrayLike) -> FloatArray:
    """(N, K) how far each of the planes (N, 4, 4) lies from patient points (K, 3), along its normal: positive where the
    plane lies nearer to the head, whichever way it is turned."""
    affines = np.asarray(affines, np.float64)
    upwards = normal(affines) * np.where(affines[:, 2:3, 2] < 0, -1.0, 1.0)
    offsets = affines[:, None, :3, 3] - np.asarray(points_mm, np.float64)
    return np.einsum("nki,ni->nk", offsets, upwards)


def nearest_plane(affines: FloatArray, point_mm: ArrayLike, max_distance_mm: float) -> tuple[int | None, float]:
    """Index of the plane nearest to a point (the first of equals), None beyond `max_distance_mm`; and its distance."""
    distances = plane_distances(affines, point_mm)
    if len(distances) == 0 or not np.isfinite(distances).any():
        return None, float("inf")
    index = int(np.nanargmin(distances))
    distance = float(distances[index])
    return (index if distance <= max_distance_mm else None), distance


def box_px(
    center_px: tuple[float, float], size_mm: float | tuple[float, float], spacing_mm: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Pixel box (x1, y1, x2, y2), ends excluded, around (column, row); spacing is (row, column) mm, `size_mm` the side
    or (height, width).

    Both ends are rounded half to even, as the original system does, so the size varies by a pixel with the centre.
    """
    height, width = size_mm if isinstance(size_mm, tuple) else (size_mm, size_mm)
    half_x, half_y = width / spacing_mm[1] / 2, height / spacing_mm[0] / 2
    x, y = float(center_px[0]), float(center_px[1])
    return round(x - half_x), round(y - half_y), round(x + half_x), round(y + half_y)


def window_indices(
    count: int,
    num: int,
    *,
    center_index: float | None = None,
    offset_mm: float | None = None,
    spacing_mm: float | None = None,
    center_rule: Literal["nearest", "ceil"] = "nearest",
    end_rule: Literal["repeat", "inside", "zeros"] = "repeat",
) -> NDArray[np.intp]:
    """Indices (num,) of the window of `num` slices out of `count`; -1 stands for a slice filled with zeros.

    The window lies around `center_index` (default: the middle of the series), moved by `offset_mm` towards higher
    indices; without a usable `spacing_mm` the offset is ignored.

    nearest: the centre of the window is as near as slices allow to the wanted place; of two equal choices the one
    nearer to the middle of the series, so that a mirrored series gives the mirrored window. Exactly in the middle
    with one slice too many the lower half wins.
    ceil: the rounding of the original system; for a whole `center_index` or no offset, halves are rounded down.
    repeat: indices past an end become the border slice.
    inside: the window is moved as far inwards as the series has slices; one that is longer lies around its middle.
    zeros: the original's cut: a start before the first slice is moved to it, what lies past the last slice is -1.
    """
    if num < 1 or count < 0:
        raise ValueError(f"a window of {num} slices out of {count} does not exist")
    if count == 0:
        return np.full(num, -1, np.intp)
    shift = None
    if offset_mm is not None and spacing_mm is not None and isfinite(spacing_mm) and spacing_mm > 0:
        shift = offset_mm / spacing_mm
    start = (_start_nearest if center_rule == "nearest" else _start_ceil)(count, num, center_index, shift)
    if end_rule == "inside":
        longer = num > count
        start = _start_nearest(count, num, None, None) if longer else min(max(start, 0), count - num)
    if end_rule != "zeros":
        return np.clip(np.arange(start, start + num), 0, count - 1)
    start = min(max(start, 0), count)
    indices = np.arange(start, start + num)
    return np.where(indices < count, indices, -1)


def slab_window(
    stacks: Sequence[int],
    center_index: int,
    num: int,
    center_rule: Literal["nearest", "ceil"] = "nearest",
    end_rule: Literal["repeat", "inside", "zeros"] = "repeat",
) -> NDArray[np.intp]:
    """`window_indices` around a slice that stays inside this slice's stack; `stacks` names the stack of each slice."""
    members = np.flatnonzero(np.asarray(stacks) == stacks[center_index])
    local = window_indices(
        len(members),
        num,
        center_index=int(np.searchsorted(members, center_index)),
        center_rule=center_rule,
        end_rule=end_rule,
    )
    return np.where(local >= 0, members[local], -1)


def canonical(
    pixels: NDArray[Pixel], affine: FloatArray, plane: Plane | None = None
) -> tuple[NDArray[Pixel], FloatArray]:
    """Image (H, W) and affine turned to the usual display of their plane by a transpose and flips only.

    Sagittal: columns to the back, rows to the feet; axial: columns to the patient's left, rows to the back; coronal:
    columns to the patient's left, rows to the feet. Every pixel keeps its place in the patient. `plane` defaults to
    `plane_of`. The result is a view where it can be.
    """
    (x_axis, x_sign), (y_axis, y_sign) = DISPLAY[plane or plane_of(affine)]
    steps = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    turned = affine.copy()
    straight = abs(steps[x_axis, 0]) + abs(steps[y_axis, 1])
    crossed = abs(steps[x_axis, 1]) + abs(steps[y_axis, 0])
    if crossed > straight:
        pixels = pixels.T
        turned[:, [0, 1]] = turned[:, [1, 0]]
    if turned[x_axis, 0] * x_sign < 0:
        turned = _flip(turned, 0, pixels.shape[1])
        pixels = pixels[:, ::-1]
    if turned[y_axis, 1] * y_sign < 0:
        turned = _flip(turned, 1, pixels.shape[0])
        pixels = pixels[::-1]
    return pixels, _with_normal(turned)


def edge_letters(affine: FloatArray) -> tuple[str, str]:
    """What lies at the left and at the right edge of an image: R and L, A and P, or F and H, by its row direction."""
    along = affine[:3, 0]
    axis = int(np.argmax(np.abs(along)))
    low, high = ("RL", "AP", "FH")[axis]
    return (low, high) if along[axis] > 0 else (high, low)


def _start_nearest(count: int, num: int, center_index: float | None, shift: float | None) -> int:
    """First index of the window whose centre is nearest; halves go towards the middle of the series."""
    delta = shift or 0.0
    if center_index is not None:
        delta += center_index - (count - 1) / 2
    side = -1 if delta < 0 else 1
    if (count - num) % 2 == 0:
        return (count - num) // 2 + side * max(ceil(abs(delta) - 0.5 - _TIE), 0)
    steps = ceil(abs(delta) - 1 - _TIE)  # half steps: the window's centre lies between two places
    low = (count - num) // 2
    if steps < 0:
        return low
    return low + 1 + steps if side > 0 else low - steps


def _start_ceil(count: int, num: int, center_index: float | None, shift: float | None) -> int:
    """First index of the window by the original system's rules (`filename`, `centered_mm`, `middle`)."""
    if center_index is not None:
        return floor(center_index + (shift or 0.0)) - num // 2
    if shift is not None:
        return ceil(shift + count / 2 - 1 - num / 2)
    return (count - num) // 2


def _flip(affine: FloatArray, axis: int, size: int) -> FloatArray:
    """Affine of the image reversed along its columns (axis 0) or rows (axis 1), of which it has `size`."""
    flipped = affine.copy()
    flipped[:3, 3] += flipped[:3, axis] * (size - 1)
    flipped[:3, axis] *= -1
    return flipped


def _with_normal(affine: FloatArray) -> FloatArray:
    """The affine with its third column set to the right-handed unit normal."""
    (ax, ay, az), (bx, by, bz) = affine[:3, :2].T.tolist()
    cross = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])  # np.cross takes many times as long
    affine[:3, 2] = cross / np.linalg.norm(cross)
    return affine
