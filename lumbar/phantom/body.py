"""The body around the spine: skin, fat, muscles, vessels, bowel, kidneys, liver, pelvic bones.

Described in body coordinates: (X, Y, z) millimetres from the smooth course of the vertebral bodies' back wall: X to the
left, Y to the back, z towards the head.
"""

from dataclasses import dataclass

import numpy as np

from lumbar.phantom.spine import Spine
from lumbar.phantom.tissue import (
    AIR,
    ARTERY,
    BOWEL,
    BOWEL_WALL,
    CORTEX,
    FASCIA,
    FAT,
    GAS,
    KIDNEY,
    LIVER,
    MARROW,
    MESENTERY,
    MUSCLE,
    SKIN,
    SUBCUTIS,
    VEIN,
)
from lumbar.phantom.vertebrae import FIRST

#: One number, or one per point.
Size = float | np.ndarray


@dataclass(frozen=True)
class Body:
    """One person's trunk. `lumbar_z`: heights of L1/L2 and of the sacrum; a blob is centre, radii, kind, wall."""

    course: np.ndarray  # (m, 4): z ascending, x, y of the spine's smooth course, y of a straight one (the trunk's)
    lumbar_z: tuple[float, float]
    half_width: float
    front: float
    back: float
    fat_front: float
    fat_back: float
    muscle: float  # bulk factor
    vessel: tuple[float, float, float]  # aorta x, cava x, aorta radius
    fork: float  # z of the aortic bifurcation
    blobs: tuple[tuple[float, ...], ...]
    kidneys: tuple[tuple[float, ...], ...]  # centre and radii of two; radius 0 where left out
    liver_z: float


def draw_body(rng: np.random.Generator, spine: Spine) -> Body:
    """A trunk around a spine."""
    order = np.argsort(spine.origin[:, 2])
    z = spine.origin[order, 2]
    fine = np.linspace(z[0], z[-1], 120)
    kernel = np.exp(-np.square(np.arange(-30, 31) / 12.0))
    course = [fine]
    for axis in (0, 1):
        line = np.interp(fine, z, spine.origin[order, axis])
        padded = np.pad(line, 30, mode="edge")
        course.append(np.convolve(padded, kernel / kernel.sum(), "valid"))
    course.append(np.polyval(np.polyfit(fine, course[2], 1), fine))
    obese = rng.uniform(0, 1)
    s, top = spine.scale, spine.column.top
    return Body(
        course=np.stack(course, axis=1),
        lumbar_z=(float(spine.origin[top, 2]), float(spine.origin[spine.column.sacrum, 2])),
        half_width=float((140 + 35 * obese + rng.normal(0, 6)) * s),
        front=float((95 + 60 * obese + rng.normal(0, 8)) * s),
        back=float((55 + rng.normal(0, 3)) * s),
        fat_front=8 + 28 * obese * rng.uniform(0.6, 1.2),
        fat_back=3 + 24 * obese * rng.uniform(0.5, 1.2),
        muscle=float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.3)),
        vessel=(rng.uniform(2, 12), rng.uniform(-22, -14), rng.uniform(7, 10.5)),
        fork=float(spine.origin[top + 3, 2] + rng.normal(5, 8)),
        blobs=_draw_blobs(rng, s, spine.origin[FIRST + 2, 2]),
        kidneys=_draw_kidneys(rng, s, spine.origin[top, 2]),
        liver_z=float(spine.origin[top + 1, 2] + rng.normal(0, 20)),
    )


def _draw_blobs(rng: np.random.Generator, s: float, z: float) -> tuple[tuple[float, ...], ...]:
    """Bowel loops: centres, radii, content (tissue) and wall thickness."""
    rows = []
    for _ in range(int(rng.integers(36, 56))):
        content = rng.choice([BOWEL, GAS, BOWEL_WALL, FAT], p=[0.45, 0.2, 0.25, 0.1])
        centre = [rng.uniform(-105, 105) * s, rng.uniform(-130, -58) * s, z + rng.uniform(-120, 130)]
        rows.append([*centre, *rng.uniform(5, 22, 2), rng.uniform(7, 32), content, rng.uniform(1.5, 3)])
    return tuple(tuple(float(value) for value in row) for row in rows)


def _draw_kidneys(rng: np.random.Generator, s: float, z: float) -> tuple[tuple[float, ...], ...]:
    rows = []
    for side in (1, -1):
        seen = 1.0 if rng.random() < 0.9 else 0.0
        centre = [side * rng.uniform(58, 72) * s, rng.uniform(-18, -2) * s, z + side * 6 + rng.normal(0, 14)]
        rows.append([*centre, 27 * s * seen, 24 * s * seen, rng.uniform(48, 58) * s])
    return tuple(tuple(float(value) for value in row) for row in rows)


def _oval(x: np.ndarray, y: np.ndarray, cx: Size, cy: Size, rx: Size, ry: Size) -> np.ndarray:
    return np.square((x - cx) / rx) + np.square((y - cy) / ry)


def paint_body(body: Body, points: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Tissue labels (N,) uint8 of patient points (N, 3) float32; `shift` (N, 3) moves organs, less the skin."""
    z = points[:, 2]
    x: np.ndarray = points[:, 0] - np.interp(z, body.course[:, 0], body.course[:, 1]).astype(np.float32)
    y: np.ndarray = points[:, 1] - np.interp(z, body.course[:, 0], body.course[:, 2]).astype(np.float32)
    labels = np.full(len(points), FAT, np.uint8)
    top, bottom = body.lumbar_z
    down = (top - z) / (top - bottom)  # 0 at L1/L2, 1 at the sacrum
    x, y = x + shift[:, 0], y + shift[:, 1]
    _paint_belly(body, x, y, z, labels)
    _paint_vessels(body, x, y, z, labels)
    _paint_muscles(body, x, y, down, labels)
    _paint_pelvis(body, x, y, down, labels)
    trunk = y + (np.interp(z, body.course[:, 0], body.course[:, 2] - body.course[:, 3])).astype(np.float32)
    follow = np.where(y > 0, 0.6, 0.15).astype(np.float32)  # the back follows the spine's curve, the belly hardly
    _paint_skin(body, x, follow * y + (1 - follow) * trunk - 0.7 * shift[:, 1], down, labels)
    return labels


def _paint_belly(body: Body, x: np.ndarray, y: np.ndarray, z: np.ndarray, labels: np.ndarray) -> None:
    """Liver, kidneys and bowel."""
    low, high = float(z.min()), float(z.max())
    labels[y < -50 - 0.004 * np.square(x) + 6 * np.sin(x / 17 + z / 31)] = MESENTERY
    if high > body.liver_z - 40:
        liver = _oval(x, y, -95, -70, 75, 68) + np.square(np.maximum(body.liver_z + 45 - z, 0) / 60)
        labels[liver < 1] = LIVER
    for cx, cy, cz, rx, ry, rz, kind, wall in body.blobs:
        if cz + rz < low or cz - rz > high:
            continue
        form = _oval(x, y, cx, cy, rx, ry) + np.square((z - cz) / rz)
        labels[form < 1] = BOWEL_WALL
        labels[form < max(1 - wall / min(rx, ry), 0.1) ** 2] = int(kind)
    for cx, cy, cz, rx, ry, rz in body.kidneys:
        if rx > 0 and cz + rz > low and cz - rz < high:
            form = _oval(x, y, cx, cy, rx, ry) + np.square((z - cz) / rz)
            labels[form < 1] = KIDNEY
            sinus = _oval(x, y, cx - (8 if cx > 0 else -8), cy - 3, 13, 7) + np.square((z - cz) / 28)
            labels[sinus < 1] = FAT


def _paint_vessels(body: Body, x: np.ndarray, y: np.ndarray, z: np.ndarray, labels: np.ndarray) -> None:
    """Aorta and inferior vena cava in front of the spine; below the fork the iliac vessels diverge."""
    aorta, cava, radius = body.vessel
    x = x + 3.5 * np.sin(z / 37 + aorta)
    front = -46.0
    split = np.clip((body.fork - z) / 60, 0, 1.5)
    dome = np.square(np.clip((body.fork + 12 - z) / 12, 0, 1.5))
    labels[_oval(x, y, cava, front + 3, radius * 1.35, radius) + dome < 1] = VEIN
    labels[_oval(x, y, aorta, front, radius, radius) + dome < 1] = ARTERY
    above = z > body.fork + 6
    for side in (-1, 1):
        middle = (aorta + cava) / 2 * np.clip(1 - split, 0, 1)
        labels[(_oval(x, y, middle + side * (9 + 34 * split), front + 24 * split, 6, 6) < 1) & ~above] = ARTERY
        labels[(_oval(x, y, middle + side * (7 + 28 * split), front + 9 + 26 * split, 7, 6) < 1) & ~above] = VEIN


def _paint_muscles(body: Body, x: np.ndarray, y: np.ndarray, down: np.ndarray, labels: np.ndarray) -> None:
    """Psoas, quadratus lumborum, multifidus and erector spinae, with fat and fascia between them."""
    ax, m = np.abs(x), body.muscle
    grow = np.clip(0.35 + 0.65 * down, 0.01, 1.1)
    psoas = _oval(ax, y, 30 + 9 * grow, -13 - 8 * down, (21 * np.sqrt(grow) - 1) * m, (24 * np.sqrt(grow) - 1) * m)
    labels[(psoas < 1) & (down > -0.5)] = MUSCLE
    quadratus = _oval(ax, y, 60 + 8 * down, 8, 20 * m, 8 * m)
    labels[(quadratus < 1) & (down < 0.95)] = MUSCLE
    shrink = np.clip(1.15 - 0.45 * down, 0.45, 1.1)
    erector = _oval(ax, y, 20 + 20 * shrink, 34, 24 * m * shrink + 5, 19 * m)
    labels[erector < 1.0] = FASCIA
    labels[erector < 0.90] = MUSCLE
    multifidus = _oval(ax, y, 14 + 3 * down, 32, 13 * m + 3 * down, 19 * m)
    labels[(multifidus < 1.18) & (y > 20) & (y < 42)] = FAT
    labels[(multifidus < 1.0) & (ax > 2)] = MUSCLE
    labels[(np.abs(ax - 1) < 1) & (y > 12) & (y < 50)] = FAT


def _paint_pelvis(body: Body, x: np.ndarray, y: np.ndarray, down: np.ndarray, labels: np.ndarray) -> None:
    """Iliac wings beside the sacrum with the muscles on both sides of them."""
    ax = np.abs(x)
    low = down > 0.78
    if not low.any():
        return
    along = (ax - 62) * 0.60 - (y - 18) * 0.80  # runs from the sacroiliac joint forward and outward
    across = (ax - 62) * 0.80 + (y - 18) * 0.60
    reach = np.clip((down - 0.78) * 160, 0, 75)
    wing = low & (along > -30) & (along < reach) & (np.abs(across) < 7)
    beside = low & (along > -22) & (along < reach + 8)
    labels[beside & (across > 7) & (across < 32)] = MUSCLE
    labels[beside & (across < -7) & (across > -19)] = MUSCLE
    labels[wing] = CORTEX
    labels[wing & (np.abs(across) < 5.5)] = MARROW + 8


def _paint_skin(body: Body, x: np.ndarray, y: np.ndarray, down: np.ndarray, labels: np.ndarray) -> None:
    """Abdominal wall, subcutaneous fat, skin, and the air around."""
    deep = (body.back + body.front) / 2
    middle = (body.back - body.front) / 2
    back_bow = 4 * np.exp(-np.square(x / 14))  # furrow over the spinous processes
    inner = np.square(x / body.half_width) + np.square((y - middle + back_bow) / deep)
    inner = inner - 0.35 * np.square(x / body.half_width) * np.minimum(np.square((y - middle) / deep), 1.5)
    wall = (inner > 0.80) & (y < 5)
    labels[wall] = MUSCLE
    buttock = np.clip(down - 0.7, 0, 0.8) * 22
    fat = np.where(y > middle, body.fat_back + buttock, body.fat_front)
    labels[inner > 1] = SUBCUTIS
    wide = body.half_width + 0.6 * body.fat_front + 5
    outer = np.square(x / wide) + np.square((y - middle + back_bow) / (deep + fat))
    limit = np.square(x / (body.half_width + 5)) * np.minimum(np.square((y - middle) / (deep + fat)), 1.5)
    outer = outer - 0.35 * limit
    labels[outer > 0.975] = SKIN
    labels[outer > 1] = AIR
