"""Losses as a sum and a weight, so that batches, gradient accumulation and several processes divide only once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from lumbar.labels import SEVERITIES, SEVERITY_WEIGHTS

EMPTY = -1  # a label that is not known
_SEVERE = SEVERITIES.index("severe")


def heatmap_loss(
    predicted: Tensor, target: Tensor, peak_weight: float = 1.0, *, at_any: bool = False
) -> tuple[Tensor, Tensor]:
    """Squared error of maps (B, K, …) against target maps: mean over a map's pixels, summed over maps; and the number
    of maps.

    `peak_weight` above 1 counts errors near a peak up to so many times: without it a small network from random weights
    answers zero everywhere for a long time. 1 is the original's plain MSE. With `at_any` that holds near the peak of
    any map of the image, so that lighting up at another map's point costs as much as missing one's own.
    """
    error = (predicted.float() - target) ** 2
    if peak_weight != 1:
        error = error * near_peaks(target, peak_weight, at_any=at_any)
    return error.mean(tuple(range(2, error.ndim))).sum(), error.new_tensor(error.shape[0] * error.shape[1])


def near_peaks(target: Tensor, peak_weight: float, *, at_any: bool) -> Tensor:
    """How much each pixel of target maps (B, K, …) counts: 1, and up to `peak_weight` near a peak."""
    near = target.amax(1, keepdim=True) if at_any else target
    return 1 + (peak_weight - 1) * near


def severity_loss(logits: Tensor, labels: Tensor, *, weighted: bool = True) -> tuple[Tensor, Tensor]:
    """Cross entropy of logits (…, 3) weighted 1/2/4 by the true severity, summed; and the sum of the weights.

    `labels` (…) are places in `SEVERITIES`; `EMPTY` ones count nothing and get no gradient. Not `weighted`, all
    severities count alike.
    """
    weights = _weights(logits, weighted=weighted)
    flat, truth = logits.float().flatten(0, -2), labels.flatten()
    loss = nnf.cross_entropy(flat, truth, weight=weights, ignore_index=EMPTY, reduction="sum")
    return loss, torch.where(truth == EMPTY, 0.0, weights[truth.clamp_min(0)]).sum()


def distribution_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weighted: bool = True,
    weights: Sequence[float] | None = None,
    far: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`severity_loss` of logits (…, 3) for targets (…, 3): shares of the severities, all zero where unknown.

    `weights`: how much each severity counts, in place of 1/2/4. `far`: how many times a row's error counts whose
    largest logit is two severities off the right one; of shares as far as they are so.
    """
    wanted = targets.float() * _weights(logits, weighted=weighted, own=weights)
    loss = -(wanted * logits.float().log_softmax(-1)).sum(-1)
    if far != 1:
        off = nnf.one_hot(logits.argmax(-1), len(SEVERITIES))[..., ::2].flip(-1) * targets[..., ::2]
        loss = loss * (1 + (far - 1) * off.sum(-1) / targets.sum(-1).clamp_min(1e-6))
    return loss.sum(), wanted.sum()


def odds_loss(logits: Tensor, targets: Tensor, *, weighted: bool = True) -> tuple[Tensor, Tensor]:
    """Binary cross entropy of each severity apart, (…, 3), the mean over the three, each row as often as its severity
    weighs; and the sum of the weights. `targets` as of `distribution_loss`."""
    sums = targets.float().sum(-1, keepdim=True)
    shares = targets.float() / sums.clamp_min(1e-6)
    loss = nnf.binary_cross_entropy_with_logits(logits.float(), shares, reduction="none").mean(-1)
    weights = (targets.float() * _weights(logits, weighted=weighted)).sum(-1)
    return (loss * weights).sum(), weights.sum()


def severe_loss(logits: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the logarithm of the mean severe probability of severe rows, as often as there are such rows; and how many
    there are: third place's. Logits (…, 3); `shares` (…): how far a row is severe and counts."""
    said = logits.float().softmax(-1)[..., _SEVERE]
    count = shares.float().sum()
    mean = (said * shares).sum() / count.clamp_min(1e-6)
    return -mean.clamp_min(1e-6).log() * count, count


def distributions(labels: Tensor) -> Tensor:
    """Labels (…) as targets (…, 3) of `distribution_loss`."""
    return nnf.one_hot(labels.clamp_min(0), len(SEVERITIES)).float() * (labels != EMPTY)[..., None]


def level_loss(logits: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of logits (B, L, 5) against the levels (B, L) that are shown, summed; and how many there are.

    Of mixed samples `levels` (B, L, 5) are the shares of both.
    """
    flat = logits.float().flatten(0, 1)
    wanted = levels.float().flatten(0, 1) if levels.ndim == logits.ndim else levels.flatten()
    return nnf.cross_entropy(flat, wanted, reduction="sum"), flat.new_tensor(len(flat))


def slice_loss(scores: Tensor, marked: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy over the slices of scores (…, T), summed; and how much of it counts.

    `marked` (…, T): the slices that are right, of which any will do, as shares of a mixed sample; rows without any
    count nothing. A slice that stands there twice is right in both places.
    """
    there = marked > 0
    said = scores.float().log_softmax(-1).masked_fill(~there, -torch.inf)
    counts = there.any(-1)
    share = marked.float().amax(-1)
    loss = -said[counts].logsumexp(-1) * share[counts]
    return loss.sum(), share.sum()


def _weights(logits: Tensor, *, weighted: bool, own: Sequence[float] | None = None) -> Tensor:
    values = list(own or SEVERITY_WEIGHTS.values()) if own or weighted else [1.0] * len(SEVERITIES)
    return logits.new_tensor(values, dtype=torch.float32)


def any_severe_loss(
    logits: Tensor, labels: Tensor, studies: Tensor, share: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The official score's fourth term on the canal: logits (B, 3), labels (B,), the study of each row (B,).

    Per study: is any labelled level severe, asked of the largest severe probability, weighted by the largest row
    weight. Returns the sum and the sum of weights; the rows of a study must come in one batch. `share` (B,), the same
    for all rows of a study: how much of it counts.
    """
    known = labels != EMPTY
    share = (torch.ones_like(logits[:, 0]) if share is None else share).float()[known]
    logits, labels, studies = logits.float()[known], labels[known], studies[known]
    if not len(labels):
        return logits.sum(), logits.new_zeros(())
    _, place = studies.unique(return_inverse=True)
    count = int(place.max()) + 1
    row_weights = logits.new_tensor(list(SEVERITY_WEIGHTS.values()))[labels]
    weight = logits.new_zeros(count).scatter_reduce(0, place, row_weights * share, "amax")
    severe = logits.softmax(-1)[:, _SEVERE].clamp(1e-6, 1 - 1e-6)
    largest = logits.new_zeros(count).scatter_reduce(0, place, severe, "amax")
    truth = logits.new_zeros(count).scatter_reduce(0, place, (labels == _SEVERE).float(), "amax")
    loss = -(truth * largest.log() + (1 - truth) * (1 - largest).log())
    return (loss * weight).sum(), weight.sum()
