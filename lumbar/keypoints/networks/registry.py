"""The stage-1 networks by the recipe's word. A new one is a file with a builder and an entry in `NETWORKS`.

A builder takes a `DetectorSpec` and returns a module that maps (B, in_chans, S, S) standardised images to
(B, num_classes, S, S) raw heatmaps, with random weights and without reaching for any hub. A network whose
encoder ImageNet weights can fill holds it as `encoder`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from torch import nn

from lumbar.backbones import load_pretrained
from lumbar.issues import InputError
from lumbar.keypoints.networks import deeplab, unet
from lumbar.recipe.member import DetectorSpec

NETWORKS: Final[Mapping[str, Callable[[DetectorSpec], nn.Module]]] = {
    "deeplabv3plus": deeplab.build,
    "unet": unet.build,
}


def build_detector(spec: DetectorSpec, pretrained: bool | str | Path = False) -> nn.Module:
    """The network of a stage-1 member, in training mode.

    `pretrained` fills the encoder: True from an installed package of that encoder's weights, a path from a local file
    (see `lumbar.backbones`). Raises InputError for an unknown network or encoder, or weights that are not there.
    """
    if spec.network not in NETWORKS:
        raise InputError(f"unknown detector network {spec.network!r}; known: {', '.join(sorted(NETWORKS))}")
    network = NETWORKS[spec.network](spec)
    if pretrained:
        load_pretrained(network.get_submodule("encoder"), spec.encoder, pretrained)
    return network
