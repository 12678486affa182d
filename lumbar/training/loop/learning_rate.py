"""The learning rate of every optimizer step: warm-up and schedule."""

import math
from typing import Final

from lumbar.training.loop.batches import Plan

#: One cycle (Smith & Topin 2018) as torch's `OneCycleLR` has it: where it begins, and how long it rises unless told.
FIRST_SHARE: Final = 1 / 25
RISE: Final = 0.3


def learning_rate(plan: Plan, epoch: int, batch: int) -> float:
    """Learning rate of the optimizer step to which a batch belongs."""
    training = plan.training
    steps = plan.steps * training.epochs
    done = (epoch + (batch // training.accumulate) / plan.steps) / training.epochs
    if training.schedule == "one_cycle":
        return training.learning_rate * _one_cycle(done * steps, steps, training.warmup or RISE, training.floor)
    factor = 1.0
    if done < training.warmup:
        return training.learning_rate * min(1.0, (done + 1 / steps) / training.warmup)
    if training.schedule == "cosine":
        factor = _down(done, training.floor)
    elif training.schedule == "linear":
        factor = 1 - done * (1 - training.floor)
    elif training.schedule == "step":
        factor = training.step_factor ** (epoch // training.step_epochs)
    return training.learning_rate * factor


def _down(done: float, floor: float) -> float:
    """From 1 to `floor` along half a cosine."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def _one_cycle(step: float, steps: int, rise: float, floor: float) -> float:
    """Share of the rate: up along a cosine in the share `rise` of all steps, then down to `floor` at the last one."""
    top, last = rise * steps, steps - 1
    if step < top:
        return 1 - (1 - FIRST_SHARE) * 0.5 * (1 + math.cos(math.pi * step / top))
    return _down(min(1.0, (step - top) / max(last - top, 1e-9)), floor)
