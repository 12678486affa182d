"""What a grader is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping

from torch import Tensor, nn

from lumbar.grading.tasks import task_of
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.training.data import augment
from lumbar.training.loop import losses
from lumbar.training.loop.loop import Batch, Term


class SeverityObjective:
    """Stage 2: weighted cross entropy; on request the any-severe term and a loss of every slice.

    In training a network may answer a mapping: `severity` (B, L, C, 3), and what the recipe's losses ask for beside it.
    Of `slices` (B, L, T, C, 3) each slice is asked for the sample's labels.
    """

    def __init__(self, spec: GraderSpec, training: Training) -> None:
        self.spec, self.training = spec, training
        self.asks_any_severe = bool(training.any_severe_weight) and spec.task in {"spinal", "global"}
        sample = task_of(spec).samples[0]
        self.views, self.conditions = sample.views, sample.conditions

    def inputs(self, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor]:
        """Views (B, 1, T, 1, S, S) by name as the network gets them, unseen ones zero; and which are seen (B, 1, V)."""
        views, size = batch["views"], self.spec.image_size  # (B, V, T, H, W)
        if "matrix" in batch:
            numbers = {name: batch[name].flatten(0, 1) for name in augment.KEYS}
            flat, _ = augment.apply(views.flatten(0, 1), None, numbers, size)
            views = flat.view(*views.shape[:3], size, size)
        else:
            views = augment.crop_middle(views, size)
        views = views * batch["seen"][:, :, None, None, None]
        named: dict[str, Tensor] = {name: views[:, None, place, :, None] for place, name in enumerate(self.views)}
        return named, batch["seen"][:, None].bool()

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """Terms `severity` and, where the recipe asks, `any_severe` and `slices`."""
        out = network(*self.inputs(batch))
        named: Mapping[str, Tensor] = out if isinstance(out, Mapping) else {"severity": out}
        logits, labels = named["severity"], batch["labels"][:, None]  # (B, L, C)
        total, weight = losses.severity_loss(logits, labels)
        wanted = {"slices": self.training.auxiliary_weight} if train else {}
        for name, value in named.items():
            if train and name != "severity" and not wanted.get(name):
                total = total + 0 * value.sum()  # DDP hangs on parameters without a gradient
        terms = {"severity": Term(total, weight)}
        if self.asks_any_severe:
            canal = self.conditions.index("spinal_canal_stenosis")
            studies = batch["study"][:, None].expand(labels.shape[:2])
            parts = losses.any_severe_loss(
                logits[:, :, canal].flatten(0, 1), labels[:, :, canal].flatten(), studies.flatten()
            )
            terms["any_severe"] = Term(*parts, self.training.any_severe_weight)
        if "slices" in named and wanted.get("slices"):
            every = labels[:, :, None].expand(named["slices"].shape[:-1]).contiguous()
            terms["slices"] = Term(*losses.severity_loss(named["slices"], every), self.training.auxiliary_weight)
        return terms
