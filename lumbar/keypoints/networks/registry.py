"""The stage-1 networks by the recipe's word. A new one is a file with a builder and an entry in `NETWORKS`.

The files are imported when their network is asked for, so that names can be listed without torch.

A builder takes a `DetectorSpec` and returns a module that maps (B, in_chans, S, S) standardised images to the raw
answer of the spec, (B, …) with the `shape` of `answers`, with random weights and without reaching for any hub. In
training it may return a mapping: `answer` first, then outputs that exist for losses. A network whose encoder ImageNet
weights can fill holds it as `encoder`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
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
    "pointer": "lumbar.keypoints.networks.pointer",
    "regressor": "lumbar.keypoints.networks.regressor",
    "slice_scores": "lumbar.keypoints.networks.slice_scores",
    "unet": "lumbar.keypoints.networks.unet",
}


def build_detector(spec: DetectorSpec, pretrained: bool | str | Path = False) -> "nn.Module":
    """The network of a stage-1 member, in training mode.

    `pretrained` fills the encoder: True from an installed package of that encoder's weights, a path from a local file
    (see `lumbar.backbones`). Raises InputError for an unknown network or encoder, or weights that are not there.
    """
    if spec.network not in NETWORKS:
        raise InputError(f"unknown detector network {spec.network!r}; known: {', '.join(sorted(NETWORKS))}")
    network: nn.Module = importlib.import_module(NETWORKS[spec.network]).build(spec)
    if pretrained:
        from lumbar.backbones import load_pretrained

        load_pretrained(network.get_submodule("encoder"), spec.encoder, pretrained)
    return network
