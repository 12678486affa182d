"""timm's networks as backbones, with random weights; nothing here reaches for a hub."""

from collections.abc import Mapping

import torch
from torch import nn

from lumbar.compute.uncompiled import without_compiler
from lumbar.issues import InputError
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.wording import why_refused

with without_compiler():
    import timm

#: Arguments by which timm or smp would load weights by itself, from a hub or a file of its choice.
_SOURCES = ("checkpoint_path", "cache_dir", "encoder_weights", "weights")


def refuse_sources(name: str, arguments: Mapping[str, object]) -> None:
    """InputError where a network's name or arguments, as a manifest may state them, would make timm fetch something."""
    if ":" in name or "/" in name:
        raise InputError(f"network {name!r} names a place to load from; give the plain name of a network")
    for key in arguments:
        if key in _SOURCES or key.startswith("pretrained"):
            raise InputError(f"network {name!r} has the argument {key!r}, which loads weights by itself; leave it out")


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


def pooled_features(backbone: nn.Module) -> int:
    """How many features a backbone without classifier gives of an image; some heads make others than the last maps."""
    left_out = isinstance(getattr(getattr(backbone, "head", None), "pre_logits", None), nn.Identity)
    hidden = None if left_out else getattr(backbone, "head_hidden_size", None)
    return int(hidden or backbone.num_features)  # type: ignore[arg-type]


def channels_first(backbone: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """What a backbone that does not pool gives, as maps (N, F, h, w): Swin's channels come last; of tokens w is 1."""
    if maps.ndim == 3:
        return maps.transpose(1, 2)[..., None]
    last = "NHWC" in str(getattr(backbone, "output_fmt", ""))
    return maps.permute(0, 3, 1, 2) if last else maps


def leave_out_head_norm(backbone: nn.Module) -> None:
    """Take out of a backbone's head, in place, what changes the mean of the last maps: timm's `forward_features` stay.

    ConvNeXt norms that mean for its classifier, MaxViT norms and mixes it; other backbones stay as they are.
    """
    head = getattr(backbone, "head", None)
    for part in ("norm", "pre_logits"):
        if isinstance(head, nn.Module) and isinstance(getattr(head, part, None), nn.Module):
            setattr(head, part, nn.Identity())
