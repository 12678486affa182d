"""The fourth place's recorded networks as specs of ours."""

from typing import Any

import numpy as np
import timm
import torch

from lumbar.labels import CONDITIONS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View
from tests.support.recorded.record import Adapter, Arrays, Ours, Record, block_names, first

#: Deep networks of other builds of torch differ by so much.
_DEEP = 5e-4


def _unet(record: Record) -> Ours:
    shape = record.inputs()[0].shape
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="unet",
        encoder=record.backbone().partition(".")[0],
        in_chans=shape[1],
        num_classes=record.ctor["classes"],
        image_size=shape[-1],
        network_args={"severities": record.ctor["aux_params"]["classes"] // 3},
    )

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        maps = found["answer"]
        return [
            (maps[:, :, ::8, ::8], told["heatmap"]),
            (maps.max((2, 3)), told["maxima"]),
            (_highest(maps[0]), told["argmax"]),
            (found["severity"].reshape(len(maps), -1), told["aux"]),
        ]

    return Ours(spec, {"": ""}, first, pairs, tolerance=_DEEP, beside=True)


def _highest(maps: np.ndarray) -> np.ndarray:
    """Row and column (K, 2) of the first maximum of each map (K, h, w)."""
    return np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(-1), maps.shape[1:]), axis=-1)


def _unet_head(record: Record) -> Ours:
    """The first attention of blocks without a map beside them is recorded and never used."""
    shape, keys = record.inputs()[0].shape, record.keys
    widths = [keys["head.center.block.0.block.0.weight"][0]]
    count = 1 + max(int(key.split(".")[2]) for key in keys if key.startswith("head.layers."))
    for at in range(count):
        widths.append(keys[f"head.layers.{at}.block.0.block.0.weight"][0])
    beside = len({key.split(".")[2] for key in keys if key.startswith("head.layers.")}) - _doublings(record)
    names = {"encoder.": "encoder.", "maps.": "head.final_conv."}
    for layer in range(2):
        for part in range(2):
            names[f"centre.{layer}.{part}."] = f"head.center.block.{layer}.block.{part}."
    for at in range(count):
        own = f"blocks.{at}." if at < beside else f"beyond.{at - beside}."
        there = f"head.layers.{at}."
        for ours, theirs in (("before", "attention1"), ("behind", "attention2")):
            names |= {
                f"{own}{ours}.channel.": f"{there}{theirs}.cSE.",
                f"{own}{ours}.place.": f"{there}{theirs}.sSE.0.",
            }
        for layer in range(2):
            for part in range(2):
                names[f"{own}layers.{layer}.{part}."] = f"{there}block.{layer}.block.{part}."
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="unet_head",
        place="whole",
        encoder=record.backbone().partition(".")[0],
        in_chans=shape[1],
        num_classes=record.ctor["num_class"],
        image_size=shape[-1],
        network_args={"channels": widths[: beside + 1]},
    )

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        maps = found["answer"][0]
        return [
            (found["logits"][:, :, ::8, ::8], told["logit"]),
            (maps.max((1, 2)), told["maximum"]),
            (maps.mean((1, 2)), told["mean"]),
        ]

    unused = tuple(f"head.layers.{at}.attention1." for at in range(beside, count))
    return Ours(spec, names, first, pairs, unused=unused, beside=True)


def _doublings(record: Record) -> int:
    """How many blocks come beyond the encoder's finest map."""
    encoder = timm.create_model(record.backbone(), features_only=True)
    return int(encoder.feature_info.reduction()[0]).bit_length() - 1


def _slice_scores(record: Record) -> Ours:
    shape, keys = record.inputs()[0].shape, record.keys
    spec = DetectorSpec(
        series_type="axial_t2",
        network="slice_scores",
        answer="slices",
        place="whole",
        encoder=record.backbone().partition(".")[0],
        in_chans=shape[1],
        num_classes=keys["fc.4.weight"][0],
        image_size=shape[-1],
        network_args={"layers": record.ctor["layer_num"], "hidden": keys["lstm.weight_hh_l0"][1]},
    )
    names = {"encoder.": "model.", "along.lstm.": "lstm.", "along.head.": "fc."}
    return Ours(
        spec,
        names,
        first,
        lambda found, told: [(found.transpose(0, 2, 1), told["logits"])],
        unused=tuple(record.content.get("kept_as_built", ())),
    )


def _slice_pool(record: Record) -> Ours:
    """One view of both sides. The recorded network makes a slice's neighbours itself, of the slices that it sees."""
    array, keys = record.inputs()[0], record.keys
    spec = GraderSpec(
        views=["axial_middle"],
        conditions=CONDITIONS[3:],
        network="slice_pool",
        backbone=record.backbone().partition(".")[0],
        image_size=array.shape[-1],
        slices=array.shape[1],
        region={"neighbours": True},
        network_args={"pool": "linear"},
    )
    names = {
        "encoders.0.backbone.": "model.",
        "encoders.0.pool.score.": "attention_pooling.attention_weights.",
        "head.": "fc.1.",
    }

    def called_with(arrays: list[np.ndarray]) -> Any:
        stacks = arrays[0]
        padded = np.pad(stacks, ((0, 0), (1, 1), (0, 0), (0, 0)))
        images = np.stack([padded[:, at : at + stacks.shape[1]] for at in range(3)], axis=2)
        return {"axial_middle": torch.from_numpy(images)[:, None]}, torch.ones(len(stacks), 1, 1, dtype=torch.bool)

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        features, pooled = found["encoders.0.pool in"], found["encoders.0.pool"]
        return [
            (found["severity"].reshape(len(array), -1), told["logits"]),
            (features[..., ::16], told["backbone"]),
            (pooled[:, 0, ::4], told["pooled"]),
        ]

    unused = (*record.content.get("kept_as_built", ()), "attention_pooling.attention_weights.bias")
    unused = tuple(key for key in unused if key in keys)
    return Ours(spec, names, called_with, pairs, unused=unused, tolerance=_DEEP, watched=("encoders.0.pool",))


#: The order of the recorded heads, and of its four views.
_ORDER = (*CONDITIONS[1:3], CONDITIONS[0], *CONDITIONS[3:])
_VIEWS: tuple[View, ...] = ("sagittal_t1", "sagittal_t2", "axial_left", "axial_right")


def _condition_attention(record: Record) -> Ours:
    """Both forms. What is masked there is not seen here (a whole view), or has no contrast (a slice): `_asked`."""
    keys, arrays = record.keys, record.inputs()
    one = any(key.startswith("encoder.") for key in keys)
    by_feature = keys["head.0.0.attention_weights.weight"][0] > 1
    name = str(record.ctor.get("model_name", record.ctor.get("model_name_s")))
    slices = (*(array.shape[1] for array in arrays[:2]), arrays[2].shape[1] // 2, arrays[2].shape[1] // 2)
    spec = GraderSpec(
        views=_VIEWS,
        conditions=_ORDER,
        network="condition_attention",
        backbone=name.partition(".")[0],
        backbone_args={"img_size": arrays[0].shape[-1]} if any(word in name for word in ("vit", "swin")) else {},
        image_size=arrays[0].shape[-1],
        regions={view: {"slices": count} for view, count in zip(_VIEWS[:3], slices[:3], strict=True)},
        network_args={
            "encoders": "one" if one else "planes",
            "positions": "view" if one else "all",
            "weights": "feature" if by_feature else "token",
            "auxiliary": "all" if one else "own",
            "hidden": record.ctor["transformer_dim"],
            "layers": record.ctor["transformer_num_layers"],
            "heads": record.ctor["transformer_nhead"],
            "inner": keys["transformer.layers.0.linear1.bias"][0],
        },
    )
    encoders = ["encoder."] if one else ["encoder_s.", "encoder_ax."]
    names = {f"encoders.{at}.backbone.maps.": there for at, there in enumerate(encoders)}
    names |= {f"necks.{at}.": f"neck_{there}." for at, there in enumerate(("st1", "st2", "ax"))}
    for at in range(spec.network_args["layers"]):
        names |= block_names(f"blocks.{at}.", f"transformer.layers.{at}.")
    joined = {
        f"{own}.{layer}.{part}": tuple(f"{there}.{at}.{leaf}.{part}" for at in range(len(_ORDER)))
        for own, there in (("heads", "head"), ("beside", "aux_head"))
        for layer, leaf in (("score", "0.attention_weights"), ("answer", "2"))
        for part in ("weight", "bias")
    }
    count = len(arrays[0])

    def pairs(found: Any, told: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        severity, beside = found["severity"][:, 0], found["auxiliary"][:, 0]
        return [
            (severity[:count], told["logits"]),
            (severity[count:], told["masked_logits"]),
            (beside[count:] if one else beside[:count], told["aux_logits"]),  # the second form's know padding
            (found["beside in"][:count, :, ::4], told["tokens"]),
        ]

    return Ours(
        spec, names, lambda given: _asked(given, padded=one), pairs, joined=joined, beside=True, watched=("beside",)
    )


def _asked(arrays: list[np.ndarray], *, padded: bool) -> Any:
    """The samples as they are, then once more with what is masked of the second: T1 and the right side of the axial
    view, or (`padded`) the last slice of both."""
    half = arrays[2].shape[1] // 2
    given = dict(zip(_VIEWS, (*arrays[:2], arrays[2][:, :half], arrays[2][:, half:]), strict=True))
    views = {view: np.concatenate([array, array])[:, None, :, None] for view, array in given.items()}
    masked = len(arrays[0]) + 1
    seen = torch.ones(2 * len(arrays[0]), 1, len(_VIEWS), dtype=torch.bool)
    for place in (0, 3):
        if padded:
            views[_VIEWS[place]][masked, :, -1] = 0
        else:
            seen[masked, :, place] = False
    return {view: torch.from_numpy(array) for view, array in views.items()}, seen


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"smp\.Unet": _unet,
    r"AxialModel ": _slice_scores,
    r"AxialClsModel ": _slice_pool,
    r"RSNA2024Stage1Model ": _unet_head,
    r"RSNA2024Stage2Model ": _condition_attention,
}
