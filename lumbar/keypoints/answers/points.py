"""Keypoints said as they are: shares of the stack's width, height and, with `depth`, of its slices. No torch.

A share of 0 is the centre of the first pixel or slice, and S or T of them are 1: the first place's way of counting.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumbar.keypoints.answers.members import finite, joined
from lumbar.keypoints.answers.reading import Reading
from lumbar.recipe.detector import DetectorSpec


def shape(spec: DetectorSpec) -> tuple[int, ...]:
    """(K, 2), with a slice axis (K, 3)."""
    return spec.num_classes, 3 if spec.depth else 2


def join(raw: Sequence[Any], how: str = "mean", *, every: bool = False) -> Any:
    """Mean or median of members' points (N, K, 2 or 3), see `registry.Answer`; one that is no number says nothing."""
    return joined(raw, [finite(points, 2) for points in raw], how)


def read(spec: DetectorSpec, raw: np.ndarray) -> Reading:
    """Shares (N, K, 2 or 3) float32 as points, by the decode "slice" without column and row.

    A network that says a place does not say how sure it is of it: the confidence is 1 for every point that lies in the
    stack, else 0.
    """
    said = np.asarray(raw, np.float64)
    silent = ~np.isfinite(said).all(-1)
    points = np.full((*said.shape[:2], 3), np.nan)
    points[..., :2] = said[..., :2] * spec.image_size
    if spec.decoded == "slice":
        points[..., :2] = np.nan
    if spec.depth:
        points[..., 2] = said[..., 2] * spec.in_chans
        if spec.beyond == "last":
            points[..., 2] = points[..., 2].clip(0, spec.in_chans - 1)
    points[silent] = np.nan
    with np.errstate(invalid="ignore"):
        sure = (~silent & (said >= 0).all(-1) & (said <= 1).all(-1)).astype(np.float64)
    untold = np.full(silent.shape, np.nan)
    return Reading(points, sure, untold, untold)
