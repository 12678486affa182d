"""The third place's recorded networks as specs of ours."""

from typing import Any

import numpy as np
import timm
import torch

from lumbar.labels import CONDITIONS, Condition
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View
from tests.support.recorded.record import Adapter, Ours, Record, first, sigmoid


def _centernet(record: Record) -> Ours:
    keys = record.keys
    levels = 1 + len({key.split(".")[2] for key in keys if key.startswith("neck.upsample_conv.")})
    encoder = record.backbone()
    reductions = timm.create_model(encoder, features_only=True).feature_info.reduction()
    classes, side = keys["head.2.weight"][0], record.inputs()[0].shape[-2]
    spec = DetectorSpec(
        series_type="axial_t2" if classes <= 2 else "sagittal_t2",
        network="centernet",
        encoder=encoder,
        in_chans=record.inputs()[0].shape[1],
        num_classes=classes,
        image_size=side,
        stride=reductions[-levels],
        network_args={"neck": keys["neck.last.0.weight"][0], "head": keys["head.0.weight"][0]},
    )
    names = {
        "encoder.": "backbone.",
        "neck.lateral.": "neck.lateal_conv.",
        "neck.upwards.": "neck.upsample_conv.",
        "neck.": "neck.",
        "head.": "head.",
    }
    return Ours(spec, names, first, lambda found, told: [(found, sigmoid(told["logits"]))])


#: Of a whole level and of a side, in the order of the record's inputs.
_LEVEL: tuple[View, ...] = ("sagittal_t1", "sagittal_t2", "axial_middle")
_SIDE: tuple[View, ...] = ("sagittal_t1_left", "sagittal_t2_left", "axial_left")
#: By how many conditions are answered: of the level, of a side, of the canal.
_CONDITIONS: dict[int, tuple[Condition, ...]] = {5: CONDITIONS, 2: (CONDITIONS[1], CONDITIONS[3]), 1: CONDITIONS[:1]}
_PLANES = ("sagittal_t1", "sagittal_t2", "axial_t2")


def _transformer(record: Record) -> Ours:
    """Classes A, V8 and V9. V8's and V9's heads are one a condition there, and one for all here."""
    keys, arrays, name, one = record.keys, record.inputs(), record.backbone(), "fc.weight" in record.keys
    own_names = list(dict.fromkeys(key.split(".")[1] for key in keys if key.startswith("slice_attentions.")))
    conditions = _CONDITIONS[keys["fc.bias"][0] // 3 if one else len(own_names)]
    views = _SIDE if len(conditions) == 2 else _LEVEL
    args: dict[str, Any] = {
        "pool": "mean" if one else "attention",
        "slice_head": any(key.startswith("slice_fcs.") for key in keys),
        "level_head": "level_fc.weight" in keys,
        "inner": keys["transformer.ffn.0.bias"][0],
    }
    if not one:
        inner, features = keys[f"slice_attentions.{own_names[0]}.fc1.weight"]
        args["reduction"] = features // inner
    spec = GraderSpec(
        views=views,
        conditions=conditions,
        network="transformer",
        backbone=name,
        image_size=arrays[0].shape[-1],
        regions={view: {"slices": array.shape[1]} for view, array in zip(views, arrays, strict=True)},
        network_args=args,
    )
    names = {
        "block.into.": "transformer.attention.in_proj_",
        "block.out.": "transformer.attention.out_proj.",
        "block.forwards.": "transformer.ffn.",
        "block.norm_attention.": "transformer.norm1.",
        "block.norm_forwards.": "transformer.norm2.",
        "head.": "fc.",
        "level_head.": "level_fc.",
    }
    children = [child for child, _ in timm.create_model(name).named_children()]
    for place, plane in enumerate(_PLANES):
        backbone, pool = (f"backbones.{plane}", f"gaps.{plane}") if not one else (f"{plane}_backbone", f"{plane}_gap")
        names |= {f"encoders.{place}.backbone.{own}.": f"{backbone}.{at}." for at, own in enumerate(children)}
        names[f"encoders.{place}.pool."] = f"{pool}."
    leaves = {
        "gates.into.weight": "slice_attentions.{}.fc1.weight",
        "gates.out": "slice_attentions.{}.fc2.weight",
        **{f"head.{leaf}": f"fcs.{{}}.{leaf}" for leaf in ("weight", "bias")},
        **{f"slice_head.{leaf}": f"slice_fcs.{{}}.{leaf}" for leaf in ("weight", "bias")},
    }
    joined = {} if one else {ours: tuple(map(leaf.format, own_names)) for ours, leaf in leaves.items()}

    def called_with(given: list[np.ndarray]) -> Any:
        named = {view: torch.from_numpy(array)[:, None, :, None] for view, array in zip(views, given, strict=True)}
        return named, torch.ones(len(given[0]), 1, len(views), dtype=torch.bool)

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        ours = {
            "logits": found["severity"].swapaxes(1, 2),
            "slice_features": found["block in"],
            "after_transformer": found["block"],
            "slice_attention": found.get("gates"),
            "slice_logits": found["slice_scores"][:, 0] if "slice_scores" in found else None,
            "level_logits": found.get("level"),
        }
        return [(np.asarray(ours[key]), value) for key, value in told.items()]

    watched = ("block",) if one else ("block", "gates")
    return Ours(spec, names, called_with, pairs, joined=joined, beside=True, watched=watched)


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"third_kp_": _centernet,
    r"third_(a|v8|v9)_": _transformer,
}
