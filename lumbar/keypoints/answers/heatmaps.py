"""Keypoints as heatmaps and back: a Gaussian of peak 1 around each point, read by its first maximum. No torch.

Coordinates here are pixels (column, row) of the resized square image that the network sees; pixel centres are integers.
A map of stride s has one pixel for s x s pixels of that image: its pixel c lies at (c + 1/2) s - 1/2. `shape`, `join`
and `read` are those of every answer, see `registry`; they take maps (N, K, s, s) and, with `depth`, (N, K, T, s, s).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumbar.keypoints.answers.members import finite, joined, library_of
from lumbar.keypoints.answers.reading import Reading
from lumbar.recipe.detector import DetectorSpec

#: Half-maximum area of a two-dimensional Gaussian in units of σ²: π r² with r² = 2 ln 2.
_HALF_MAXIMUM_AREA = 2.0 * np.pi * np.log(2.0)
#: Share of a peak below which a map does not count for the point's place, see `refine`.
FLOOR = 0.3
#: Rows and columns (9,) of a place and its neighbours in an image with a border of one pixel.
_AROUND = np.divmod(np.arange(9), 3)
#: How far a map's peak lies above the map's mean at least, as a share of the peak where that is above 1: a flatter map
#: shows no point, not even a faint one. The shipped detectors' maps rise by more than 0.8 on phantoms, and on noise and
#: black images, which they answer faintly, by more than 0.009.
RAISED = 1e-3
#: The third place: pixels of a map that reach this percentile of it make the box whose centre is the point.
BOX_PERCENTILE = 99.8
#: The fourth place: values up to this count nothing, and a map without any other shows nothing.
LEAST = 0.3
#: Slices beside a point's own on which maps with a slice axis tell its place, too (fifth place).
TRAIL = (-2, -1, 1, 2)
#: What such a slice's map holds at least, as a share of the point's peak: half of what the farthest is taught to show.
SHOWN = 0.125
#: Decimals of a pixel that are kept: below lies what sums in another order change.
DECIMALS = 3


def gaussian_heatmaps(xy_px: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Maps (K, S, S) float32 of a perfect detector for K points (K, 2); all zero where one is NaN or outside.

    The peak is 1 at the point itself, which may lie between pixels.
    """
    points = np.asarray(xy_px, dtype=np.float64).reshape(-1, 2)
    maps = np.zeros((len(points), size, size), dtype=np.float32)
    grid = np.arange(size, dtype=np.float64)
    for target, (x, y) in zip(maps, points, strict=True):
        if -0.5 <= x <= size - 0.5 and -0.5 <= y <= size - 0.5:  # false for NaN
            across = np.exp(-((grid - x) ** 2) / (2.0 * sigma**2))
            down = np.exp(-((grid - y) ** 2) / (2.0 * sigma**2))
            target[:] = np.outer(down, across)
    return maps


def decode(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read (N, K, S, S) heatmaps: the point (N, K, 2) of the first maximum, its peak (N, K) and spread (N, K) in px.

    The spread is the σ of the Gaussian whose half-maximum area equals the map's: a second blob or a blurred one makes
    it larger. Where the peak is not positive the spread is the image's width.
    """
    maps = np.asarray(heatmaps)
    best = maps.reshape(*maps.shape[:2], -1).argmax(axis=-1)  # (N, K)
    row, column = np.divmod(best, maps.shape[-1])
    xy_px = np.stack([column, row], axis=-1)
    return xy_px.astype(np.float64), *read_at(maps, xy_px)


def read_at(heatmaps: np.ndarray, xy_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peak (N, K) and spread (N, K) px, see `decode`, of maps (N, K, S, S) at chosen whole pixels (N, K, 2)."""
    maps = np.asarray(heatmaps)
    flat = maps.reshape(*maps.shape[:2], -1)
    place = np.asarray(xy_px)[..., 1] * maps.shape[-1] + np.asarray(xy_px)[..., 0]
    peak = np.take_along_axis(flat, place[..., None], axis=-1)
    high = flat >= maps.dtype.type(0.5) * peak  # half of a float is exact
    area = np.array([[np.count_nonzero(one) for one in each] for each in high])  # many times as fast as along an axis
    peak = peak[..., 0].astype(np.float64)
    spread = np.where(peak > 0, np.sqrt(area / _HALF_MAXIMUM_AREA), float(maps.shape[-1]))
    return peak, spread


def refine(heatmaps: np.ndarray, xy_px: np.ndarray, radius: float) -> np.ndarray:
    """Points (N, K, 2) between pixels, from whole pixels (N, K, 2) of maps (N, K, S, S): centroids within `radius` px.

    Only what a map holds above `FLOOR` of its value at the point counts: neither a slope nor a second blob pulls the
    point away. A point at which the map is not positive stays where it is.
    """
    maps, points = np.asarray(heatmaps), np.asarray(xy_px, dtype=np.float64)
    reach = int(np.ceil(radius))
    way = np.arange(-reach, reach + 1)
    column, row = (points[..., axis].astype(np.int64)[..., None, None] for axis in (0, 1))
    columns, rows, last = column + way, row + way[:, None], maps.shape[-1] - 1
    inside = (rows >= 0) & (rows <= last) & (columns >= 0) & (columns <= last)
    sample, channel = (index[..., None, None] for index in np.indices(points.shape[:2]))
    near = maps[sample, channel, np.clip(rows, 0, last), np.clip(columns, 0, last)]  # (N, K, 2r + 1, 2r + 1)
    around = np.where(inside, near, maps.dtype.type(0))
    peak = around[..., reach, reach]
    weight = np.clip(around - FLOOR * np.maximum(peak, 0.0)[..., None, None], 0.0, None).astype(np.float64)
    total = np.where(peak > 0, weight.sum(axis=(-2, -1)), 1.0)
    moved = np.stack([(weight.sum(axis=axis) * way).sum(axis=-1) for axis in (-2, -1)], axis=-1) / total[..., None]
    return np.round(points + np.where((peak > 0)[..., None], moved, 0.0), DECIMALS)


def local_maxima(heatmap: np.ndarray, least: float, most: int) -> np.ndarray:
    """Pixels (M, 2), column and row, that no neighbour exceeds and that reach `least`; the `most` highest, best first.

    `heatmap` (S, S). A plateau counts once, by its first pixel.
    """
    row, column = np.nonzero(heatmap >= least)
    padded = np.pad(np.asarray(heatmap, dtype=np.float64), 1, constant_values=-np.inf)
    around = padded[row[:, None] + _AROUND[0], column[:, None] + _AROUND[1]]  # (M, 9), the place itself fifth
    here = around[:, 4]
    highest = (here > around[:, :4].max(axis=1)) & (here >= around[:, 5:].max(axis=1))
    row, column = row[highest], column[highest]
    order = np.argsort(-heatmap[row, column], kind="stable")[:most]
    return np.stack([column[order], row[order]], axis=-1)


def confidence(peak: np.ndarray, spread_px: np.ndarray, sigma: float) -> np.ndarray:
    """How sure a detection is, 0 to 1: the peak clipped to [0, 1] times how well the spread agrees with the target's σ.

    The agreement is the smaller of spread/σ and σ/spread: a map with two equal blobs keeps 0.71, a flat one next to
    nothing.
    """
    ratio = np.maximum(np.asarray(spread_px, dtype=np.float64), 1e-6) / sigma
    return np.clip(peak, 0.0, 1.0) * np.minimum(ratio, 1.0 / ratio)


def shape(spec: DetectorSpec) -> tuple[int, ...]:
    """(K, s, s), with a slice axis (K, T, s, s)."""
    return (spec.num_classes, *((spec.in_chans,) if spec.depth else ()), spec.map_size, spec.map_size)


def join(raw: Sequence[Any], how: str = "mean", *, every: bool = False) -> Any:
    """Mean or median of members' maps (N, K, …), pixel by pixel, see `registry.Answer`.

    A map says nothing where it holds anything but numbers (half precision can overflow), or is flat, see `RAISED`.
    """
    sound = [finite(maps, 2) for maps in raw]
    if not every:
        sound = [good & raised(maps) for good, maps in zip(sound, raw, strict=True)]
    return joined(raw, sound, how)


def raised(maps: Any) -> Any:
    """Whether a map (N, K, …) rises above its mean, see `RAISED`: (N, K, 1, …)."""
    flat = maps.reshape(*maps.shape[:2], -1)
    peak = library_of(maps).amax(flat, -1)
    with np.errstate(invalid="ignore"):  # no numbers, no rise
        rise = peak - flat.mean(-1)
    return (rise > RAISED * abs(peak).clip(1)).reshape(*maps.shape[:2], *[1] * (maps.ndim - 2))


def read(spec: DetectorSpec, raw: np.ndarray) -> Reading:
    """Maps (N, K, …) float32 as points, by the spec's decode; a map that is NaN anywhere shows nothing.

    maximum: the first maximum of the whole map; between pixels (`refine`) where keypoints are repaired. centroid: of
    what the map holds above `FLOOR` of its peak. box: centre of the box around the pixels at or above the 99.8th
    percentile. sums: arg max of the column sums and of the row sums of values above `LEAST`. pair: as maximum; how both
    sides are read together, `repair.choose_pair` says. With a slice axis the slice is that of the first maximum, and
    the slices beside it tell where the point lies on them (see `_trail`). Peak and spread are those at the maximum,
    whatever the decode.
    """
    silent = ~np.isfinite(raw).reshape(*raw.shape[:2], -1).all(-1)  # (N, K)
    maps = np.where(silent.reshape(*silent.shape, *[1] * (raw.ndim - 2)), np.float32(0), raw)
    place, trail = np.full(silent.shape, np.nan), None
    if spec.depth:
        whole = maps
        place = maps.reshape(*maps.shape[:3], -1).max(-1).argmax(-1)  # the first slice that holds the largest value
        maps = np.take_along_axis(maps, place[..., None, None, None], axis=2)[:, :, 0]
        trail = _trail(whole, place, spec.stride)
    pixel, peak, spread = decode(maps)
    xy = pixel
    if spec.decoded == "centroid":
        xy = refine(maps, pixel, maps.shape[-1])
    elif spec.decoded == "box":
        xy = _box_centre(maps)
    elif spec.decoded == "sums":
        counted = np.where(maps > LEAST, maps, np.float32(0))
        xy = np.stack([counted.sum(axis).argmax(-1) for axis in (-2, -1)], axis=-1).astype(np.float64)
        silent = silent | ~counted.any((-2, -1))
    elif spec.preprocessing.keypoints == "repair":
        xy = refine(maps, pixel, 2 * spec.sigma_px / spec.stride)
    spread = spread * spec.stride
    points = np.concatenate([image_px(xy, spec.stride), place[..., None]], axis=-1)
    points[silent] = np.nan
    if trail is not None:
        trail[silent] = np.nan
    sure = np.where(silent, 0.0, confidence(peak, spread, spec.sigma_px))
    return Reading(points, sure, peak, spread, trail=trail)


def _trail(maps: np.ndarray, place: np.ndarray, stride: int) -> np.ndarray:
    """Points (N, K, D, 3), see `Reading`: on each slice beside those at `place` (N, K) the first maximum of its own map
    (N, K, T, s, s); NaN beyond the stack, and where that holds less than `SHOWN` of the point's peak."""
    flat = maps.reshape(*maps.shape[:3], -1)
    peak = flat.max(-1)  # (N, K, T)
    own = np.take_along_axis(peak, place[..., None], axis=-1)
    there = place[..., None] + np.array(TRAIL)  # (N, K, D)
    inside = np.clip(there, 0, maps.shape[2] - 1)
    best = np.take_along_axis(flat.argmax(-1), inside, axis=-1)
    row, column = np.divmod(best, maps.shape[-1])
    found = np.concatenate([image_px(np.stack([column, row], -1), stride), there[..., None]], -1).astype(np.float64)
    shown = (inside == there) & (own > 0) & (np.take_along_axis(peak, inside, axis=-1) >= SHOWN * own)
    found[~shown] = np.nan
    return found


def image_px(xy: np.ndarray, stride: int) -> np.ndarray:
    """Pixels (…, 2) of a map as pixels of the image."""
    return xy if stride == 1 else (xy + 0.5) * stride - 0.5


def _box_centre(maps: np.ndarray) -> np.ndarray:
    """Points (N, K, 2): the middle of the box around the pixels that reach the map's `BOX_PERCENTILE`."""
    least = np.percentile(maps.reshape(*maps.shape[:2], -1), BOX_PERCENTILE, axis=-1)
    high = maps >= least[..., None, None]
    ends = []
    for axis in (-2, -1):  # any pixel of a column, of a row
        there = high.any(axis)
        ends.append((there.argmax(-1) + there.shape[-1] - 1 - there[..., ::-1].argmax(-1)) / 2)
    return np.stack(ends, axis=-1)
