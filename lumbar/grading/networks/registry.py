"""The stage-2 networks by the recipe's word. A new one is a file with a builder and an entry in `NETWORKS`.

The files are imported when their network is asked for, so that names can be listed without torch.

A builder takes a `GraderSpec` and returns a module whose `forward(views, seen)` answers a batch of samples: `views` is
a mapping of the sample's views by name (see `tasks.task_of`), each (B, L, T, C, H, W), zeros where it is not there,
which `seen` (B, L, V) bool says, too; L is 1 or 5 levels, T any number of slices; whole series (`levels = "study"`)
come once, L = 1, and are answered for five levels. It gives logits (B, L, conditions, 3); in training it may give a
mapping of named tensors: `severity` is that one, the others (`slices` (B, L, T, conditions, 3), `level` (B, L, 5), …)
are there for losses that a recipe names (`recipe.losses.OF_GRADERS`).
Weights are random; nothing reaches for a hub. Training fills what is timm's in it with pretrained weights, where the
recipe says so.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from lumbar.issues import InputError
from lumbar.recipe.grader import GraderSpec

if TYPE_CHECKING:
    from torch import nn

#: Word → the file whose `build` makes it.
NETWORKS: Final[Mapping[str, str]] = {
    "attention": "lumbar.grading.networks.attention",
    "condition_attention": "lumbar.grading.networks.condition_attention",
    "condition_sequence": "lumbar.grading.networks.condition_sequence",
    "group_lstm": "lumbar.grading.networks.group_lstm",
    "gru": "lumbar.grading.networks.gru",
    "lstm": "lumbar.grading.networks.lstm",
    "mil": "lumbar.grading.networks.mil",
    "slice_bags": "lumbar.grading.networks.slice_bags",
    "slice_channels": "lumbar.grading.networks.slice_channels",
    "slice_pool": "lumbar.grading.networks.slice_pool",
    "transformer": "lumbar.grading.networks.transformer",
    "whole_slices": "lumbar.grading.networks.whole_slices",
    "whole_volume": "lumbar.grading.networks.whole_volume",
}


def build_grader(spec: GraderSpec) -> "nn.Module":
    """The network of a stage-2 member with random weights, in training mode.

    Raises InputError for an unknown network or backbone.
    """
    if spec.network not in NETWORKS:
        raise InputError(f"unknown grading network {spec.network!r}; known: {', '.join(sorted(NETWORKS))}")
    network: nn.Module = importlib.import_module(NETWORKS[spec.network]).build(spec)
    return network
