"""One member on one fold: what the loop needs for it, and its training unless its result is there."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from lumbar.files.write import sha256, write_json, writing_into
from lumbar.issues import InputError, printable
from lumbar.training.data.make import source_of
from lumbar.training.data.packs import fingerprint
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.journal import Journal
from lumbar.training.loop import loop, untrained
from lumbar.training.loop.beginning import begin_with
from lumbar.training.loop.loop import Job
from lumbar.training.pretrained.begun import begun_with
from lumbar.training.pretrained.parts import fill
from lumbar.training.pretrained.sources import Sources
from lumbar.training.setup import Setup, drawn
from lumbar.training.stages import MemberStage


def train_member(setup: Setup, member: MemberStage, fold: int, journal: Journal) -> None:
    """Train one member on one fold, unless its result is there. Raises InputError where there is no sample for it."""
    job = make_job(setup, member, fold)
    result = setup.folder.result(member.name, fold)
    if result is not None and result["fingerprint"] == job.fingerprint:
        return
    if not len(job.train.studies) or not len(job.valid.studies):
        raise InputError(f"{member.name} fold {fold}: no labelled sample to train or to validate on; add studies")
    if job.training.epochs:
        progress = loop.fit(job, setup.accelerator, journal.add, setup.deadline)
    else:
        progress = untrained.keep(job, setup.accelerator, journal.add)
    if setup.main:
        studies = len(member.trained_on(setup, fold))
        saw = f"{studies} studies of {printable(setup.data.root.resolve().name)}{_without(setup, member, fold)}"
        best = progress.history[max(progress.best_epoch, 1) - 1]
        found = {"fingerprint": job.fingerprint, "saw": saw, "best": best, "history": progress.history}
        found["began"] = begun_with(setup.recipe.members()[member.name])
        with writing_into(job.folder):
            write_json(found, job.folder / "result.json")
        (job.folder / "checkpoint.safetensors").unlink(missing_ok=True)
    setup.accelerator.wait_for_everyone()


def _without(setup: Setup, member: MemberStage, fold: int) -> str:
    """Which labels a member did not learn from, in words: how many, and the table that lists them, by its name and the
    beginning of its hash."""
    gone = member.labels_left_out(setup, member.trained_on(setup, fold))
    if not gone:
        return ""
    path = Path(setup.recipe.leave_out)
    count = sum(len(places) for _, places in gone)
    return f", without {count} of their labels, listed in {printable(path.name)} ({sha256(path)[:12]})"


def make_job(setup: Setup, member: MemberStage, fold: int) -> Job:
    """What the loop needs to train one member on one fold; its fingerprint changes with whatever changes the result."""
    spec, training, recipe = setup.recipe.members()[member.name].spec, member.training, setup.recipe
    seed = int(fingerprint(recipe.seed, member.name, fold)[:8], 16)
    train, valid = member.samples(setup, fold)
    inputs: list[Any] = [_made_from(samples) for samples in (train, valid)]
    if draws := setup.draws(training):
        train.rows = drawn(train.rows, draws)
        inputs.append(sorted(draws.items()))
    if gone := member.labels_left_out(setup, member.trained_on(setup, fold)):
        inputs.append(gone)
    if isinstance(training.pretrained, str):
        inputs.append(sha256(Path(training.pretrained)))
    if training.soft_labels:
        inputs.append(sha256(Path(training.soft_labels)))
    if training.slice_shift == "own" and isinstance(train, RegionSamples):
        inputs.append(sorted(train.shares.items()))
    network: Callable[[], nn.Module] = member.network
    if training.pretrained:
        network = functools.partial(_filled, network, training.pretrained, setup.sources)
    if training.taught_by:
        taught = [setup.folder.result(training.taught_by, each) for each in recipe.folds_of(training.taught_by)]
        inputs.append([found and found["fingerprint"] for found in taught])
    if training.begins_with:
        begun = setup.folder.result(training.begins_with, fold)
        inputs.append(begun and begun["fingerprint"])
        weights = setup.folder.member(training.begins_with, fold) / "best.safetensors"
        network = functools.partial(_begun, member.network, weights, training.fresh)
    return Job(
        member=member.name,
        fold=fold,
        folder=setup.folder.member(member.name, fold),
        fingerprint=fingerprint(seed, spec.model_dump(mode="json"), training.model_dump(mode="json"), inputs),
        network=network,
        objective=member.objective(),
        train=train,
        valid=valid,
        training=training,
        loop=recipe.loop,
        seed=seed,
        keep_studies=member.keep_studies,
    )


def _filled(build: Callable[[], nn.Module], pretrained: bool | str, sources: Sources) -> nn.Module:
    return fill(build(), sources.of(pretrained))


def _begun(build: Callable[[], nn.Module], weights: Path, fresh: tuple[str, ...]) -> nn.Module:
    return begin_with(build(), weights, fresh)


def _made_from(samples: StackSamples | RegionSamples) -> list[Any]:
    """The source fingerprint of each of a data set's files."""
    return [(study, source_of(samples.folder, study)) for study in sorted(set(samples.studies.tolist()))]
