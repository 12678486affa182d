"""The learning rate of every optimizer step: warm-up and schedule."""

import math

from lumbar.training.loop.batches import Plan


def learning_rate(plan: Plan, epoch: int, batch: int) -> float:
    """Learning rate of the optimizer step to which a batch belongs."""
    training = plan.training
    done = (epoch + (batch // training.accumulate) / plan.steps) / training.epochs
    factor = 1.0
    if done < training.warmup:
        return training.learning_rate * min(1.0, (done + 1 / (plan.steps * training.epochs)) / training.warmup)
    if training.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * done))
    elif training.schedule == "step":
        factor = training.step_factor ** (epoch // training.step_epochs)
    return training.learning_rate * factor
