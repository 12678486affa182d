"""Paints what lies beside and behind the canal: foramina with roots, pedicles, facets, laminae, spinous processes."""

import numpy as np

from lumbar.phantom.anatomy import Anatomy
from lumbar.phantom.spine import FORAMEN_BELOW, Spine, Where, canal_back, fourth
from lumbar.phantom.tissue import (
    ANNULUS,
    CARTILAGE,
    CORTEX,
    FASCIA,
    FAT,
    FLUID,
    GANGLION,
    INTERSPINOUS,
    LIGAMENT,
    MARROW,
)
from lumbar.phantom.vertebrae import FIRST


def _bone(out: np.ndarray, form: np.ndarray, size: float | np.ndarray, where: Where, keep: np.ndarray) -> None:
    """Bone with a dark rim where the ellipsoid equation `form` is below 1; `size` is its smallest radius, mm."""
    body = (form < 1) & keep
    out[body] = CORTEX
    core = body & (form < np.square(1 - np.minimum(1.0 / size, 0.6)))
    out[core] = (MARROW + where.vertebra)[core]


def paint_back(person: Anatomy, where: Where, plane: np.ndarray, below: np.ndarray, labels: np.ndarray) -> None:
    """Everything behind the vertebral bodies' back wall, first fat, then bone on top."""
    scale = person.spine.scale
    index = np.flatnonzero((where.v > -5) & (where.v < 62 * scale) & (np.abs(where.u) < 46 * scale))
    w = Where(*(part[index] for part in where))
    near, off = plane[index], below[index]
    au = np.abs(w.u)
    out = labels[index]
    spine = person.spine
    roof = spine.profiles.roof[w.row]
    lumbar = w.vertebra < spine.column.sacrum
    out[(au < 25 * scale) & (w.v < 13 * scale - 0.3 * np.maximum(au - 12 * scale, 0)) & lumbar] = FAT
    _paint_spinous(spine, w, au, roof, lumbar, out)
    _paint_laminae(w, au, roof, scale, lumbar, out)
    _paint_facets(person, w, near, off, au, out)
    _paint_pedicles(person, w, au, lumbar, out)
    _paint_sacrum(person, w, au, roof, out)
    labels[index] = out


def _paint_spinous(
    spine: Spine, w: Where, au: np.ndarray, roof: np.ndarray, lumbar: np.ndarray, out: np.ndarray
) -> None:
    """Spinous processes with the ligaments between and behind them."""
    scale = spine.scale
    behind = w.v - roof
    total = np.maximum(w.below_upper + w.above_lower, 1)
    length = np.where(w.vertebra == spine.column.sacrum - 1, 23.0, 29.0) * scale
    out[lumbar & (au < 3.4 * scale) & (behind > 2) & (behind < length)] = INTERSPINOUS
    out[lumbar & (au < 2.2 * scale) & (behind > length) & (behind < length + 2.5)] = FASCIA
    centre = 0.72 * total + 0.16 * behind - 1.0 * scale
    height = (8.2 + 0.10 * behind) * scale
    form = fourth((behind - 15 * scale) / (0.52 * length)) + np.square((w.below_upper - centre) / height)
    form = np.where(behind > 0, form + np.square(au / (3.6 * scale)), 9)
    _bone(out, form, 3.6 * scale, w, lumbar)


def _paint_laminae(
    w: Where, au: np.ndarray, roof: np.ndarray, scale: float, lumbar: np.ndarray, out: np.ndarray
) -> None:
    """Laminae: two slanted plates that meet behind the canal."""
    total = np.maximum(w.below_upper + w.above_lower, 1)
    share = w.below_upper / total
    behind = w.v - (roof - 0.6 * np.minimum(au, 14 * scale))
    slant = behind - 3.4 * scale - 5.0 * (share - 0.66)
    form = np.square(slant / (3.4 * scale)) + fourth((share - 0.66) / 0.26)
    _bone(out, form + fourth(au / (16 * scale)), 3.4 * scale, w, lumbar & (behind > -0.5))


def _paint_facets(
    person: Anatomy, w: Where, near: np.ndarray, off: np.ndarray, au: np.ndarray, out: np.ndarray
) -> None:
    """Facet joints: the lower vertebra's process in front and outside, the upper one's behind, a joint line between."""
    spine, scale = person.spine, person.spine.scale
    front = canal_back(spine, w.row, w.right, au)
    centre = spine.foramen[near] + 0.5 * scale
    worn = 1 - spine.recess_opening[w.right, near] / (7.5 * scale)
    size = (8.8 + 3.0 * worn) * scale
    middle = 15.8 * scale - 0.18 * off
    ring = np.square((au - centre) / size) + np.square((w.v - middle) / size)
    form = ring + fourth((off - 0.5) / (13.5 * scale))
    edge = w.v - np.minimum(front + 1.2, middle) + 0.8 * np.maximum(au - 12 * scale, 0)
    keep = (near <= spine.column.sacrum) & (edge > 0)
    _bone(out, form, size, w, keep)
    out[keep & (form < 1) & (edge < 1.0)] = CORTEX
    line = -0.62 * (au - centre) + 0.78 * (w.v - middle)
    joint = keep & (form < 0.92) & (np.abs(off) < 10 * scale)
    out[joint & (np.abs(line) < 1.7)] = CORTEX
    wet = person.joint_fluid[w.right, near] > 0.55
    thin = np.abs(line) < 0.65
    out[joint & thin] = CARTILAGE
    out[joint & thin & wet] = FLUID


def _paint_pedicles(person: Anatomy, w: Where, au: np.ndarray, lumbar: np.ndarray, out: np.ndarray) -> None:
    """Pedicles in the upper half of each vertebra, and the transverse processes."""
    spine, scale = person.spine, person.spine.scale
    total = w.below_upper + w.above_lower
    thick = (4.0 + 0.55 * np.clip(w.vertebra - FIRST + 1, 0, 4)) * scale * person.pedicle
    high = np.square((w.below_upper - 0.36 * total) / (7.4 * scale))
    across = np.square((au - spine.foramen[w.vertebra] - 1.0) / thick)
    _bone(out, across + high, 4.5 * scale, w, lumbar & (w.v > -5) & (w.v < 14 * scale))
    wing = np.square((w.v - 11 * scale - 0.12 * au) / (4.0 * scale)) + high * 2.2
    wing = wing + fourth(np.maximum(au - 26 * scale, -9 * scale) / (13 * scale))
    _bone(out, wing, 4.0 * scale, w, lumbar & (au > 17 * scale) & (w.vertebra >= spine.column.top - 1))


def _paint_sacrum(person: Anatomy, w: Where, au: np.ndarray, roof: np.ndarray, out: np.ndarray) -> None:
    """The sacrum's roof with its crest, and the lateral masses with the sacral foramina."""
    scale, column = person.spine.scale, person.spine.column
    sacral = w.vertebra >= column.sacrum
    share = w.below_upper / np.maximum(w.below_upper + w.above_lower, 1)
    depth = np.clip(w.vertebra - column.sacrum + share, 0, 4)
    behind = w.v - roof + 0.35 * au
    out[sacral & (au < 14 * scale) & (behind < 2)] = FAT
    plate = np.square((behind - 2.5) / (2.8 * scale)) + fourth(au / (30 * scale))
    _bone(out, plate, 2.6 * scale, w, sacral)
    crest = np.square(au / (3.5 * scale)) + np.square((behind - 8) / (8 * scale)) + np.square((share - 0.5) / 0.42)
    _bone(out, crest, 3.4 * scale, w, sacral & (behind > 0) & (depth < 3))
    reach = (46 - 7 * depth) * scale
    wing = fourth(au / reach) + np.square((w.v - 3 * scale + 0.16 * (au - 20)) / ((15 - 2.5 * depth) * scale))
    hole = np.square((au - (19 - 1.5 * depth) * scale) / (4.5 * scale)) + np.square((share - 0.85) / 0.22)
    hole = hole + fourth((w.v - 4 * scale) / (14 * scale))
    fused = column.sacrum - column.ala
    begun = w.vertebra - column.ala + share > 0.08 + 0.004 * (46 - au) + 0.25 * fused
    keep = (w.vertebra >= column.ala) & (au > 12.5 * scale) & begun
    _bone(out, wing, 9 * scale, w, keep)
    out[keep & (hole < 1)] = FAT
    out[keep & (hole < 0.3)] = GANGLION


def paint_foramina(person: Anatomy, where: Where, plane: np.ndarray, below: np.ndarray, labels: np.ndarray) -> None:
    """Foramina: fat around the exiting root; where narrowed, disc in front and facet behind replace the fat."""
    spine, scale = person.spine, person.spine.scale
    au_all = np.abs(where.u)
    keep = (au_all > 10 * scale) & (au_all < 30 * scale) & (where.v > -4) & (where.v < 13 * scale)
    keep &= plane <= spine.column.sacrum
    index = np.flatnonzero(keep & (below > -19 * scale) & (below < 8 * scale))
    w = Where(*(part[index] for part in where))
    near, off, au, out = plane[index], below[index], au_all[index], labels[index]
    centre = spine.foramen[near]
    tall, deep = spine.fat_height[w.right, near], spine.fat_depth[w.right, near]
    side = np.square((au - centre) / (8.0 * scale))
    z = off - FORAMEN_BELOW * scale
    v = w.v - 4.6 * scale + 0.055 / scale * np.square(np.maximum(au - 13 * scale, 0))
    v = np.where(v < 0, 0.7 * v, v)  # in front, the foramen reaches the vertebral body
    whole = np.square(z / (11.0 * scale)) + np.square(v / ((6.2 - 0.16 * z) * scale))
    bone = (out >= MARROW) | (out == CORTEX) | (out == ANNULUS)
    medial = (au < 15 * scale) & ((out == ANNULUS) | (out == LIGAMENT))  # what narrows the recess stays
    lens = (whole + 0.5 * side < 1) & ~(bone & (w.v < 1.0)) & ~medial
    out[(whole + 0.5 * side < 1.3) & (out >= MARROW) & (w.v > 4 * scale)] = CORTEX
    # Fat survives longest in the upper part, around the root; towards the recess and outside it opens up again.
    grow = 1 + 0.6 * np.clip(side - 0.25, 0, None)
    up = z + (1 - tall) * 5.0 * scale
    kept = np.square(up / (9.0 * scale * tall * grow)) + np.square(v / ((5.0 - 0.16 * z) * scale * deep * grow))
    _paint_walls(w, off, v, kept, lens, scale, out)
    out[lens & (kept < 1)] = FAT
    _paint_exiting(spine.scale, au, centre, off, w.v, tall, deep, lens, out)
    labels[index] = out


def _paint_walls(
    w: Where, off: np.ndarray, v: np.ndarray, kept: np.ndarray, lens: np.ndarray, scale: float, out: np.ndarray
) -> None:
    """What stands where a narrowed foramen has lost its fat: disc and spurs in front, hypertrophic facet behind."""
    spur = lens & (off < -7.5 * scale)
    out[lens] = np.where(v[lens] < 0.5, ANNULUS, LIGAMENT)
    bone = (spur | (lens & (v > 0.5))) & (kept > 2.2)
    out[bone] = (MARROW + w.vertebra)[bone]


def _paint_exiting(
    scale: float,
    au: np.ndarray,
    centre: np.ndarray,
    off: np.ndarray,
    v: np.ndarray,
    tall: np.ndarray,
    deep: np.ndarray,
    lens: np.ndarray,
    out: np.ndarray,
) -> None:
    """The exiting root with its ganglion: thick in the foramen, flattened where fat is gone, then down and forward."""
    path = -8.0 * scale + 0.75 * (au - centre)
    middle = 4.4 * scale - 0.35 * np.maximum(au - centre - 5, 0)
    swell = np.exp(-np.square((au - centre) / (5.5 * scale)))
    flat = np.clip(deep * 1.5, 0.45, 1.0)
    high = (1.7 + 1.5 * swell) * scale * np.clip(0.7 + 0.4 * tall, 0.75, 1.0)
    wide = (1.6 + 1.0 * swell) * scale * flat
    root = np.square((off - path) / high) + np.square((v - middle) / wide) < 1
    out[root & ((out == FAT) | lens)] = GANGLION
