"""Paints the spine's tissues onto points: vertebrae, discs, canal with sac and roots, foramina, facets, laminae."""

import numpy as np

from lumbar.phantom.anatomy import Anatomy
from lumbar.phantom.paint_back import paint_back, paint_foramina
from lumbar.phantom.spine import STEPS, Spine, Where, bulge, canal_back
from lumbar.phantom.tissue import (
    ANNULUS,
    CORD,
    CORTEX,
    CSF,
    DURA,
    FAT,
    LIGAMENT,
    MARROW,
    MESENTERY,
    MODIC1,
    NONE,
    NUCLEUS,
    ROOT,
)
from lumbar.phantom.vertebrae import FIRST


def near_plane(where: Where) -> tuple[np.ndarray, np.ndarray]:
    """The nearest disc plane of each point and how many mm below it the point lies."""
    lower = where.above_lower < where.below_upper
    plane = where.vertebra + lower
    return plane, np.where(lower, -where.above_lower, where.below_upper)


def paint_spine(person: Anatomy, points: np.ndarray) -> np.ndarray:
    """Tissue labels (N,) uint8 of patient points (N, 3) float32; NONE where the spine does not reach."""
    where = person.spine.locate(points)
    labels = np.full(len(points), NONE, np.uint8)
    plane, below = near_plane(where)
    paint_back(person, where, plane, below, labels)
    _paint_bodies(person, where, plane, below, labels)
    _paint_canal(person, where, plane, below, labels)
    paint_foramina(person, where, plane, below, labels)
    return labels


def _paint_bodies(person: Anatomy, where: Where, plane: np.ndarray, below: np.ndarray, labels: np.ndarray) -> None:
    """Vertebral bodies with cortex and endplates, discs with annulus and nucleus, and the distractors in them."""
    spine, p = person.spine, person.spine.profiles
    index = np.flatnonzero((where.v < 12) & (where.v > -48 * spine.scale) & (np.abs(where.u) < 34 * spine.scale))
    w = Where(*(part[index] for part in where))
    plane, below = plane[index], below[index]
    au, off = np.abs(w.u), np.abs(below)
    half = p.half_width[w.row]
    deep = p.depth[w.row] / 2
    share = w.below_upper / np.maximum(w.below_upper + w.above_lower, 1e-3)
    waist = 1 - np.where(w.vertebra < spine.column.ala, 0.10, 0.0) * 4 * share * (1 - share)
    x = np.square(au / (half * waist))
    y = np.square((w.v - 1.3 * x + deep) / (deep * np.sqrt(waist)))
    inside = (np.sqrt(np.maximum(x + y - 0.45 * x * y * (x < 1.5) * (y < 1.5), 0)) - 1) * np.minimum(half, deep)
    thick = 0.5 * spine.disc[plane] * (1.08 - 0.35 * np.clip(x + y, 0, 1))
    thick = thick + np.where((plane >= spine.column.top) & (plane <= spine.column.ala), 0.03, 0.0) * (-w.v - deep)
    thick = np.maximum(thick, 0.25)
    for node in person.nodes:
        reach = np.square(w.u - node.u) + np.square(w.v - node.v)
        dent = (plane == node.plane) & (below * node.below > 0) & (reach < node.radius**2)
        thick = np.where(dent, thick + 0.9 * np.sqrt(np.maximum(node.radius**2 - reach, 0)), thick)
    out = labels[index]
    back_edge = bulge(spine, w.row, w.right, au)
    body = inside < 0
    out[body] = (MARROW + w.vertebra)[body]
    _paint_marrow(person, w, plane, below, off - thick, body, share, out)
    out[body & (inside > -1.0)] = CORTEX
    out[body & (off < thick + 1.0)] = CORTEX
    rim = np.where(w.v > -6, 0.0, 0.8)
    disc = (off < thick) & (inside < rim + np.clip(0.25 * back_edge, 0, 1.5))
    out[disc] = ANNULUS
    core = disc & (x + y < 0.62) & (off < 0.82 * thick) & (plane <= spine.column.ala)
    out[core] = (NUCLEUS + plane)[core]
    _paint_bulge(spine, w, plane, off, thick, au, inside, back_edge, out)
    labels[index] = out


def _paint_marrow(
    person: Anatomy,
    w: Where,
    plane: np.ndarray,
    below: np.ndarray,
    over: np.ndarray,
    body: np.ndarray,
    share: np.ndarray,
    out: np.ndarray,
) -> None:
    """Endplate changes, haemangiomas and the basivertebral vein."""
    scale, column = person.spine.scale, person.spine.column
    for change in person.endplates:
        edge = (w.v + 16) / 8 * (1 if change.front else -1)
        here = body & (plane == change.plane) & (below * change.below > 0) & (over < change.depth - 4 * (edge + 1))
        out[here] = change.tissue
    for ball in person.balls:
        height = (share - ball.share) * 30
        away = np.square(height) + np.square(w.u - ball.u) + np.square(w.v - ball.v)
        out[body & (w.vertebra == ball.vertebra) & (away < ball.radius**2)] = ball.tissue
    vein = body & (w.v > -9 * scale) & (np.abs(w.u) < 5) & (np.abs(share - 0.5) * 33 < 0.8 + 0.28 * (w.v + 9))
    out[vein & (w.vertebra < column.ala)] = MODIC1 if person.pedicle > 1.0 else MESENTERY


def _paint_bulge(
    spine: Spine,
    w: Where,
    plane: np.ndarray,
    off: np.ndarray,
    thick: np.ndarray,
    au: np.ndarray,
    inside: np.ndarray,
    back_edge: np.ndarray,
    out: np.ndarray,
) -> None:
    """What of the disc stands out into canal, recess and foramen, and the ligament over the bodies' back wall."""
    scale = spine.scale
    canal = (w.v > -9) & (au < 25 * scale) & (inside > -0.8) & (plane < spine.column.sacrum + 2)
    out[canal & (w.v < back_edge) & (off < thick + 3.0)] = ANNULUS
    edge = (w.v > -1) & (w.v < np.maximum(back_edge, 0) + 0.9) & (au < 8 * scale) & (inside > -0.5)
    out[edge & (w.v >= back_edge - 0.2) & (off < thick + 9)] = LIGAMENT


def _paint_canal(person: Anatomy, where: Where, plane: np.ndarray, below: np.ndarray, labels: np.ndarray) -> None:
    """Epidural fat, ligamenta flava, dura, cerebrospinal fluid, cord and roots."""
    spine, p = person.spine, person.spine.profiles
    au_all = np.abs(where.u)
    wide = 16.0 * spine.scale
    index = np.flatnonzero((au_all < wide) & (where.v > -2) & (where.v < 20 * spine.scale))
    w = Where(*(part[index] for part in where))
    au = au_all[index]
    out = labels[index]
    front = bulge(spine, w.row, w.right, au) + np.where(au < 9 * spine.scale, 0.6, 0.2)
    back = canal_back(spine, w.row, w.right, au)
    roof = p.roof[w.row] - 0.6 * au
    solid = (out == CORTEX) | (out == ANNULUS) | (out == LIGAMENT) | (out >= NUCLEUS)
    level = plane[index]
    between = (np.abs(below[index] + 1) < 12) & (level <= spine.column.sacrum)  # the laminae
    flava = between & (w.v >= back) & (w.v < np.maximum(roof, back + 1.0)) & (out < MARROW)
    out[flava] = LIGAMENT
    space = (w.v < back) & (w.v > front) & ~(solid & (w.v < 3)) & (au < 13.5 * spine.scale)
    out[space] = FAT
    # A narrowed canal has no room for fat beside the sac: ligament and disc close in from the middle outwards.
    closed = 8.8 * spine.scale * np.clip((p.crowding[w.row] - 0.9) / 1.0, 0, 1)
    out[space & (au < closed)] = LIGAMENT
    _paint_traversing(person, w, au, space, out)
    half = p.sac_half_width[w.row]
    middle, deep = (p.sac_front[w.row] + p.sac_back[w.row]) / 2, (p.sac_back[w.row] - p.sac_front[w.row]) / 2
    deep = np.maximum(deep, 0.1)
    across, depth = w.u / half, (w.v - middle) / deep
    x, y = np.square(across), np.square(depth)
    radius = np.sqrt(x + y - 0.25 * x * y * (x < 1.5) * (y < 1.5))
    dura = space & (radius < 1 + 0.55 / np.minimum(half, deep)) & (half > 1.0)
    out[dura] = DURA
    sac = dura & (radius < 1) & (w.v > front + 0.4) & (w.v < back - 0.4)
    out[sac] = CSF
    _paint_nerves(person, w, sac, across, depth, half, deep, out)
    labels[index] = out


def _paint_traversing(person: Anatomy, w: Where, au: np.ndarray, space: np.ndarray, out: np.ndarray) -> None:
    """The root that leaves the sac and runs down the lateral recess to the next foramen."""
    spine = person.spine
    at = w.row / STEPS - FIRST
    aside = spine.profiles.sac_half_width[w.row] + 1.4 * spine.scale
    aside = np.maximum(aside, (8.8 + 1.2 * np.clip(at - np.round(at), -0.3, 0.4) * 3) * spine.scale)
    front = bulge(spine, w.row, w.right, aside)
    back = canal_back(spine, w.row, w.right, aside)
    centre, room = (front + back) / 2 - 0.4, np.maximum(back - front, 0.3)
    tall = np.minimum(1.9 * spine.scale, 0.55 * room)
    near = np.square((au - aside) / (2.0 * spine.scale)) + np.square((w.v - centre) / tall)
    out[space & (near < 1) & (at > 0.3) & (at < 5.4)] = ROOT


def _paint_nerves(
    person: Anatomy,
    w: Where,
    sac: np.ndarray,
    across: np.ndarray,
    depth: np.ndarray,
    half: np.ndarray,
    deep: np.ndarray,
    out: np.ndarray,
) -> None:
    """Cord down to the conus, below it the roots of the cauda equina, thinning out towards the sacrum."""
    inner = np.flatnonzero(sac)
    row, across, depth, half, deep = w.row[inner], across[inner], depth[inner], half[inner], deep[inner]
    at = row / STEPS
    part = out[inner]
    taper = np.clip((person.conus - at) * 0.9, 0, 1) ** 0.5
    cord = (np.square(across * half / 4.4) + np.square((depth - 0.12) * deep / 3.6) < np.square(taper)) & (taper > 0)
    for number, (side, back, drift) in enumerate(person.roots):
        leaves = FIRST + 0.6 + 5.0 * (1 - abs(side))
        reach = np.clip(at - person.conus + 0.8, 0, 1.2)
        x = np.clip(side * (0.45 + 0.45 * reach) + drift * (at - FIRST), -0.88, 0.88)
        y = back * (0.75 + 0.15 * reach) + 0.10 * np.sin(1.7 * at + number)
        away = np.square((across - x) * half) + np.square((depth - y) * deep)
        part[(away < 0.95) & (at > person.conus - 1.6) & (at < leaves)] = ROOT
    part[cord] = CORD
    out[inner] = part
