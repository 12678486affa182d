"""What a detector is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.settings import Training
from lumbar.training.data import augment
from lumbar.training.loop import losses, mix
from lumbar.training.loop.loop import Batch, Term


class HeatmapObjective:
    """Stage 1: Gaussians around keypoints. Validation adds the mean distance of argmax to target, mm."""

    def __init__(self, spec: DetectorSpec, training: Training) -> None:
        self.spec, self.training = spec, training

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Stacks (B, C, S, S) and keypoints (B, K, 2) px as the network gets them; changed where draws are there."""
        images = batch["image"].float()  # float16 until here: half to load, half to send
        if "matrix" not in batch:
            return images, batch["points"]
        images, points = augment.apply(images, batch["points"], batch, self.spec.image_size)
        assert points is not None
        return images, points

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """Terms `heatmap` and, in validation, `error_mm`."""
        images, points = self.inputs(batch)
        partner, mixed = mix.partner_of(batch), None
        if train and partner is not None:
            others, other_points = self.inputs(partner)
            images, share = mix.images(images, others, batch)
            mixed = other_points, share
        predicted = network(images)
        weight, at_any = self.training.heatmap_weight, self.training.heatmap_weight_at == "any"
        parts = losses.heatmap_loss(predicted, points, self.spec.sigma_px, weight, at_any=at_any, mixed=mixed)
        terms = {"heatmap": Term(*parts)}
        if not train:
            flat = predicted.float().flatten(2).argmax(-1)
            found = torch.stack([flat % self.spec.image_size, flat // self.spec.image_size], -1)
            distance = ((found - points) * batch["mm_per_px"][:, None]).norm(dim=-1)
            known = ~distance.isnan()
            terms["error_mm"] = Term(distance[known].sum(), known.sum().float(), 0.0)
        return terms
