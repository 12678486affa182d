"""A member that learns nothing: it answers with the weights it begins with, as the same network on other views does."""

import math
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from lumbar.issues import InputError
from lumbar.training.loop import checkpoint
from lumbar.training.loop.loop import Job, Progress, validate


def keep(job: Job, accelerator: Accelerator, report: Callable[[dict[str, Any]], None]) -> Progress:
    """Write the weights as they are to `best.safetensors`; `report` takes what they are worth on the held-out studies.

    Raises InputError where the validation loss is no number.
    """
    network = job.network().to(accelerator.device)
    valid, factors = validate(job, accelerator, network)
    loss = sum(factors[name] * value for name, value in valid.items() if factors[name])
    if not math.isfinite(loss):
        raise InputError(
            f"{job.member} fold {job.fold}: the validation loss is not finite with the weights of "
            f"{job.training.begins_with}; set loop.mixed_precision to no, and run again"
        )
    row = {"member": job.member, "fold": job.fold, "epoch": 0, "rate": 0.0, "train_loss": None, "valid_loss": loss}
    row |= {f"valid_{name}": value for name, value in valid.items()}
    if accelerator.is_main_process:
        checkpoint.write_weights(network, job.folder / "best.safetensors", job.fingerprint, 0)
    accelerator.wait_for_everyone()
    report(row)
    return Progress(best_epoch=0, best_loss=loss, history=[row])
