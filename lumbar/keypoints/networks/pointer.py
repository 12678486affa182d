"""Maps with a slice axis: a U-Net on every slice with its neighbours, times a score of the slice; fifth place.

The score comes from an LSTM along the slices over features of the same encoder, or of one of its own where
`network_args` names it: pointer_encoder and pointer_args, as encoder and encoder_args. pointer_hidden (256) is the
LSTM's width, pointer_dropout (0); other network_args are the U-Net's.
"""

from typing import Any

import torch
from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.keypoints.networks.gives import AlongSlices, refuse_other_answers, start_rare, with_neighbours
from lumbar.keypoints.networks.smp import build_smp
from lumbar.recipe.detector import DetectorSpec

with without_compiler():
    import segmentation_models_pytorch as smp


class Pointer(nn.Module):
    """Stacks (B, T, S, S) → maps (B, K, T, S, S) from 0 to 1; zero on slices without contrast, as padding has none.

    In training also `logits`, the maps before the sigmoid, and `slice_scores` (B, K, T), those of the slices.
    """

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        own = ("pointer_encoder", "pointer_args", "pointer_hidden", "pointer_dropout")
        args = {key: spec.network_args[key] for key in own if key in spec.network_args}
        of_unet = {key: value for key, value in spec.network_args.items() if key not in own}
        self.series, self.slices = len(spec.types), spec.in_chans
        one = spec.model_copy(update={"in_chans": 3 * self.series, "beside": None, "network_args": of_unet})
        unet: Any = build_smp(one, smp.Unet)
        self.encoder, self.decoder, self.maps = unet.encoder, unet.decoder, unet.segmentation_head
        start_rare(self.maps)
        self.pointer_encoder: Any = None
        if "pointer_encoder" in args:
            other = {
                "encoder": args["pointer_encoder"],
                "encoder_args": args.get("pointer_args", {}),
                "network_args": {},
            }
            self.pointer_encoder = build_smp(one.model_copy(update=other), smp.Unet).encoder
        features = int((self.pointer_encoder or self.encoder).out_channels[-1])
        hidden, dropout = int(args.get("pointer_hidden", 256)), float(args.get("pointer_dropout", 0.0))
        head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * hidden, spec.num_classes))
        self.along = AlongSlices(features, hidden, head)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        images, slices = with_neighbours(stacks, self.series), (-1, self.slices)
        seen = (stacks.amax((2, 3)) > stacks.amin((2, 3))).unflatten(1, (self.series, -1)).any(1)  # (B, T)
        features = self.encoder(images)
        logits = self.maps(self.decoder(features)).float()  # half numbers would make plateaus of peaks
        logits = logits.unflatten(0, slices).transpose(1, 2)
        deepest = (self.pointer_encoder(images) if self.pointer_encoder is not None else features)[-1]
        scores = self.along(deepest.mean((2, 3)).unflatten(0, slices))
        answer = logits.sigmoid() * (scores.sigmoid() * seen[:, None])[..., None, None]
        return {"answer": answer, "logits": logits, "slice_scores": scores} if self.training else answer


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"heatmaps": (True,)})
    return Pointer(spec)
