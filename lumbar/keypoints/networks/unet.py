"""U-Net (Ronneberger et al., 2015) of flat heatmaps, as many as a recipe asks for.

With 25 each condition at each level has a map of its own, whatever the series; maps that have no meaning on a stack are
taught to stay empty (`recipes/parts/maps.toml`).
"""

from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.keypoints.networks.smp import build_smp
from lumbar.recipe.detector import DetectorSpec

with without_compiler():
    import segmentation_models_pytorch as smp


def build(spec: DetectorSpec) -> nn.Module:
    """U-Net on the encoder of `spec`, see `build_smp`; untrained it answers zero everywhere.

    Target maps are nearly empty: with a random last layer the first gradients are a hundred times larger than later
    ones, Adam's second moment remembers them for a thousand steps, and steps stay small for as long.
    """
    refuse_other_answers(spec, {"heatmaps": (False,)})
    network = build_smp(spec, smp.Unet)
    for parameter in network.get_submodule("segmentation_head").parameters():
        nn.init.zeros_(parameter)
    return network
