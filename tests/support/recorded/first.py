"""The first place's recorded networks as specs of ours."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View
from tests.support.recorded.record import Adapter, Ours, Record, first

#: Deep networks of other builds of torch differ by so much.
_DEEP = 5e-4


def _heads(record: Record) -> list[str]:
    """The linear layers of the levels, left ones before right ones: l1 … l5, or ll1 … ll5 rl1 … rl5."""
    return [key.removesuffix(".weight") for key in record.keys if re.fullmatch(r"[lr]?l\d\.weight", key)]


def _joined(heads: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Our one layer for all names holds those of the levels, one after the other."""
    return {f"head.{part}": tuple(f"{head}.{part}" for head in heads) for part in ("weight", "bias")}


def _seen(heads: Sequence[str]) -> dict[str, Any]:
    """Which keypoints a network of so many heads speaks of."""
    if len(heads) == 5:
        return {"series_type": "sagittal_t2", "num_classes": 5}
    return {"series_type": "sagittal_t1", "num_classes": 10, "points": "series"}


def _depth(record: Record) -> Ours:
    heads, keys, shape = _heads(record), record.keys, record.inputs()[0].shape
    stages = sorted({int(key.split(".")[2]) for key in keys if key.startswith("encoder.stages.")})
    widths = [keys[f"encoder.stages.{stage}.0.1.weight"][0] for stage in stages]
    depths = [
        sum(re.fullmatch(rf"encoder\.stages\.{at}\.\d+\.block\.0\.weight", key) is not None for key in keys)
        for at in stages
    ]
    points = keys[f"{heads[0]}.weight"][0] == 3
    spec = DetectorSpec(
        **_seen(heads),
        network="convnext3d",
        answer="points" if points else "slices",
        depth=points,
        place="whole",
        in_chans=shape[1],
        image_size=shape[-1],
        network_args={"widths": widths, "depths": depths},
    )
    names = {"encoder.": "encoder.", "norm.": "flatten.2."}
    return Ours(spec, names, first, lambda found, told: [(found, told["out"])], joined=_joined(heads))


def _coordinates(record: Record) -> Ours:
    """Ours sees one image a side, or a level, where the recorded network takes them along an axis of their own."""
    heads, shape = _heads(record) or ["left", "right"], record.inputs()[0].shape
    encoder = (record.backbone() or "convnext_base").partition(".")[0]
    seen: dict[str, Any] = _seen(heads) if len(heads) > 2 else {"series_type": "axial_t2", "num_classes": 2}
    spec = DetectorSpec(
        **seen,
        network="regressor",
        answer="points",
        place="plane" if len(heads) == 2 else "found",
        encoder=encoder,
        in_chans=shape[-3],
        image_size=shape[-1],
        network_args={"pool": "features"},
    )

    def pairs(found: np.ndarray, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        if len(heads) == 2:  # (levels, left and right) → left levels, then right ones
            found = found.reshape(shape[0], shape[1], 2, 2).swapaxes(1, 2).reshape(shape[0], -1, 2)
        elif len(heads) == 10:  # a side's own heads alone count
            sides = found.reshape(shape[0], 2, 2, 5, 2)
            found = np.concatenate([sides[:, 0, 0], sides[:, 1, 1]], axis=1)
        return [(found, told["out"])]

    return Ours(
        spec,
        {"encoder.": "encoder."},
        lambda arrays: arrays[0].reshape(-1, *shape[-3:]),
        pairs,
        unused=("encoder.head.norm.",),
        tolerance=_DEEP if "efficientnet" in encoder else 1e-4,
        joined=_joined(heads),
    )


#: What its views are called, the axial one first, and of which condition.
_SEVERITIES: dict[str, tuple[tuple[tuple[View, str], ...], str]] = {
    "scs": ((("axial_middle", "ax"), ("sagittal_t2", "sagt2")), "spinal_canal_stenosis"),
    "nfn": ((("axial_left", "ax"), ("sagittal_t1_left", "sagt1")), "left_neural_foraminal_narrowing"),
    "ss": ((("axial_left", "ax"),), "left_subarticular_stenosis"),
}


def _severity(record: Record) -> Ours:
    """A bag a level: five levels, those of both sides one sample each. `out` rests on `weights`, `slices`, `bag`."""
    views, condition = _SEVERITIES[record.name.split("_")[2]]
    arrays = record.inputs()[: len(views)]
    levels = 5
    spec = GraderSpec(
        views=[view for view, _ in views],
        conditions=[condition],
        network="slice_bags",
        backbone=record.backbone().partition(".")[0],
        slices=arrays[0].shape[2],
        regions={view: {"size": array.shape[-2:]} for (view, _), array in zip(views, arrays, strict=True)},
        network_args={
            "layers": sum(re.fullmatch(r"ax_head\.lstm\.bias_ih_l\d+", key) is not None for key in record.keys)
        },
    )
    names = {"head.": "out.", "view_head.": "aux_out."}
    for place, (_, called) in enumerate(views):
        own = f"encoders.{place}."
        names |= {f"{own}backbone.": f"{called}_encoder.", f"{own}lstm.": f"{called}_head.lstm."}
        names |= {f"{own}attention.": f"{called}_head.attention.", f"{own}annotated.": f"{called}_head.aux_attention."}

    def called_with(arrays: list[np.ndarray]) -> Any:
        own = {
            view: torch.from_numpy(array.reshape(-1, levels, *array.shape[2:])[:, :, :, None])
            for (view, _), array in zip(views, arrays[: len(views)], strict=True)
        }
        samples = next(iter(own.values())).shape[0]
        return own, torch.ones(samples, levels, len(views), dtype=torch.bool)

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        said = [(found["severity"].reshape(-1, 3), told["out"])]
        parts = np.split(found["annotated_slice"], len(views), axis=-1)
        for place, ((_, called), part) in enumerate(zip(views, parts, strict=True)):
            short = called[:3] if called.startswith("sag") else called
            said.append((part.reshape(told[f"{short}_aux"].shape), told[f"{short}_aux"]))
            if len(views) > 1:
                said.append((found["views"][:, :, place].reshape(-1, 3), told[f"{short}_out"]))
        return said

    unused = [
        f"{called}_{part}"
        for _, called in views
        for part in ("encoder.head.norm.", "encoder.head.pre_logits.", "head.attention.1.bias")
    ]
    return Ours(spec, names, called_with, pairs, unused=tuple(unused), tolerance=_DEEP, beside=True)


#: By the beginning of a record's name.
ADAPTERS: dict[str, Adapter] = {
    r"first_depth_": _depth,
    r"first_coord_": _coordinates,
    r"first_sev_": _severity,
}
