"""What a grader is asked for: batches in, loss terms out. Augmentation happens here, on the device."""

from collections.abc import Mapping

from torch import Tensor, nn

from lumbar.grading.tasks import TASKS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.training.data import augment
from lumbar.training.loop import losses
from lumbar.training.loop.loop import Batch, Term


class SeverityObjective:
    """Stage 2: weighted cross entropy; on request the any-severe term and a loss of every slice.

    A network may return (logits, auxiliary (B, T, C, 3)) in training: each slice is then asked for the sample's labels.
    """

    def __init__(self, spec: GraderSpec, training: Training) -> None:
        self.spec, self.training = spec, training
        self.asks_any_severe = bool(training.any_severe_weight) and spec.task in {"spinal", "global"}
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
        """Terms `severity` and, where the recipe asks, `any_severe` and `slices`."""
        out = network(self.inputs(batch))
        logits, auxiliary = out if isinstance(out, tuple) else (out, None)
        labels = batch["labels"]
        total, weight = losses.severity_loss(logits, labels)
        if train and auxiliary is not None and not self.training.auxiliary_weight:
            total = total + 0 * auxiliary.sum()  # DDP hangs on parameters without a gradient
        terms = {"severity": Term(total, weight)}
        if self.asks_any_severe:
            canal = self.conditions.index("spinal_canal_stenosis")
            parts = losses.any_severe_loss(logits[:, canal], labels[:, canal], batch["study"])
            terms["any_severe"] = Term(*parts, self.training.any_severe_weight)
        if train and auxiliary is not None and self.training.auxiliary_weight:
            every = labels[:, None].expand(auxiliary.shape[:-1]).contiguous()
            terms["slices"] = Term(*losses.severity_loss(auxiliary, every), self.training.auxiliary_weight)
        return terms
