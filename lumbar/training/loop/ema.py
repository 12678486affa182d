"""The exponential moving average (EMA) of a network's weights: what is validated and kept, where it is asked for."""

import copy

from torch import nn


def begin(network: nn.Module) -> nn.Module:
    """A copy of the network, whose weights are to follow it."""
    return copy.deepcopy(network).requires_grad_(False)


def follow(average: nn.Module, network: nn.Module, decay: float, steps: int) -> None:
    """Move the averaged weights towards the network's; counters are copied.

    After few `steps` they move faster than `decay` says, or the average would long be that of the first weights.
    """
    decay = min(decay, steps / (steps + 9))
    for own, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(new, 1 - decay)
        else:
            own.copy_(new)
