"""Any recipe with networks, folds and epochs so small that a test can take it from the first step to the last."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import Recipe, load_recipe

#: Arguments of networks that say how wide they are, and what is wide enough.
NARROW = {
    "decoder_channels": {"deeplabv3plus": 8, "unet": [8] * 5, "pointer": [8] * 5},
    "widths": [8, 8, 8],
    "depths": [1, 1, 1],
    **dict.fromkeys(("hidden", "pointer_hidden", "neck", "head", "width", "dim", "features"), 8),
}
#: Encoders of segmentation-models-pytorch; the others are timm's.
OF_SMP = ("deeplabv3plus", "unet", "pointer")
CHANNELS = {"channels": [8, 8, 8, 8]}
SIDES = {"stage1": 64, "stage2": 32}
SPECS = {"stage1": DetectorSpec, "stage2": GraderSpec}


def toml(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def overrides(path: Path) -> list[str]:
    """What makes a recipe small, as `--set` takes it."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    common = {
        "folds.count": 2,
        "folds.train": [0, 1],
        "loop.mixed_precision": "no",
        "loop.workers": 0,
        "loop.read_processes": 1,
    }
    changed: dict[str, Any] = dict(common)
    for stage in SPECS:
        for name, entry in raw[stage]["members"].items():
            own = {**{key: value for key, value in raw[stage].items() if key != "members"}, **entry}
            changed |= {f"{stage}.members.{name}.{key}": value for key, value in _small(stage, own)}
    return [f"{key}={toml(value)}" for key, value in changed.items()]


def _small(stage: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What changes of a member's entry, whose stage's values are among its own."""
    network = entry.get("network", SPECS[stage].model_fields["network"].default)
    backbone = ("encoder", "encoder_args") if stage == "stage1" else ("backbone", "backbone_args")
    stride = {key: value for key, value in entry.get(backbone[1], {}).items() if key == "output_stride"}
    yield backbone[0], "tu-resnet18" if network in OF_SMP else "resnet18"
    yield backbone[1], {**CHANNELS, **stride}
    yield "network_args", dict(_narrow(network, entry.get("network_args", {})))
    yield "image_size", SIDES[stage]
    # U-Net's last layer starts at zero, CenterNet's maps start flat: after one epoch nothing is found
    yield "epochs", {"unet": 6, "centernet": 20}.get(network, 1)
    if network == "centernet":
        yield "learning_rate", 2e-3
    yield from (("batch_size", 4), ("pretrained", False), ("draws", {}), ("warmup", 0.0))
    if stage == "stage2":
        yield from (("rnn_hidden", 8), ("rnn_layers", 1))
    if "folds" in entry:
        yield "folds", [0, 1]
    yield from _shrunk("region", entry.get("region", {}))
    yield from _shrunk("regions", entry.get("regions", {}))


def _shrunk(place: str, regions: Any) -> Iterator[tuple[str, Any]]:
    """Regions of grader views in fewer pixels: every size below a table."""
    for key, value in regions.items() if isinstance(regions, dict) else ():
        if key == "size":
            yield f"{place}.size", [SIDES["stage2"]] * 2
        else:
            yield from _shrunk(f"{place}.{key}", value)


def _narrow(network: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if network in NARROW["decoder_channels"]:  # type: ignore[operator]
        yield "decoder_channels", NARROW["decoder_channels"][network]  # type: ignore[index]
    for key, value in given.items():
        if key == "decoder_channels":
            continue
        if key in ("pointer_encoder", "pointer_args"):
            yield key, "tu-resnet18" if key == "pointer_encoder" else CHANNELS
        else:
            yield key, NARROW.get(key, value)


#: Of the phantoms: at any other size a pixel of a heatmap leans to one side, by the original's convention.
MATRIX = 128


def with_mirror(path: Path, changed: list[str], turn: str | None = None) -> list[str]:
    """The overrides, and the turn `mirror` for every member that can be turned; detectors see all pixels.

    `turn`: another one for members that have no sides of their own. (Beside `mirror` it would not do: answers of the
    image, its mirror image and a third view are averaged, and the mirror image of the third is not among them.)
    """
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    changed = [*changed, f"stage1.image_size={MATRIX}"]
    for stage in SPECS:
        for name in raw[stage]["members"]:
            words = ["mirror", turn] if turn else ["mirror"]
            each = ([*changed, f"{stage}.members.{name}.tta={toml([word])}"] for word in words)
            changed = next((turned for turned in each if _is_sound(path, turned)), changed)
    return changed


def _is_sound(path: Path, changed: list[str]) -> bool:
    try:
        load_recipe(path, changed)
    except InputError:
        return False
    return True


def small_recipe(path: Path) -> Recipe:
    """The recipe with everything small."""
    return load_recipe(path, overrides(path))
