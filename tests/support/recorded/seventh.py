"""The seventh place's recorded networks as specs of ours.

Flipped views are answered beside the plain ones, as samples of their own, and averaged here as the recorded ones are.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View
from tests.support.recorded.record import Adapter, Ours, Record
from tests.support.recorded.regressor import regressor

#: The heads of timm's networks, which are ours to build.
_HEADS = ("model.head.fc.", "model.head.", "model.classifier.", "model.fc.")
_LEFT, _RIGHT = "sagittal_t1_left", "sagittal_t1_right"


def _volume(record: Record) -> Ours:
    """A regressor on an inflated backbone. Of which series its channels and rows tell is the recipe's matter."""
    array, names = record.inputs()[0], record.keys["model.classifier.weight"][0] // 3
    both = {"beside": "sagittal_t1"} if array.shape[1] == 2 else {}
    spec = DetectorSpec(
        series_type="sagittal_t2" if both or names == len(LEVELS) else "sagittal_t1",
        **both,
        network="regressor",
        answer="points",
        depth=True,
        place="whole",
        points="series",
        encoder=record.backbone(),
        num_classes=names,
        in_chans=array.shape[2],
        image_size=array.shape[-1],
        network_args={"volume": True},
    )
    plain = regressor(record, "model.classifier.", "model.", "out")
    return Ours(spec, plain.names, lambda arrays: arrays[0].reshape(len(array), -1, *array.shape[3:]), plain.pairs)


def _levels(record: Record) -> Ours:
    """Attention to one token is two linear layers one after the other, which are one here.

    The recorded mean over flips is compared for levels alone: for sides it takes the view with exchanged columns as it
    stands, left for right.
    """
    array = record.inputs()[0]
    spec = DetectorSpec(
        series_type="axial_t2",
        network="level_scores",
        answer="slices",
        place="whole",
        points="series",
        encoder=record.backbone(),
        num_classes=2 * len(LEVELS),
        in_chans=array.shape[0],
        image_size=array.shape[-1],
    )
    names = {
        "encoder.": "cnn_encoder.model.",
        "neck.": _head(record, "cnn_encoder.") or "",
        "lstm.": "cnn_encoder.lstm.",
        "level_head.": "level_classifier.",
    }
    joined = {f"head.{part}": tuple(f"{side}_classifier.{part}" for side in ("left", "right")) for part in _PARTS}
    made = {}
    for block in range(2):
        ours, theirs = f"blocks.{block}.", f"ts_encoder.layers.{block}."
        names |= {
            f"{ours}forwards.0.": f"{theirs}linear1.",
            f"{ours}forwards.3.": f"{theirs}linear2.",
            f"{ours}norm_mix.": f"{theirs}norm1.",
            f"{ours}norm_forwards.": f"{theirs}norm2.",
        }
        attention = f"{theirs}self_attn."
        for part in _PARTS:
            joined[f"{ours}mix.{part}"] = (f"{attention}in_proj_{part}", f"{attention}out_proj.{part}")
            made[f"{ours}mix.{part}"] = _value_alone(attention, part)

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        levels, features = found["levels"].swapaxes(1, 2), found["blocks in"]
        sides = found["answer"][:1].reshape(1, 2, len(LEVELS), -1).transpose(0, 3, 1, 2)
        return [
            (sides, told["sparse_plain"]),
            (levels[:1], told["level_plain"]),
            (levels.mean(axis=0, keepdims=True), told["level_tta"]),
            (features[:1], told["encoder_fea"]),
        ]

    return Ours(
        spec,
        names,
        lambda arrays: np.ascontiguousarray(np.stack([arrays[0], arrays[0][..., ::-1], arrays[0][..., ::-1, :]])),
        pairs,
        unused=("cnn_encoder.xy_reg.", "cnn_encoder.classifier."),
        joined=joined,
        made=made,
        beside=True,
        watched=("blocks",),
    )


_PARTS = ("weight", "bias")


def _value_alone(attention: str, part: str) -> Any:
    def made(record: Record) -> np.ndarray:
        weight = record.weight(f"{attention}in_proj_weight").astype(np.float64)
        outer = record.weight(f"{attention}out_proj.weight").astype(np.float64)
        features = len(outer)
        if part == "weight":
            return (outer @ weight[2 * features :]).astype(np.float32)
        bias = record.weight(f"{attention}in_proj_bias").astype(np.float64)[2 * features :]
        return (outer @ bias + record.weight(f"{attention}out_proj.bias")).astype(np.float32)

    return made


def _head(record: Record, prefix: str = "") -> str | None:
    """The beginning of its linear layer behind the backbone; None where it has none."""
    return next((f"{prefix}{head}" for head in _HEADS if f"{prefix}{head}weight" in record.keys), None)


def _single(record: Record) -> Ours:
    """Crops of one sagittal view: left L1/L2 … L5/S1, then right."""
    array = record.inputs()[0]
    gate, along = "cond_emb.weight" in record.keys, "level_lstm.weight_ih_l0" in record.keys
    slices = "gru.weight_ih_l0" in record.keys
    args: dict[str, Any] = {"bidirectional": True} if slices else {"gate": gate}
    views: tuple[View, ...] = (_LEFT, _RIGHT) if gate else (_LEFT,)
    spec = GraderSpec(
        views=views,
        conditions=CONDITIONS[1:3] if gate else CONDITIONS[1:2],
        network="gru" if slices else "slice_channels",
        levels="all" if along else "one",
        backbone=record.backbone(),
        image_size=array.shape[-1],
        slices=array.shape[2],
        network_args=args,
    )

    def called_with(arrays: list[np.ndarray]) -> Any:
        """Samples: plain, flipped; without a gate each a side apart."""
        both = np.concatenate([arrays[0], arrays[0][..., ::-1]])[:, :, :, None]
        sides = torch.from_numpy(both.reshape(2, 2, len(LEVELS), *both.shape[2:]).copy())
        named = {_LEFT: sides[:, 0], _RIGHT: sides[:, 1]} if gate else {_LEFT: sides.flatten(0, 1)}
        return named, torch.ones(len(named[_LEFT]), len(LEVELS), len(named), dtype=torch.bool)

    def pairs(found: np.ndarray, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        answers = found.swapaxes(1, 2) if gate else found.reshape(2, 2, len(LEVELS), 3)
        answers = answers.reshape(2, 1, -1)
        return [(answers[0], told["plain"]), (answers.mean(axis=0), told["tta"])]

    names = {"encoders.0.backbone.": "model."}
    if slices:
        names |= {"encoders.0.rnn.": "gru.", "head.": "exam_predictor."}
    else:
        names |= _stack(record)
    unused = ("out_fea_extractor.",)
    return Ours(spec, names, called_with, pairs, unused=unused)


def _stack(record: Record, prefix: str = "") -> dict[str, str]:
    """Names of what makes features and answers of stacks."""
    return {
        "encoders.0.backbone.": f"{prefix}model.",
        "encoders.0.neck.": _head(record, prefix) or "",
        "gate.names.": f"{prefix}cond_emb.",
        "gate.layers.": f"{prefix}cond_fea_extractor.",
        "along.": f"{prefix}level_lstm.",
        "head.": f"{prefix}out_linear.",
        "features.": f"{prefix}out_fea_extractor.",
    }


_AXIAL = {"encoders.1.backbone.": "axial_model.model.", "encoders.1.rnn.": "axial_model.gru."}


def _fused(record: Record) -> Ours:
    """Three views: a stack a condition and level, axial slices of a level, of several series one after the other."""
    stacks, axial = record.inputs()
    views: tuple[View, ...] = ("sagittal_t2", _LEFT, _RIGHT, "sagittal_t2_left", "sagittal_t2_right", "axial_middle")
    spec = GraderSpec(
        views=views,
        conditions=CONDITIONS,
        network="slice_channels",
        backbone=record.backbone(),
        image_size=stacks.shape[-1],
        slices=stacks.shape[2],
        regions={"axial_middle": {"neighbours": axial.shape[3] == 3, "slices": axial.shape[2]}},
        network_args={"gate": True},
    )

    def called_with(arrays: list[np.ndarray]) -> Any:
        """A sample of each call has as many axial slices as the record says; the second of a call is flipped."""
        calls = []
        for row, count in enumerate((6, 12)):
            own, bag = arrays[0][row], arrays[1][row, :, :count]
            crops = torch.from_numpy(np.stack([own, own[..., ::-1]])).unflatten(1, (-1, len(LEVELS)))
            named = {view: crops[:, place, :, :, None] for place, view in enumerate(views[:-1])}
            named["axial_middle"] = torch.from_numpy(np.stack([bag, bag[..., ::-1, :]]))
            calls.append((named, torch.ones(2, len(LEVELS), len(views), dtype=torch.bool)))
        return calls

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        said = np.stack([call["severity"].mean(axis=0).swapaxes(0, 1).reshape(-1) for call in found])
        alone = np.stack([_plain(call["head"]).swapaxes(0, 1).reshape(-1) for call in found])
        features = np.stack([_plain(call["features"]).swapaxes(0, 1) for call in found])
        return [
            (said, told["out"]),
            (alone, told["sag_logits"]),
            (features, told["sag_fea"]),
            (found[1]["encoders.1"][2][None, None], told["axial_emb_row1_level2_n12"]),
        ]

    names = {**_AXIAL, **_stack(record, "sag_model."), "fused.": "out_linear."}
    return Ours(
        spec,
        names,
        called_with,
        pairs,
        unused=("axial_model.exam_predictor.",),
        watched=("head", "features", "encoders.1"),
    )


def _plain(values: np.ndarray) -> np.ndarray:
    """What was said to the sample that is not flipped, (levels, …)."""
    return values[: len(LEVELS)]


def _sided(record: Record) -> Ours:
    """A side's half of the sagittal slices, from the middle outwards, and its axial slices, the right side mirrored."""
    stacks, axial = record.inputs()
    spec = GraderSpec(
        views=("sagittal_t2_left", "axial_left"),
        conditions=CONDITIONS[3:4],
        levels="all",
        network="slice_channels",
        backbone=record.backbone(),
        image_size=stacks.shape[-1],
        slices=stacks.shape[2],
        regions={"axial_left": {"neighbours": axial.shape[3] == 3, "slices": axial.shape[2]}},
        network_args={"fuse": "join"},
    )

    def called_with(arrays: list[np.ndarray]) -> Any:
        """Samples: left and right plain, then both flipped."""
        crops = np.concatenate([arrays[0], arrays[0][..., ::-1]])[:, :, :, None]
        bags = np.concatenate([arrays[1], arrays[1][..., ::-1, :]])
        named = {
            view: torch.from_numpy(each.reshape(4, len(LEVELS), *each.shape[2:]))
            for view, each in (("sagittal_t2_left", crops), ("axial_left", bags))
        }
        return named, torch.ones(4, len(LEVELS), 2, dtype=torch.bool)

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        answers = found["severity"].reshape(2, 1, -1)
        said = [(answers[0], told["plain"]), (answers.mean(axis=0), told["tta"])]
        for ours, theirs in (("features", "sag_emb"), ("axial_features", "axial_emb")):
            said.append((found[ours][: 2 * len(LEVELS)].reshape(told[theirs].shape), told[theirs]))
        return said

    names = {
        **_AXIAL,
        **_stack(record, "sag_model."),
        "axial_features.": "axial_model.out_fea_extractor.",
        "fused.": "out_linear.",
    }
    return Ours(
        spec,
        names,
        called_with,
        pairs,
        unused=("axial_model.exam_predictor.", "sag_model.out_linear."),
        watched=("features", "axial_features"),
    )


def _one_stage(record: Record) -> Ours:
    """Two volumes of one series type, grey values from 0 to 255 and each slice three times; the shorter is followed by
    empty slices."""
    array, counts = record.inputs()
    volume = "zxy_mask.weight" in record.keys
    view: View = "sagittal_t1" if volume else "sagittal_t2"
    conditions = CONDITIONS[1:3] if volume else CONDITIONS[:1]
    spec = GraderSpec(
        views=(view,),
        conditions=conditions,
        levels="study",
        network="whole_volume",
        network_args={"maps": "volume" if volume else "slice"},
        backbone=record.backbone(),
        image_size=array.shape[-1],
        slices=int(counts.max()),
        region={"box": "whole", "around": "series"},
    )

    def called_with(arrays: list[np.ndarray]) -> Any:
        stacks = np.zeros((len(counts), 1, int(counts.max()), 1, *array.shape[1:]), np.float32)
        for stack, own in zip(stacks, np.split(array, np.cumsum(counts)[:-1].astype(int)), strict=True):
            stack[0, : len(own), 0] = own / 127.5 - 1
        return {view: torch.from_numpy(stacks)}, torch.ones(len(counts), 5, 1, dtype=torch.bool)

    def pairs(found: Any, told: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        grades = torch.from_numpy(found["severity"]).softmax(-1).numpy()  # (B, levels, sides, 3)
        shares = torch.from_numpy(found["heatmaps"][view]).sigmoid().numpy()  # (B, T, levels · sides, h, w)
        shares = shares.reshape(*shares.shape[:2], *grades.shape[1:3], *shares.shape[-2:]).swapaxes(2, 3)
        there = [
            each[: int(count)].reshape(int(count), -1, *shares.shape[-2:])
            for each, count in zip(shares, counts, strict=True)
        ]
        columns, rows = np.arange(shares.shape[-1]), np.arange(shares.shape[-2])
        xy = np.stack(
            [np.stack([(each.sum((0, 2)) * columns).sum(-1), (each.sum((0, 3)) * rows).sum(-1)], -1) for each in there]
        )
        said = [(grades.swapaxes(1, 2).reshape(told["grade"].shape), told["grade"]), (xy, told["xy"])]
        along = [each.sum((2, 3)) for each in there]
        if volume:
            z = np.stack([(np.arange(len(each))[:, None] * each).sum(0) for each in along])
            return [*said, (np.concatenate(there), told["zxy_mask"]), (z, told["z"])]
        maps = np.stack([each.sum(0) for each in there])
        z = np.stack([each.argmax(0) for each in along])
        return [*said, (maps, told["level_mask"]), (np.concatenate(along), told["z_mask"]), (z, told["z"])]

    heads = {"where.": "zxy_mask.", "features.": "grade_mask.", "grade.": "grade."}
    heads = heads if volume else {"which.": "z_mask.", "where.": "level_mask.", "grade.": "grade_mask."}
    stages = "encoder.stages." if "encoder.stages.0.blocks.0.norm1.weight" in record.keys else "encoder.stages_"
    names = {"backbone.images.stages_": stages, "backbone.images.": "encoder.", "backbone.blocks.": "decoder.block."}
    stem = next(key.removeprefix("encoder.") for key, shape in record.keys.items() if shape[1:2] == (3,))
    made = {f"backbone.images.{stem}": lambda record: record.weight(f"encoder.{stem}").sum(1, keepdims=True)}
    if volume:  # levels before sides
        made |= {f"answer.where.{part}": partial(_levels_first, f"zxy_mask.{part}") for part in _PARTS}
    return Ours(
        spec,
        names | {f"answer.{own}": theirs for own, theirs in heads.items()},
        called_with,
        pairs,
        unused=("D",),
        tolerance=1e-5,
        made=made,
        beside=True,
    )


def _levels_first(key: str, record: Record) -> np.ndarray:
    """Rows of both sides' levels, the left ones first → of every level left and right."""
    value = record.weight(key)
    return value.reshape(2, len(LEVELS), *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)


#: By the beginning of a class's name.
ADAPTERS: dict[str, Adapter] = {
    r"RSNA24Model_Keypoint_2D": lambda record: regressor(record, "model.classifier.", "model.", "out"),
    r"RSNA24Model_Keypoint_3D": _volume,
    r"Axial_Level_Cls_Model": _levels,
    r"Sag_Model_25D": _single,
    r"HybridModel_V2": _fused,
    r"Axial_HybridModel_24": _sided,
    r"Net$": _one_stage,
}
