"""DeepLabV3+ (Chen et al., 2018), the ninth place's detector."""

import segmentation_models_pytorch as smp
from torch import nn

from lumbar.keypoints import smp_network
from lumbar.member import DetectorSpec


def build(spec: DetectorSpec) -> nn.Module:
    """DeepLabV3+ on the encoder of `spec`, see `smp_network.build`."""
    return smp_network.build(spec, smp.DeepLabV3Plus)
