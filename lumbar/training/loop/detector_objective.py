"""What a detector is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lumbar.issues import InputError
from lumbar.keypoints.answers.registry import answer_of
from lumbar.keypoints.networks.gives import slices_there
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.losses import of_detector
from lumbar.recipe.settings import Training
from lumbar.training.data import augment
from lumbar.training.data.intensities import finish_of_stacks
from lumbar.training.loop import mix
from lumbar.training.loop.detector_losses import BESIDE, LOSSES, OF_PROBABILITIES, Truth
from lumbar.training.loop.loop import Batch, Term

#: A term's name in metrics, where it is not the recipe's word: as runs of before have it.
_TERMS = {"mse": "heatmap"}


class DetectorObjective:
    """Stage 1: an answer against labelled keypoints, by the losses of the recipe. Validation adds how far the points
    lie from them."""

    def __init__(self, spec: DetectorSpec, training: Training) -> None:
        self.spec, self.training, self.finish = spec, training, finish_of_stacks(spec)
        self.losses = of_detector(spec, training)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Stacks (B, C, S, S) and keypoints (B, K, 2) px as the network gets them; changed where draws are there."""
        images = batch["image"].float()  # float16 until here: half to load, half to send
        if "matrix" not in batch:
            return images, batch["points"]
        slices, distances = images.tensor_split([self.spec.slices_seen], 1)
        slices, points = augment.apply(
            slices, batch["points"], batch, self.spec.image_size, self.finish, padded=self.spec.pad
        )
        assert points is not None
        return torch.cat([slices, distances], 1) if self.spec.canal_distances else slices, points

    def mixed(self, batch: Batch, partner: Batch | None) -> tuple[Tensor, Truth]:
        """Stacks with those of the partners, if there are some, mixed in; and what they show."""
        images, points = self.inputs(batch)
        asked = bool(self.spec.network_args.get("distances"))
        known = self.spec.depth or (self.spec.answer == "slices" and self.spec.pad) or asked
        there = slices_there(images[:, : self.spec.slices_seen], len(self.spec.types)) if known else None
        told, labels, lesson = batch.get("told"), batch.get("labels"), batch.get("lesson")
        truth = Truth(self.spec, self.training, points, batch.get("slices"), told, there, labels=labels, lesson=lesson)
        if partner is None:
            return images, truth
        others, theirs = self.inputs(partner)
        images, share = mix.images(images, others, batch)
        return images, replace(truth, partner=replace(truth, points=theirs, slices=partner.get("slices")), share=share)

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """A term a loss and, in validation, `error_mm` and, where the answer names slices, `error_slices`."""
        images, truth = self.mixed(batch, mix.partner_of(batch) if train else None)
        out = network(images)
        outputs = out if isinstance(out, Mapping) else {"answer": out}
        terms = {
            _TERMS.get(word, word): Term(*LOSSES[self.spec.answer][word](outputs, truth), weight)
            for word, weight in self.losses.items()
            if train or word not in BESIDE
        }
        answer = outputs["answer"]
        if self.spec.classes and truth.there is not None:
            answer = answer.masked_fill(~truth.there[:, None], torch.nan)
        return terms if train else {**terms, **self._errors(answer, batch)}

    def _errors(self, answer: Tensor, batch: Batch) -> dict[str, Term]:
        """Mean distance from the labels, in mm of the patient and, along the stack, in slices."""
        found = self._found(answer)  # (B, K, 3)
        away = (found[..., :2] - batch["points"]) * batch["mm_per_px"][:, None]
        terms = {}
        if "slices" in batch:
            steps = found[..., 2] - batch["slices"]
            terms["error_slices"] = _mean(steps.abs())
            along = (steps * batch["slice_mm"][:, None])[..., None]
            away = torch.cat([away, along], -1) if self.spec.says_places else along
        return {"error_mm": _mean(away.norm(dim=-1)), **terms}

    def _found(self, answer: Tensor) -> Tensor:
        """(B, K, 3) of a raw answer; plain heatmaps on the device, by the first maximum, whatever follows on it."""
        spec = self.spec
        if spec.answer == "heatmaps" and spec.decoded in ("maximum", "pair") and spec.stride == 1 and not spec.depth:
            flat = answer.float().flatten(2).argmax(-1)
            return torch.stack([flat % spec.image_size, flat // spec.image_size, torch.zeros_like(flat)], -1)
        reading = answer_of(spec).read(spec, answer.detach().float().cpu().numpy())
        return torch.from_numpy(reading.points).to(answer.device, torch.float32)


def check_maps(network: nn.Module, stack: Tensor, objective: DetectorObjective) -> None:
    """InputError where losses of probabilities are asked of maps that are none: `stack` (B, C, S, S) is tried."""
    words = sorted(OF_PROBABILITIES & set(objective.losses))
    if objective.spec.answer != "heatmaps" or not words:
        return
    with torch.no_grad():
        out = network.train()(stack.repeat(2, 1, 1, 1))  # batch norm wants two where maps shrink to a pixel
    answer = out["answer"] if isinstance(out, Mapping) else out
    if not (isinstance(out, Mapping) and "logits" in out) and not bool(((answer > 0) & (answer < 1)).all()):
        raise InputError(
            f"loss {words[0]!r} needs maps from 0 to 1, which {objective.spec.network} does not give; "
            'add activation = "sigmoid" to its network_args'
        )


def _mean(distance: Tensor) -> Term:
    known = ~distance.isnan()
    return Term(distance[known].sum(), known.sum().float(), 0.0)
