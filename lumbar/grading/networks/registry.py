"""The stage-2 networks by the recipe's word. A new one is a file with a builder and an entry in `NETWORKS`.

A builder takes a `GraderSpec` and returns a module that maps the views of a batch of samples, (B, V, T, H, W)
standardised, to logits (B, C, 3): V and C as in `tasks.TASKS[spec.task]`, any T. Weights are random; nothing reaches
for a hub. A network whose backbones ImageNet weights can fill holds them as `encoders.<i>.backbone`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from torch import nn

from lumbar.backbones import load_pretrained
from lumbar.grading.networks import gru, mil
from lumbar.issues import InputError
from lumbar.recipe.member import GraderSpec

NETWORKS: Final[Mapping[str, Callable[[GraderSpec], nn.Module]]] = {
    "gru": gru.build,
    "mil": mil.build,
}


def build_grader(spec: GraderSpec, pretrained: bool | str | Path = False) -> nn.Module:
    """The network of a stage-2 member, in training mode.

    `pretrained` fills every backbone: True from an installed package of that backbone's weights, a path from a local
    file (see `lumbar.backbones`). Raises InputError for an unknown network or backbone, or weights that are not there.
    """
    if spec.network not in NETWORKS:
        raise InputError(f"unknown grading network {spec.network!r}; known: {', '.join(sorted(NETWORKS))}")
    network = NETWORKS[spec.network](spec)
    if pretrained:
        for encoder in network.get_submodule("encoders").children():
            load_pretrained(encoder.get_submodule("backbone"), spec.backbone, pretrained)
    return network
