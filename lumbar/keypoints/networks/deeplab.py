"""DeepLabV3+ (Chen et al., 2018), the ninth place's detector."""

from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.keypoints.networks.gives import refuse_other_answers
from lumbar.keypoints.networks.smp import build_smp
from lumbar.recipe.detector import DetectorSpec

with without_compiler():
    import segmentation_models_pytorch as smp


def build(spec: DetectorSpec) -> nn.Module:
    """DeepLabV3+ on the encoder of `spec`, see `build_smp`."""
    refuse_other_answers(spec, {"heatmaps": (False,)})
    return build_smp(spec, smp.DeepLabV3Plus)
