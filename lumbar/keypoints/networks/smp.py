"""Any architecture of segmentation-models-pytorch as a detector: what its network files have in common."""

import inspect
from typing import Any

from torch import nn

from lumbar.backbones import refuse_sources
from lumbar.compute.uncompiled import without_compiler
from lumbar.issues import InputError
from lumbar.keypoints.networks.gives import refuse_stride
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.wording import why_refused

with without_compiler():
    from segmentation_models_pytorch.encoders import encoders


def build_smp(spec: DetectorSpec, architecture: type[nn.Module]) -> nn.Module:
    """The architecture with random weights; state-dict names are those of segmentation-models-pytorch.

    `spec.network_args` go to the constructor (`decoder_channels`, `encoder_depth`, …). `spec.encoder_args` go to timm
    and need a `tu-` encoder (`tu-resnet18` with `channels=[16, 32, 64, 128]`): the library ignores them on its own
    encoders, so they are refused there. Raises InputError naming the encoder that cannot be built.
    """
    refuse_stride(spec)
    if spec.encoder_args and not spec.encoder.startswith("tu-"):
        raise InputError(
            f"encoder {spec.encoder!r} takes no encoder_args ({', '.join(spec.encoder_args)}); "
            f"use timm's, 'tu-{spec.encoder}'"
        )
    known = inspect.signature(architecture).parameters  # it hands others on to encoders that ignore them
    for key in spec.network_args:
        if key not in known:
            raise InputError(f"{spec.network} takes no network_args {key!r}; known: {', '.join(known)}")
    refuse_sources(spec.encoder, {**spec.encoder_args, **spec.network_args})
    try:
        network = architecture(
            encoder_name=spec.encoder,
            encoder_weights=None,
            in_channels=spec.channels,
            classes=spec.num_classes,
            **spec.network_args,
            **spec.encoder_args,
        )
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = why_refused(error, {**spec.encoder_args, **spec.network_args})
        raise InputError(
            f"{spec.network} cannot be built on encoder {spec.encoder!r}: {reason}; correct its arguments or name "
            "another"
        ) from error
    _name_pretrained(network.get_submodule("encoder"), spec.encoder)
    return network


def _name_pretrained(encoder: nn.Module, name: str) -> None:
    """Let an encoder of the library's own say, as timm's do, which weights are meant for it: those of ImageNet."""
    of_name: Any = encoders.get(name, {})
    found = of_name.get("pretrained_settings", {}).get("imagenet", {})
    if "repo_id" in found:
        config = {"architecture": name, "tag": "imagenet", "hf_hub_id": found["repo_id"], "revision": found["revision"]}
        encoder.pretrained_cfg = config  # type: ignore[assignment]
