"""A person's spine: where discs and vertebrae lie, how big they are, and what narrows canal, recesses and foramina.

Thirteen disc planes carry the anatomy (see `vertebrae`); vertebra k lies between plane k and plane k + 1. A point is
described by its vertebra, its distances to the planes above and below, and (u, v): millimetres to the patient's left
and to the back, seen from the middle of the posterior wall of the vertebral bodies. Patient frame: LPS millimetres.
Sizes are those of adult lumbar spines (vertebral body about 45 × 33 mm, disc 7 to 11 mm, dural sac about 180 mm²).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from lumbar.phantom.vertebrae import PLANES, Column

#: Rows of the profile table per vertebra.
STEPS = 64
_ROWS: Final[int] = (PLANES - 1) * STEPS + 1


class Where(NamedTuple):
    """Points seen from the spine, arrays of one shape (N,)."""

    vertebra: np.ndarray  # k
    below_upper: np.ndarray  # mm below plane k
    above_lower: np.ndarray  # mm above plane k + 1
    u: np.ndarray  # mm to the left
    v: np.ndarray  # mm to the back
    row: np.ndarray  # row of the profile tables
    right: np.ndarray  # 0 left, 1 right


@dataclass(frozen=True)
class Profiles:
    """What varies along the spine: tables with `_ROWS` rows, or (2 sides, `_ROWS`), mm."""

    half_width: np.ndarray
    depth: np.ndarray
    sac_half_width: np.ndarray
    sac_front: np.ndarray
    sac_back: np.ndarray
    roof: np.ndarray
    ligament: np.ndarray  # thickness in the middle
    foramen: np.ndarray  # distance of the foramen from the middle
    bulge_middle: np.ndarray
    bulge_recess: np.ndarray  # (2, rows)
    ligament_recess: np.ndarray  # (2, rows)
    bulge_foramen: np.ndarray  # (2, rows)
    crowding: np.ndarray  # canal narrowing near its disc: 0 … 3


@dataclass(frozen=True)
class Spine:
    """Planes, frames and profiles of one person. `left`, `back`, `down` are the planes' unit axes, (13, 3)."""

    column: Column
    scale: float
    origin: np.ndarray
    left: np.ndarray
    back: np.ndarray
    down: np.ndarray
    disc: np.ndarray  # disc heights, mm
    foramen: np.ndarray  # (13,)
    recess_opening: np.ndarray  # (2, 13) mm
    fat_height: np.ndarray  # (2, 13) share of the foramen's height that fat fills
    fat_depth: np.ndarray  # (2, 13)
    frames: np.ndarray  # (rows, 8): left axis, its offset, back axis, its offset
    profiles: Profiles

    def locate(self, points: np.ndarray) -> Where:
        """Describe patient points (N, 3) float32 by vertebra, plane distances and (u, v)."""
        offsets = np.einsum("pi,pi->p", self.origin, self.down).astype(np.float32)
        distance = self.down.astype(np.float32) @ points.T - offsets[:, None]
        vertebra = np.zeros(len(points), np.int32)
        for plane in distance[1:-1]:
            vertebra += plane > 0
        flat = vertebra * len(points) + np.arange(len(points))
        distance = distance.reshape(-1)
        below, above = distance[flat], -distance[flat + len(points)]
        total = np.maximum(below + above, 1e-3)
        row = np.clip((vertebra + below / total) * STEPS + 0.5, 0, _ROWS - 1).astype(np.int32)
        frame = self.frames[row]
        u = np.einsum("ni,ni->n", points, frame[:, 0:3]) - frame[:, 3]
        v = np.einsum("ni,ni->n", points, frame[:, 4:7]) - frame[:, 7]
        return Where(vertebra, below, above, u, v, row, (u < 0).astype(np.int8))

    def point(self, plane: int, u: float, v: float, below: float = 0.0) -> np.ndarray:
        """Patient position (3,) of a point (u, v) lying `below` mm under a disc plane."""
        return self.origin[plane] + u * self.left[plane] + v * self.back[plane] + below * self.down[plane]

    def canal_point(self, plane: int) -> np.ndarray:
        """Centre of the dural sac at a disc plane."""
        row = plane * STEPS
        return self.point(plane, 0.0, float(self.profiles.sac_front[row] + self.profiles.sac_back[row]) / 2)

    def disc_front(self, plane: int) -> np.ndarray:
        """Where a disc ends in front, in the middle."""
        return self.point(plane, 0.0, -float(self.profiles.depth[plane * STEPS]))

    def recess_point(self, plane: int, right: int) -> np.ndarray:
        """The lateral recess of one side (0 left, 1 right) at a disc plane."""
        front, back = self.recess_span(plane, right)
        return self.point(plane, (-1 if right else 1) * RECESS_MM * self.scale, (front + back) / 2)

    def recess_span(self, plane: int, right: int) -> tuple[float, float]:
        """Front and back border (v, mm) of a lateral recess at a disc plane."""
        row = np.array([plane * STEPS])
        side = np.array([right])
        au = np.array([RECESS_MM * self.scale])
        return float(bulge(self, row, side, au)[0]), float(canal_back(self, row, side, au)[0])

    def foramen_point(self, plane: int, right: int) -> np.ndarray:
        """Centre of a foramen, level with the disc's upper rim."""
        return self.point(
            plane, (-1 if right else 1) * float(self.foramen[plane]), 4.6 * self.scale, FORAMEN_BELOW * self.scale
        )


#: Distance of the lateral recess from the middle, mm, and of a foramen's centre below its disc plane.
RECESS_MM = 10.2
FORAMEN_BELOW = -5.0
#: Slope of the canal's roof (laminae and ligamenta flava meet in a V).
ROOF_SLOPE = 0.60


def bulge(spine: Spine, row: np.ndarray, right: np.ndarray, au: np.ndarray) -> np.ndarray:
    """How far disc or posterior wall reach back (v, mm) at a distance `au` from the middle."""
    p, s = spine.profiles, spine.scale
    middle = p.bulge_middle[row] * np.exp(-fourth(au / (8.0 * s)))
    recess = p.bulge_recess[right, row] * np.exp(-np.square((au - RECESS_MM * s) / (5.0 * s)))
    outer = p.bulge_foramen[right, row] * np.exp(-np.square((au - p.foramen[row]) / (5.0 * s)))
    # Beside the canal the posterior wall falls away to the front.
    return np.maximum(np.maximum(middle, recess), outer) - 0.055 / s * np.square(np.maximum(au - 13 * s, 0))


def canal_back(spine: Spine, row: np.ndarray, right: np.ndarray, au: np.ndarray) -> np.ndarray:
    """Front face (v, mm) of the ligamenta flava, which is the canal's back wall."""
    p, s = spine.profiles, spine.scale
    middle = p.ligament[row] * np.exp(-fourth(au / (8.5 * s)))
    recess = p.ligament_recess[right, row] * np.exp(-np.square((au - RECESS_MM * s) / (5.0 * s)))
    return p.roof[row] - ROOF_SLOPE * np.minimum(au, 12.5 * s) - np.maximum(np.maximum(middle, recess), 0.4)


def fourth(values: np.ndarray) -> np.ndarray:
    """Fourth power; much faster than `np.power`."""
    return np.square(np.square(values))


def _frame(tilt: float, lean: float, twist: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes (left, back, down) of a plane tilted sagittally and coronally and turned about the spine, radians."""
    down = np.array([np.sin(lean), np.cos(lean) * np.sin(tilt), -np.cos(lean) * np.cos(tilt)])
    left = np.array([np.cos(twist), np.sin(twist), 0.0])
    left -= down * (left @ down)
    left /= np.linalg.norm(left)
    return left, np.cross(-down, left), down


def draw_frames(
    rng: np.random.Generator, column: Column, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Origins and axes of the planes: lordosis, scoliosis, obliquity and position in the scanner drawn at random."""
    lordosis = np.clip(rng.normal(1.0, 0.22), 0.45, 1.5)
    tilt = np.radians(column.tilt * lordosis + rng.normal(0, 3) + rng.normal(0, 1.5, PLANES))
    level = np.arange(PLANES) - 6
    curve = np.radians(rng.normal(0, 3.5)) if rng.random() < 0.85 else np.radians(rng.normal(0, 7))
    lean = curve * np.sin(level / rng.uniform(2.0, 3.2) + rng.uniform(-0.6, 0.6)) + np.radians(rng.normal(0, 1.5))
    twist = np.radians(rng.normal(0, 2.5)) + 0.6 * curve * np.cos(level / 2.5)
    axes = [_frame(*angles) for angles in zip(tilt, lean, twist, strict=True)]
    left, back, down = (np.array(part) for part in zip(*axes, strict=True))
    step = column.pitch * scale * rng.normal(1, 0.02, PLANES - 1)
    course = down[:-1] + down[1:]
    course /= np.linalg.norm(course, axis=1, keepdims=True)
    origin = np.concatenate([np.zeros((1, 3)), np.cumsum(course * step[:, None], axis=0)])
    origin += np.array([rng.normal(0, 8), rng.normal(5, 15), rng.normal(0, 20)]) - origin[6]
    return origin, left, back, down


def frame_table(origin: np.ndarray, left: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Left and back axes with their offsets along the spine, (rows, 8) float32; the origins run on a smooth curve."""
    from scipy.interpolate import CubicSpline

    at = np.arange(_ROWS) / STEPS
    planes = np.arange(PLANES)
    o, e_left, e_back = (CubicSpline(planes, values)(at) for values in (origin, left, back))
    e_left /= np.linalg.norm(e_left, axis=1, keepdims=True)
    e_back /= np.linalg.norm(e_back, axis=1, keepdims=True)
    offset_left = np.einsum("ri,ri->r", o, e_left)[:, None]
    offset_back = np.einsum("ri,ri->r", o, e_back)[:, None]
    return np.concatenate([e_left, offset_left, e_back, offset_back], axis=1).astype(np.float32)


def along(values: np.ndarray) -> np.ndarray:
    """Values per plane (…, 13) interpolated along the spine (…, rows)."""
    at = np.arange(_ROWS) / STEPS
    flat = np.atleast_2d(values)
    table = np.array([np.interp(at, np.arange(PLANES), line) for line in flat], np.float32)
    return table[0] if np.ndim(values) == 1 else table


def around(values: np.ndarray, pitch: np.ndarray, reach_mm: float, reach_up_mm: float | None = None) -> np.ndarray:
    """Values per plane (…, 13) that act near their plane only, as a bell of `reach_mm`; (…, rows)."""
    at = np.arange(_ROWS) / STEPS
    axis = np.interp(at, np.arange(PLANES), np.concatenate([[0], np.cumsum(pitch)]))
    distance = axis[:, None] - axis[np.arange(PLANES) * STEPS][None, :]
    up = reach_mm if reach_up_mm is None else reach_up_mm
    weight = np.exp(-np.square(distance / np.where(distance > 0, reach_mm, up)))
    return (np.atleast_2d(values) @ weight.T).astype(np.float32).reshape(*np.shape(values)[:-1], _ROWS)
