"""What a network begins with beyond random weights: another member's, and parts that do not learn."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lumbar.compute.tensors import load_tensors
from lumbar.issues import InputError, few, named


def is_below(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a parameter or module is one of these, or stands below one."""
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)


def fitting(own: Mapping[str, Any], other: Mapping[str, Any], fresh: Iterable[str]) -> list[str]:
    """Keys of a network's state that another's tensors fill: same name and shape, and not to begin anew."""
    prefixes = tuple(fresh)
    return [
        name
        for name, value in own.items()
        if name in other and tuple(other[name].shape) == tuple(value.shape) and not is_below(name, prefixes)
    ]


def begin_with(network: nn.Module, path: Path, fresh: Iterable[str]) -> nn.Module:
    """Fill a network from another member's weights, wherever they fit. Raises InputError where none does."""
    own, other = network.state_dict(), load_tensors(path)
    keys = fitting(own, other, fresh)
    if not keys:
        raise InputError(f"{path}: none of these weights fits the network that is to begin with them; train again")
    network.load_state_dict({**own, **{name: other[name] for name in keys}})
    return network


def freeze(network: nn.Module, prefixes: Iterable[str]) -> None:
    """Let the parameters below these prefixes learn no more. Raises InputError where some name nothing, or all."""
    chosen, parameters = tuple(prefixes), dict(network.named_parameters())
    if lost := [prefix for prefix in chosen if not any(is_below(name, [prefix]) for name in parameters)]:
        parts = few(list(dict.fromkeys(name.split(".")[0] for name in parameters)))
        raise InputError(
            f"frozen names {named(lost)}, and the network has no such parameter; name one of its parts: {parts}"
        )
    for name, value in parameters.items():
        if is_below(name, chosen):
            value.requires_grad_(False)
    if not any(value.requires_grad for value in network.parameters()):
        raise InputError("'frozen' names the whole network, so nothing would learn; leave a part out")


def rest(network: nn.Module, prefixes: Iterable[str]) -> None:
    """In training: modules below these prefixes behave as in prediction; norms keep their numbers, nothing drops."""
    chosen = tuple(prefixes)
    for name, module in network.named_modules():
        if chosen and is_below(name, chosen):
            module.eval()
