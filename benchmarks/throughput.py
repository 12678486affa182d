"""Samples a second of training: loading with augmentation alone, the network alone, and both together.

    python benchmarks/throughput.py --recipe recipes/demo.toml --data DIR --out SCRATCH [--members NAME …]

The first figure is what the data path can deliver, the second what the network can take; together they should come
within 15 % of the slower one. On a CPU with `loop.workers=0` both share the cores, and loading must simply be cheap.
`--data` may be left out: small phantoms are written then, which is enough for a look but not for a figure to publish.
"""

import argparse
import copy
import functools
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.bundle.network import build_network
from lumbar.compute.accelerator import make_accelerator
from lumbar.recipe.recipe import load_recipe
from lumbar.training.checks.tables import open_checked
from lumbar.training.loop import loop
from lumbar.training.loop.batches import Batch, Plan, load
from lumbar.training.loop.loop import Job
from lumbar.training.run import prepare
from lumbar.training.setup import Setup, set_up
from lumbar.training.stages import MemberStage, members_of


def main() -> None:
    args = _arguments()
    data = args.data or _phantoms(args.out / "phantoms", args.studies)
    recipe = load_recipe(args.recipe, args.set)
    setup = set_up(args.out, recipe, open_checked(data, recipe), make_accelerator(recipe.loop))
    setup = setup.limited_to(setup.study_ids[: args.studies])
    prepare(setup)
    accelerator = setup.accelerator
    print(f"{accelerator.device}, {torch.get_num_threads()} threads, {accelerator.mixed_precision}, ", end="")
    print(f"{recipe.loop.workers} loader processes, {len(setup.study_ids)} studies")
    print(f"{'member':<24}{'batch':>6}{'loading':>12}{'network':>12}{'together':>12}{'of slower':>12}")
    for name, member in members_of(recipe).items():
        if args.members and name not in args.members:
            continue
        job = _job(setup, member)
        rounds = [
            [measure(job, accelerator, args.seconds) for measure in (loading, network, together)]
            for _ in range(args.rounds)
        ]
        rates = np.median(rounds, axis=0)
        words = "".join(f"{rate:>12.1f}" for rate in rates)
        print(f"{name:<24}{job.training.batch_size:>6}{words}{rates[2] / rates[:2].min():>11.0%}", flush=True)
        accelerator.free_memory()


def loading(job: Job, accelerator: Any, seconds: float) -> float:
    """Samples a second from disk to what the network gets."""
    return _timed((_inputs(job, batch) for batch in _batches(job, accelerator)), job, accelerator, seconds)


def network(job: Job, accelerator: Any, seconds: float) -> float:
    """Samples a second through forward, backward and optimizer on one batch that is already there."""
    batch = next(_batches(job, accelerator))
    with torch.no_grad():
        inputs = _inputs(job, batch)
    objective: Any = copy.copy(job.objective)
    objective.inputs = lambda _: inputs
    step = _step(replace(job, objective=objective), accelerator)
    return _timed((step(batch) for _ in itertools.count()), job, accelerator, seconds)


def together(job: Job, accelerator: Any, seconds: float) -> float:
    """Samples a second of training as it runs."""
    step = _step(job, accelerator)
    return _timed((step(batch) for batch in _batches(job, accelerator)), job, accelerator, seconds)


def _inputs(job: Job, batch: Batch) -> Any:
    return job.objective.inputs(batch)  # type: ignore[attr-defined]  # both stages' objectives have it


def _job(setup: Setup, member: MemberStage) -> Job:
    """The member around labelled keypoints, on all studies, from random weights."""
    samples = member.shown(setup, "labels")
    return Job(
        member=member.name,
        fold=0,
        folder=setup.folder.member(member.name, 0),
        fingerprint="",
        network=functools.partial(build_network, setup.recipe.members()[member.name].spec),
        objective=member.objective(),
        train=samples,
        valid=samples,
        training=member.training,
        loop=setup.recipe.loop,
        seed=1,
    )


def _batches(job: Job, accelerator: Any) -> Iterator[Batch]:
    plan = Plan(job.train.studies, job.training, 1)
    keys = list(itertools.chain.from_iterable(plan.epoch(epoch) for epoch in range(200)))
    return load(job.train, 1, keys, job.loop, accelerator.device)


def _step(job: Job, accelerator: Any) -> Any:
    model = job.network()
    if job.training.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.training.learning_rate)
    model, optimizer = accelerator.prepare(model.train(), optimizer)

    def step(batch: Batch) -> None:
        with accelerator.autocast():
            terms = job.objective.terms(model, batch, train=True)
        accelerator.backward(loop.combine(terms, accelerator, {}))
        optimizer.step()
        optimizer.zero_grad()

    return step


def _timed(work: Iterator[Any], job: Job, accelerator: Any, seconds: float) -> float:
    for _ in range(3):  # loader processes start, kernels are chosen
        next(work)
    _wait(accelerator)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or count < 3:
        next(work)
        count += 1
        if count % 8 == 0:
            _wait(accelerator)
    _wait(accelerator)
    return count * job.training.batch_size / (time.perf_counter() - began)


def _wait(accelerator: Any) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()


def _phantoms(folder: Path, studies: int) -> Path:
    from lumbar.phantom.dataset import write_phantoms

    if not (folder / "train.csv").is_file():
        write_phantoms(folder, studies, 1, workers=2)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="labelled data folder; without: phantoms")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cache")
    parser.add_argument("--studies", type=int, default=40, help="use so many studies")
    parser.add_argument("--seconds", type=float, default=4.0, help="a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of all three in turn; their medians are printed")
    parser.add_argument("--members", nargs="*", default=[], help="only these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
