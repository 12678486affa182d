"""Any recipe with networks, folds and epochs so small that a test can take it from the first step to the last."""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lumbar.recipe import chain
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import Recipe, load_recipe
from tests.support.tiny_recipe import BACKBONE, toml

#: Arguments of networks that say how wide they are, and what is wide enough.
NARROW = {
    "decoder_channels": {"deeplabv3plus": 8, "unet": [8] * 5, "pointer": [8] * 5},
    "widths": [8, 8, 8],
    "depths": [1, 1, 1],
    "heads": 2,
    **dict.fromkeys(("hidden", "pointer_hidden", "neck", "head", "width", "dim", "features"), 8),
}
#: Encoders of segmentation-models-pytorch; the others are timm's.
OF_SMP = ("deeplabv3plus", "unet", "pointer")
Spec = TypeVar("Spec", DetectorSpec, GraderSpec)
SIDES = {"stage1": 64, "stage2": 32}
#: Slices that a whole series is brought to at most.
WHOLE = 8
SPECS = {"stage1": DetectorSpec, "stage2": GraderSpec}


def overrides(path: Path) -> list[str]:
    """What makes a recipe small, as `--set` takes it."""
    return [f"{key}={toml(value)}" for key, value in _changes(tomllib.loads(path.read_text(encoding="utf-8"))).items()]


def _changes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a recipe small, by dotted key.

    One fold is trained; of detectors both, where graders look around what detectors found on studies not seen, or
    around the labels where it is far off: what so small a detector finds may hold no sample at all.
    """
    unseen = raw["stage2"].get("keypoints", "out_of_fold") != "labels"
    folds = {"stage1": [0, 1] if unseen else [0], "stage2": [0]}
    changed: dict[str, Any] = {
        "folds.count": 2,
        "folds.train": folds["stage1"],
        "loop.mixed_precision": "no",
        "loop.workers": 0,
        "loop.read_processes": 1,
    }
    for stage in SPECS:
        both = set(_begun_twice(raw[stage]["members"]))
        for name, entry in raw[stage]["members"].items():
            small = {
                "folds": [0, 1] if name in both else folds[stage],
                **dict(_small(stage, _whole(raw[stage], entry))),
            }
            changed |= {f"{stage}.members.{name}.{key}": value for key, value in small.items()}
    if unseen:
        changed["stage2.keypoints"] = "out_of_fold_or_label"
    return changed


def _begun_twice(entries: Mapping[str, Any]) -> Iterator[str]:
    """Members that must train two folds: a second level learns from the other's answers."""
    for entry in entries.values():
        name = entry.get("begins_with", "") if entry.get("second_level") else ""
        while name:
            yield name
            name = entries[name].get("begins_with", "")


def _whole(stage: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A member's entry with what its stage says for all."""
    return {**{key: value for key, value in stage.items() if key != "members"}, **entry}


def one_of_a_kind(path: Path, folder: Path) -> Path:
    """The recipe made small, as a file in `folder`, without members that are then like one before them.

    Alike: the same inputs, network and outputs, and the same losses, as far as words tell: of numbers it counts whether
    they are none, one or another. Where members begin with others these are alike, too. Who is begun with, teaches or
    stands in a set stays with those who name it.
    """
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    for key, value in _changes(raw).items():
        *place, last = key.split(".")
        table = raw
        for part in place:
            table = table.setdefault(part, {})
        table[last] = value
    gone = []
    for stage, spec in SPECS.items():
        members = raw[stage]["members"]
        alike = set(_alike(raw[stage], (*spec.model_fields, "tasks", "loss", "frozen", "fresh", "bundled")))
        kept = {name for names in raw[stage].get("sets", {}).values() for name in names}
        kept |= {
            entry[key]
            for name, entry in members.items()
            for key in ("begins_with", "taught_by")
            if key in entry and name not in alike
        }
        for name in sorted(alike - kept):
            gone += [name, *(f"{task}_{name}" for task in members[name].get("tasks", ()))]
            del members[name]
    raw["blend"] = _without(raw.get("blend", {}), gone)
    small = folder / path.name
    small.write_text("".join(f"{key} = {toml(value)}\n" for key, value in raw.items()), encoding="utf-8")
    return small


def _alike(stage: Mapping[str, Any], keys: Sequence[str]) -> Iterator[str]:
    """Members of which one before has the same values of some keys, and begins with one that has the same."""
    kinds: dict[str, str] = {}
    for name, entry in stage["members"].items():
        whole = _whole(stage, entry)
        own = {key: _worded(whole.get(key)) for key in keys} | {"after": kinds.get(whole.get("begins_with", ""))}
        kind = json.dumps(own, sort_keys=True)
        if kind in kinds.values():
            yield name
        kinds[name] = kind


def _worded(value: Any) -> Any:
    """A value with one number in place of all but none and one."""
    if isinstance(value, dict):
        return {key: _worded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_worded(each) for each in value]
    return value if not isinstance(value, int | float) or value in (0, 1) else 2


def _without(table: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A table without some keys, at any depth."""
    kept = {key: value for key, value in table.items() if key not in names}
    return {key: _without(value, names) if isinstance(value, dict) else value for key, value in kept.items()}


def _small(stage: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What changes of a member's entry, whose stage's values are among its own."""
    network = entry.get("network", SPECS[stage].model_fields["network"].default)
    backbone = ("encoder", "encoder_args") if stage == "stage1" else ("backbone", "backbone_args")
    stride = {key: value for key, value in entry.get(backbone[1], {}).items() if key == "output_stride"}
    yield backbone[0], "tu-resnet18" if network in OF_SMP else "resnet18"
    yield backbone[1], {**BACKBONE, **stride}
    yield "network_args", dict(_narrow(network, entry.get("network_args", {})))
    yield "image_size", 32 if network == "pointer" else SIDES[stage]  # which looks at every slice
    if entry.get("place") == "whole":
        yield "in_chans", min(entry["in_chans"], WHOLE)
    # A last layer that starts at zero, and maps that start flat, have found nothing after one.
    if entry.get("epochs") != 0:
        slow = {"unet": 6, "centernet": 6, "pointer": 4}
        yield "epochs", slow.get(network, 3) if stage == "stage1" else 1
    if network in ("centernet", "pointer"):
        yield "learning_rate", 2e-3 if network == "centernet" else 1e-2
    if network == "pointer":
        yield "heatmap_weight", 20.0
    if entry.get("decode") == "change":  # which finds nothing before it has learnt much
        yield "decode", "maximum"
    if "severities" in entry.get("network_args", {}):  # crops around points that all lie on one pixel have no size
        yield from (("epochs", 16), ("learning_rate", 1e-2), ("heatmap_weight", 20.0))
    if "ema_decay" in entry:  # an average of so few steps is what they began with
        yield "ema_decay", 0.0
    yield from (("batch_size", 4 if stage == "stage1" else 16), ("pretrained", False), ("draws", {}), ("warmup", 0.0))
    if stage == "stage2":
        yield from (("rnn_hidden", 8), ("rnn_layers", 1))
    yield from _shrunk("region", entry.get("region", {}))
    yield from _shrunk("regions", entry.get("regions", {}))


def _shrunk(place: str, regions: Any) -> Iterator[tuple[str, Any]]:
    """Regions of grader views in fewer pixels: every size below a table."""
    for key, value in regions.items() if isinstance(regions, dict) else ():
        if key == "size":
            yield f"{place}.size", [SIDES["stage2"]] * 2
        elif key == "slices" and value > 2 * WHOLE:
            yield f"{place}.slices", 2 * WHOLE
        else:
            yield from _shrunk(f"{place}.{key}", value)


def _narrow(network: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if network in NARROW["decoder_channels"]:  # type: ignore[operator]
        narrow = NARROW["decoder_channels"][network]  # type: ignore[index]
        yield "decoder_channels", narrow[: given.get("encoder_depth", 5)] if isinstance(narrow, list) else narrow
    if network == "unet_head":
        yield "channels", [16] * 5
    if network == "slice_channels":
        yield "hidden", 8
    if network == "whole_volume":
        yield from (("decoder", [8, 8, 8]), ("features", 8))
    for own, name in (("pointer", "tu-resnet18"), ("axial", "resnet18")):  # backbones of another name
        for key in ("encoder", "backbone"):
            if f"{own}_{key}" in given:
                yield from ((f"{own}_{key}", name), (f"{own}_args", BACKBONE))
    for key, value in given.items():
        if key != "decoder_channels" and not key.endswith(("_encoder", "_backbone", "_args")):
            yield key, value if isinstance(value, str) else NARROW.get(key, value)


#: Of the phantoms: at any other size a pixel of a heatmap leans to one side, by the original's convention.
MATRIX = 128


def turned_recipe(path: Path, folder: Path, turn: str | None = None) -> Recipe:
    """The recipe of `one_of_a_kind`, every member that can be turned with the turn `mirror`; detectors see all pixels.

    `turn`: another one for members that have no sides of their own. (Beside `mirror` it would not do: answers of the
    image, its mirror image and a third view are averaged, and the mirror image of the third is not among them.)
    """
    recipe = load_recipe(one_of_a_kind(path, folder), [f"stage1.image_size={MATRIX}"])
    return turned(recipe, ["mirror", turn] if turn else ["mirror"])


def turned(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """The recipe, every member with the first of some turns that it can have; it is changed in place."""
    for stage in (recipe.stage1, recipe.stage2):
        for name, member in stage.members.items():
            found = (_turned(member.spec, word) for word in words)
            spec = next((spec for spec in found if spec is not None), member.spec)
            stage.members[name] = member.model_copy(update={"spec": spec})
    return recipe


def _turned(spec: Spec, word: str) -> Spec | None:
    """The spec with a turn, beside the rotations that it may have; None where that is refused."""
    kept = [turn for turn in spec.tta if turn == "rotations"]
    try:
        turned = type(spec).model_validate(spec.model_dump() | {"tta": (*kept, word)})
    except ValidationError:
        return None
    refused = isinstance(spec, DetectorSpec) and chain.faults({"one": turned}) != chain.faults({"one": spec})
    return None if refused else turned


def small_recipe(path: Path) -> Recipe:
    """The recipe with everything small."""
    return load_recipe(path, overrides(path))
