"""What a detector is taught: a Gaussian or a disc around every keypoint, slices, sizes, as tensors.

Keypoints (B, K, 2) are pixels (column, row) of the network's image, places of slices (B, K) count from 0; NaN where
there is no label.
"""

from typing import Final

import torch
from torch import Tensor

from lumbar.labels import LEVELS
from lumbar.recipe.detector import DetectorSpec

#: A disc with the area of a Gaussian at half height has this radius, in units of its sigma: sqrt(2 ln 2).
_HALF_RADIUS: Final = 1.1774100225154747
#: Slices beside a label's own show it too, half as much each step away (fifth place), as far as this.
_REACH: Final = 2


def heatmaps(points: Tensor, size: int, sigma: float) -> Tensor:
    """Target maps (B, K, S, S): a Gaussian of peak 1 at each point (B, K, 2) px; all zero where it is missing (NaN) or
    outside the image."""
    axis = torch.arange(size, device=points.device, dtype=torch.float32)
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(-1)  # False for NaN
    safe = torch.where(inside[..., None], points, 0.0)
    across, down = (torch.exp(-((axis - safe[..., [k]]) ** 2) / (2 * sigma**2)) for k in (0, 1))  # (B, K, S)
    return down[..., :, None] * across[..., None, :] * inside[..., None, None]


def windows(points: Tensor, size: int, sigma: float) -> Tensor:
    """Target maps as `heatmaps`, around the pixel nearest to each point (B, K, 2), which is 1, and zero outside of the
    square of 6 sigma around it: CornerNet's (Law and Deng 2018), whose sigma is a sixth of the square's side."""
    near, axis = points.round(), torch.arange(size, device=points.device)
    reach = round((6 * sigma - 1) / 2)
    across, down = ((axis - near[..., [k]]).abs() <= reach for k in (0, 1))  # (B, K, S); NaN lies within nothing
    return heatmaps(near, size, sigma) * down[..., :, None] * across[..., None, :]


def discs(points: Tensor, size: int, radius: float) -> Tensor:
    """Target maps (B, K, S, S): 1 within `radius` px of each point (B, K, 2), else 0; all zero where it is missing."""
    axis = torch.arange(size, device=points.device, dtype=torch.float32)
    across, down = ((axis - points[..., [k]]) ** 2 for k in (0, 1))  # (B, K, S); NaN lies within nothing
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(-1)
    return ((down[..., :, None] + across[..., None, :] <= radius**2) & inside[..., None, None]).float()


def on_map(points: Tensor, stride: int) -> Tensor:
    """Pixels of the image (…) as pixels of a map of that stride."""
    return (points + 0.5) / stride - 0.5


def maps(spec: DetectorSpec, points: Tensor, slices: Tensor | None = None) -> Tensor:
    """Target maps (B, K, s, s) of a detector; with a slice axis (B, K, T, s, s), the peak on the label's own slice."""
    own, sigma = on_map(points, spec.stride), spec.sigma_px / spec.stride
    if spec.target == "disc":
        flat = discs(own, spec.map_size, _HALF_RADIUS * sigma)
    elif spec.target == "window":
        flat = windows(own, spec.map_size, sigma)
    else:
        flat = heatmaps(own, spec.map_size, sigma)
    if not spec.depth:
        return flat
    assert slices is not None
    return flat[:, :, None] * along_slices(slices, spec.in_chans)[..., None, None]


def along_slices(slices: Tensor, count: int) -> Tensor:
    """(B, K, T): 1 on the slice nearest to each place (B, K), a half beside it, a quarter on the next; 0 elsewhere, and
    everywhere where it is missing."""
    away = (torch.arange(count, device=slices.device) - slices.round()[..., None]).abs()
    return torch.where(away <= _REACH, 0.5**away, 0.0)


def passed_levels(slices: Tensor, count: int) -> Tensor:
    """(B, T) int64: how many of the five levels lie at or before each slice on the way down from the head; -1 for a
    stack that lacks a level. `slices` (B, K): the levels once, or once a side."""
    sides = slices.unflatten(1, (-1, len(LEVELS)))
    places = sides.nanmean(1).round()  # (B, 5)
    order = torch.arange(count, device=slices.device)[:, None]
    falling = (places[:, :1] > places[:, -1:])[..., None]  # slices run from the feet to the head
    passed = torch.where(falling, order <= places[:, None], order >= places[:, None]).sum(-1)
    return torch.where(places.isfinite().all(-1, keepdim=True), passed, -1)


def between_sides(slices: Tensor, count: int) -> Tensor:
    """(B, T) int64: 1 between the slices of the left and the right side, 0 on them and outside; -1 for a stack that
    lacks a side. `slices` (B, K): the levels of the left, then of the right side, whose mean counts."""
    places = slices.unflatten(1, (-1, len(LEVELS))).nanmean(-1).round()  # (B, 2)
    order = torch.arange(count, device=slices.device)
    between = (order > places.amin(1, keepdim=True)) & (order < places.amax(1, keepdim=True))
    return torch.where(places.isfinite().all(-1, keepdim=True), between.long(), -1)


def levels_shown(slices: Tensor, count: int) -> Tensor:
    """(B, 5, T): 1 for the level that a slice shows: the nearest one, no more than two slices away; 0 elsewhere, and
    everywhere where it is missing. `slices` (B, K): the levels once, or once a side."""
    places = slices.unflatten(1, (-1, len(LEVELS))).nanmean(1)  # (B, 5)
    away = (torch.arange(count, device=slices.device) - places[..., None]).abs()
    away = torch.where(away.isnan(), torch.inf, away)
    nearest = torch.zeros_like(away).scatter(1, away.argmin(1, keepdim=True), 1.0)
    return nearest * (away <= _REACH)


def sizes(points: Tensor) -> Tensor:
    """(B, K) px: how large the surroundings of each point (B, K, 2) are; NaN where its neighbours are missing.

    Left and right of an axial level: their distance. Levels: the mean distance to the neighbouring ones.
    """
    if points.shape[1] % len(LEVELS):
        return (points - points.flip(1)).norm(dim=-1)
    chain = points.unflatten(1, (-1, len(LEVELS)))
    steps = (chain[:, :, 1:] - chain[:, :, :-1]).norm(dim=-1)  # (B, chains, 4)
    none = torch.full_like(steps[..., :1], torch.nan)
    both = torch.stack([torch.cat([none, steps], -1), torch.cat([steps, none], -1)])
    return torch.where(chain[..., 0].isnan(), torch.nan, both.nanmean(0)).flatten(1)
