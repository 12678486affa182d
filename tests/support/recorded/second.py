"""The second place's recorded networks as specs of ours."""

import re
from typing import Any

import numpy as np
import torch

from lumbar.keypoints.distances import rows_of_levels
from lumbar.labels import CONDITIONS, SEVERITIES
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from tests.support.recorded.record import Adapter, Arrays, Ours, Record, block_names, records
from tests.support.recorded.regressor import pooled_cells

#: Of networks that no record names, by a word of its name: those that may be meant, the usual one first.
_FAMILIES = {
    "bartley": ("hgnetv2_b5", "hgnetv2_*"),
    "tinynet": ("tinynet_*",),
    "mobilenet": ("mobilenetv3_large_100", "mobilenet*"),
}
#: What its heads answer one after the other.
_HEADS = (CONDITIONS[:1], CONDITIONS[1:3], CONDITIONS[3:])


def _backbone(record: Record, channels: int) -> str:
    """timm's name of the network under `backbone.`, which sees `channels`: as told, else as its shapes are."""
    family = next((names for word, names in _FAMILIES.items() if word in record.name), ())
    return record.backbone() or record.fitting("backbone.", channels, *family)


def _frames(record: Record) -> Ours:
    """Two points a level, level by level; ours has the first of all levels before the second."""
    array = record.inputs()[0][:, :, 0]
    levels = record.keys["fc.bias"][0] // 4
    spec = DetectorSpec(
        series_type="sagittal_t1",
        network="frames",
        answer="points",
        place="whole",
        points="series",
        encoder=_backbone(record, 1),
        in_chans=array.shape[1],
        num_classes=2 * levels,
        image_size=array.shape[-1],
    )
    masked = [each == "T" for each in re.search(r"mask = \[([FT,]+)\]", str(record.content["input"]))[1].split(",")]  # type: ignore[index]

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (found["severity"].reshape(len(array), -1), told["logits"]),
            (found["pool in"][:, masked], told["frame_features"][:, masked]),
        ]

    return Ours(
        spec,
        {"encoder.": "backbone.", "pool.score.0.": "attn.attn.0.", "pool.score.2.": "attn.attn.3.", "head.": "fc."},
        lambda arrays: arrays[0][:, :, 0] * np.array(masked, np.float32)[None, :, None, None],
        pairs,
        unused=("attn.attn.3.bias",),
        watched=("pool",),
    )


def _group_lstm(record: Record) -> Ours:
    """The last slice is padding. Ours takes slices for such that have no contrast; the recorded one was told so of a
    slice that has, whose recorded features the LSTM is given."""
    array, keys = record.inputs()[0], record.keys
    heads = [key.removesuffix(".weight") for key in keys if re.fullmatch(r"fc\d?\.weight", key)]
    conditions = tuple(name for own in (_HEADS if len(heads) > 1 else _HEADS[1:2]) for name in own)
    spec = GraderSpec(
        views=["sagittal_t2"],
        conditions=conditions,
        network="group_lstm",
        backbone=_backbone(record, 1),
        image_size=array.shape[-1],
        slices=array.shape[1],
    )
    names = {"encoders.0.backbone.": "backbone."}
    for at, head in enumerate(heads):
        there = head.replace("fc", "attn")
        names |= {
            f"heads.{at}.": f"{head}.",
            f"along.{at}.lstm.": f"{there}.rnn.",
            f"along.{at}.norm.": f"{there}.layer_norm.",
            f"along.{at}.pool.score.0.": f"{there}.attn.0.",
            f"along.{at}.pool.score.2.": f"{there}.attn.3.",
        }

    def called_with(arrays: list[np.ndarray]) -> Any:
        levels = torch.from_numpy(arrays[0])[None].clone()
        levels[:, :, -1] = 0
        return {"sagittal_t2": levels}, torch.ones(*levels.shape[:2], 1, dtype=torch.bool)

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        slices = found["along.0 in"]
        return [(found["severity"].reshape(-1, 3), told["logits"]), (slices, told["frame_features"])]

    def padded(features: torch.Tensor) -> torch.Tensor:
        slices = features.unflatten(0, array.shape[:2]).clone()
        slices[:, -1] = torch.from_numpy(record.outputs()["frame_features"][:, -1])
        return slices.flatten(0, 1)

    unused = tuple(f"{head.replace('fc', 'attn')}.attn.3.bias" for head in heads)
    replaced = {"encoders.0.backbone": padded}
    return Ours(spec, names, called_with, pairs, unused=unused, watched=("along.0",), replaced=replaced)


def _pooled(record: Record, array: np.ndarray, names: dict[str, str], args: dict[str, Any], **other: Any) -> Ours:
    """A network that pools the slices of one view; `array` (B, T, C, H, W) is what it sees."""
    name, conditions = other.pop("backbone"), other.pop("conditions", CONDITIONS[:1])
    spec = GraderSpec(
        views=["axial_middle" if len(conditions) > 1 else "sagittal_t2"],
        conditions=conditions,
        network="slice_pool",
        backbone=name,
        backbone_args=other.pop("backbone_args", {}),
        image_size=array.shape[-1],
        slices=array.shape[1],
        region={"neighbours": array.shape[2] == 3},
        network_args=args,
    )

    def called_with(arrays: list[np.ndarray]) -> Any:
        return {spec.views[0]: torch.from_numpy(array)[:, None]}, torch.ones(len(array), 1, 1, dtype=torch.bool)

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        slices, pooled = found["encoders.0.pool in"], found["encoders.0.pool"]
        half = slices.shape[-1] // 2
        ours = {
            "logits": found["severity"].reshape(len(array), -1),
            "features": pooled if told.get("features", pooled).ndim == 3 else pooled[:, 0],
            "slice_features": slices[0],
            "encoder_max": slices[0, :, :half],
            "encoder_mean": slices[0, :, half:],
        }
        return [(ours[key], value) for key, value in told.items() if key in ours]

    return Ours(spec, names, called_with, pairs, watched=("encoders.0.pool",), **other)


def _bag(record: Record) -> Ours:
    array = record.inputs()[0]
    names = {"encoders.0.backbone.": "encoder.", "head.": "head.2."}
    args = {"features": "max_mean", "pool": "max_mean"}
    return _pooled(record, array, names, args, backbone=record.backbone())


def _axial(record: Record) -> Ours:
    """timm's classifier as it is: a bag of one slice."""
    array = record.inputs()[0][:, None]
    names = {"encoders.0.backbone.": "", "head.": "head.fc."}
    return _pooled(record, array, names, {"pool": "mean"}, backbone=record.backbone(), conditions=CONDITIONS[3:])


def _grey(array: np.ndarray) -> np.ndarray:
    """From drawn numbers the grey values of the rule, to -1 … 1 as the recorded network scales them."""
    grey = np.clip(40 * array + 128, 0, 255).astype(np.float32)
    return (grey / 255 - 0.5) * 2


def _third_author(record: Record) -> Ours:
    """A crop of three channels, attention over slices, or gated attention of each severity; over generalised means
    where the record has their power, else over means of tokens."""
    array = _grey(record.inputs()[0])
    array = array[:, None] if "_net2d_" in record.name else array[:, :, None]
    names = {"encoders.0.backbone.": "backbone.", "encoders.0.gem.": "pooling."}
    other: dict[str, Any] = {"backbone": _backbone(record, array.shape[2])}
    if other["backbone"].startswith(("maxvit", "coatnet")) or "img_size" in record.content.get("note", ""):
        other["backbone_args"] = {"img_size": array.shape[-1]}
    args = {"features": "gem" if "pooling.p" in record.keys else "mean"}
    if "linears.0.weight" in record.keys:
        names |= {
            "encoders.0.pool.value.0.": "attn.attn_a.0.",
            "encoders.0.pool.gate.0.": "attn.attn_b.0.",
            "encoders.0.pool.score.": "attn.attn.0.",
        }
        other["joined"] = {
            f"head.{part}": tuple(f"linears.{at}.{part}" for at in range(3)) for part in ("weight", "bias")
        }
        other["unused"] = ("attn.attn.0.bias",)
        args["pool"] = "gated"
    elif "attn.attn.0.weight" in record.keys:
        names |= {"encoders.0.pool.score.": "attn.attn.", "head.": "linear."}
        other["unused"] = ("attn.attn.3.bias",)
        args["pool"] = "mish"
    else:
        names["head."] = "linear."
        args["pool"] = "mean"
    tolerance = 5e-4 if args["features"] == "gem" else 1e-4
    return _pooled(record, array, names, args, tolerance=tolerance, **other)


def _of_crops(record: Record) -> Ours:
    """A network of one class grades crops, by three severities, or finds points: an even number of places."""
    return _third_author(record) if record.keys["linear.bias"] == (len(SEVERITIES),) else _points(record)


def _points(record: Record) -> Ours:
    """Ten numbers after one linear layer: columns, then rows, of five levels; ours are the same in pairs."""
    names = {"encoder.": "backbone.", "gem.": "pooling.", "head.": "linear."}
    images = _grey(record.inputs()[0])
    return pooled_cells(record, images, names, "logits", "gem", "features", tolerance=5e-4)


def _there(record: Record) -> list[bool]:
    """Which slices are no padding: as the record says, or the one that it names."""
    told = str(record.content["input"])
    if named := re.search(r"mask as in (\w+)", told):
        return _there(next(other for other in records(record.folder.parent) if other.name == named[1]))
    return [each == "F" for each in re.search(r"mask \[([FT,]+)\]", told)[1].split(",")]  # type: ignore[index]


def _slice_scores(record: Record) -> Ours:
    """Of the recorded outputs the first 16 say which slice, the last 10 how far off one is. The slice that is padding
    has no contrast here, and images of neighbours are given as the record has them. A second input tells each slice's
    distances from five points."""
    given = record.inputs()
    images, distances = _grey(given[0]), given[1:]
    keys, shape = record.keys, images.shape
    spec = DetectorSpec(
        series_type="axial_t2",
        network="slice_scores",
        answer="slices",
        place="whole",
        encoder=_backbone(record, shape[2]),
        in_chans=shape[1],
        num_classes=keys["linear.bias"][0],
        image_size=shape[-1],
        canal_distances=bool(distances),
        network_args={
            "along": "transformer",
            "features": "gem",
            "layers": len({key.split(".")[2] for key in keys if key.startswith("transformer_head.")}),
            "inner": keys["transformer_head.layers.0.linear1.bias"][0],
        },
    )
    names = {"encoder.": "backbone.", "gem.": "pooling.", "along.head.1.": "linear."}
    for at in range(spec.network_args["layers"]):
        names |= block_names(f"along.blocks.{at}.", f"transformer_head.layers.{at}.")
    there = _there(record)

    def called_with(arrays: list[np.ndarray]) -> np.ndarray:
        seen = [images[:, :, 1] * np.array(there, np.float32)[None, :, None, None]]
        for each in distances:
            seen.append(np.zeros_like(seen[0]))
            seen[1][..., rows_of_levels(spec.image_size), :] = each[..., None]
        return np.concatenate(seen, 1)

    return Ours(
        spec,
        names,
        called_with,
        lambda found, told: [(found.transpose(0, 2, 1)[:, there], told["logits"][:, there])],
        tolerance=5e-4,
        given={"encoder": lambda _: torch.from_numpy(images).flatten(0, 1)},
    )


#: By the beginning of a record's name.
ADAPTERS: dict[str, Adapter] = {
    r"second_bartley_keypoint": _frames,
    r"second_bartley_\d+heads?": _group_lstm,
    r"second_yuji_mil_": _bag,
    r"second_yuji_axial_": _axial,
    r"second_ian_(attn|clam)_": _third_author,
    r"second_ian_stack(var)?_": _slice_scores,
    r"second_ian_net2d_": _of_crops,
}
