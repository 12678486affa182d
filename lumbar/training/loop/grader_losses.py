"""What each word of a recipe's `loss` asks of a grader's outputs: a sum and its weight, as all losses here.

`recipe.losses.OF_GRADERS` holds the words; here is what their targets are. Shapes: B samples, L levels (one, or five),
T slices of all views one after the other, C conditions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import torch
import torch.nn.functional as nnf
from torch import Tensor

from lumbar.labels import LEVELS
from lumbar.recipe.losses import OF_GRADERS, GraderLoss
from lumbar.recipe.settings import Training
from lumbar.training.loop import mix, shared_losses

Parts = tuple[Tensor, Tensor]
#: Of embeddings: what their products are divided by, and how near another position is no other (both guesses).
_TEMPERATURE, _APART_MM = 0.07, 10.0


@dataclass(frozen=True)
class Truth:
    """What is known of a batch of samples; `soft`: labels as shares where a table gives some."""

    training: Training
    labels: Tensor  # (B, L, C)
    level: Tensor | None = None  # (B, L)
    soft: Tensor | None = None  # (B, L, C, 3)
    #: Which slices carry an annotation: of each condition (B, L, T, C), and of what their view shows (B, L, T).
    annotated: Tensor | None = None
    marked: Tensor | None = None
    #: Slices of each view, which together are T.
    views: Sequence[int] = ()
    #: Where labels lie on whole series, view by view: (B, L · C, 2) shares of the image, NaN where none does.
    points: Sequence[Tensor] = ()
    #: How much each condition counts (C,); None: all alike.
    counts: Tensor | None = None
    #: Positions (B, P, 3) mm, and where each view shows them (B, P, 3): slice, column and row in shares; NaN: nowhere.
    shared: Sequence[Tensor] = ()
    mm: Tensor | None = None
    #: What the partners of mixed samples show, and the share (B,) of each sample that is its own.
    partner: "Truth | None" = None
    share: Tensor | None = None
    #: Where sides are mixed: conditions (B, C) whose label is the partner's, and those that are not asked.
    taken: Tensor | None = None
    unasked: Tensor | None = None
    #: Whether each severity is asked apart, see `GraderSpec.says`.
    odds: bool = False

    @property
    def targets(self) -> Tensor:
        """Labels as shares (B, L, C, 3) of the severities, times what their conditions count."""
        shares = shared_losses.distributions(self.labels) if self.soft is None else self.soft
        return shares if self.counts is None else shares * self.counts[:, None]

    def mixed(self, make: "Callable[[Truth], Tensor]") -> Tensor:
        """Targets (B, …) that `make` gives, mixed as the samples are."""
        own = make(self)
        if self.partner is None or self.share is None:
            return own
        return mix.labels(own.float(), make(self.partner).float(), self.share)


def _asked(truth: Truth) -> Tensor:
    """The targets (B, L, C, 3) of mixed samples: in their parts, or side by side."""
    targets = truth.mixed(lambda one: one.targets)
    if truth.taken is None or truth.unasked is None or truth.partner is None:
        return targets
    targets = torch.where(truth.taken[:, None, :, None], truth.partner.targets.to(targets.dtype), targets)
    return targets * ~truth.unasked[:, None, :, None]


def loss_of(word: str, said: Any, truth: Truth) -> Parts:
    """The sum of a word's loss over an output `said`, and its weight."""
    return _OF_TARGETS[OF_GRADERS[word].target](said, truth, OF_GRADERS[word])


def _severity(said: Tensor, truth: Truth, loss: GraderLoss) -> Parts:
    """Cross entropy of logits (B, L, …, C, 3) against the labels of the sample, those of slices or views alike."""
    weighted = truth.training.class_weights != "none"
    if loss.annotated:
        weights = truth.training.slice_class_weights
        return shared_losses.distribution_loss(said, truth.mixed(_of_slices), weighted=weighted, weights=weights)
    between = [1] * (said.ndim - 4)
    far = truth.training.far_errors if loss.output == "severity" else 1.0
    if truth.partner is None and truth.soft is None and truth.counts is None and far == 1 and not truth.odds:
        labels = truth.labels.view(*truth.labels.shape[:2], *between, -1).expand(said.shape[:-1]).contiguous()
        return shared_losses.severity_loss(said, labels, weighted=weighted)
    targets = _asked(truth)
    spread = targets.view(*targets.shape[:2], *between, *targets.shape[2:]).expand(said.shape)
    if truth.odds:
        return shared_losses.odds_loss(said, spread, weighted=weighted)
    return shared_losses.distribution_loss(said, spread, weighted=weighted, far=far)


def _severe(said: Tensor, truth: Truth, loss: GraderLoss) -> Parts:
    """How sure severe rows of logits (B, L, C, 3) are on average, see `shared_losses.severe_loss`."""
    shares = nnf.logsigmoid(said) if truth.odds else said
    return shared_losses.severe_loss(shares, truth.mixed(lambda one: one.targets)[..., -1])


def _of_slices(truth: Truth) -> Tensor:
    """The labels of the sample (B, L, T, C, 3) on slices that carry an annotation of the condition; else zero."""
    assert truth.annotated is not None
    return truth.targets[:, :, None] * truth.annotated[..., None]


def _level(said: Tensor, truth: Truth, loss: GraderLoss) -> Parts:
    """Cross entropy of logits (B, L, 5) against the level that is shown."""
    assert truth.level is not None
    if truth.partner is None:
        return shared_losses.level_loss(said, truth.level)
    return shared_losses.level_loss(said, truth.mixed(lambda one: nnf.one_hot(_known(one.level), len(LEVELS))))


def _slice(said: Tensor, truth: Truth, loss: GraderLoss) -> Parts:
    """Of scores (B, L, T) those of each view against its annotated slice."""
    told = [(truth, truth.share)] if truth.partner is None else [(truth, truth.share), (truth.partner, _rest(truth))]
    sums = [torch.zeros_like(said[0, 0, 0], dtype=torch.float32) for _ in range(2)]
    for one, share in told:
        marked = _known(one.marked).float() if share is None else _known(one.marked) * share[:, None, None]
        for scores, own in zip(said.split(list(truth.views), -1), marked.split(list(truth.views), -1), strict=True):
            parts = shared_losses.slice_loss(scores, own)
            sums = [sum_ + part for sum_, part in zip(sums, parts, strict=True)]
    return sums[0], sums[1]


def _points(said: Mapping[str, Tensor], truth: Truth, loss: GraderLoss) -> Parts:
    """Of maps before the sigmoid, by view (B, T, L · C, h, w): CornerNet's focal loss (Law and Deng 2018) against a
    Gaussian around the cell of each label on its slice, and nothing on all other slices, a label; of labels that lie
    nowhere nothing is asked."""
    annotated = _known(truth.annotated).transpose(1, 2).flatten(2).bool()  # (B, T of all views, L · C)
    known = annotated.any(1)[:, None, :, None, None]
    total, count = torch.zeros_like(truth.points[0][0, 0, 0]), annotated.any(1).sum()
    parts = annotated.split(list(truth.views), 1)
    for maps, points, shown in zip(said.values(), truth.points, parts, strict=True):
        near = gaussians(points, (maps.shape[-2], maps.shape[-1]))
        wanted = near[:, None] * shown[..., None, None]
        logits = maps.float()
        chance = logits.sigmoid()
        right = (1 - chance) ** 2 * nnf.softplus(-logits)
        wrong = (1 - wanted) ** 4 * chance**2 * nnf.softplus(logits)
        total = total + (torch.where(wanted == 1, right, wrong) * known).sum()
    return total, count.clamp_min(1).float()


def _shared(said: Mapping[str, Tensor], truth: Truth, loss: GraderLoss) -> Parts:
    """InfoNCE (van den Oord et al. 2018) of embeddings by view (B, T, E, h, w): what two views show at one position in
    the patient is alike, and unlike what lies farther off than `_APART_MM` there; either way, a position."""
    told = [_at(maps.float(), places) for maps, places in zip(said.values(), truth.shared, strict=True)]
    near = torch.cdist(_known(truth.mm), _known(truth.mm)) < _APART_MM
    near = near & ~torch.eye(near.shape[-1], dtype=torch.bool, device=near.device)
    total = torch.stack([0 * each.sum() for each, _ in told]).sum()
    count = torch.zeros_like(total)
    for (one, here), (other, there) in combinations(told, 2):
        both = here & there
        logits = (one @ other.transpose(1, 2) / _TEMPERATURE).masked_fill(near | ~both[:, None], -1e4)
        back = (other @ one.transpose(1, 2) / _TEMPERATURE).masked_fill(near | ~both[:, None], -1e4)
        right = logits.diagonal(dim1=1, dim2=2)
        each = (logits.logsumexp(-1) + back.logsumexp(-1)) / 2 - right
        total, count = total + each[both].sum(), count + both.sum()
    return total, count.clamp_min(1)


def _at(maps: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings (B, P, E) of the cells at places (B, P, 3), and which places there are (B, P)."""
    size = places.new_tensor([maps.shape[1], 1, 1])
    there = (places >= 0).all(-1) & (places < size).all(-1)  # False for NaN
    safe = torch.where(there[..., None], places, 0.0)
    slices, columns, rows = (safe * safe.new_tensor([1, maps.shape[-1], maps.shape[-2]])).long().unbind(-1)
    cells = (slices * maps.shape[-2] + rows) * maps.shape[-1] + columns
    flat = maps.movedim(2, -1).flatten(1, 3)  # (B, T · h · w, E)
    found = flat.gather(1, cells[..., None].expand(-1, -1, flat.shape[-1]))
    return nnf.normalize(found, dim=-1), there


def gaussians(points: Tensor, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """Maps (B, K, h, w) that are 1 in the cell of each point (B, K, 2), shares of the image, and fall off by `sigma`
    cells; zero where there is no point (NaN) or it lies outside."""
    cells = points * points.new_tensor([size[1], size[0]])
    inside = ((cells >= 0) & (cells < points.new_tensor([size[1], size[0]]))).all(-1)  # False for NaN
    near = torch.where(inside[..., None], cells, 0.0).floor()
    axes = [torch.arange(count, device=points.device) for count in (size[1], size[0])]
    across, down = (torch.exp(-((axis - near[..., [k]]) ** 2) / (2 * sigma**2)) for k, axis in enumerate(axes))
    return down[..., :, None] * across[..., None, :] * inside[..., None, None]


def _rest(truth: Truth) -> Tensor:
    return 1 - _known(truth.share)


def _known(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


#: Target → what it asks; `any_severe` looks at whole studies, see `grader_objective`.
_OF_TARGETS: Final[Mapping[str, Callable[[Any, Truth, GraderLoss], Parts]]] = {
    "severity": _severity,
    "severe": _severe,
    "level": _level,
    "slice": _slice,
    "points": _points,
    "shared": _shared,
}
