"""Any encoder under a U-Net head of its own, with attention to channels and places in every block; fourth place.

Blocks go from coarse to fine: each takes in the encoder's next finer map, weighs channels and places (scSE, Roy et al.
2018, with a weight of its own for every channel at every place), convolves twice and weighs again. Beyond the
encoder's finest map blocks double the size until it is the image's. `network_args`: channels of the blocks, coarse to
fine, of which as many count as the encoder has maps ([1024, 512, 256, 128, 64]).
"""

import itertools

import torch
import torch.nn.functional as nnf
from torch import nn

from lumbar.backbones import channels_first, create_backbone
from lumbar.issues import InputError
from lumbar.keypoints.networks.gives import refuse_other_answers, refuse_stride, start_rare
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec

#: Channels of a map for one between the two layers that weigh them, and how many of these there are at least.
_REDUCTION, _LEAST = 16, 4


class Weigh(nn.Module):
    """(B, C, h, w) → the same, weighed: by channel as its means tell, plus by channel and place as the place tells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // _REDUCTION, _LEAST)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1)
        )
        self.place = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps * (self.channel(maps).sigmoid() + self.place(maps).sigmoid())


def _layer(channels: int, out: int, side: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


class Block(nn.Module):
    """A map and the encoder's next finer one → that one's size; without one twice the size."""

    def __init__(self, channels: int, beside: int, out: int) -> None:
        super().__init__()
        self.before = Weigh(channels + beside) if beside else None
        self.layers = nn.Sequential(_layer(channels + beside, out), _layer(out, out))
        self.behind = Weigh(out)

    def forward(self, maps: torch.Tensor, beside: torch.Tensor | None = None) -> torch.Tensor:
        if beside is None or self.before is None:
            maps = nnf.interpolate(maps, scale_factor=2)
        else:
            maps = self.before(torch.cat([nnf.interpolate(maps, beside.shape[-2:]), beside], 1))
        found: torch.Tensor = self.behind(self.layers(maps))
        return found


class UnetHead(nn.Module):
    """Stacks (B, T, S, S) → maps (B, K, S, S) from 0 to 1; in training those before the sigmoid, too: `logits`."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        widths = read_arguments(spec, {"channels": ("wholes", [1024, 512, 256, 128, 64])})["channels"]
        self.encoder = create_backbone(spec, spec.channels, features_only=True)
        info = self.encoder.feature_info
        own = info.channels()[::-1]  # type: ignore[operator, union-attr]
        finest = int(info.reduction()[0])  # type: ignore[operator, union-attr]
        if len(own) > len(widths):
            raise InputError(
                f"encoder {spec.encoder!r} has {len(own)} maps, and network_args channels tells of {len(widths)}; "
                "give as many, coarse to fine"
            )
        widths = widths[: len(own)]
        self.centre = nn.Sequential(_layer(own[0], widths[0], 1), _layer(widths[0], widths[0], 1))
        sizes = zip(itertools.pairwise(widths), own[1:], strict=True)
        self.blocks = nn.ModuleList(Block(coarse, beside, fine) for (coarse, fine), beside in sizes)
        self.beyond = nn.Sequential(*(Block(widths[-1], 0, widths[-1]) for _ in range((finest - 1).bit_length())))
        self.maps = nn.Conv2d(widths[-1], spec.num_classes, 1)
        start_rare(self.maps)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        levels = [channels_first(self.encoder, level) for level in self.encoder(stacks)]
        maps = self.centre(levels[-1])
        for block, beside in zip(self.blocks, levels[-2::-1], strict=True):
            maps = block(maps, beside)
        logits = self.maps(self.beyond(maps)).float()  # half numbers would make plateaus of peaks
        if logits.shape[-2:] != stacks.shape[-2:]:
            logits = nnf.interpolate(logits, stacks.shape[-2:], mode="bilinear", align_corners=True)
        answer = logits.sigmoid()
        return {"answer": answer, "logits": logits} if self.training else answer


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights. Raises InputError where it has fewer `channels` than encoder maps."""
    refuse_other_answers(spec, {"heatmaps": (False,)})
    refuse_stride(spec)
    return UnetHead(spec)
