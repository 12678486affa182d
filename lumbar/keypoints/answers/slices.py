"""Which slice shows each keypoint: a score of every slice for every name. No torch.

With the decode `change` (the fourth place's) a slice is asked another question, how many of the five levels' slices lie
at or before it on the way down from the head: 6 classes instead of K names, and a level lies where the class changes.
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


def shape(spec: DetectorSpec) -> tuple[int, ...]:
    """(K, T); for the decode `change` (6, T)."""
    return (len(LEVELS) + 1 if spec.decoded == "change" else spec.num_classes), spec.in_chans


def join(raw: Sequence[Any], how: str = "mean", *, every: bool = False) -> Any:
    """Mean or median of members' scores (N, K, T), see `registry.Answer`; a name with one that is no number says
    nothing."""
    return joined(raw, [finite(scores, 2) for scores in raw], how)


def read(spec: DetectorSpec, raw: np.ndarray) -> Reading:
    """Scores (N, K, T) float32 as places of slices; columns and rows are NaN.

    maximum: the first slice with the highest score, as sure as its share of the softmax over slices. expectation: the
    mean place under that softmax, as sure as the share of the slices within one of it. change: scores (N, 6, T),
    softmax over classes; a level's slice is the one around which its border is steepest, as sure as the less probable
    of the two classes at their best, and not found where that is no more than a half. Both sides share it. rolling: of
    each condition one slice for all levels, see `rolling_place`.
    """
    scores = np.asarray(raw, np.float64)
    silent = ~np.isfinite(scores).all(-1)
    scores = np.where(silent[..., None], 0.0, scores)
    if spec.decoded == "change":
        silent = silent.any(-1, keepdims=True)
        place, sure = _changes(_softmax(scores, axis=1))
        silent = silent | (sure <= LEAST_CLASS)
        sides = spec.num_classes // len(LEVELS)
        place, sure, silent = (np.tile(each, (1, sides)) for each in (place, sure, silent))
    else:
        shares, slices = _softmax(scores, axis=-1), np.arange(scores.shape[-1])
        if spec.decoded == "rolling":
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
