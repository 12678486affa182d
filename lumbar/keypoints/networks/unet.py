"""U-Net (Ronneberger et al., 2015) with an EfficientNet encoder and 25 heatmaps, the fifth place's detector.

Each condition at each level has a map of its own, whatever the series; maps that have no meaning on a stack are taught
to stay empty.
"""

import segmentation_models_pytorch as smp
from torch import nn

from lumbar.keypoints.networks import smp
from lumbar.recipe.member import DetectorSpec


def build(spec: DetectorSpec) -> nn.Module:
    """U-Net on the encoder of `spec`, see `smp_network.build`; untrained it answers zero everywhere.

    Maps are nearly empty. From random answers the first gradients are a hundred times those that tell levels apart, and
    Adam, which remembers a thousand steps, takes small steps for as long.
    """
    network = smp.build(spec, smp.Unet)
    for parameter in network.get_submodule("segmentation_head").parameters():
        nn.init.zeros_(parameter)
    return network
