"""A small training job that runs as a program: the loop's tests kill it, resume it, and launch it twice.

    python training_job.py FOLDER [accumulate=N] [ema=D] [pause=SECONDS] [precision=no|bf16] [optimizer=…] [mix=…]

Prints the validation figures of every epoch as JSON lines.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lumbar.compute.launch import start_all_processes
from lumbar.recipe.settings import Loop, Training
from lumbar.training.loop import mix, shared_losses
from lumbar.training.loop.loop import Job, Term, fit


class Points:
    """Classes of points in the plane, a few to a study, some without a label."""

    def __init__(self, count: int, seed: int, pause: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(count, 6)).astype(np.float32)
        self.y = (self.x[:, 0] > 0).astype(np.int64) + (self.x[:, :2].sum(-1) > 1)
        self.y[::11] = shared_losses.EMPTY
        self.studies = np.arange(count) // 5
        self.pause = pause

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        time.sleep(self.pause)
        noise = 0 if rng is None else rng.normal(0, 0.3, 6).astype(np.float32)
        return {"x": self.x[index] + noise, "labels": self.y[index], "study": self.studies[index]}


class Severities:
    """Weighted cross entropy and the any-severe term; of one training batch only, where `only` is its number."""

    def __init__(self, only: int | None = None) -> None:
        self.only, self.seen = only, 0

    def terms(self, network: nn.Module, batch: dict[str, torch.Tensor], *, train: bool) -> dict[str, Term]:
        partner = mix.partner_of(batch)
        if partner is None:
            logits = network(batch["x"])
        else:
            logits = network(mix.labels(batch["x"], partner["x"], batch[mix.SHARE]))
        counts = float(not train or self.only in (None, self.seen))
        self.seen += train
        severity, weight = shared_losses.severity_loss(logits, batch["labels"])
        if partner is not None:
            both = [shared_losses.distributions(each["labels"]) for each in (batch, partner)]
            severity, weight = shared_losses.distribution_loss(logits, mix.labels(*both, batch[mix.SHARE]))
        severe, studies = shared_losses.any_severe_loss(logits, batch["labels"], batch["study"])
        return {"severity": Term(severity * counts, weight), "any": Term(severe * counts, studies, 0.3)}


def run(
    folder: Path,
    accelerator: Accelerator,
    *,
    pause: float = 0.0,
    only: int | None = None,
    objective: Severities | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    **training: Any,
) -> list[dict[str, Any]]:
    """Train the job in `folder`; the rows of its loop."""
    share = training.pop("dropout", 0.0)
    settings = Training(**{"epochs": 4, "batch_size": 20, "learning_rate": 0.02, "clip_norm": 1.0} | training)
    job = points_job(folder, lambda: points_network(share), settings, objective or Severities(only), pause)
    progress = fit(job, accelerator, report)
    return progress.history


def points_network(dropout: float = 0.0) -> nn.Module:
    """The job's network."""
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))


def points_job(
    folder: Path,
    network: Callable[[], nn.Module],
    training: Training,
    objective: Severities | None = None,
    pause: float = 0.0,
) -> Job:
    """The job as the loop takes it."""
    loop = Loop(workers=0, checkpoint_steps=2, mixed_precision="no")
    return Job(
        "points",
        0,
        folder,
        "same",
        network,
        objective or Severities(),
        Points(120, 0, pause),
        Points(57, 1),
        training,
        loop,
        5,
        True,
    )


if __name__ == "__main__":
    start_all_processes()
    options = dict(word.split("=") for word in sys.argv[2:])
    accelerator = Accelerator(cpu=True, mixed_precision=options.get("precision", "no"))
    history = run(
        Path(sys.argv[1]),
        accelerator,
        pause=float(options.get("pause", 0)),
        accumulate=int(options.get("accumulate", 1)),
        ema_decay=float(options.get("ema", 0)),
        dropout=float(options.get("dropout", 0)),
        optimizer=options.get("optimizer", "adamw"),
        augment={"mix": options.get("mix", "none")},
    )
    if accelerator.is_main_process:
        for row in history:
            print(json.dumps({**row, "processes": accelerator.num_processes}))
