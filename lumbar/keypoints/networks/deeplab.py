"""DeepLabV3+ (Chen et al., 2018), the ninth place's detector."""

import segmentation_models_pytorch as smp
from torch import nn

from lumbar.keypoints.networks.smp import build_smp
from lumbar.recipe.member import DetectorSpec


def build(spec: DetectorSpec) -> nn.Module:
    """DeepLabV3+ on the encoder of `spec`, see `build_smp`."""
    return build_smp(spec, smp.DeepLabV3Plus)
