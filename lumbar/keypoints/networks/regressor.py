"""Points as they are: a backbone on the stack as channels, its features, one linear layer; first and second place.

`network_args`: pool = "avg" (default), the mean over the feature map; "flatten": the whole map, which knows where
things are and needs no pretrained weights for it. dropout: before the linear layer.
"""

import torch
from torch import nn

from lumbar.backbones import create_backbone
from lumbar.issues import InputError
from lumbar.keypoints.answers import points
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.recipe.detector import DetectorSpec


class Regressor(nn.Module):
    """Stacks (B, T, S, S) → points (B, K, 2 or 3), shares from 0 to 1."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.shape, self.pool = points.shape(spec), spec.network_args.get("pool", "avg")
        if self.pool not in ("avg", "flatten"):
            raise InputError(f'network_args pool = {self.pool!r} is no way to pool; write "avg" or "flatten"')
        self.encoder = create_backbone(spec, spec.in_chans, global_pool="")
        features = int(self.encoder.num_features)  # type: ignore[arg-type]
        if self.pool == "flatten":
            features *= (-(-spec.image_size // int(self.encoder.feature_info[-1]["reduction"]))) ** 2  # type: ignore[index]
        self.dropout = nn.Dropout(float(spec.network_args.get("dropout", 0.0)))
        self.head = nn.Linear(features, self.shape[0] * self.shape[1])

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(stacks)
        features = maps.flatten(1) if self.pool == "flatten" else maps.mean((2, 3))
        return self.head(self.dropout(features)).unflatten(1, self.shape).sigmoid()


def build(spec: DetectorSpec) -> nn.Module:
    """The network of `spec` with random weights."""
    refuse_other_answers(spec, {"points": (False, True)}, ("pool", "dropout"))
    return Regressor(spec)
