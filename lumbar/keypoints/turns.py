"""Test-time augmentation of detectors: stacks turned, and their answers turned back by names and axes.

Every turn undoes itself. `mirror` is the study as seen in a mirror (see `mirror`): left and right exchange their names.
"""

from collections.abc import Sequence
from itertools import combinations

import torch

from lumbar.keypoints.mirror import mirrored_axis, mirrored_maps
from lumbar.recipe.detector import DetectorSpec, Turn

#: Axes of an image.
_AXES = {"rows": -2, "columns": -1}


def looks(spec: DetectorSpec) -> list[tuple[Turn, ...]]:
    """The turns of each further look at a stack, one after the other: each alone, or every combination of them."""
    most = len(spec.tta) if spec.looks == "every" else min(len(spec.tta), 1)
    return [each for count in range(1, most + 1) for each in combinations(spec.tta, count)]


def turned(stacks: torch.Tensor, turn: Turn, spec: DetectorSpec, filled: Sequence[int]) -> torch.Tensor:
    """Stacks (B, C, S, S) turned; `filled`: how many of a stack's first slices are not empty (those stay behind)."""
    axis = _axis(turn, spec)
    if axis in _AXES:
        return stacks.flip(_AXES[axis])
    if axis == "none":  # the stack of the mirrored study's other side, as it is
        return stacks
    own = stacks.unflatten(1, (-1, spec.in_chans))
    return _slices_turned(own, 2, filled).flatten(1, 2)


def turned_back(raw: torch.Tensor, turn: Turn, spec: DetectorSpec, filled: Sequence[int]) -> torch.Tensor:
    """The raw answer (B, …) to turned stacks as the answer to the stacks as they were."""
    axis = _axis(turn, spec)
    if spec.answer == "points":
        raw = _shares_turned(raw, axis, spec, filled)
    elif axis in _AXES and spec.answer != "slices":
        raw = raw.flip(_AXES[axis])
        if spec.answer == "boxes":
            sign = torch.ones(raw.shape[2], device=raw.device)
            sign[1 if axis == "columns" else 2] = -1  # the offset from the middle of the cell
            raw = raw * sign[:, None, None]
    elif axis == "slices" and (spec.depth or spec.answer == "slices"):
        raw = _slices_turned(raw, 2, filled)
    return raw[:, mirrored_maps(spec)] if turn == "mirror" and not spec.classes else raw


def _axis(turn: Turn, spec: DetectorSpec) -> str:
    return (mirrored_axis(spec) or "none") if turn == "mirror" else turn


def _slices_turned(values: torch.Tensor, axis: int, filled: Sequence[int]) -> torch.Tensor:
    """The first `filled` places along an axis in opposite order, sample by sample; what follows stays."""
    if set(filled) <= {values.shape[axis]}:
        return values.flip(axis)
    return torch.stack(
        [
            torch.cat(
                [
                    one.narrow(axis - 1, 0, count).flip(axis - 1),
                    one.narrow(axis - 1, count, one.shape[axis - 1] - count),
                ],
                axis - 1,
            )
            for one, count in zip(values, filled, strict=True)
        ]
    )


def _shares_turned(raw: torch.Tensor, axis: str, spec: DetectorSpec, filled: Sequence[int]) -> torch.Tensor:
    """Points (B, K, 2 or 3) whose shares of an axis count from its other end: pixel c and S - 1 - c exchange."""
    raw = raw.clone()
    if axis in _AXES:
        at = 0 if axis == "columns" else 1
        raw[..., at] = (spec.image_size - 1) / spec.image_size - raw[..., at]
    elif axis == "slices" and spec.depth:
        last = torch.tensor(filled, device=raw.device, dtype=raw.dtype)[:, None] - 1
        raw[..., 2] = last / spec.in_chans - raw[..., 2]
    return raw
