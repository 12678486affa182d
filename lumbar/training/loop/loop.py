"""The training loop, one for both stages: any network, any objective, on accelerate.

Everything random is named by (seed, epoch, sample or step), never by how often a generator was asked before: a run that
was killed and goes on from its checkpoint takes the same steps as one that was not, and a sample looks the same in one
process as in eight. Losses are sums and weights (see `shared_losses`), divided once over all processes.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lumbar.compute.engine import to_channels_last
from lumbar.issues import InputError
from lumbar.recipe.settings import Loop, Training
from lumbar.terminal.progress import bar as progress_bar
from lumbar.training.deadline import Deadline, OutOfTimeError
from lumbar.training.loop import checkpoint, ema
from lumbar.training.loop.batches import Batch, Plan, Samples, load, validation
from lumbar.training.loop.beginning import freeze, rest
from lumbar.training.loop.learning_rate import learning_rate
from lumbar.training.loop.optimizer import make_optimizer, take_step
from lumbar.training.loop.shared_norm import share_norms

#: What the names of terms begin with that are parts of the official score.
SCORE = "score_"


@dataclass(frozen=True)
class Term:
    """One part of a loss: a sum, the weight it is divided by, and its factor in the total (0: reported only)."""

    total: Tensor
    weight: Tensor
    factor: float = 1.0


class Objective(Protocol):
    """What a stage asks of its network."""

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """The loss terms of a batch on its device; `train` says whether augmentation is applied."""


@dataclass(frozen=True)
class Job:
    """One member on one fold."""

    member: str
    fold: int
    folder: Path  # checkpoint.safetensors while it runs, best.safetensors for good
    fingerprint: str
    network: Callable[[], nn.Module]  # builds it, with the weights it begins with; called only where it is trained
    objective: Objective
    train: Samples
    valid: Samples
    training: Training
    loop: Loop
    seed: int
    keep_studies: bool = False  # all samples of a study in one batch


@dataclass
class Progress:
    """Where a job stands; all of it goes into checkpoints."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    best_epoch: int = -1
    best_loss: float = math.inf  # or another figure, see `Training.best_by`
    sums: dict[str, list[float]] = field(default_factory=dict)  # this epoch's (total, weight, factor) of each term
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    job: Job, accelerator: Accelerator, report: Callable[[dict[str, Any]], None], deadline: Deadline | None = None
) -> Progress:
    """Train one member on one fold; `best.safetensors` holds the best epoch's weights (see `Training.best_by`).

    Goes on from the job's checkpoint where one with the same fingerprint is there. `report(row)` takes a row of metrics
    an epoch, those before the checkpoint once more: whoever was killed may not have had the last. Raises InputError
    where the disk refuses, and where the validation loss is no number; OutOfTimeError at the `deadline`, with a
    checkpoint of that very step.
    """
    deadline = deadline or Deadline()
    _seed(job.seed)
    network = job.network()
    if accelerator.num_processes > 1:
        network = share_norms(network, accelerator.device)
    if job.training.channels_last:
        to_channels_last(network)
    freeze(network, job.training.frozen)
    wrapped, optimizer = accelerator.prepare(network, make_optimizer(network, job.training))
    plain = accelerator.unwrap_model(wrapped)
    average = ema.begin(plain) if job.training.ema_decay else None
    progress = Progress()
    state = checkpoint.State(job.folder, job.fingerprint, plain, average, optimizer, accelerator.scaler)
    state.restore(progress)
    for row in progress.history:
        report(row)
    rank, world = accelerator.process_index, accelerator.num_processes
    plan = Plan(job.train.studies, job.training, job.seed, rank, world, together=job.keep_studies)
    bar = _bar(job, plan, progress, accelerator)
    while progress.epoch < job.training.epochs:
        began, skipped = time.monotonic(), progress.batch
        bar.set_description_str(f"{_stage(job)}, epoch {progress.epoch + 1} of {job.training.epochs}", refresh=False)
        _epoch(job, accelerator, wrapped, average, optimizer, plan, progress, state, bar, deadline)
        speed = (plan.batches - skipped) * plan.size / max(time.monotonic() - began, 1e-6)
        closing = time.monotonic()
        row = _close_epoch(job, accelerator, average or plain, plan, progress, state, speed)
        deadline.took(time.monotonic() - closing)
        report(row)
        bar.set_postfix_str(f"loss {_text(row['train_loss'])} valid {_text(row['valid_loss'])}")
        if progress.epoch < job.training.epochs and deadline.up(accelerator):
            raise OutOfTimeError
    bar.close()
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    return progress


def _epoch(
    job: Job,
    accelerator: Accelerator,
    network: nn.Module,
    average: nn.Module | None,
    optimizer: Any,
    plan: Plan,
    progress: Progress,
    state: checkpoint.State,
    bar: Any,
    deadline: Deadline,
) -> None:
    """The rest of one epoch, from `progress.batch` on."""
    network.train()
    rest(accelerator.unwrap_model(network), job.training.frozen)
    keys = plan.epoch(progress.epoch)[progress.batch :]
    augment = job.training.augment
    for batch in load(job.train, job.seed, keys, job.loop, accelerator.device, augment):
        _seed(job.seed, progress.epoch, progress.batch)  # in every process: what it draws belongs to the batch
        group = plan.group(progress.batch)
        progress.batch += 1
        last = progress.batch == group.stop
        with nullcontext() if last else accelerator.no_sync(network):
            with accelerator.autocast():
                terms = job.objective.terms(network, batch, train=True)
            accelerator.backward(combine(terms, accelerator, progress.sums) / len(group))
        _show(bar, progress)
        if not last:
            continue
        rate = learning_rate(plan, progress.epoch, progress.batch - 1)
        take_step(optimizer, network, accelerator, rate, job.training.clip_norm)
        done = progress.epoch * plan.steps + math.ceil(progress.batch / job.training.accumulate)
        if average is not None:
            ema.follow(average, accelerator.unwrap_model(network), job.training.ema_decay, done)
        if progress.batch == plan.batches:
            continue
        late = deadline.up(accelerator)
        if late or done % job.loop.checkpoint_steps == 0:
            state.save(progress, accelerator.is_main_process)
        if late:
            raise OutOfTimeError


def combine(terms: Mapping[str, Term], accelerator: Accelerator, sums: dict[str, list[float]]) -> Tensor:
    """The loss whose gradient, averaged over processes, is that of the whole batch; adds to the epoch's sums."""
    names = list(terms)
    own = torch.stack([torch.stack([terms[n].total.detach().float(), terms[n].weight.float()]) for n in names])
    every = accelerator.reduce(own, "sum")
    loss = own.new_zeros(())
    for name, (total, weight) in zip(names, every, strict=True):
        kept = sums.setdefault(name, [0.0, 0.0])
        kept[:] = kept[0] + float(total), kept[1] + float(weight), terms[name].factor
        if terms[name].factor:
            loss = loss + terms[name].factor * terms[name].total / weight.clamp_min(1e-12) * accelerator.num_processes
    return loss


def _close_epoch(
    job: Job,
    accelerator: Accelerator,
    network: nn.Module,
    plan: Plan,
    progress: Progress,
    state: checkpoint.State,
    speed: float,
) -> dict[str, Any]:
    """Validate, keep the weights if they are the best yet, move on to the next epoch and write the checkpoint."""
    valid, factors = validate(job, accelerator, network)
    loss = sum(factors[name] * value for name, value in valid.items() if factors[name])
    figure = _figure(job, loss, valid)
    if not math.isfinite(loss):
        raise _diverged(job, accelerator, progress, state)
    trained = _mean_loss(progress.sums)
    row = {
        "member": job.member,
        "fold": job.fold,
        "epoch": progress.epoch + 1,
        "rate": learning_rate(plan, progress.epoch, plan.batches - 1),
        "train_loss": trained if math.isfinite(trained) else None,  # one batch in fp16 may have overflown
        "valid_loss": loss,
        **{f"valid_{name}": value for name, value in valid.items()},
        "samples_per_s": round(speed, 1),
    }
    if job.training.best_by == "score":
        row["valid_score"] = figure
    if figure < progress.best_loss or progress.best_epoch < 0 or job.training.best_by == "last":
        progress.best_loss, progress.best_epoch = figure, progress.epoch + 1
        if accelerator.is_main_process:
            checkpoint.write_weights(network, job.folder / "best.safetensors", job.fingerprint, progress.best_epoch)
    progress.history.append(row)
    progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
    state.save(progress, accelerator.is_main_process)
    return row


def _figure(job: Job, loss: float, valid: Mapping[str, float]) -> float:
    """What the best epoch is chosen by; of the parts of the official score their mean, as of the score itself."""
    if job.training.best_by == "score":
        return float(np.mean([value for name, value in valid.items() if name.startswith(SCORE)]))
    return valid[job.training.best_by] if job.training.best_by == "error_mm" else loss


def _mean_loss(sums: Mapping[str, list[float]]) -> float:
    """The loss over an epoch's batches so far, from its sums."""
    return sum(factor * total / max(weight, 1e-12) for total, weight, factor in sums.values() if factor)


def _diverged(job: Job, accelerator: Accelerator, progress: Progress, state: checkpoint.State) -> InputError:
    """What to say of a validation loss that is no number; the checkpoint, from which nothing better came, goes."""
    if accelerator.is_main_process:
        state.remove()
    return InputError(
        f"{job.member} fold {job.fold}: the validation loss is not finite after epoch {progress.epoch + 1}, training "
        "diverged or overflowed; lower learning_rate, set clip_norm, or set loop.mixed_precision to no, and run again"
    )


@torch.no_grad()
def validate(job: Job, accelerator: Accelerator, network: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """Mean of every term over the validation samples of all processes, and each term's factor."""
    network.eval()
    rank, world = accelerator.process_index, accelerator.num_processes
    keys = validation(job.valid.studies, job.training.batch_size, rank, world)
    sums: dict[str, tuple[float, float]] = {}
    factors: dict[str, float] = {}
    for batch in load(job.valid, job.seed, keys, job.loop, accelerator.device):
        with accelerator.autocast():
            terms = job.objective.terms(network, batch, train=False)
        for name, term in terms.items():
            total, weight = sums.get(name, (0.0, 0.0))
            sums[name], factors[name] = (total + float(term.total), weight + float(term.weight)), term.factor
    gathered = _gather({"sums": sums, "factors": factors}, accelerator)
    for part in gathered:
        factors |= part["factors"]
    means = {}
    for name in sorted(factors):
        total, weight = np.sum([part["sums"].get(name, (0.0, 0.0)) for part in gathered], axis=0)
        means[name] = float(total / max(weight, 1e-12))
    return means, factors


def _gather(value: Any, accelerator: Accelerator) -> list[Any]:
    if accelerator.num_processes == 1:
        return [value]
    found: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(found, value)
    return found


def _seed(*words: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


@torch.no_grad()
def _stage(job: Job) -> str:
    return f"training {job.member} fold {job.fold}"


def _show(bar: Any, progress: Progress) -> None:
    """Another batch, and the epoch's loss so far."""
    valid = f" valid {_text(progress.history[-1]['valid_loss'])}" if progress.history else ""
    bar.set_postfix_str(f"loss {_text(_mean_loss(progress.sums))}{valid}", refresh=False)
    bar.update()


def _text(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4g}"


def _bar(job: Job, plan: Plan, progress: Progress, accelerator: Accelerator) -> Any:
    return progress_bar(
        _stage(job),
        job.training.epochs * plan.batches,
        "batch",
        show=None if accelerator.is_main_process else False,
        initial=progress.epoch * plan.batches + progress.batch,
    )
