"""What a grader is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from lumbar.compute.forward import asked, tensors
from lumbar.grading.grade import as_shares
from lumbar.grading.tasks import task_of
from lumbar.labels import CONDITION_GROUPS, SIDES, side_of
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import OF_GRADERS, of_grader
from lumbar.recipe.settings import Training
from lumbar.training.data import augment, intensities
from lumbar.training.data.layout import SHARED, TOLD, groups, numbered
from lumbar.training.loop import mix, shared_losses
from lumbar.training.loop.grader_losses import Truth, loss_of
from lumbar.training.loop.loop import SCORE, Batch, Term

#: What a batch may say of its samples beside their labels.
_KNOWN: Final = ("level", "annotated", "marked")


class SeverityObjective:
    """Stage 2: weighted cross entropy of the severities, and what else the recipe's `loss` names.

    In training a network may answer a mapping: `severity` (B, L, C, 3), and outputs that losses ask for (see
    `recipe.losses.OF_GRADERS`): of every slice or view (B, L, slices or views, C, 3), the level (B, L, 5), ….
    """

    def __init__(self, spec: GraderSpec, training: Training) -> None:
        self.spec, self.training, self.losses = spec, training, of_grader(training)
        sample = task_of(spec).samples[0]
        self.views, self.conditions = sample.views, sample.conditions
        self.asks_any_severe = "any_severe" in self.losses and "spinal_canal_stenosis" in self.conditions
        self.slices = [spec.region_of(view).slices for view in self.views]
        self.groups = [(places, spec.region_of(sample.views[places[0]])) for places in groups(spec)]

    def inputs(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Views (B, L, T, C, H, W) by name as the network gets them, unseen ones zero; and which are seen (B, L, V)."""
        seen, named = self._of_levels(batch["seen"]), {}
        if TOLD in batch:  # a second level's
            told = {str(view): batch[numbered(TOLD, place)] for place, view in enumerate(self.views)}
            return told, seen.bool()
        for number, (places, region) in enumerate(self.groups):
            views = self._of_levels(batch[numbered("views", number)])  # (B, L, V, T, H, W)
            flat, finish = views.flatten(0, 2), intensities.finish_of(region)
            if "matrix" in batch:
                keys = {name: self._of_levels(batch[numbered(name, number)]).flatten(0, 2) for name in augment.KEYS}
                padded = region.pad or region.around == "series"
                flat, _ = augment.apply(flat, None, keys, region.size, finish, padded=padded)
            else:
                flat = augment.crop_middle(flat, region.size, finish)
            views = flat.unflatten(0, views.shape[:3]) * seen[:, :, places, None, None, None]
            for slot, place in enumerate(places):
                named[str(self.views[place])] = views[:, :, slot].unflatten(2, (-1, region.channels))
        return named, seen.bool()

    def _of_levels(self, values: Tensor) -> Tensor:
        """What a batch holds of its samples, with an axis of levels."""
        return values if self.spec.levels != "one" else values[:, None]

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """Terms `severity` and, where the recipe asks, `any_severe`; in training also those of other outputs.

        In validation also the parts of the official score, where the best epoch is chosen by it.
        """
        named, share = self._answer(network, batch, train=train)
        partner = mix.partner_of(batch) if train else None
        truth = self._truth(batch, train=train)
        if partner is not None:
            taken, unasked = self._sides(batch)
            truth = replace(truth, partner=self._truth(partner, train=train), share=share, taken=taken, unasked=unasked)
        total, weight = loss_of("severity", named["severity"], truth)
        asked_for = {OF_GRADERS[word].output for word in self.losses}
        for name, value in named.items():
            if train and name not in asked_for and name != "severity":
                total = total + sum(0 * each.sum() for each in tensors(value))  # DDP hangs on parameters without one
        terms = {"severity": Term(total, weight, self.losses.get("severity", 0.0))}
        if self.asks_any_severe:
            parts = self._any_severe_of(as_shares(named["severity"], self.spec), batch, partner, share)
            terms["any_severe"] = Term(*parts, self.losses["any_severe"])
        for word, loss in OF_GRADERS.items() if train else ():
            if (loss.beside or loss.target == "severe") and word in self.losses and loss.output in named:
                terms[word] = Term(*loss_of(word, named[loss.output], truth), self.losses[word])
        if not train and self.training.best_by == "score":
            terms |= self._score(as_shares(named["severity"], self.spec), batch)
        return terms

    def _truth(self, batch: Batch, *, train: bool) -> Truth:
        """What is known of a batch, with an axis of levels."""
        labels = self._of_levels(batch["labels"])
        level, annotated, marked = (self._of_levels(batch[name]) if name in batch else None for name in _KNOWN)
        soft = self._of_levels(batch["soft"]) if train and "soft" in batch else None
        counts = None
        if self.training.condition_weights:
            own = [self.training.condition_weights.get(name, 1.0) for name in self.conditions]
            counts = torch.tensor(own, device=labels.device)
        points = self._points(batch) if "points" in batch else ()
        shared = self._shared(batch) if SHARED in batch else ()
        mm = self._of_levels(batch[f"{SHARED}/mm"])[:, 0] if SHARED in batch else None
        told = (labels, level, soft, annotated, marked, self.slices, points, counts, shared, mm)
        return Truth(self.training, *told, odds=self.spec.says == "odds")

    def _points(self, batch: Batch) -> list[Tensor]:
        """Where labels lie on each view of whole series, in shares of the image (B, K, 2); see `RegionSamples`."""
        return self._moved(batch, [batch[numbered("points", number)] for number in range(len(self.groups))])

    def _shared(self, batch: Batch) -> list[Tensor]:
        """Where each view shows the positions of a study (B, P, 3): slice, then column and row in shares."""
        both = [batch[numbered(SHARED, number)] for number in range(len(self.groups))]
        slices = {
            place: each[..., :1].flatten(1, 2)[:, slot]
            for each, (places, _) in zip(both, self.groups, strict=True)
            for slot, place in enumerate(places)
        }
        moved = self._moved(batch, [each[..., 1:] for each in both])
        return [torch.cat([slices[place], own], -1) for place, own in enumerate(moved)]

    def _moved(self, batch: Batch, of_groups: list[Tensor]) -> list[Tensor]:
        """Places (B, 1, V, K, 2) px by group → of each view (B, K, 2), shares of the image after the batch's draws."""
        found: dict[int, Tensor] = {}
        for number, (places, region) in enumerate(self.groups):
            points = of_groups[number].flatten(1, 2)  # (B, V, K, 2)
            if "matrix" in batch:
                keys = {name: batch[numbered(name, number)].flatten(0, 2) for name in ("matrix", "shift", "bend")}
                points = augment.moved(points.flatten(0, 1), keys, region.size).unflatten(0, points.shape[:2])
            shares = (points + 0.5) / points.new_tensor([region.size[1], region.size[0]])
            found |= {place: shares[:, slot] for slot, place in enumerate(places)}
        return [found[place] for place in sorted(found)]

    def _sides(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Of samples that are mixed side by side: conditions (B, C) of the partner's side, and those of neither."""
        if mix.SIDE not in batch:
            return None, None
        side = batch[mix.SIDE][:, None]
        own = [0 if (name := side_of(each)) is None else 1 + SIDES.index(name) for each in self.conditions]
        places = torch.tensor(own, device=side.device)
        return (places == side) & (side > 0), (places == 0) & (side > 0)

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

    def _any_severe_of(
        self, logits: Tensor, batch: Batch, partner: Batch | None, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The any-severe term of a batch; of mixed samples, which are whole studies (see `recipe`), both parts."""
        if partner is None:
            return self._any_severe(logits, batch["labels"], batch["study"])
        samples = torch.arange(len(share), device=share.device)
        both = ((batch["labels"], share), (partner["labels"], 1 - share))
        own, other = (self._any_severe(logits, each, samples, part) for each, part in both)
        return own[0] + other[0], own[1] + other[1]

    def _any_severe(
        self, logits: Tensor, labels: Tensor, studies: Tensor, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of logits (B, L, C, 3), labels (B, C) or (B, L, C), studies (B,) and the share of each sample that counts."""
        canal, count = self.conditions.index("spinal_canal_stenosis"), logits.shape[1]
        rows, truth = logits[:, :, canal].flatten(0, 1), labels.reshape(logits.shape[:3])[:, :, canal].flatten()
        counts = None if share is None else share.repeat_interleave(count)
        return shared_losses.any_severe_loss(rows, truth, studies.repeat_interleave(count), counts)

    def _score(self, logits: Tensor, batch: Batch) -> dict[str, Term]:
        """The parts of the official score that the member answers; its samples of a study stand in one batch."""
        found = {}
        for group, conditions in CONDITION_GROUPS.items():
            places = [place for place, name in enumerate(self.conditions) if name in conditions]
            if places:
                found[f"{SCORE}{group}"] = Term(
                    *shared_losses.severity_loss(logits[:, :, places], self._of_levels(batch["labels"])[:, :, places]),
                    0.0,
                )
        if "spinal_canal_stenosis" in self.conditions:
            found[f"{SCORE}any_severe"] = Term(*self._any_severe(logits, batch["labels"], batch["study"]), 0.0)
        return found


def _named(out: Any) -> Mapping[str, Tensor]:
    """A network's outputs by name; what is no mapping are the severities."""
    return out if isinstance(out, Mapping) else {"severity": out}
