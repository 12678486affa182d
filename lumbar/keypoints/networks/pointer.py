"""Maps with a slice axis: a U-Net on every slice with its neighbours, times a score of the slice; fifth place.

The score comes from a sequence along the slices over features of the same encoder, or of one of its own where
`network_args` names it: pointer_encoder and pointer_args, as encoder and encoder_args. `pointer`: lstm, a bidirectional
one, or transformer, one pre-norm layer of pointer_heads (4). pointer_hidden (256) is its width, pointer_dropout (0);
other network_args are the U-Net's.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.issues import InputError
from lumbar.keypoints.networks.gives import (
    AlongSlices,
    refuse_other_answers,
    slices_there,
    start_rare,
    with_neighbours,
)
from lumbar.keypoints.networks.pre_norm import PreNormAlong
from lumbar.keypoints.networks.smp import build_smp
from lumbar.recipe.arguments import Kind, read_arguments
from lumbar.recipe.detector import DetectorSpec

with without_compiler():
    import segmentation_models_pytorch as smp


_OWN: Final[Mapping[str, tuple[Kind, Any]]] = {
    "pointer": ("word", "lstm"),
    "pointer_encoder": ("word", ""),
    "pointer_args": ("table", {}),
    "pointer_hidden": ("whole", 256),
    "pointer_heads": ("whole", 4),
    "pointer_dropout": ("share", 0.0),
}
_KINDS: Final = ("lstm", "transformer")


class Pointer(nn.Module):
    """Stacks (B, T, S, S) → maps (B, K, T, S, S) from 0 to 1; zero on slices without contrast, as padding has none.

    In training also `logits`, the maps before the sigmoid, and `slice_scores` (B, K, T), those of the slices.
    """

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        args = read_arguments(spec, _OWN, others=True)
        if "pointer_args" in spec.network_args and not args["pointer_encoder"]:
            raise InputError("network_args 'pointer_args' are those of a pointer_encoder; name one, or leave them out")
        if args["pointer"] not in _KINDS:
            raise InputError(f"pointer = {args['pointer']!r:.40} is no sequence of slices; give {' or '.join(_KINDS)}")
        of_unet = {key: value for key, value in spec.network_args.items() if key not in _OWN}
        self.series, self.slices = len(spec.types), spec.in_chans
        #: How many slices go through the U-Net at a time (None: all); it treats each by itself.
        self.slices_at_once: int | None = None
        one = spec.model_copy(update={"in_chans": 3 * self.series, "beside": None, "network_args": of_unet})
        unet: Any = build_smp(one, smp.Unet)
        self.encoder, self.decoder, self.maps = unet.encoder, unet.decoder, unet.segmentation_head
        start_rare(self.maps)
        _leave_out_unread(self.encoder)
        self.pointer_encoder: Any = None
        if args["pointer_encoder"]:
            other = {
                "encoder": args["pointer_encoder"],
                "encoder_args": args["pointer_args"],
                "network_args": {},
            }
            self.pointer_encoder = build_smp(one.model_copy(update=other), smp.Unet).encoder
        features = int((self.pointer_encoder or self.encoder).out_channels[-1])
        hidden, dropout = args["pointer_hidden"], args["pointer_dropout"]
        self.along: nn.Module
        if args["pointer"] == "lstm":
            head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * hidden, spec.num_classes))
            self.along = AlongSlices(features, hidden, head)
        else:
            heads = args["pointer_heads"]
            self.along = PreNormAlong(features, hidden, spec.in_chans, heads, dropout, spec.num_classes)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        images, slices = with_neighbours(stacks, self.series), (-1, self.slices)
        seen = slices_there(stacks, self.series)
        looked = [self._look(part) for part in images.split(self.slices_at_once or len(images))]
        logits, deepest = looked[0] if len(looked) == 1 else map(torch.cat, zip(*looked, strict=True))
        logits, deepest = logits.unflatten(0, slices).transpose(1, 2), deepest.unflatten(0, slices)
        scores = self.along(deepest, seen) if isinstance(self.along, PreNormAlong) else self.along(deepest)
        answer = logits.sigmoid() * (scores.sigmoid() * seen[:, None])[..., None, None]
        return {"answer": answer, "logits": logits, "slice_scores": scores} if self.training else answer

    def _look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of slices with their neighbours (N, C, S, S): maps (N, K, S, S) before the sigmoid, mean features (N, F)."""
        features = self.encoder(images)
        logits = self.maps(self.decoder(features)).float()  # half numbers would make plateaus of peaks
        deepest = (self.pointer_encoder(images) if self.pointer_encoder is not None else features)[-1]
        return logits, deepest.mean((2, 3))


def _leave_out_unread(encoder: nn.Module) -> None:
    """Take out, in place, the blocks of timm's EfficientNets behind the last map that is read: they would be reckoned
    and never learn."""
    model: Any = getattr(encoder, "model", None)
    blocks = getattr(model, "blocks", None)
    part, _, number = model.feature_info.module_name()[-1].partition(".") if model is not None else ("", "", "")
    if isinstance(blocks, nn.Sequential) and part == "blocks":
        model.blocks = blocks[: int(number) + 1]


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"heatmaps": (True,)})
    return Pointer(spec)
