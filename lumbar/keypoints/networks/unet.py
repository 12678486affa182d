"""U-Net (Ronneberger et al., 2015) of flat heatmaps, as many as a recipe asks for; fourth place.

With 25 each condition at each level has a map of its own, whatever the series; maps that have no meaning on a stack are
taught to stay empty (`recipes/parts/maps.toml`). `network_args`: severities, of how many conditions the encoder's
deepest features, averaged, are asked in training beside the maps (none; the fourth place: 2, the recesses); the others
are the library's.
"""

from typing import Any

import torch
from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.keypoints.networks.smp import build_smp
from lumbar.labels import SEVERITIES
from lumbar.recipe.arguments import read_arguments
from lumbar.recipe.detector import DetectorSpec

with without_compiler():
    import segmentation_models_pytorch as smp


class AskedUnet(smp.Unet):  # type: ignore[misc]  # the library has no types
    """Stacks (B, T, S, S) → maps (B, K, S, S); in training also `severity` (B, conditions, 3)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        maps, severities = super().forward(x)
        if not self.training:
            return maps  # type: ignore[no-any-return]
        return {"answer": maps, "severity": severities.unflatten(-1, (-1, len(SEVERITIES)))}


def build(spec: DetectorSpec) -> nn.Module:
    """U-Net on the encoder of `spec`, see `build_smp`; untrained it answers zero everywhere.

    Target maps are nearly empty: with a random last layer the first gradients are a hundred times larger than later
    ones, Adam's second moment remembers them for a thousand steps, and steps stay small for as long.
    """
    refuse_other_answers(spec, {"heatmaps": (False,)})
    asked = read_arguments(spec, {"severities": ("whole", 0)}, others=True)["severities"]
    of_library: dict[str, Any] = {key: value for key, value in spec.network_args.items() if key != "severities"}
    if asked:
        of_library["aux_params"] = {"classes": asked * len(SEVERITIES)}
    spec = spec.model_copy(update={"network_args": of_library})
    network = build_smp(spec, AskedUnet if asked else smp.Unet)
    for parameter in network.get_submodule("segmentation_head").parameters():
        nn.init.zeros_(parameter)
    return network
