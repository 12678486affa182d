"""Recorded networks of other systems: what a record says, and which spec of ours it is.

A folder of records has one `<system>/models.json` a system: for each network its state-dict keys and shapes, a rule for
its input, and a file of outputs. Weights follow from the keys (`rule_weights`). An adapter, in the file of its system,
turns a record into a spec, a map of names and what to compare; it reads the record alone, so other backbones and sizes
of a class do as well.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from tests.support.rule_weights import EXTENDED, MAKERS, OTHER, normal, rule_weight

Spec = DetectorSpec | GraderSpec
Arrays = Mapping[str, np.ndarray]
#: A record that another names for its input and that is not there; which input gives the recorded features is certain.
_ONE_HEAD = "second_bartley_1head"
#: A maker's call; of several alike all but the first may leave its name out, as `RandomState(32) (1,3,64,64)`.
_CALL = re.compile(
    r"(?:RandomState\((?P<state>\d+)\)(?:\.|\s+(?=\()))?(?P<name>[a-z_]\w*)?(?<=[\w\s])\((?P<numbers>[\d\s,()]+)(?:axis=(?P<axis>\d+))?\)"
)


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
        if str(given).startswith(f"as {_ONE_HEAD};"):
            return [normal(42, 5, 3, 1, 64, 64)]
        if isinstance(given, str) and (other := re.fullmatch(r"as (\S+)", given)):
            return next(record for record in records(self.folder.parent) if record.name == other[1]).inputs()
        if isinstance(given, Mapping):
            return [
                np.array(rule[-1]) if name == "list" else MAKERS[name](rule[0], *rule[1])
                for name, *rule in given.values()
            ]
        found, last = [], ""
        for call in _CALL.finditer(given):
            numbers = [int(each) for each in re.findall(r"\d+", call["numbers"])]
            numbers = [int(call["state"]), *numbers] if call["state"] else numbers
            name = call["name"] or (last if call["state"] else "")
            if name in MAKERS:
                found.append(MAKERS[name](*numbers, **({"axis": int(call["axis"])} if call["axis"] else {})))
                last = name
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

    def fitting(self, start: str, channels: int, *patterns: str) -> str:
        """timm's first network of these names whose tensors are those that are recorded under `start`; or nothing."""
        there = {key.removeprefix(start): shape for key, shape in self.keys.items() if key.startswith(start)}
        for name in (name for pattern in patterns for name in timm.list_models(pattern)):
            with torch.device("meta"):
                own = timm.create_model(name, num_classes=0, in_chans=channels).state_dict()
            if {key: tuple(value.shape) for key, value in own.items()} == there:
                return str(name)
        return ""


#: How records abbreviate backbones.
HINTS = {
    **{f"b{size}": f"tf_efficientnet_b{size}" for size in range(8)},
    **{f"effv2{size}": f"tf_efficientnetv2_{size}" for size in "sml"},
    "convnext-s": "convnext_small",
    "convnext": "convnext_base",
    "coatnet": "coatnet_1_rw_224",
    "coatnet1": "coatnet_1_rw_224",
    "maxvit": "maxvit_tiny_tf_512",
    "nfnet": "dm_nfnet_f0",
    "tinyvit": "tiny_vit_21m_512",
    "xcit": "xcit_tiny_12_p8_384",
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
    #: From the record's arrays, what our network is called with: an array, or what a grader takes; a list of several
    #: gives a list of answers.
    called_with: Callable[[list[np.ndarray]], Any]
    #: From our answer and the record's outputs, pairs that must agree.
    pairs: Callable[[Any, Arrays], list[tuple[np.ndarray, np.ndarray]]]
    #: Beginnings of recorded keys that our class has no use for, with nothing compared that depends on them.
    unused: tuple[str, ...] = ()
    tolerance: float = 1e-4
    #: Our tensors that hold several recorded ones, one after the other.
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Modules whose input, or output, is changed before it goes on.
    given: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    replaced: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    #: Our tensors that follow from several recorded ones in another way.
    made: Mapping[str, Callable[["Record"], np.ndarray]] = field(default_factory=dict)
    #: Asked for what the network gives in training only, too; all its parts stay in evaluation mode.
    beside: bool = False
    #: Modules whose first input and output join the named answers, as `<module> in` and `<module>`.
    watched: tuple[str, ...] = ()

    def keys(self, own: str) -> tuple[str, ...]:
        """The record's names of what one of our tensors holds."""
        return self.joined.get(own) or (self.key(own),)

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


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(np.float64)))


def first(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0]


def block_names(own: str, there: str) -> dict[str, str]:
    """How parts of our transformer block are called in torch's `TransformerEncoderLayer`."""
    return {
        f"{own}into.": f"{there}self_attn.in_proj_",
        f"{own}out.": f"{there}self_attn.out_proj.",
        f"{own}forwards.0.": f"{there}linear1.",
        f"{own}forwards.2.": f"{there}linear2.",
        f"{own}norm_attention.": f"{there}norm1.",
        f"{own}norm_forwards.": f"{there}norm2.",
    }
