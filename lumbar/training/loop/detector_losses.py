"""What each word of a recipe's `loss` asks of a detector's answer: a sum and its weight, as all losses here.

A network gives its answer and may give, in training, its maps or scores before the sigmoid as `logits`, and scores of
slices (B, K, T) as `slice_scores`, or beside scores of slices which level (B, 5, T) each shows, as `levels`, and how
far each lies from the right one (B, K, T), as `distances`, or beside maps the `severity` (B, K, 3) of what each of them
shows.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as nnf
from torch import Tensor

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.settings import Training
from lumbar.training.loop import mix, shared_losses, targets

Outputs = Mapping[str, Tensor]
Parts = tuple[Tensor, Tensor]
#: Losses of maps that are asked for as probabilities.
OF_PROBABILITIES: Final = frozenset({"bce", "dice", "focal"})
#: Losses of what a network answers in training alone.
BESIDE: Final = frozenset({"severity"})
#: Lin et al. (2017), as the third place takes them.
_ALPHA, _GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class Truth:
    """The labels of a batch: keypoints (B, K, 2) px, places of their slices (B, K) where the answer names slices."""

    spec: DetectorSpec
    training: Training
    points: Tensor
    slices: Tensor | None = None
    #: Names that the study labels, on this stack or beside it (B, K), and places that show a slice (B, T).
    told: Tensor | None = None
    there: Tensor | None = None
    #: What a teacher says of every slice (B, K, T), NaN where it is silent.
    lesson: Tensor | None = None
    #: The severity of what each map shows (B, K), places in `SEVERITIES`, where a loss asks for it.
    labels: Tensor | None = None
    #: What the partners of mixed samples show, and the share (B,) of each sample that is its own.
    partner: "Truth | None" = None
    share: Tensor | None = None

    def mixed(self, make: "Callable[[Truth], Tensor]") -> Tensor:
        """Targets (B, …) that `make` gives, mixed as the pictures are."""
        own = make(self)
        if self.partner is None or self.share is None:
            return own
        return mix.labels(own, make(self.partner), self.share)


def _map_mse(outputs: Outputs, truth: Truth) -> Parts:
    """Squared error: mean over a map, sum over maps, see `shared_losses.heatmap_loss`."""
    weight, at_any = truth.training.heatmap_weight, truth.training.heatmap_weight_at == "any"
    said, wanted = outputs["answer"], _maps(truth)
    if truth.training.unlabelled == "unasked":
        asked = truth.mixed(lambda one: one.points.isfinite().all(-1).float()) == 1
        said, wanted = said[asked][:, None], wanted[asked][:, None]  # each map stands alone
    return shared_losses.heatmap_loss(said, wanted, weight, at_any=at_any)


def _severity(outputs: Outputs, truth: Truth) -> Parts:
    """Cross entropy of the severities of what the maps show, weighted as the official score or not at all."""
    assert truth.labels is not None
    return shared_losses.severity_loss(
        outputs["severity"], truth.labels.long(), weighted=truth.training.class_weights != "none"
    )


def _map_bce(outputs: Outputs, truth: Truth) -> Parts:
    """Binary cross entropy: mean over a map, sum over maps; of the network's own slice scores as well.

    With a slice axis, as the fifth place: of the names that the study labels, on the slices that are there.
    """
    wanted = _maps(truth)
    loss = nnf.binary_cross_entropy_with_logits(_logits(outputs), wanted, reduction="none")
    if truth.training.heatmap_weight != 1:
        at_any = truth.training.heatmap_weight_at == "any"
        loss = loss * shared_losses.near_peaks(wanted, truth.training.heatmap_weight, at_any=at_any)
    if truth.spec.depth:
        asked = _asked(truth)
        slices = _of_own_slices(outputs, truth)
        each = loss.mean((-2, -1)) if slices is None else loss.mean((-2, -1)) + slices
        return each[asked].sum(), asked.sum().float()
    return loss.flatten(2).mean(-1).sum() + _own_slices(outputs, truth), _count(wanted, 2)


def _map_dice(outputs: Outputs, truth: Truth) -> Parts:
    """1 - soft Dice over all maps of a sample together, as the fourth place; of mixed samples with both parts' maps."""
    said = outputs["answer"].float().flatten(1)

    def apart(one: Truth) -> Tensor:
        wanted = targets.maps(one.spec, one.points, one.slices).flatten(1)
        return 1 - (2 * (wanted * said).sum(1) + 1) / (wanted.sum(1) + said.sum(1) + 1)

    loss = truth.mixed(apart)
    return loss.sum(), _count(loss, 1)


def _map_focal(outputs: Outputs, truth: Truth) -> Parts:
    """Binary focal loss against the target maps: mean over a map, sum over maps, as the third place; and the binary
    cross entropy of the network's own slice scores."""
    wanted = _maps(truth)
    loss = binary_focal(_logits(outputs), wanted)
    return loss.flatten(2).mean(-1).sum() + _own_slices(outputs, truth), _count(wanted, 2)


def _own_slices(outputs: Outputs, truth: Truth) -> Tensor:
    """What the slice scores that a network gives beside its maps cost: `logits` alone would not teach them."""
    if "slice_scores" not in outputs or truth.slices is None:
        return outputs["answer"].new_zeros(())
    return _slice_bce({"answer": outputs["slice_scores"]}, truth)[0]


def _of_own_slices(outputs: Outputs, truth: Truth) -> Tensor | None:
    """Binary cross entropy of each of the network's own slice scores (B, K, T), where it gives some."""
    if "slice_scores" not in outputs:
        return None
    scores = outputs["slice_scores"].float()
    wanted = truth.mixed(lambda one: targets.along_slices(_known_slices(one), scores.shape[-1]))
    return nnf.binary_cross_entropy_with_logits(scores, wanted, reduction="none")


def _asked(truth: Truth) -> Tensor:
    """(B, K, T) bool: which names are asked for on which slices of a stack; of an empty one on all."""
    told = truth.mixed(lambda one: _told(one).float()) > 0
    there = told.new_zeros(len(told), truth.spec.in_chans) if truth.there is None else truth.there
    return told[:, :, None] & (there | ~there.any(-1, keepdim=True))[:, None]


def _told(truth: Truth) -> Tensor:
    assert truth.slices is not None
    return truth.slices.isfinite() if truth.told is None else truth.told


def binary_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of each logit against a target from 0 to 1, alpha .25 and gamma 2; the shape of both."""
    entropy = nnf.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    said = logits.sigmoid()
    right = said * wanted + (1 - said) * (1 - wanted)
    return (_ALPHA * wanted + (1 - _ALPHA) * (1 - wanted)) * (1 - right) ** _GAMMA * entropy


def _point_loss(outputs: Outputs, truth: Truth, power: int) -> Parts:
    """Error of the shares to a power: mean over coordinates, sum over labelled points."""
    spec = truth.spec
    wanted = truth.points / spec.image_size
    if spec.depth:
        assert truth.slices is not None
        wanted = torch.cat([wanted, truth.slices[..., None] / spec.in_chans], -1)
    known = wanted.isfinite().all(-1)
    error = (outputs["answer"].float() - wanted)[known].abs() ** power
    return error.mean(-1).sum(), _count(error, 1)


def _slice_entropy(outputs: Outputs, truth: Truth) -> Parts:
    """Cross entropy over slices against the label's own; of classes over those of each slice that is there. And what
    the levels cost that a network gives beside its scores."""
    scores, places = outputs["answer"].float(), _known_slices(truth)
    if truth.spec.classes:
        of = targets.passed_levels if truth.spec.decoded == "change" else targets.between_sides
        classes = of(places, scores.shape[-1])
        if truth.there is not None:
            classes = torch.where(truth.there, classes, -1)
        loss = nnf.cross_entropy(scores, classes, ignore_index=-1, reduction="none")
        return loss.sum(), (classes >= 0).sum().float()
    known = places.isfinite()
    loss = nnf.cross_entropy(scores[known], places[known].round().long(), reduction="sum")
    return loss + known.sum() * _own_levels(outputs, truth), known.sum().float()


def _slice_bce(outputs: Outputs, truth: Truth) -> Parts:
    """Binary cross entropy of every slice against 1 on the label's own, less beside it: mean over slices; and the
    network's own levels, as by `cross_entropy`, and distances. What a teacher says stands in place of labels."""
    count = outputs["answer"].shape[-1]
    wanted = truth.mixed(lambda one: _shown_on(one, count))
    known = truth.mixed(lambda one: _known_slices(one).isfinite().float()) == 1
    if truth.lesson is not None:
        taught = truth.lesson.isfinite().all(-1)
        wanted, known = torch.where(taught[..., None], truth.lesson.to(wanted), wanted), known | taught
    loss = nnf.binary_cross_entropy_with_logits(outputs["answer"].float()[known], wanted[known], reduction="none")
    beside = _own_levels(outputs, truth) + _own_distances(outputs, truth)
    return loss.mean(-1).sum() + known.sum() * beside, known.sum().float()


def _own_distances(outputs: Outputs, truth: Truth) -> Tensor:
    """What the distances (B, K, T) cost that a network gives beside its scores: smooth L1 of how far each slice that is
    there lies from the label's, as a share of them all (second place)."""
    if "distances" not in outputs:
        return outputs["answer"].new_zeros(())
    said, places = outputs["distances"].float(), _known_slices(truth)
    there = torch.ones_like(said[:, 0], dtype=torch.bool) if truth.there is None else truth.there
    count = there.sum(-1).clamp_min(1)[:, None, None]
    away = (torch.arange(said.shape[-1], device=said.device) - places[..., None]) / count
    asked = there[:, None] & away.isfinite()
    return nnf.smooth_l1_loss(said[asked], away[asked].to(said), reduction="sum") / asked.sum().clamp_min(1)


def _shown_on(truth: Truth, count: int) -> Tensor:
    """(B, K, T): how much of each name every slice shows."""
    if truth.spec.decoded != "centroid":
        return targets.along_slices(_known_slices(truth), count)
    wanted = targets.around_slices(_known_slices(truth), count)
    return wanted if truth.there is None else wanted * truth.there[:, None]


def _own_levels(outputs: Outputs, truth: Truth) -> Tensor:
    """What the levels (B, 5, T) cost that a network gives beside its scores: cross entropy, the mean over slices that
    show one (seventh place)."""
    if "levels" not in outputs:
        return outputs["answer"].new_zeros(())
    said = outputs["levels"].float().log_softmax(1)
    wanted = truth.mixed(lambda one: targets.levels_shown(_known_slices(one), said.shape[-1]))
    return -(wanted * said).sum() / wanted.sum().clamp_min(1)


def _slice_l1(outputs: Outputs, truth: Truth) -> Parts:
    """Distance of the expected slice, under the softmax or as the decode `centroid` weighs them, from the label's, in
    slices."""
    places, scores = _known_slices(truth), outputs["answer"].float()
    shares = scores.softmax(-1)
    if truth.spec.decoded == "centroid":
        shares = scores.sigmoid()
        shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-6)
    expected = (shares * torch.arange(shares.shape[-1], device=shares.device)).sum(-1)
    known = places.isfinite()
    unasked = 0 * _own_levels(outputs, truth)  # several processes wait for parameters without a gradient
    return (expected - places)[known].abs().sum() + unasked, known.sum().float()


def _box_focal(outputs: Outputs, truth: Truth) -> Parts:
    """Focal loss of the scores against Gaussians whose peak is the point's cell: sum over a map and over maps."""
    spec = truth.spec
    cells = targets.on_map(truth.points, spec.stride).round()
    wanted = targets.heatmaps(cells, spec.map_size, spec.sigma_px / spec.stride)
    return binary_focal(_logits(outputs, 0), wanted).sum(), _count(wanted, 2)


def _box_l1(outputs: Outputs, truth: Truth) -> Parts:
    """At each point's cell: error of the offset in pixels of the map, and of the size as a share of the true one."""
    spec, answer = truth.spec, outputs["answer"].float()
    own = targets.on_map(truth.points, spec.stride)
    cells = own.round()
    known = ((cells >= 0) & (cells < spec.map_size)).all(-1)  # False for NaN
    column, row = torch.where(known[..., None], cells, 0.0).long().unbind(-1)
    sample, name = torch.meshgrid(*(torch.arange(n, device=own.device) for n in known.shape), indexing="ij")
    said = answer[sample, name, 1:, row, column]  # (B, K, 4)
    offset = (said[..., :2][known] - (own - cells)[known]).abs().mean(-1).sum()
    true = targets.sizes(truth.points)
    sized = known & (true > 0)
    size = (said[..., 2:][sized] / true[sized][:, None] - 1).abs().mean(-1).sum()
    return offset + size, known.sum().float()


#: Answer → word → what it asks.
LOSSES: Final[Mapping[str, Mapping[str, Callable[[Outputs, Truth], Parts]]]] = {
    "heatmaps": {"mse": _map_mse, "bce": _map_bce, "dice": _map_dice, "focal": _map_focal, "severity": _severity},
    "points": {
        "l1": lambda outputs, truth: _point_loss(outputs, truth, 1),
        "squared": lambda outputs, truth: _point_loss(outputs, truth, 2),
    },
    "slices": {"cross_entropy": _slice_entropy, "bce": _slice_bce, "l1": _slice_l1},
    "boxes": {"focal": _box_focal, "l1": _box_l1},
}


def _maps(truth: Truth) -> Tensor:
    return truth.mixed(lambda one: targets.maps(one.spec, one.points, one.slices))


def _logits(outputs: Outputs, channel: int | None = None) -> Tensor:
    """What the network gives as `logits`, else those of its answer, which then lies between 0 and 1."""
    if "logits" in outputs:
        return outputs["logits"].float()
    answer = outputs["answer"].float()
    return torch.logit(answer if channel is None else answer[:, :, channel], eps=1e-6)


def _count(of: Tensor, axes: int) -> Tensor:
    """How many there are along the first axes."""
    return of.new_tensor(math.prod(of.shape[:axes]))


def _known_slices(truth: Truth) -> Tensor:
    """Places (B, K) of labels within the stack; NaN beside it."""
    assert truth.slices is not None
    inside = (truth.slices >= -0.5) & (truth.slices <= truth.spec.in_chans - 0.5)
    return torch.where(inside, truth.slices.clamp(0, truth.spec.in_chans - 1), torch.nan)
