"""What the original ninth-place system's networks are, and how its state-dict keys map onto this project's.

Published code: kaggle-rsna-2024 (MIT). Its detectors are `unet.*`; its graders hold one encoder a view type
(`model_sagt2`, `model_sagt1`, `model_axi`, or just `model`), each a timm network `.model` and a GRU `.rnn`, and a
linear `classifier`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from lumbar.bundle.network import blueprint
from lumbar.issues import InputError
from lumbar.labels import SeriesType
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec, TaskName
from lumbar.recipe.preprocessing import Preprocessing

Shapes = Mapping[str, tuple[int, ...]]

#: The original's way with pixels, slices and borders, option by option; see docs/systems/ninth_place.md.
EXACT: Final = Preprocessing(
    values="stored",
    order="file",
    orientation="stored",
    window_center="ceil",
    window_end="zeros",
    box_origin="corner",
    border="zeros",
    spacing="tag",
    middle="series",
    series="first",
    side_order="patient",
    missing="zeros",
    keypoints="keep",
)
#: Encoders of each task in this project's order, by the original's names.
_ENCODERS: Final[dict[TaskName, tuple[str, ...]]] = {
    "spinal": ("model_sagt2", "model_axi"),
    "foraminal": ("model",),
    "subarticular": ("model",),
    "global": ("model_sagt2", "model_sagt1", "model_axi"),
}
_DETECTORS: Final[dict[SeriesType, tuple[int, int]]] = {  # slices in, heatmaps out
    "sagittal_t2": (5, 5),
    "sagittal_t1": (3, 5),
    "axial_t2": (3, 2),
}
_BACKBONES: Final = {
    "resnet18": ("resnet18", 128),
    "swin_tiny": ("swin_tiny_patch4_window7_224", 224),
    "convnext_nano": ("convnext_nano", 224),
}
#: Constant buffers that timm wrote into swin's state dicts up to 0.9 and computes by itself since.
_CONSTANT_BUFFERS: Final = (".attn_mask", ".attn.relative_position_index")
#: What wrappers of the whole network or of its parts (several GPUs, compiled, sharded) put into keys at any depth.
_WRAPPERS: Final = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: Entry of a moving average of weights that counts its updates.
_COUNTERS: Final = frozenset({"n_averaged"})


def _originals() -> dict[str, DetectorSpec | GraderSpec]:
    found: dict[str, DetectorSpec | GraderSpec] = {}
    for series_type, (slices, maps) in _DETECTORS.items():
        detector = {"series_type": series_type, "in_chans": slices, "num_classes": maps, "preprocessing": EXACT}
        found[series_type] = DetectorSpec.model_validate(detector)
    for name, (backbone, size) in _BACKBONES.items():
        for task in _ENCODERS:
            grader = {"task": task, "backbone": backbone, "image_size": size, "preprocessing": EXACT}
            found[f"{task}_{name}"] = GraderSpec.model_validate(grader)
    return found


#: The fifteen networks by the names that `recipes/ninth_place_exact.toml` gives them.
ORIGINALS: Final[Mapping[str, DetectorSpec | GraderSpec]] = _originals()


@dataclass(frozen=True)
class Fit:
    """How far a state dict is from one of the fifteen networks: keys in the original's words."""

    name: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def faults(self) -> int:
        """Keys that do not fit; 0 is an exact match."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)


def plain_keys(keys: list[str]) -> dict[str, str]:
    """Stored key → the original's key: wrappers' words taken off, older timm's constant buffers left out.

    A word before all keys, whatever it is (`model.`, `net.`), is taken off as well, one after another, until the keys
    are those of a network; where they never are, the keys that come nearest to one are given.
    """
    kept = [key for key in keys if not key.endswith(_CONSTANT_BUFFERS) and key not in _COUNTERS]
    plain = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in kept}
    if len(set(plain.values())) < len(plain):
        plain = {key: key for key in kept}
    found = [plain]
    while plain and len({key.partition(".")[0] for key in plain.values()}) == 1:
        plain = {stored: key.partition(".")[2] for stored, key in plain.items()}
        if not all(plain.values()):
            break
        found.append(plain)
    return _nearest(found) if len(found) > 1 else found[0]


def _nearest(found: list[dict[str, str]]) -> dict[str, str]:
    """Of several readings of a file's keys the one that comes nearest to one of the fifteen networks.

    Once one fits exactly, the others are left out: to know their keys they have to be built.
    """
    away = [len(each) for each in found]  # keys missing or unexpected in the nearest network
    for name in ORIGINALS:
        own = own_keys(name).keys()
        away = [min(least, len(own ^ set(each.values()))) for least, each in zip(away, found, strict=True)]
        if not min(away):
            break
    return found[away.index(min(away))]


def original_key(key: str, spec: DetectorSpec | GraderSpec) -> str:
    """This project's state-dict key in the original's words."""
    # The fifteen stand in one table, as the original's files lie in one folder; its stages name their keys differently.
    if isinstance(spec, DetectorSpec):
        return f"unet.{key}"
    room, _, rest = key.partition(".")
    if room == "head":
        return f"classifier.{rest}"
    index, part, rest = rest.split(".", 2)
    return f"{_ENCODERS[spec.task or 'global'][int(index)]}.{'model' if part == 'backbone' else part}.{rest}"


@cache
def own_keys(name: str) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """The original's key → (this project's key, shape) for one of `ORIGINALS`."""
    spec = ORIGINALS[name]
    state = blueprint(spec, name).state_dict()
    return {original_key(key, spec): (key, tuple(value.shape)) for key, value in state.items()}


def fits(shapes: Shapes) -> list[Fit]:
    """The fifteen networks from the best fit to the worst for a state dict in the original's words.

    Once one fits exactly, those on other backbones are left out: to know their keys they have to be built.
    """
    found: list[Fit] = []
    fitting = ""
    for name, spec in ORIGINALS.items():
        if fitting not in ("", spec.backbone):
            break
        own = own_keys(name)
        found.append(
            Fit(
                name,
                tuple(key for key in own if key not in shapes),
                tuple(key for key in shapes if key not in own),
                tuple(key for key in own if key in shapes and tuple(shapes[key]) != own[key][1]),
            )
        )
        fitting = fitting or ("" if found[-1].faults else spec.backbone)
    return sorted(found, key=lambda fit: fit.faults)


def recognise(shapes: Shapes, hint: str, source: str) -> str:
    """The name in `ORIGINALS` of a state dict in the original's words; `hint` is text that may name the task.

    The foraminal and the subarticular network have the same keys and shapes, so that only `hint` tells them apart.
    Raises InputError with the missing, unexpected and misshapen keys, or where the task stays open.
    """
    ranked = fits(shapes)
    exact = [fit.name for fit in ranked if fit.faults == 0]
    if not exact:
        best = ranked[0]
        parts = []
        for what, keys in (
            ("missing", best.missing),
            ("unexpected", best.unexpected),
            ("of another shape", best.misshapen),
        ):
            if keys:
                shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
                parts.append(f"{what}: {shown}")
        raise InputError(
            f"{source}: no network of the original has these keys; the nearest is {best.name} ({'; '.join(parts)}); "
            "give the original's checkpoint"
        )
    if len(exact) == 1:
        return exact[0]
    named = [name for name in exact if name.partition("_")[0] in hint.lower()]
    if len(named) != 1:
        raise InputError(
            f"{source}: the keys fit {' and '.join(exact)} alike; say which in a TOML file, "
            f'["{source}"] member = "{exact[0]}"'
        )
    return named[0]
