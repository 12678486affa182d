"""Recipes written out for tests: networks of a few channels, one epoch, two folds.

A text ends with its last member, so that a test can add lines to that one.
"""

import json
from collections.abc import Mapping
from typing import Any

#: A resnet18 of a block a stage instead of two.
BACKBONE = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
DETECTORS = {
    "t2": {"series_type": "sagittal_t2"},
    "t1": {"series_type": "sagittal_t1", "in_chans": 3},
    "axial": {"series_type": "axial_t2", "in_chans": 3, "num_classes": 2},
}
GRADERS = {
    "split": {"tasks": ["spinal", "foraminal", "subarticular"]},
    "whole": {"task": "global", "view_dropout": 0.1},
}
_ONCE = {"batch_size": 4, "epochs": 1}
_DETECTOR = {
    "encoder": "tu-resnet18",
    "encoder_args": BACKBONE,
    "network_args": {"decoder_channels": 8},
    "image_size": 64,
    "sigma_px": 3.0,
    **_ONCE,
}
_GRADER = {"backbone_args": BACKBONE, "image_size": 32, "slices": 3, "rnn_hidden": 8, "rnn_layers": 1, **_ONCE}


def tiny_recipe(
    detectors: Mapping[str, Any] = DETECTORS,
    graders: Mapping[str, Any] = GRADERS,
    *,
    stage1: Mapping[str, Any] | None = None,
    stage2: Mapping[str, Any] | None = None,
    folds: int = 2,
) -> str:
    """A whole recipe called tiny; `stage1`, `stage2`: what holds for all members of one."""
    return beginning(folds) + detector_stage(detectors, **stage1 or {}) + grader_stage(graders, **stage2 or {})


def beginning(folds: int = 2) -> str:
    """What stands before the stages: the name, every fold, one process."""
    parts = {
        "folds": {"count": folds, "train": [*range(folds)]},
        "loop": {"mixed_precision": "no", "workers": 0, "read_processes": 1},
    }
    return 'name = "tiny"\n' + "".join(f"[{name}]\n{_lines(values)}" for name, values in parts.items())


def detector_stage(members: Mapping[str, Any] = DETECTORS, **common: Any) -> str:
    """Stage 1 of a recipe."""
    return _stage("stage1", _DETECTOR | common, members)


def grader_stage(members: Mapping[str, Any] = GRADERS, **common: Any) -> str:
    """Stage 2 of a recipe."""
    return _stage("stage2", _GRADER | common, members)


def toml(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def _stage(stage: str, common: Mapping[str, Any], members: Mapping[str, Any]) -> str:
    tables = "".join(f"[{stage}.members.{name}]\n{_lines(values)}" for name, values in members.items())
    return f"[{stage}]\n{_lines(common)}{tables}"


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in values.items())
