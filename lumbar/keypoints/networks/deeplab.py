"""DeepLabV3+ (Chen et al., 2018), the ninth place's detector."""

import segmentation_models_pytorch as smp
from torch import nn

from lumbar.keypoints.networks import smp
from lumbar.recipe.member import DetectorSpec


def build(spec: DetectorSpec) -> nn.Module:
    """DeepLabV3+ on the encoder of `spec`, see `smp_network.build`."""
    return smp.build(spec, smp.DeepLabV3Plus)
