"""Which parts of a network pretrained weights fill, which weights these are, and filling them.

A part is a timm network, or an encoder of segmentation-models-pytorch: both carry `pretrained_cfg`, which names its
architecture and the weights meant for it. Nothing else of a network is filled.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import timm
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, nn

from lumbar.compute.state import check_numbers
from lumbar.issues import InputError
from lumbar.keypoints.networks.inflated import inflated_weight

#: How timm names the parts of a network whose levels it gives one by one: `stages_0.` for `stages.0.`.
_LEVEL: Final = re.compile(r"^([a-z_]+)_(\d+)\.")
#: Of windows that attend: how much each place away counts, (2 h - 1) (2 w - 1) of them for every head.
_AWAY: Final = "relative_position_bias_table"
_HEADS: Final = ("classifier.", "fc.", "head.fc.")


@dataclass(frozen=True)
class Tag:
    """Pretrained weights by name: the architecture, a dot, and what its library calls the training that made them."""

    name: str  # "convnext_nano.d1h_in1k"
    hub: str  # the repository of the Hugging Face hub that holds them
    revision: str | None = None
    licence: str = "not said"

    @property
    def architecture(self) -> str:
        """The name before the dot."""
        return self.name.partition(".")[0]

    @property
    def of_timm(self) -> bool:
        """Whether timm knows them; else segmentation-models-pytorch does."""
        return timm.is_model_pretrained(self.name)


def parts(network: nn.Module) -> list[tuple[nn.Module, Tag]]:
    """The parts of a network that pretrained weights may fill, each with the weights meant for it.

    Raises InputError where it has none, or where nobody trained its architecture.
    """
    found: list[tuple[nn.Module, Tag]] = []
    inner: set[int] = set()  # a part within a part is filled with it
    for module in network.modules():
        config = getattr(module, "pretrained_cfg", None)
        if config is None or id(module) in inner:
            continue
        inner.update(map(id, module.modules()))
        found.append((module, _tag(config)))
    if not found:
        raise InputError(
            "no part of this network is one that weights of 'pretrained' fill; set pretrained = false for it"
        )
    return found


def _tag(config: Mapping[str, object]) -> Tag:
    name = str(config["architecture"])
    if not config.get("tag") or not config.get("hf_hub_id"):
        raise InputError(f"nobody has published pretrained weights of {name}; set pretrained = false, or name another")
    revision = config.get("revision")
    return Tag(
        f"{name}.{config['tag']}",
        str(config["hf_hub_id"]),
        None if revision is None else str(revision),
        str(config.get("license") or "not said"),
    )


def fill(network: nn.Module, find: Callable[[Tag], Mapping[str, Tensor]]) -> nn.Module:
    """Fill all parts of a network in place with what `find` has for each; the network. InputError where it misfits."""
    for module, tag in parts(network):
        module.load_state_dict(fitted(module, find(tag), tag.name))
    return network


def _firsts(module: nn.Module) -> set[str]:
    """The weights of a timm network's first convolutions; FastViT has two, one beside the other."""
    named = (getattr(module, "pretrained_cfg", None) or {}).get("first_conv") or ()
    return {f"{name}.weight" for name in ([named] if isinstance(named, str) else named)}


def _other_windows(found: Tensor, value: Tensor) -> Tensor:
    """What windows know of places, (places, heads) or as TensorFlow's MaxViT has it (heads, rows, columns), for the
    windows of `value`; as it is where the heads are others."""
    if value.ndim == 3:
        alike, sides = len(found) == len(value), tuple(value.shape[1:])
    else:
        alike, sides = found.shape[1:] == value.shape[1:], (math.isqrt(len(value)),) * 2
    if not alike:
        return found
    window = ((sides[0] + 1) // 2, (sides[1] + 1) // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's remarks on its own indices
        return resize_rel_pos_bias_table(found, window, tuple(value.shape)).reshape(value.shape)


def fitted(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state dict of a part, filled with these weights under their library's names.

    First convolutions are adapted to the part's number of input channels, what windows know of places to windows of
    another size, and linear layers stand for convolutions of 1 x 1, as timm does; convolutions of a part that was
    inflated to volumes see in every slice what they saw in an image. What the part leaves out (the classifier, layers
    beyond its depth) is skipped. What it has and the weights lack, or have in another shape, or what is no number,
    raises InputError. The part may lie on torch's `meta` device, if only faults are wanted.
    """
    own = module.state_dict()
    firsts = {next((key for key, value in own.items() if value.ndim in (4, 5)), ""), *_firsts(module)}
    chosen: dict[str, Tensor] = {}
    for key, value in own.items():
        plain = key if key in weights else _LEVEL.sub(r"\1.\2.", key)
        if plain not in weights:
            if key.startswith(_HEADS):
                continue
            raise InputError(f"the pretrained weights of {name} lack {key}; use weights made for this network")
        found = weights[plain]
        if {key, plain} & firsts and found.ndim == 4 and found.shape[1] != value.shape[1]:
            found = timm.models.adapt_input_conv(value.shape[1], found)
        if (found.ndim, value.ndim) == (4, 5):
            found = inflated_weight(found, value.shape[-1])
        if key.endswith(_AWAY) and found.shape != value.shape and found.ndim == value.ndim:
            found = _other_windows(found, value)
        if {found.ndim, value.ndim} == {2, 4} and found.shape[:2] == value.shape[:2] and found.numel() == value.numel():
            found = found.reshape(value.shape)  # a linear layer, or the convolution of 1 x 1 that it is
        if found.shape != value.shape:
            raise InputError(
                f"the pretrained weights of {name} have {key} as {tuple(found.shape)}, the network "
                f"{tuple(value.shape)}; use weights made for this network"
            )
        chosen[key] = found
    check_numbers(chosen, own, f"the pretrained weights of {name}")
    return {**own, **chosen}
