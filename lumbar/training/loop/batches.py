"""Which samples make which batch, when, and on which process; and how they are loaded.

Everything is named by (seed, epoch, sample): an epoch can be entered in its middle, and shared by several processes.
"""

import math
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lumbar.issues import InputError
from lumbar.recipe.augment import Augment
from lumbar.recipe.settings import Loop, Training
from lumbar.training.loop.mix import with_partner

Batch = dict[str, Tensor]
Key = tuple[int, int]  # epoch (negative: validation) and sample


class Samples(Protocol):
    """A data set whose samples know their study. `sample` draws augmentation from `rng`; None: as for validation."""

    @property
    def studies(self) -> np.ndarray:
        """(N,) study of each sample."""

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Arrays of one sample."""


class Plan:
    """Which samples make which batch: the same for any number of processes, each of which takes its share."""

    def __init__(
        self,
        studies: np.ndarray,
        training: Training,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        together: bool = False,
    ) -> None:
        """`studies` (N,): the study of each sample; `together` keeps a study's samples in one batch."""
        order = np.argsort(studies, kind="stable")
        cuts = np.flatnonzero(np.diff(studies[order])) + 1
        self.units = np.split(order, cuts) if together else [np.array([i]) for i in range(len(studies))]
        self.size = training.batch_size
        share = max(1, round(self.size * len(self.units) / max(len(studies), 1)))
        self.per_batch = min(share, len(self.units))
        samples = self.per_batch * len(studies) / max(len(self.units), 1)
        if world > 1 and (samples < 2 * world or self.per_batch < world):
            least = "one study" if together else "two samples"
            raise InputError(
                f"a batch of {samples:.0f} leaves less than {least} to each of {world} processes; raise batch_size, "
                "add studies or start fewer processes"
            )
        self.batches = len(self.units) // self.per_batch  # the rest waits for another epoch's order
        self.steps = math.ceil(self.batches / training.accumulate)  # optimizer steps an epoch
        self.training, self.seed, self.rank, self.world = training, seed, rank, world

    def epoch(self, epoch: int) -> list[list[Key]]:
        """This process's share of each batch of an epoch, as (epoch, sample)."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.units))
        chunks = order[: self.batches * self.per_batch].reshape(self.batches, self.per_batch)
        return [[(epoch, int(i)) for unit in row[self.rank :: self.world] for i in self.units[unit]] for row in chunks]

    def group(self, batch: int) -> range:
        """The batches that make one optimizer step together with this one; an epoch's last group may be smaller."""
        start = batch - batch % self.training.accumulate
        return range(start, min(start + self.training.accumulate, self.batches))


class _Loadable(Dataset):  # type: ignore[type-arg]
    """Samples by (epoch, index); a negative epoch means validation."""

    def __init__(self, samples: Samples, seed: int, augment: Augment | None) -> None:
        self.samples, self.seed, self.augment = samples, seed, augment

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        rng = None if epoch < 0 else np.random.default_rng([self.seed, epoch, index])
        own = self.samples.sample(index, rng)
        if epoch < 0 or self.augment is None or self.augment.mix == "none":
            return own
        words = (self.seed, epoch, index)
        return with_partner(own, self.samples.sample, len(self.samples.studies), words, self.augment)


def validation(studies: np.ndarray, size: int, rank: int = 0, world: int = 1) -> list[list[Key]]:
    """This process's validation batches of about `size`: whole studies, so that a term may ask about a study."""
    place = np.unique(studies, return_inverse=True)[1] % world
    order = [int(index) for index in np.argsort(studies, kind="stable") if place[index] == rank]
    batches: list[list[Key]] = [[]]
    for index, following in zip(order, [*order[1:], None], strict=True) if order else ():
        batches[-1].append((-1, index))
        if following is not None and len(batches[-1]) >= size and studies[index] != studies[following]:
            batches.append([])
    return [batch for batch in batches if batch]


def load(
    samples: Samples,
    seed: int,
    batches: list[list[Key]],
    loop: Loop,
    device: torch.device,
    augment: Augment | None = None,
) -> Iterator[Batch]:
    """Batches on the device, loaded ahead by worker processes where the recipe wants some; mixed as `augment` says.

    Raises InputError where a worker dies (out of memory) instead of waiting for ever.
    """
    workers = min(loop.workers, len(batches))
    loader = DataLoader(
        _Loadable(samples, seed, augment),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )
    coming: Iterator[Batch] | None = None
    while True:
        try:
            coming = coming or _without_sigchld(loader)
            batch = next(coming, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not workers or not _says_that_a_worker_died(error):
                raise
            raise InputError(
                "a process that loads samples died, most likely out of memory; set loop.workers lower and run again, "
                "training goes on from its last checkpoint"
            ) from error
        if batch is None:
            return
        yield {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _says_that_a_worker_died(error: Exception) -> bool:
    """Whether torch says so, or the line to a worker broke as its batch was fetched, before it counted as dead.

    torch has no class of its own for the first; what a sample itself raised comes marked as caught in a worker.
    """
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    return "in DataLoader worker process" not in str(error)


def _without_sigchld(loader: DataLoader) -> Iterator[Batch]:  # type: ignore[type-arg]
    """The loader's iterator, whose `next` raises where a worker died, within five seconds.

    torch's signal handler would raise at once, but in whatever the main thread is doing: in the middle of an
    optimizer's step or of somebody's report.
    """
    apart = threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD")
    before = None if apart else signal.getsignal(signal.SIGCHLD)
    coming = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return coming
