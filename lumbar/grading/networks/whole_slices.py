"""The eighth place's grader, in its manner: whole slices, and heatmaps learnt beside the grades weigh the features.

A 2D backbone sees every slice alone; its last maps are brought together at one stride. Of each condition and level a
map is learnt that shows where it lies (loss `heatmaps`); a softmax over its cells weighs the features, from whose sum
the slice's severities are read: 25 × 3 a slice. The study's answer is the slices' mean, weighed by how high a slice's
map rises; or, with `along = true`, that of 1D convolutions along the slices' answers of each view (the second level,
which `second_level` trains on answers of studies not seen).

`network_args`: `features` of the maps (128) at a `stride` (8, or the backbone's next coarser); `embedding`: so many
numbers of every cell beside, in training, for the loss `correspondence` (none); `along` (false): with the 1D network,
of `layers` (3) convolutions, `hidden` numbers wide (128), `dropout` before its answer (0.1).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.backbones import channels_first, create_backbone
from lumbar.grading.networks.along_answers import AlongAnswers
from lumbar.grading.networks.slices import channels_of, encoded
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.labels import LEVELS, SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.grader import GraderSpec

#: A map begins where a sigmoid says one cell in a hundred (Lin et al. 2017).
_RARE = -4.6


class Maps(nn.Module):
    """(N, C, H, W) images → maps (N, F, h, w) at one stride: each coarser map is added to the next finer one."""

    def __init__(self, spec: GraderSpec, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.maps = create_backbone(spec, channels, features_only=True)
        info: Any = self.maps.feature_info
        strides = list(info.reduction())
        self.first = next((place for place, own in enumerate(strides) if own >= stride), len(strides) - 1)
        widths = info.channels()[self.first :]
        self.lifts = nn.ModuleList(nn.Conv2d(width, features, 1) for width in widths)
        self.smooth = nn.Sequential(nn.Conv2d(features, features, 3, padding=1), nn.GELU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = [channels_first(self.maps, each) for each in self.maps(images)[self.first :]]
        found = None
        for lift, each in zip(reversed(self.lifts), reversed(maps), strict=True):
            own = lift(each)
            found = own if found is None else own + nnf.interpolate(found, own.shape[-2:], mode="nearest")
        joined: torch.Tensor = self.smooth(found)
        return joined


def weighed(maps: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Features (N, K, F): maps (N, F, …), summed by a softmax over the cells of each of K scores (N, K, …)."""
    weights = scores.flatten(2).float().softmax(-1).to(maps.dtype)
    return weights @ maps.flatten(2).transpose(1, 2)


class SliceEncoder(nn.Module):
    """(N, T, C, H, W) slices → answers (N, T, K, 4): severities, and how high the map rises; maps (N, T, K, h, w); in
    training also embeddings (N, T, E, h, w), where there are some."""

    def __init__(self, spec: GraderSpec, channels: int, answers: int, args: Mapping[str, Any]) -> None:
        super().__init__()
        features = args["features"]
        self.backbone = Maps(spec, channels, features, args["stride"])
        self.embed = nn.Conv2d(features, args["embedding"], 1) if args["embedding"] else None
        self.slices_at_once: int | None = None
        self.where = nn.Conv2d(features, answers, 1)
        nn.init.constant_(self.where.bias, _RARE)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(features)
        self.weight = nn.Parameter(torch.randn(answers, len(SEVERITIES), features) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(answers, len(SEVERITIES)))

    def forward(self, stacks: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = stacks.flatten(0, 1)
        parts = images.split(self.slices_at_once or len(images))
        maps = torch.cat([self.backbone(part) for part in parts])
        scores = self.where(maps)
        features = self.norm(weighed(maps, scores))
        logits = torch.einsum("nkf,ksf->nks", features, self.weight) + self.bias
        answers = torch.cat([logits, scores.amax((2, 3))[..., None]], dim=-1).float()
        found = [answers, scores] + ([self.embed(maps)] if self.embed is not None and self.training else [])
        return tuple(each.unflatten(0, stacks.shape[:2]) for each in found)


class WholeSlices(nn.Module):
    """Views (B, 1, T, C, H, W) by name → logits (B, 5, conditions, 3) of all levels.

    A view may also be what the slices answered before, (B, 1, T, numbers), see `told`. In training a mapping:
    `severity` is that, `slice_scores` (B, 5, T, conditions, 3) the answers of every slice, those of all views one after
    the other, `heatmaps` by view the maps (B, T, 5 · conditions, h, w) before the sigmoid, and `embedding` by view.
    """

    def __init__(self, spec: GraderSpec) -> None:
        super().__init__()
        known: Any = {
            "features": ("whole", 128),
            "stride": ("whole", 8),
            "embedding": ("whole", None),
            "along": ("flag", False),
        }
        own: Any = {"layers": ("whole", 3), "hidden": ("whole", 128), "dropout": ("share", 0.1)}
        args = read_arguments(spec, known | own)
        if spec.levels != "study":
            raise InputError(f'network {spec.network} sees whole series; set levels = "study"')
        if idle := [key for key in own if key in spec.network_args and not args["along"]]:
            raise InputError(f"network_args {', '.join(idle)} are of the network along slices; set along = true")
        task = task_of(spec)
        self.views, self.encoder_of_view = task.samples[0].views, task.encoders
        self.each = (len(LEVELS), task.num_conditions)
        answers = len(LEVELS) * task.num_conditions
        self.slices = nn.ModuleList(SliceEncoder(spec, channels, answers, args) for channels in channels_of(spec))
        numbers = answers * (len(SEVERITIES) + 1)
        self.along = (
            AlongAnswers(len(self.views), numbers, args["hidden"], args["layers"], args["dropout"], answers)
            if args["along"]
            else None
        )

    def forward(
        self, views: Mapping[str, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        maps: dict[str, Sequence[torch.Tensor]] = {}
        told = views if views[self.views[0]].ndim == 4 else self._told(views, maps)
        answers = [told[name][:, 0, :, :-1] for name in self.views]
        there = [(told[name][:, 0, :, -1] > 0) & seen[:, 0, [place]] for place, name in enumerate(self.views)]
        by_slice = torch.cat(answers, dim=1).unflatten(-1, (*self.each, -1))  # (B, T of all, 5, C, 4)
        if self.along is not None:
            logits = self.along(answers, there).unflatten(-1, (*self.each, -1))
        else:
            weights = by_slice[..., -1].masked_fill(~torch.cat(there, 1)[:, :, None, None], -1e4).softmax(1)
            logits = (weights[..., None] * by_slice[..., :-1]).sum(1)
        if not (self.training and maps):
            return logits
        found: dict[str, Any] = {"severity": logits, "slice_scores": by_slice[..., :-1].transpose(1, 2)}
        for place, word in enumerate(("heatmaps", "embedding")):
            if len(maps[str(self.views[0])]) > place:
                found[word] = {name: each[place] for name, each in maps.items()}
        return found

    def told(self, views: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What every slice answers, by view (B, 1, T, numbers): of each level and condition three logits and how high
        its map rises; at last whether the slice is there, as one without contrast is not."""
        return self._told(views, {})

    def _told(
        self, views: Mapping[str, torch.Tensor], maps: dict[str, Sequence[torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        pairs = encoded(self.slices, self.encoder_of_view, self.views, views)
        found = {}
        for name, (answers, *others) in zip(self.views, pairs, strict=True):
            pixels = views[name][:, 0].flatten(2)
            there = (pixels.amax(-1) > pixels.amin(-1)).to(answers)
            found[str(name)] = torch.cat([answers.flatten(2), there[..., None]], dim=-1)[:, None]
            maps[str(name)] = others
        return found


def build(spec: GraderSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    return WholeSlices(spec)
