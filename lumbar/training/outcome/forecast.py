"""What a training will take, before it begins: steps, seconds, memory, disk, member by member.

A few studies are read and cached as training reads them, and every kind of member takes a few real steps on this
device, loading, augmentation and optimizer included. The rest is counting, the memory of a GPU too.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from lumbar.compute.accelerator import make_accelerator
from lumbar.files.write import check_apart
from lumbar.issues import InputError
from lumbar.recipe.recipe import Recipe
from lumbar.recipe.settings import Training
from lumbar.training.checks.disk import check_space, needed_bytes
from lumbar.training.checks.recipe import load_checked, weights_bytes
from lumbar.training.checks.tables import open_checked
from lumbar.training.data.make import make_packs
from lumbar.training.folder import RunFolder
from lumbar.training.outcome.step_memory import GPUS, Memory, memory_of, remedy
from lumbar.training.outcome.trial_steps import LOWER, Steps, device_in_words, samples_at_once, take_steps
from lumbar.training.setup import Setup, set_up
from lumbar.training.stages import members_of

#: Studies that are read for it; a study that lacks a series type teaches nobody how long it takes.
STUDIES: Final = 6
#: The share of a GPU's peak which networks of this kind reach, about; real steps on such a GPU tell better.
REACHED: Final = 0.2
#: A training step computes about three times what a forward pass does.
BACKWARD: Final = 3


@dataclass(frozen=True)
class Cost:
    """What one member takes; steps and seconds are those of one fold."""

    name: str
    folds: int
    samples: int  # an epoch
    steps: int  # batches of all epochs
    step_seconds: float
    validation_seconds: float  # of all epochs
    peak_bytes: int
    gflop: float  # of one sample, forwards
    measured: float  # samples a step that was measured; fewer than a batch where that took too long
    training: Training
    gpu: Memory | None  # of a step on a GPU, estimated; None where nothing is learnt

    @property
    def seconds(self) -> float:
        """Of all folds."""
        return self.folds * (self.steps * self.step_seconds + self.validation_seconds)


@dataclass(frozen=True)
class Forecast:
    """What a run takes in all."""

    recipe: str
    studies: int
    device: str
    members: tuple[Cost, ...]
    cache_bytes: int
    weights_bytes: int
    reading_seconds: float  # all studies, once

    @property
    def training_seconds(self) -> float:
        """Of all members and folds."""
        return sum(cost.seconds for cost in self.members)

    def text(self) -> str:
        """A table in Markdown with its totals."""
        lines = [f"{self.recipe}: {self.studies} studies, {self.device}", ""]
        memory = "memory, GB | on a GPU, GB, estimated"
        lines += [f"| member | folds | samples | steps | s a step | {memory} | GFLOP a sample | hours |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for one in self.members:
            about = "≈ " if one.measured < one.training.batch_size else ""
            cells = (f"{one.samples:,}", f"{one.steps:,}", f"{about}{one.step_seconds:.3g}")
            needed = (f"{about}{one.peak_bytes / 1e9:.2g}", f"{one.gpu.bytes / 1e9:.2g}" if one.gpu else "–")
            rest = (f"{one.gflop:.3g}", f"{about}{one.seconds / 3600:.3g}")
            lines.append(f"| {' | '.join((one.name, str(one.folds), *cells, *needed, *rest))} |")
        hours = (self.reading_seconds + self.training_seconds) / 3600
        lines += ["", f"Disk: {self.cache_bytes / 1e9:.1f} GB of cache, {self.weights_bytes / 1e9:.2f} GB of weights."]
        reading = f"reading and caching {self.reading_seconds / 3600:.2g}"
        lines += [f"Hours here: {hours:.3g}, {reading} of them; members follow each other."]
        shared = self.reading_seconds / 3600
        several = ", ".join(f"{n}: {shared + self.training_seconds / 3600 / n:.3g}" for n in (2, 4, 8))
        lines += [f"On several such devices at best: {several} h."]
        work = sum(one.folds * one.steps * one.training.batch_size * one.gflop for one in self.members) * BACKWARD
        guessed = ", ".join(f"{name} {work / (gpu.tflops * 1e3 * REACHED) / 3600:.2g}" for name, gpu in GPUS.items())
        lines += [
            f"GPUs that are not here, in hours, estimated from GFLOP at {REACHED:.0%} of their peak (small networks "
            f"and slow disks take longer): {guessed}."
        ]
        lines += [
            line for gigabytes in sorted({gpu.gigabytes for gpu in GPUS.values()}) for line in self._short(gigabytes)
        ]
        if any(one.measured < one.training.batch_size for one in self.members):
            lines += ["≈: worked out from a step of fewer samples than a batch; memory is that step's."]
        return "\n".join(lines)

    def _short(self, gigabytes: int) -> Iterator[str]:
        """The members that GPUs of so much memory do not hold, by estimate, and what helps."""
        large = [(one.name, one.gpu, one.training) for one in self.members if one.gpu and gigabytes in one.gpu.smaller]
        if large:
            names = ", ".join(name for name, gpu in GPUS.items() if gpu.gigabytes == gigabytes)
            parts = ", ".join(f"{name} {remedy(memory, training, gigabytes)}" for name, memory, training in large)
            yield f"Too large for {gigabytes} GB ({names}), by estimate; {LOWER}: {parts}."


def forecast(
    recipe_path: Path,
    data_folder: Path,
    out: Path,
    overrides: Sequence[str] = (),
    studies: int | None = None,
    cache: Path | None = None,
) -> Forecast:
    """What `train` with the same words will take on this device; nothing is trained, and `out` is only looked at.

    `studies`: as if there were so many like those of the folder. Raises InputError, as training would, for faults of
    recipe and data; and where a batch does not fit into memory, or the run onto the disk, with the key to lower.
    """
    recipe = load_checked(Path(recipe_path), overrides)
    check_apart(out, Path(data_folder) / "train_images")
    data = open_checked(Path(data_folder), recipe)
    accelerator = make_accelerator(recipe.loop)
    with tempfile.TemporaryDirectory() as scratch:
        whole = set_up(Path(scratch), recipe, data, accelerator, split=False)
        count = studies or len(whole.study_ids)
        some = whole.limited_to(_full(whole)[:STUDIES])
        began = time.perf_counter()
        make_packs(some)
        reading = time.perf_counter() - began
        costs: dict[str, Cost] = {}
        known: dict[str, tuple[Steps, Memory | None]] = {}
        caching = 0.0
        for name, member in members_of(recipe).items():
            began = time.perf_counter()
            samples = member.measured(member.shown(some, "labels"))
            caching += time.perf_counter() - began
            if not len(samples.studies):
                raise InputError(
                    f"{data_folder}: none of {len(some.study_ids)} studies has a labelled sample for {name}; give a "
                    "folder that has some"
                )
            spec, training = recipe.members()[name].spec, member.training
            kind = f"{spec.model_dump_json()} {training.model_dump_json(exclude={'folds', 'epochs'})}"
            if kind not in known:
                samples_of = partial(samples_at_once, samples.studies, member)
                memory = (
                    memory_of(spec, member, samples_of, half=recipe.loop.mixed_precision != "no")
                    if training.epochs
                    else None
                )
                known[kind] = take_steps(name, spec, member, samples, some), memory
            costs[name] = _counted(
                name, recipe, training, len(samples.studies) / len(some.study_ids), count, *known[kind]
            )
    per_study = (reading / recipe.loop.read_processes + caching) / len(some.study_ids)
    run = RunFolder(Path(out), cache)
    needed = needed_bytes(data, whole.study_ids, recipe, run)
    if studies is None:
        check_space(needed)
    return Forecast(
        recipe=recipe.name,
        studies=count,
        device=device_in_words(accelerator),
        members=tuple(costs.values()),
        cache_bytes=round(needed[run.cache] * count / len(whole.study_ids)),
        weights_bytes=sum(weights_bytes(recipe.members()[name]) for name, _ in recipe.to_train()),
        reading_seconds=per_study * count,
    )


def _full(setup: Setup) -> list[int]:
    """Studies, those with most types of series first."""
    kinds = setup.data.series.groupby("study_id")["series_description"].nunique()
    return sorted(setup.study_ids, key=lambda study: (-int(kinds.get(study, 0)), study))


def _counted(
    name: str, recipe: Recipe, training: Training, per_study: float, studies: int, measured: Steps, gpu: Memory | None
) -> Cost:
    """What a member takes on so many studies, of which one fold is held out at a time."""
    held_out = studies / recipe.folds.count
    count = round((studies - held_out) * per_study)
    steps = training.epochs * max(1, count // training.batch_size)
    return Cost(
        name=name,
        folds=len(recipe.folds_of(name)),
        samples=count,
        steps=steps,
        step_seconds=measured.seconds * training.batch_size / measured.samples,
        validation_seconds=training.epochs * held_out * per_study * measured.validation_seconds,
        peak_bytes=measured.peak_bytes,
        gflop=measured.gflop,
        measured=measured.samples,
        training=training,
        gpu=gpu,
    )
