"""Maps at a stride, or boxes: an encoder, a neck that goes from coarse to fine, a head; after the third place.

Of the encoder's levels those count whose stride is the spec's or coarser. `network_args`: neck (96) and head (64)
channels, dropout: rates whose answers are averaged in training (none; the third place has .1 to .5).
"""

import itertools
import math

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.issues import InputError
from lumbar.keypoints.answers import boxes
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec

#: What an untrained map shows everywhere: most of a map is empty, and the first steps need not learn that.
_EMPTY = 0.1


def _block(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class TopDown(nn.Module):
    """Feature maps, fine to coarse → one of the finest's size: each level takes in the next coarser one."""

    def __init__(self, channels: list[int], out: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_block(own, own) for own in channels[:-1])
        self.upwards = nn.ModuleList(_block(above, own) for own, above in itertools.pairwise(channels))
        self.last = _block(channels[0], out)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        x = levels[-1]
        for level, lateral, upwards in zip(levels[-2::-1], self.lateral[::-1], self.upwards[::-1], strict=True):
            x = upwards(nnf.interpolate(x, level.shape[-2:])) + lateral(level)
        return self.last(x)


class CenterNet(nn.Module):
    """Stacks (B, T, S, S) → maps (B, K, s, s) from 0 to 1, or boxes (B, K, 5, s, s), see `answers`; in training the
    maps before the sigmoid as well, as `logits`."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        args = read_arguments(spec, {"neck": ("whole", 96), "head": ("whole", 64), "dropout": ("shares", ())})
        self.encoder = create_backbone(spec, spec.channels, features_only=True)
        info = self.encoder.feature_info
        used = [place for place, stride in enumerate(info.reduction()) if stride >= spec.stride]  # type: ignore[operator, union-attr]
        strides = info.reduction()  # type: ignore[operator, union-attr]
        if not used or strides[used[0]] != spec.stride:
            known = ", ".join(map(str, strides))
            raise InputError(f"encoder {spec.encoder!r} has no level of stride {spec.stride}; give one of {known}")
        self.first, self.boxes, self.stride = used[0], spec.answer == "boxes", spec.stride
        neck, head = args["neck"], args["head"]
        self.neck = TopDown([info.channels()[place] for place in used], neck)  # type: ignore[operator, union-attr]
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in args["dropout"])
        self.per_name = len(boxes.CHANNELS) if self.boxes else 1
        self.head = nn.Sequential(
            nn.Conv2d(neck, head, 3, padding=1), nn.ReLU(), nn.Conv2d(head, spec.num_classes * self.per_name, 1)
        )
        bias = self.head[-1].bias
        assert isinstance(bias, nn.Parameter)
        nn.init.zeros_(bias)
        nn.init.constant_(bias[:: self.per_name], math.log(_EMPTY / (1 - _EMPTY)))

    def forward(self, stacks: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        seen = self.neck(self.encoder(stacks)[self.first :])
        if self.training and len(self.dropouts):
            raw = torch.stack([self.head(dropout(seen)) for dropout in self.dropouts]).mean(0)
        else:
            raw = self.head(seen)
        logits = raw = raw.float()  # half numbers would make plateaus of peaks
        if self.boxes:
            raw = raw.unflatten(1, (-1, self.per_name))
            logits = raw[:, :, 0]
            size = nnf.softplus(raw[:, :, 3:]) * self.stride
            answer = torch.cat([logits.sigmoid()[:, :, None], raw[:, :, 1:3], size], 2)
        else:
            answer = logits.sigmoid()
        return {"answer": answer, "logits": logits} if self.training else answer


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where the encoder has no level of its stride."""
    refuse_other_answers(spec, {"heatmaps": (False,), "boxes": (False,)})
    return CenterNet(spec)
