"""The stage-2 networks by the recipe's word. A new one is a file with a builder and an entry in `NETWORKS`.

The files are imported when their network is asked for, so that names can be listed without torch.

A builder takes a `GraderSpec` and returns a module that maps the views of a batch of samples, (B, V, T, H, W)
standardised, to logits (B, C, 3): V and C as in `tasks.TASKS[spec.task]`, any T. Weights are random; nothing reaches
for a hub. A network whose backbones ImageNet weights can fill holds them as `encoders.<i>.backbone`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lumbar.issues import InputError
from lumbar.recipe.grader import GraderSpec

if TYPE_CHECKING:
    from torch import nn

#: Word → the file whose `build` makes it.
NETWORKS: Final[Mapping[str, str]] = {
    "gru": "lumbar.grading.networks.gru",
    "mil": "lumbar.grading.networks.mil",
}


def build_grader(spec: GraderSpec, pretrained: bool | str | Path = False) -> "nn.Module":
    """The network of a stage-2 member, in training mode.

    `pretrained` fills every backbone: True from an installed package of that backbone's weights, a path from a local
    file (see `lumbar.backbones`). Raises InputError for an unknown network or backbone, or weights that are not there.
    """
    if spec.network not in NETWORKS:
        raise InputError(f"unknown grading network {spec.network!r}; known: {', '.join(sorted(NETWORKS))}")
    network: nn.Module = importlib.import_module(NETWORKS[spec.network]).build(spec)
    if pretrained:
        from lumbar.backbones import load_pretrained

        for encoder in network.get_submodule("encoders").children():
            load_pretrained(encoder.get_submodule("backbone"), spec.backbone, pretrained)
    return network
