"""The official score as something to minimise: its value and its gradient by the logits."""

from typing import Final

import numpy as np

from lumbar.ensemble.cells import GROUPS
from lumbar.labels import SEVERITIES, SEVERITY_WEIGHTS
from lumbar.metric import UNLABELLED

#: Weight of a row by its label; the last place, which -1 finds, is for rows without one.
ROW_WEIGHTS: Final = np.array([*(SEVERITY_WEIGHTS[severity] for severity in SEVERITIES), 0.0])
SEVERE: Final = SEVERITIES.index("severe")
_CANAL: Final = GROUPS[0][0]
#: No probability is taken for more certain than this.
_NEARLY: Final = 1e-9


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (…, 3) of logits (…, 3)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def weight_sums(codes: np.ndarray) -> np.ndarray:
    """Total weight of each of the four parts of the score (4,); codes (N, 5, 5)."""
    weights = ROW_WEIGHTS[codes]
    return np.array(
        [*(weights[:, list(places)].sum() for places in GROUPS), ROW_WEIGHTS[codes[:, _CANAL].max(axis=1)].sum()]
    )


def loss_and_gradient(
    logits: np.ndarray, codes: np.ndarray, sums: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """The official score of softmax(logits) and its derivative by the logits (N, 5, 5, 3).

    `codes` (N, 5, 5) as of `label_codes`. `sums`: the weight sums to divide by, for a batch of a larger set (default:
    those of `codes`). A part without a label counts nothing.
    """
    sums = weight_sums(codes) if sums is None else sums
    share = np.where(sums > 0, 0.25 / np.where(sums > 0, sums, 1.0), 0.0)
    p = softmax(logits)
    truth = np.eye(len(SEVERITIES))[np.maximum(codes, 0)]
    weights = ROW_WEIGHTS[codes]
    for group, places in enumerate(GROUPS):
        weights[:, list(places)] *= share[group]
    own = np.maximum((p * truth).sum(axis=-1), _NEARLY)
    gradient = weights[..., None] * (p - truth)
    value, canal = any_severe(p[:, _CANAL], codes[:, _CANAL], share[3])
    gradient[:, _CANAL] += canal
    return float(-(weights * np.log(own)).sum() + value), gradient


def any_severe(p: np.ndarray, codes: np.ndarray, share: float) -> tuple[float, np.ndarray]:
    """The any-severe part of canal probabilities (N, 5, 3), times `share`, and its derivative by their logits.

    Each study's prediction is the largest severe probability of its labelled levels, so only that level has a gradient.
    """
    severe = np.where(codes != UNLABELLED, p[..., SEVERE], -1.0)
    level = severe.argmax(axis=1)
    studies = np.arange(len(p))
    top = np.clip(severe[studies, level], _NEARLY, 1 - _NEARLY)
    worst = codes.max(axis=1)
    weights = ROW_WEIGHTS[worst] * share
    positive = worst == SEVERE
    value = -(weights * np.log(np.where(positive, top, 1 - top))).sum()
    slope = weights * np.where(positive, -1 / top, 1 / (1 - top))
    gradient = np.zeros_like(p)
    gradient[studies, level] = (slope * top)[:, None] * (np.eye(len(SEVERITIES))[SEVERE] - p[studies, level])
    return float(value), gradient
