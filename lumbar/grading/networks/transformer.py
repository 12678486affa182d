"""The third place's grader: every slice of every view through a 2D encoder, all of them through one transformer block.

Each kind of view has an encoder, timm's network without its last two parts (pooling and classifier; of ConvNeXt and
MaxViT the last norm, too), whose maps are pooled by a generalised mean (GeM, Radenović et al. 2018). One post-norm
block (Vaswani et al. 2017) lets the slices of all views look at each other. A view that is not there has no slices.

`network_args`: `pool`, how slices become one answer: `mean` (the original's class A), or `attention`, a sigmoid weight
a slice and condition (V8); `slice_head = true`, every weighed slice is asked alone, too (with attention: V9);
`level_head = false`, which level it is is not asked; `heads` of the block (8) and its `inner` features (512);
`reduction`, a slice's features for one of attention (128); `dropout`, rates whose answers are averaged in training
(none; class A has .1 to .5).
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.compute.layers import Block, Gem
from lumbar.grading.networks.slices import channels_of, encoded, slice_features
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import LEVELS, SEVERITIES
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.grader import GraderSpec

#: Parts of a timm network that come after its maps: pooling and classifier, or last norm and head.
_AFTER_MAPS = 2


class SliceEncoder(nn.Module):
    """(N, T, C, H, W) slices → features of each slice (N, T, F)."""

    def __init__(self, spec: GraderSpec, channels: int) -> None:
        super().__init__()
        whole = create_backbone(spec, channels)
        self.features = int(whole.num_features)  # type: ignore[arg-type]
        self.backbone = nn.Sequential(OrderedDict(list(whole.named_children())[:-_AFTER_MAPS]))  # timm's names stay
        self.backbone.pretrained_cfg = whole.pretrained_cfg  # by which training knows whose weights fill it
        self.pool = Gem()
        self.slices_at_once: int | None = None

    def _of_images(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.pool(self.backbone(images))
        return found

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor]:
        return (slice_features(self._of_images, stacks, self.slices_at_once),)


class Gates(nn.Module):
    """(N, T, F) → a weight from 0 to 1 a slice and condition, (N, T, C)."""

    def __init__(self, features: int, inner: int, conditions: int) -> None:
        super().__init__()
        self.into = nn.Linear(features, inner * conditions, bias=False)
        self.out = nn.Parameter(torch.empty(conditions, inner).uniform_(-(inner**-0.5), inner**-0.5))

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        return (self.into(slices).relu().unflatten(-1, self.out.shape) * self.out).sum(-1).sigmoid()


class TransformerGrader(nn.Module):
    """Views (B, L, T, C, H, W) by name → logits (B, L, conditions, 3), level by level.

    In training a mapping: `severity` is that; with the heads that the spec asks for `slice_scores` (B, L, T,
    conditions, 3), the same of every slice, those of all views one after the other, and `level` (B, L, 5), which level
    it is.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        args = _arguments(spec)
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.encoders = nn.ModuleList(SliceEncoder(spec, channels) for channels in channels_of(spec))
        features = int(self.encoders[0].features)  # type: ignore[arg-type]
        if features % args["heads"]:
            raise InputError(
                f"backbone {spec.backbone!r} gives {features} features, which {args['heads']} heads cannot share; "
                "set heads in network_args to a number that divides them"
            )
        self.block = Block(features, args["heads"], args["inner"])
        self.each = (task.num_conditions, len(SEVERITIES))
        inner = max(1, features // args["reduction"])
        self.gates = Gates(features, inner, task.num_conditions) if args["pool"] == "attention" else None
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in args["dropout"])
        self.head = nn.Linear(features, task.num_conditions * len(SEVERITIES))
        self.slice_head = nn.Linear(features, self.head.out_features) if args["slice_head"] else None
        self.level_head = nn.Linear(features, len(LEVELS)) if args["level_head"] else None

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        slices, there = self._encoded(views, seen)
        slices = self.block(slices, there)  # (N, T, F)
        share = there / there.sum(-1, keepdim=True)  # (N, T)
        mean = torch.einsum("nt,ntf->nf", share.to(slices.dtype), slices)
        gates = None if self.gates is None else self.gates(slices)  # (N, T, C)
        logits = self._of_levels(self._answers(mean, slices, gates, share), seen)
        if not self.training:
            return logits
        found = {"severity": logits}
        if self.slice_head is not None:
            every = nnf.linear(slices, self.slice_head.weight).unflatten(-1, self.each)  # (N, T, C, 3)
            weighed = every if gates is None else every * gates[..., None]
            found["slice_scores"] = self._of_levels(weighed + self.slice_head.bias.view(self.each), seen)
        if self.level_head is not None:
            found["level"] = self._of_levels(self.level_head(mean), seen)
        return found

    def _encoded(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of all slices, view after view (N, T, F), and which of them there are (N, T); N is B · L.

        Where no view is there, all count, since something must.
        """
        slices = [own for (own,) in encoded(self.encoders, self.encoder_of_view, self.views, views)]
        flat = seen.flatten(0, 1)
        flat = flat | ~flat.any(-1, keepdim=True)
        there = [flat[:, [place]].expand(-1, own.shape[1]) for place, own in enumerate(slices)]
        return torch.cat(slices, dim=1), torch.cat(there, dim=1)

    def _answers(
        self, mean: torch.Tensor, slices: torch.Tensor, gates: torch.Tensor | None, share: torch.Tensor
    ) -> torch.Tensor:
        """(N, C, 3) of the mean slice (N, F), or of each condition's own mean of weighed slices."""
        pooled = mean
        if gates is not None:  # (N, C, F)
            pooled = torch.einsum("ntc,ntf->ncf", gates * share[..., None].to(gates.dtype), slices)
        if not (self.training and len(self.dropouts)):
            return self._headed(pooled)
        return torch.stack([self._headed(dropout(pooled)) for dropout in self.dropouts]).mean(0)

    def _headed(self, pooled: torch.Tensor) -> torch.Tensor:
        if self.gates is None:
            return self.head(pooled).unflatten(-1, self.each)  # type: ignore[no-any-return]
        weight, bias = self.head.weight.view(*self.each, -1), self.head.bias.view(self.each)
        found = torch.einsum("ncf,csf->ncs", pooled, weight)
        return found + bias.to(found.dtype)  # as a linear layer adds it under autocast

    @staticmethod
    def _of_levels(values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return values.unflatten(0, seen.shape[:2])


def _arguments(spec: GraderSpec) -> dict[str, Any]:
    """The network's arguments, checked."""
    known: dict[str, tuple[Kind, Any]] = {
        "pool": ("word", "mean"),
        "slice_head": ("flag", False),
        "level_head": ("flag", True),
        "heads": ("whole", 8),
        "inner": ("whole", 512),
        "reduction": ("whole", 128),
        "dropout": ("shares", ()),
    }
    args = read_arguments(spec, known)
    if args["pool"] not in ("mean", "attention"):
        raise InputError(f'network_args pool = {args["pool"]!r:.40} cannot be used; give "mean" or "attention"')
    return args


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where its heads do not divide the features."""
    return TransformerGrader(spec)
