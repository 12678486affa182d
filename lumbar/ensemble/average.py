"""The averages: each cell over the members that speak there; where none does, the prior."""

from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np

from lumbar.ensemble.prior import with_prior

BlendMethod = Literal["mean", "mean_logits", "mean_odds", "median"]
BLEND_METHODS: Final[tuple[BlendMethod, ...]] = get_args(BlendMethod)

#: Smallest probability whose logarithm is taken: a half-precision softmax underflows to an exact zero.
SMALLEST: Final = 1e-12


def blend(
    probabilities: np.ndarray,
    prior: np.ndarray,
    method: BlendMethod = "mean",
    weights: Sequence[float] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Blend the members of one study, cell by cell, over those that speak; where none does, the prior stands.

    `probabilities`: (members, 5 conditions, 5 levels, 3 severities), NaN where a member is silent. `prior`: (5, 5, 3).
    `mean` averages probabilities; `mean_logits` averages their logarithms and takes the softmax (the geometric mean);
    `mean_odds` averages the log odds of each severity and takes the sigmoid (of networks trained with binary cross
    entropy these are the logits); `median` takes each severity's weighted median (the middle of the two where the
    weights halve between them).
    Other axes between members and severities do as well, as long as `prior` has them too.
    `weights`: one a member, not negative; they are shared out anew among those that speak. A member of weight zero is
    silent. Returns the blend (5, 5, 3), float64, rows sum to 1, and `spoken` (5, 5), True where a member spoke.
    ValueError where shapes, weights or the method are wrong, or a cell is NaN in part or holds no distribution.
    """
    members = np.asarray(probabilities, dtype=np.float64)
    prior = np.asarray(prior, dtype=np.float64)
    if members.ndim != prior.ndim + 1 or members.shape[1:] != prior.shape:
        raise ValueError(f"probabilities {members.shape} do not fit a prior {prior.shape}")
    silent = np.isnan(members).all(axis=-1)  # (M, 5, 5)
    if np.isnan(members[~silent]).any():
        raise ValueError("a cell is NaN in part: a member speaks with three numbers or is silent with three NaN")
    members = np.where(silent[..., None], 1.0, _distributions(members, ~silent))
    share = _weights(weights, len(members)).reshape(-1, *[1] * (prior.ndim - 1)) * ~silent  # (M, 5, 5)
    total = share.sum(axis=0)
    spoken = total > 0
    share = share / np.where(spoken, total, 1.0)
    if method == "mean":
        blended = (share[..., None] * members).sum(axis=0)
    elif method == "mean_logits":
        logits = (share[..., None] * np.log(np.maximum(members, SMALLEST))).sum(axis=0)
        blended = np.exp(logits - logits.max(axis=-1, keepdims=True))
    elif method == "mean_odds":
        blended = sigmoid((share[..., None] * log_odds(members)).sum(axis=0))
    elif method == "median":
        blended = _median(members, share)
    else:
        raise ValueError(f"unknown blend method {method!r}; known: {', '.join(BLEND_METHODS)}")
    blended = with_prior(blended, spoken, prior)
    return blended / blended.sum(axis=-1, keepdims=True), spoken


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms of p / (1 - p), element by element."""
    kept = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.log(kept) - np.log1p(-kept)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probabilities of log odds, element by element."""
    return 1 / (1 + np.exp(-logits))


def _median(members: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Weighted median along the first axis, severity by severity; shares (M, …) sum to 1, or to 0 where none speaks."""
    if not len(members):
        return np.ones(members.shape[1:])
    shares = np.broadcast_to(share[..., None], members.shape)
    order = np.argsort(np.where(shares > 0, members, np.inf), axis=0, kind="stable")  # the silent come last
    values, reached = (np.take_along_axis(array, order, axis=0) for array in (members, shares))
    reached = reached.cumsum(axis=0)
    lower, upper = (np.argmax(reached > limit, axis=0)[None] for limit in (0.5 - 1e-9, 0.5 + 1e-9))
    middle = (np.take_along_axis(values, lower, axis=0) + np.take_along_axis(values, upper, axis=0))[0] / 2
    return np.maximum(middle, SMALLEST)


def _distributions(members: np.ndarray, speaks: np.ndarray) -> np.ndarray:
    """The same array with speaking rows renormalised; ValueError where one is negative, infinite or all zero."""
    rows = members[speaks]  # (n, 3)
    if not np.isfinite(rows).all() or (rows < 0).any() or (rows.sum(axis=-1) <= 0).any():
        raise ValueError("a member's probabilities are negative, infinite or all zero")
    normalised = members.copy()
    normalised[speaks] = rows / rows.sum(axis=-1, keepdims=True)
    return normalised


def _weights(weights: Sequence[float] | np.ndarray | None, members: int) -> np.ndarray:
    """One weight a member, float64; ValueError where the number is wrong or one is negative or not finite."""
    if weights is None:
        return np.ones(members)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (members,) or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{members} weights wanted, finite and not negative; got {array.tolist()}")
    return array
