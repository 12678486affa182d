"""The stage-1 networks by the recipe's word. A new one is a file with a builder and an entry in `NETWORKS`.

The files are imported when their network is asked for, so that names can be listed without torch.

A builder takes a `DetectorSpec` and returns a module that maps (B, channels, S, S) standardised images to the raw
answer of the spec, (B, …) with the `shape` of `answers`, with random weights and without reaching for any hub. In
training it may return a mapping: `answer` first, then outputs that exist for losses. Training fills what is timm's or
segmentation-models-pytorch's in it with pretrained weights, where the recipe says so.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec

if TYPE_CHECKING:
    from torch import nn

#: Word → the file whose `build` makes it.
NETWORKS: Final[Mapping[str, str]] = {
    "centernet": "lumbar.keypoints.networks.centernet",
    "convnext3d": "lumbar.keypoints.networks.convnext3d",
    "deeplabv3plus": "lumbar.keypoints.networks.deeplab",
    "frames": "lumbar.keypoints.networks.frames",
    "level_scores": "lumbar.keypoints.networks.level_scores",
    "pointer": "lumbar.keypoints.networks.pointer",
    "regressor": "lumbar.keypoints.networks.regressor",
    "slice_scores": "lumbar.keypoints.networks.slice_scores",
    "unet": "lumbar.keypoints.networks.unet",
    "unet_head": "lumbar.keypoints.networks.unet_head",
}


def build_detector(spec: DetectorSpec) -> "nn.Module":
    """The network of a stage-1 member with random weights, in training mode.

    Raises InputError for an unknown network or encoder.
    """
    if spec.network not in NETWORKS:
        raise InputError(f"unknown detector network {spec.network!r}; known: {', '.join(sorted(NETWORKS))}")
    network: nn.Module = importlib.import_module(NETWORKS[spec.network]).build(spec)
    return network
