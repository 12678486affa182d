"""What a grader is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lumbar.grading.tasks import TASKS
from lumbar.labels import CONDITION_GROUPS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import losses_of
from lumbar.recipe.settings import Training
from lumbar.training.data import augment
from lumbar.training.loop import losses, mix
from lumbar.training.loop.loop import SCORE, Batch, Term


class SeverityObjective:
    """Stage 2: weighted cross entropy; on request the any-severe term and a loss of every slice.

    A network may return (logits, auxiliary (B, T, C, 3)) in training: each slice is then asked for the sample's labels.
    """

    def __init__(self, spec: GraderSpec, training: Training) -> None:
        self.spec, self.training = spec, training
        self.asks_any_severe = "any_severe" in losses_of(spec, training) and spec.task in {"spinal", "global"}
        self.conditions = TASKS[spec.task].samples[0].conditions

    def inputs(self, batch: Batch) -> Tensor:
        """Views (B, V, T, S, S) as the network gets them; unseen ones are zero."""
        views, size = batch["views"], self.spec.image_size
        if "matrix" in batch:
            numbers = {name: batch[name].flatten(0, 1) for name in augment.KEYS}
            flat, _ = augment.apply(views.flatten(0, 1), None, numbers, size)
            views = flat.view(*views.shape[:3], size, size)
        else:
            views = augment.crop_middle(views, size)
        return views * batch["seen"][:, :, None, None, None]

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """Terms `severity` and, where the recipe asks, `any_severe` and `slices`.

        In validation also the parts of the official score, where the best epoch is chosen by it.
        """
        out, share = self._answer(network, batch, train=train)
        logits, auxiliary = out if isinstance(out, tuple) else (out, None)
        labels, partner = batch["labels"], mix.partner_of(batch) if train else None
        targets = None if partner is None else mix.labels(_targets(batch), _targets(partner), share)
        if targets is None and train and "soft" in batch:
            targets = _targets(batch)
        total, weight = self._severity(logits, labels, targets)
        wanted = losses_of(self.spec, self.training)
        if train and auxiliary is not None and "slices" not in wanted:
            total = total + 0 * auxiliary.sum()  # DDP hangs on parameters without a gradient
        terms = {"severity": Term(total, weight, wanted.get("severity", 0.0))}
        if self.asks_any_severe:
            terms["any_severe"] = Term(*self._any_severe(logits, batch), wanted["any_severe"])
        if train and auxiliary is not None and "slices" in wanted:
            every = labels[:, None].expand(auxiliary.shape[:-1]).contiguous()
            each = None if targets is None else targets[:, None].expand(auxiliary.shape)
            terms["slices"] = Term(*self._severity(auxiliary, every, each), wanted["slices"])
        if not train and self.training.best_by == "score":
            terms |= self._score(logits, batch)
        return terms

    def _answer(self, network: nn.Module, batch: Batch, *, train: bool) -> tuple[Any, Tensor]:
        """What the network says of the batch, mixed where the batch is; and the share (B,) of each sample in that."""
        views, partner = self.inputs(batch), mix.partner_of(batch) if train else None
        if partner is None:
            return network(views), views.new_ones(len(views))
        others = self.inputs(partner)
        if self.training.augment.mix_on == "images":
            views, share = mix.images(views, others, batch)
            return network(views), share
        with mix.mixed_features(network, batch, views.shape[2]):
            out = network(torch.cat([views, others]))
        return mix.first_half(out), mix.runs(batch, views.shape[2])[1]

    def _severity(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        weighted = self.training.class_weights != "none"
        if targets is not None:
            return losses.distribution_loss(logits, targets, weighted=weighted)
        return losses.severity_loss(logits, labels, weighted=weighted)

    def _any_severe(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        canal = self.conditions.index("spinal_canal_stenosis")
        return losses.any_severe_loss(logits[:, canal], batch["labels"][:, canal], batch["study"])

    def _score(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """The parts of the official score that the member answers; its samples of a study stand in one batch."""
        found = {}
        for group, conditions in CONDITION_GROUPS.items():
            places = [place for place, name in enumerate(self.conditions) if name in conditions]
            if places:
                found[f"{SCORE}{group}"] = Term(
                    *losses.severity_loss(logits[:, places], batch["labels"][:, places]), 0.0
                )
        if "spinal_canal_stenosis" in self.conditions:
            found[f"{SCORE}any_severe"] = Term(*self._any_severe(logits, batch), 0.0)
        return found


def _targets(batch: Batch) -> Tensor:
    """Labels (B, C) of a batch as shares (B, C, 3) of the severities, soft ones where it has some."""
    return batch["soft"] if "soft" in batch else losses.distributions(batch["labels"])
