"""What a grader is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lumbar.compute.forward import asked
from lumbar.grading.tasks import task_of
from lumbar.labels import CONDITION_GROUPS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import losses_of
from lumbar.recipe.settings import Training
from lumbar.training.data import augment, intensities
from lumbar.training.data.layout import groups, numbered
from lumbar.training.loop import losses, mix
from lumbar.training.loop.loop import SCORE, Batch, Term


class SeverityObjective:
    """Stage 2: weighted cross entropy; on request the any-severe term and a loss of every slice.

    In training a network may answer a mapping: `severity` (B, L, C, 3), and outputs that losses of their names ask for.
    Of `slices` (B, L, T, C, 3) each slice is asked for the sample's labels.
    """

    def __init__(self, spec: GraderSpec, training: Training) -> None:
        self.spec, self.training = spec, training
        sample = task_of(spec).samples[0]
        self.views, self.conditions = sample.views, sample.conditions
        self.asks_any_severe = "any_severe" in losses_of(spec, training) and "spinal_canal_stenosis" in self.conditions
        self.groups = [(places, spec.region_of(sample.views[places[0]])) for places in groups(spec)]

    def inputs(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Views (B, L, T, C, H, W) by name as the network gets them, unseen ones zero; and which are seen (B, L, V)."""
        seen, named = self._of_levels(batch["seen"]), {}
        for number, (places, region) in enumerate(self.groups):
            views = self._of_levels(batch[numbered("views", number)])  # (B, L, V, T, H, W)
            flat, finish = views.flatten(0, 2), intensities.finish_of(region)
            if "matrix" in batch:
                keys = {name: self._of_levels(batch[numbered(name, number)]).flatten(0, 2) for name in augment.KEYS}
                flat, _ = augment.apply(flat, None, keys, region.size, finish)
            else:
                flat = augment.crop_middle(flat, region.size, finish)
            views = flat.unflatten(0, views.shape[:3]) * seen[:, :, places, None, None, None]
            for slot, place in enumerate(places):
                named[str(self.views[place])] = views[:, :, slot].unflatten(2, (-1, region.channels))
        return named, seen.bool()

    def _of_levels(self, values: Tensor) -> Tensor:
        """What a batch holds of its samples, with an axis of levels."""
        return values if self.spec.levels == "all" else values[:, None]

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """Terms `severity` and, where the recipe asks, `any_severe`; in training also `slices`, `views` and `level`.

        In validation also the parts of the official score, where the best epoch is chosen by it.
        """
        named, share = self._answer(network, batch, train=train)
        logits, labels = named["severity"], self._of_levels(batch["labels"])  # (B, L, C, 3), (B, L, C)
        partner = mix.partner_of(batch) if train else None
        targets = None if partner is None else mix.labels(self._targets(batch), self._targets(partner), share)
        if targets is None and train and "soft" in batch:
            targets = self._targets(batch)
        total, weight = self._severity(logits, labels, targets)
        wanted = losses_of(self.spec, self.training)
        for name, value in named.items():
            if train and name not in wanted and name != "severity":
                total = total + 0 * value.sum()  # DDP hangs on parameters without a gradient
        terms = {"severity": Term(total, weight, wanted.get("severity", 0.0))}
        if self.asks_any_severe:
            parts = self._any_severe(logits, batch["labels"], batch["study"])
            if partner is not None:  # samples are whole studies, see `recipe.combinations`
                samples = torch.arange(len(share), device=share.device)
                both = ((batch["labels"], share), (partner["labels"], 1 - share))
                told = [self._any_severe(logits, each, samples, part) for each, part in both]
                parts = told[0][0] + told[1][0], told[0][1] + told[1][1]
            terms["any_severe"] = Term(*parts, wanted["any_severe"])
        for word in ("slices", "views") if train else ():
            if word in named and word in wanted:  # (B, L, slices or views, C, 3)
                said = named[word]
                every = labels[:, :, None].expand(said.shape[:-1]).contiguous()
                each = None if targets is None else targets[:, :, None].expand(said.shape)
                terms[word] = Term(*self._severity(said, every, each), wanted[word])
        if train and "level" in named and "level" in wanted:
            terms["level"] = Term(*losses.level_loss(named["level"], self._of_levels(batch["level"])), wanted["level"])
        if not train and self.training.best_by == "score":
            terms |= self._score(logits, batch)
        return terms

    def _answer(self, network: nn.Module, batch: Batch, *, train: bool) -> tuple[Mapping[str, Tensor], Tensor]:
        """What the network says of the batch, mixed where the batch is; and the share (B,) of each sample in that."""
        partner = mix.partner_of(batch) if train else None
        if partner is None or self.training.augment.mix_on == "images":
            views, seen, share = self.mixed(batch, partner)
            return _named(asked(network, (views, seen))), share
        (views, seen), (others, its_seen) = self.inputs(batch), self.inputs(partner)
        slices = next(iter(views.values())).shape[2]
        joined = {name: torch.cat([view, others[name]]) for name, view in views.items()}
        with mix.mixed_features(network, batch, slices):
            out = network(joined, torch.cat([seen, its_seen]))
        return _named(mix.first_half(out)), mix.runs(batch, slices)[1]

    def mixed(self, batch: Batch, partner: Batch | None) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """`inputs` with the pictures of the partners, if there are some, mixed in; and the share (B,) that is own."""
        views, seen = self.inputs(batch)
        if partner is None:
            return views, seen, seen.new_ones(len(seen), dtype=torch.float32)
        others, its_seen = self.inputs(partner)
        both = {name: mix.images(view, others[name], batch) for name, view in views.items()}
        return {name: view for name, (view, _) in both.items()}, seen | its_seen, next(iter(both.values()))[1]

    def _severity(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        weighted = self.training.class_weights != "none"
        if targets is not None:
            return losses.distribution_loss(logits, targets, weighted=weighted)
        return losses.severity_loss(logits, labels, weighted=weighted)

    def _any_severe(
        self, logits: Tensor, labels: Tensor, studies: Tensor, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of logits (B, L, C, 3), labels (B, C) or (B, L, C), studies (B,) and the share of each sample that counts."""
        canal, count = self.conditions.index("spinal_canal_stenosis"), logits.shape[1]
        rows, truth = logits[:, :, canal].flatten(0, 1), labels.reshape(logits.shape[:3])[:, :, canal].flatten()
        counts = None if share is None else share.repeat_interleave(count)
        return losses.any_severe_loss(rows, truth, studies.repeat_interleave(count), counts)

    def _score(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """The parts of the official score that the member answers; its samples of a study stand in one batch."""
        found = {}
        for group, conditions in CONDITION_GROUPS.items():
            places = [place for place, name in enumerate(self.conditions) if name in conditions]
            if places:
                found[f"{SCORE}{group}"] = Term(
                    *losses.severity_loss(logits[:, :, places], self._of_levels(batch["labels"])[:, :, places]), 0.0
                )
        if "spinal_canal_stenosis" in self.conditions:
            found[f"{SCORE}any_severe"] = Term(*self._any_severe(logits, batch["labels"], batch["study"]), 0.0)
        return found

    def _targets(self, batch: Batch) -> Tensor:
        """Labels of a batch as shares (B, L, C, 3) of the severities, soft ones where it has some."""
        return self._of_levels(batch["soft"] if "soft" in batch else losses.distributions(batch["labels"]))


def _named(out: Any) -> Mapping[str, Tensor]:
    """A network's outputs by name; what is no mapping are the severities."""
    return out if isinstance(out, Mapping) else {"severity": out}
