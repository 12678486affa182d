"""What moves the weights: the recipe's optimizer over the parameters that learn, and one step, gradients clipped."""

from typing import Any, Final

import torch
from accelerate import Accelerator
from timm.optim import Lookahead
from timm.optim import param_groups_weight_decay as groups_by_decay
from torch import nn

from lumbar.recipe.settings import Training

#: Lookahead (Zhang et al. 2019): every so many steps this share of the way back to where it looked ahead from.
EVERY: Final = 5
SHARE: Final = 0.5
#: What an optimizer counts beside the tensors of each parameter.
COUNTER: Final = "lookahead_step"


def make_optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer of a network; frozen parameters are left out, as norms and biases are of the decay on request."""
    decay = training.weight_decay
    learning: Any = [value for value in network.parameters() if value.requires_grad]
    parameters = learning if training.decay_norms else groups_by_decay(network, decay)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=decay)
    rectified = torch.optim.RAdam(
        parameters, lr=training.learning_rate, weight_decay=decay, decoupled_weight_decay=True
    )
    return Lookahead(rectified, alpha=SHARE, k=EVERY)  # type: ignore[no-any-return, no-untyped-call]


def take_step(optimizer: Any, network: nn.Module, accelerator: Accelerator, rate: float, clip_norm: float) -> None:
    """Move the weights at this learning rate, the gradients' norm clipped to `clip_norm` (0: as it is)."""
    for parameters in optimizer.param_groups:
        parameters["lr"] = rate
    if clip_norm:
        accelerator.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad()


def counters(optimizer: Any) -> list[int]:
    """What the optimizer counts, a number a group; empty where it counts nothing."""
    return [group[COUNTER] for group in optimizer.state_dict()["param_groups"] if COUNTER in group]


def with_counters(state: dict[str, Any], counted: list[int]) -> dict[str, Any]:
    """An optimizer's state as `state_dict` gives it, with `counters` of another time."""
    groups = state["param_groups"]
    if not counted:
        return state
    return {**state, "param_groups": [group | {COUNTER: count} for group, count in zip(groups, counted, strict=True)]}
