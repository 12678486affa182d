"""Which slice shows each keypoint: a score of every slice for every name. No torch.

With the fourth place's decodes a slice is asked which class it is of, instead of for names. `change`: how many of the
five levels' slices lie at or before it on the way down from the head, 6 classes; a level lies where the class changes.
`sides`: whether it lies between the slices of both sides, 2 classes; a side's slice is the one next to those.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumbar.keypoints.answers.members import finite, joined
from lumbar.keypoints.answers.reading import Reading
from lumbar.labels import LEVELS
from lumbar.recipe.detector import DetectorSpec

#: decode `change`: both classes at whose border a level lies are somewhere more probable than this.
LEAST_CLASS = 0.5
#: decode `rolling`: slices over which the mean is taken.
ROLLING = 5
#: decode `sides`: slices that are left beside a side's slice at either end, where there are as many.
_BESIDE = 1


def shape(spec: DetectorSpec) -> tuple[int, ...]:
    """(K, T); of classes (6, T) or (2, T)."""
    return spec.classes or spec.num_classes, spec.in_chans


def join(raw: Sequence[Any], how: str = "mean", *, every: bool = False) -> Any:
    """Mean or median of members' scores (N, K, T), see `registry.Answer`; a name with one that is no number says
    nothing."""
    return joined(raw, [finite(scores, 2) for scores in raw], how)


def read(spec: DetectorSpec, raw: np.ndarray) -> Reading:
    """Scores (N, K, T) float32 as places of slices; columns and rows are NaN.

    maximum: the first slice with the highest score, as sure as its share of the softmax over slices. expectation: the
    mean place under that softmax, as sure as the share of the slices within one of it. change: scores (N, 6, T),
    softmax over classes; a level's slice is the one around which its border is steepest, as sure as the less probable
    of the two classes at their best, and not found where that is no more than a half. Both sides share it. sides:
    scores (N, 2, T); of the slices that lie between the sides, the one before the first is the right side's, that
    behind the last the left one's, for all levels, as sure as the less probable class at its best; none lies between:
    not found. Slices whose scores are NaN for every class are empty ones and play no part. centroid: the mean place
    weighed by each slice's own probability (sigmoid), as sure as the highest. rolling: of each condition one slice for
    all levels, see `rolling_place`.
    """
    scores = np.asarray(raw, np.float64)
    if spec.classes:
        place, sure = _of_classes(spec, scores)
        silent = np.isnan(place)
    else:
        silent = ~np.isfinite(scores).all(-1)
        scores = np.where(silent[..., None], 0.0, scores)
        shares, slices = _softmax(scores, axis=-1), np.arange(scores.shape[-1])
        if spec.decoded == "centroid":
            shown = 0.5 * (1 + np.tanh(0.5 * scores))  # the sigmoid, without overflow
            total = shown.sum(-1)
            silent = silent | (total == 0)
            place = (shown * slices).sum(-1) / np.where(total > 0, total, 1.0)
            sure = shown.max(-1)
        elif spec.decoded == "rolling":
            place, sure = rolling_place(1 / (1 + np.exp(-scores)))
        elif spec.decoded == "expectation":
            place = (shares * slices).sum(-1)
            sure = np.where(np.abs(slices - place[..., None]) <= 1, shares, 0.0).sum(-1)
        else:
            place = scores.argmax(-1).astype(np.float64)
            sure = shares.max(-1)
    points = np.full((*place.shape, 3), np.nan)
    points[..., 2] = np.where(silent, np.nan, place)
    untold = np.full(place.shape, np.nan)
    return Reading(points, np.where(silent, 0.0, sure), untold, untold)


def rolling_place(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, K) and confidences of probabilities (N, K, T) of slices: the second place's rule.

    Of each condition the mean over its five levels, of that the mean over five slices around each, and where that is
    highest. As sure as that mean is over all slices together. A series of fewer slices has no five around any: its
    highest single slice counts.
    """
    means = shares.reshape(len(shares), -1, len(LEVELS), shares.shape[-1]).mean(axis=2)  # (N, conditions, T)
    reach = ROLLING // 2
    if means.shape[-1] >= ROLLING:
        windows = np.lib.stride_tricks.sliding_window_view(means, ROLLING, axis=-1).mean(axis=-1)
        place = windows.argmax(axis=-1) + reach
        sure = windows.max(axis=-1) * ROLLING / means.sum(axis=-1).clip(1e-12)
    else:
        place, sure = means.argmax(axis=-1), means.max(axis=-1) / means.sum(axis=-1).clip(1e-12)
    return tuple(np.repeat(each, len(LEVELS), axis=-1).astype(np.float64) for each in (place, sure.clip(0, 1)))  # type: ignore[return-value]


def _softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def _of_classes(spec: DetectorSpec, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place, NaN where there is none, and confidence (N, K) of each name, of scores (N, C, T) of classes."""
    place, sure = np.full((2, len(scores), spec.num_classes), np.nan)
    for row, own in enumerate(scores):
        there = np.flatnonzero(~np.isnan(own).all(0))
        if not len(there) or not np.isfinite(own[:, there]).all():
            continue
        shares = _softmax(own[:, there], axis=0)
        found = _changes(shares[None]) if spec.decoded == "change" else _sides(shares)
        each = spec.num_classes // found[0].size  # sides that share a place, or levels
        place[row], sure[row] = (
            np.tile(part[0], each) if spec.decoded == "change" else np.repeat(part, each) for part in found
        )
    low = (sure <= LEAST_CLASS) & (spec.decoded == "change")
    return np.where(low, np.nan, place), sure


def _sides(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and confidence (2,), left and right, of shares (2, T): outside, or between the sides."""
    between, count = np.flatnonzero(shares[1] > shares[0]), shares.shape[1]
    if not len(between):
        return np.full(2, np.nan), np.zeros(2)
    end = min(_BESIDE, (count - 1) // 2)
    right, left = max(between[0] - 1, end), min(between[-1] + 1, count - 1 - end)
    return np.array([left, right], np.float64), np.full(2, shares.max(-1).min())


def _changes(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and confidence (N, 5) of each border between neighbouring classes of (N, 6, T).

    The first and the last slice have no two neighbours and are never chosen; of fewer than three slices the middle is.
    """
    best = shares.max(-1)
    sure = np.minimum(best[:, :-1], best[:, 1:])
    if shares.shape[-1] < 3:
        return np.full(sure.shape, float(shares.shape[-1] // 2)), sure
    slope = shares[..., 2:] - shares[..., :-2]  # (N, 6, T - 2)
    steep = np.abs(slope[:, 1:] - slope[:, :-1])
    return steep.argmax(-1) + 1.0, sure
