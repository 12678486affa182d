"""Recorded networks of other systems: what a record says, and which spec of ours it is.

A folder of records has one `<system>/models.json` a system: for each network its state-dict keys and shapes, a rule for
its input, and a file of outputs. Weights follow from the keys (`rule_weights`). `ADAPTERS` turns a record into a spec,
a map of names and what to compare; it reads the record alone, so other backbones and sizes of a class do as well.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from tests.support.rule_weights import EXTENDED, MAKERS, OTHER, rule_weight

Spec = DetectorSpec | GraderSpec
Arrays = Mapping[str, np.ndarray]
_CALL = re.compile(r"(?:RandomState\((?P<state>\d+)\)\.)?(?P<name>[a-z_]\w*)\((?P<numbers>[\d\s,()]+)\)")


@dataclass(frozen=True)
class Record:
    """One network of a `models.json`."""

    folder: Path
    name: str
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What it is an instance of: the class where one is named, else the name."""
        return str(self.content.get("cls") or self.content.get("class") or self.name)

    @property
    def ctor(self) -> Mapping[str, Any]:
        """Values of its constructor, as far as they are told."""
        return self.content.get("ctor") or self.content  # type: ignore[no-any-return]

    @property
    def keys(self) -> dict[str, tuple[int, ...]]:
        """Shapes by key."""
        return {key: tuple(shape) for key, shape in self.content["keys"].items()}

    def weight(self, key: str) -> np.ndarray:
        """A tensor by the record's own name."""
        tag, gain = self.content.get("fill_tag", self.name), self.content.get("gain")
        kind = EXTENDED if "fill_tag" in self.content and "gains" not in self.content else ""
        kind = kind if "fill_tag" in self.content else OTHER
        value = rule_weight(key, self.keys[key], tag, kind, gain)
        for pattern, factor in self.content.get("gains", ()):
            start, _, middle = pattern.partition("*")
            if key == pattern or (middle and key.startswith(start) and value.ndim in (4, 5)):
                value = (value.astype(np.float64) * factor).astype(np.float16).astype(np.float32)
        return value

    def inputs(self) -> list[np.ndarray]:
        """The arrays that its rule for the input names, in that order."""
        given = self.content.get("inputs", self.content.get("input", ""))
        if isinstance(given, Mapping):
            return [MAKERS[name](seed, *shape) for name, seed, shape in given.values()]
        found = []
        for call in _CALL.finditer(given):
            numbers = [int(each) for each in re.findall(r"\d+", call["numbers"])]
            numbers = [int(call["state"]), *numbers] if call["state"] else numbers
            if call["name"] in MAKERS:
                found.append(MAKERS[call["name"]](*numbers))
        return found

    def outputs(self) -> Arrays:
        """What was recorded."""
        name = self.content.get("file", f"{self.name}.npz")
        path = next(path for path in (self.folder / name, self.folder / "outputs" / name) if path.is_file())
        with np.load(path) as stored:
            return dict(stored)

    def backbone(self, *hints: str) -> str:
        """timm's name of its backbone: as the record tells it, or the end of the record's name."""
        told = next(
            (self.ctor[key] for key in ("backbone", "model_name", "name", "encoder_name") if key in self.ctor), ""
        )
        if told:
            return str(told)
        words = [HINTS.get(hint, hint) for hint in (*hints, *_ends(self.name))]
        return next((word for word in words if timm.is_model(word)), "")


#: How records abbreviate backbones.
HINTS = {
    **{f"b{size}": f"tf_efficientnet_b{size}" for size in range(8)},
    **{f"effv2{size}": f"tf_efficientnetv2_{size}" for size in "sml"},
    "convnext-s": "convnext_small",
    "convnext": "convnext_base",
}


def _ends(name: str) -> Iterator[str]:
    words = name.split("_")
    yield from ("_".join(words[place:]) for place in range(1, len(words)))


@dataclass(frozen=True)
class Ours:
    """A record as a spec of ours."""

    spec: Spec
    #: Beginnings of our keys → those of the record's, the first that fits counts.
    names: Mapping[str, str]
    #: From the record's arrays, what our network is called with.
    called_with: Callable[[list[np.ndarray]], Any]
    #: From our answer and the record's outputs, pairs that must agree.
    pairs: Callable[[np.ndarray, Arrays], list[tuple[np.ndarray, np.ndarray]]]
    #: Beginnings of recorded keys that our class has no use for, with nothing compared that depends on them.
    unused: tuple[str, ...] = ()
    tolerance: float = 1e-4

    def key(self, own: str) -> str:
        """The record's name of one of our tensors."""
        start = next(start for start in self.names if own.startswith(start))
        return self.names[start] + own.removeprefix(start)


Adapter = Callable[[Record], Ours | None]


def records(folder: Path) -> list[Record]:
    """Every record below a folder."""
    found = []
    for path in sorted(folder.glob("*/models.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = content.get("models", content)
        found += [Record(path.parent, name, entry) for name, entry in listed.items() if isinstance(entry, Mapping)]
    return found


def adapter_of(record: Record) -> Adapter | None:
    """How a record is read, where its class is known."""
    return next((adapter for pattern, adapter in ADAPTERS.items() if re.match(pattern, record.kind)), None)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(np.float64)))


def _first(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0]


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
    return Ours(spec, names, _first, lambda found, told: [(found, _sigmoid(told["logits"]))])


def _unet(record: Record) -> Ours:
    shape = record.inputs()[0].shape
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="unet",
        encoder=record.backbone().partition(".")[0],
        in_chans=shape[1],
        num_classes=record.ctor["classes"],
        image_size=shape[-1],
    )
    return Ours(
        spec,
        {"": ""},
        _first,
        lambda found, told: [(found[:, :, ::8, ::8], told["heatmap"]), (found.max((2, 3)), told["maxima"])],
        unused=("classification_head.",),
        tolerance=5e-4,
    )


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
        _first,
        lambda found, told: [(found.transpose(0, 2, 1), told["logits"])],
        unused=tuple(record.content.get("kept_as_built", ())),
    )


def _regressor(record: Record, head: str, encoder: str, output: str, scale: float = 1.0) -> Ours:
    array, points = record.inputs()[0], record.keys[f"{head}weight"][0] // 2
    images = array if array.ndim == 4 else array[:, None]
    pool = record.ctor.get("pooling", "avg")
    spec = DetectorSpec(
        series_type="sagittal_t2",
        network="regressor",
        answer="points",
        encoder=record.backbone(),
        in_chans=images.shape[1],
        num_classes=points,
        image_size=images.shape[-1],
        network_args={"pool": pool},
    )
    return Ours(
        spec,
        {"head.": head, "encoder.": encoder},
        lambda arrays: (arrays[0] if arrays[0].ndim == 4 else arrays[0][:, None]) / np.float32(scale),
        lambda found, told: [(found.reshape(len(found), -1), _sigmoid(told[output]))],
    )


def _flat(record: Record) -> Ours | None:
    if "head_3d" in record.ctor:
        return None
    return _regressor(record, "logits.", "encoder.", "logits")


def _pointer(record: Record) -> Ours | None:
    """Fifth place: a U-Net on every slice times a score of the slice."""
    if record.ctor.get("sequence", "LSTM") != "LSTM":
        return None
    told = str(record.ctor.get("segmenter", record.ctor.get("encoders"))).replace(",", " ").split()
    other = str(record.ctor.get("pointer", told[0]))
    deep = int(told[told.index("blocks") - 1]) if "blocks" in told else 5
    shape, keys = record.inputs()[0].shape, record.keys
    at = next(
        name for name in ("pointer.extractor.", "pointer.extracter.") if any(key.startswith(name) for key in keys)
    )
    spec = DetectorSpec(
        series_type="sagittal_t1",
        network="pointer",
        answer="heatmaps",
        depth=True,
        place="whole",
        points="series",
        encoder=f"tu-{told[0].removesuffix('_ns')}",
        in_chans=shape[1],
        num_classes=record.ctor["K"],
        image_size=shape[-1],
        network_args={
            "encoder_depth": deep,
            "decoder_channels": [256, 128, 64, 32, 16][:deep],
            "pointer_encoder": f"tu-{other}",
            "pointer_hidden": record.ctor["hidden_size"],
        },
    )
    names = {
        "encoder.model.": "segmenter.extracter.",
        "decoder.": "segmenter.decoder.",
        "maps.": "segmenter.head.",
        "pointer_encoder.model.": at,
        "along.lstm.": "pointer.rnn.",
        "along.head.": "pointer.out.",
    }
    return Ours(
        spec,
        names,
        lambda arrays: _emptied(arrays[0], str(record.content["inputs"])),
        lambda found, told: [(found[..., ::8, ::8], told["output"]), (found.max((2, 3, 4)), told["peak"])],
        # of an encoder that is used in part the rest is recorded, too
        unused=("pointer.dense.", *(("segmenter.extracter.",) if deep < 5 else ())),
        tolerance=5e-4,
    )


def _emptied(stacks: np.ndarray, rule: str) -> np.ndarray:
    """Stacks with the slices at zero that the rule for an input says are."""
    found = re.search(r"slices (\d+) and (\d+) of sample (\d+) set to zero", rule)
    stacks = stacks.copy()
    if found is not None:
        first, second, sample = map(int, found.groups())
        stacks[sample, [first, second]] = 0
    return stacks


#: Classes of records, and how each is read; None where one of the kind is not built here.
ADAPTERS: dict[str, Adapter] = {
    r"third_kp_": _centernet,
    r"smp\.Unet": _unet,
    r"AxialModel ": _slice_scores,
    r"DetectModel ": _pointer,
    r"ClsModel ": _flat,
    r"Net \(mdl_dh_4a2\)": lambda record: _regressor(record, "head.", "backbone.", "logits", 255.0),
    r"RSNA24Model_Keypoint_2D": lambda record: _regressor(record, "model.classifier.", "model.", "out"),
}
#: Records that are no members: where they are compared.
ELSEWHERE = {r"SimpleModel ": "the blend `cells`, compared in test_by_hand.py"}
