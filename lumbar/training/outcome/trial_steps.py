"""A few real training steps of a member: seconds, memory, and what a sample costs."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumbar.bundle.network import RECIPE, blueprint, build_network, example
from lumbar.compute.engine import to_channels_last
from lumbar.compute.forward import asked
from lumbar.issues import InputError
from lumbar.training.loop import loop
from lumbar.training.loop.batches import Plan, load, validation
from lumbar.training.loop.beginning import freeze, rest
from lumbar.training.loop.optimizer import make_optimizer
from lumbar.training.setup import Setup
from lumbar.training.stages import MemberStage

#: A kind of member is measured for so many seconds after its first step, or so many steps.
LONG_ENOUGH, STEPS = 10.0, 8
#: On a CPU a first step of two samples that takes longer is not repeated with more of them.
TOO_LONG: Final = 10.0
#: What helps where memory is short.
LOWER: Final = "lower batch_size, and raise accumulate by as much, so that a step sees as many samples"


class Steps(NamedTuple):
    """What a few steps of one kind of member took."""

    seconds: float  # a step
    samples: float  # a step
    validation_seconds: float  # a sample
    peak_bytes: int
    gflop: float  # of one sample, forwards


def take_steps(name: str, spec: Any, member: MemberStage, samples: Any, setup: Setup) -> Steps:
    """Steps as training takes them, loading, augmentation and optimizer included.

    On a CPU of fewer samples than a batch where that would take long. Raises InputError where a batch does not fit into
    memory, with the key to lower.
    """
    wanted = member.training.batch_size
    on_gpu = setup.accelerator.device.type == "cuda"
    tried = wanted if on_gpu else min(2, wanted)
    try:
        found = _steps(spec, member, samples, setup, tried)
        if not on_gpu and tried < wanted and found.seconds < TOO_LONG:
            tried = max(2, min(wanted, int(tried * LONG_ENOUGH / max(found.seconds, 1e-3))))
            found = _steps(spec, member, samples, setup, tried)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(
            f"{name}: a batch of {tried} does not fit into the memory of {device_in_words(setup.accelerator)}; {LOWER}"
        ) from error
    finally:
        setup.accelerator.free_memory()
    return found


def _steps(spec: Any, member: MemberStage, samples: Any, setup: Setup, size: int) -> Steps:
    """Take steps of about so many samples; whole studies, where their samples stand together."""
    accelerator, training = setup.accelerator, member.training.model_copy(update={"batch_size": size})
    network = build_network(spec)
    if training.channels_last:
        to_channels_last(network)
    freeze(network, training.frozen)
    before = _memory(accelerator, begin=True)
    wrapped, optimizer = accelerator.prepare(network, make_optimizer(network, training))
    objective = member.objective()
    wrapped.train()
    rest(accelerator.unwrap_model(wrapped), training.frozen)
    plan = _plan(samples.studies, member, size)
    count = len(samples.studies)
    keys = [[(epoch, index % count) for epoch, index in keys] for number in range(STEPS) for keys in plan.epoch(number)]
    own = float(np.mean([len(one) for one in keys]))
    batches = load(samples, 0, keys[: STEPS + 1], setup.recipe.loop, accelerator.device, training.augment)

    def step(batch: Any) -> None:
        with accelerator.autocast():
            terms = objective.terms(wrapped, batch, train=True)
        accelerator.backward(loop.combine(terms, accelerator, {}))
        if training.clip_norm:
            accelerator.clip_grad_norm_(wrapped.parameters(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    seconds = _timed(map(step, batches), accelerator)
    peak = _memory(accelerator) - before
    wrapped.eval()
    keys = validation(samples.studies, size)[:2]
    seen = sum(map(len, keys))
    began = time.perf_counter()
    with torch.no_grad():
        for batch in load(samples, 0, keys, setup.recipe.loop, accelerator.device):
            with accelerator.autocast():
                objective.terms(wrapped, batch, train=False)
    _wait(accelerator)
    return Steps(seconds, own, (time.perf_counter() - began) / seen, max(peak, 0), gflop_of(spec))


def _plan(studies: np.ndarray, member: MemberStage, size: int) -> Plan:
    """Batches of about so many samples of these studies, repeated under other numbers until there are a few."""
    times = -(-3 * size // len(studies))
    repeated = np.concatenate([studies + 10_000_000_000 * turn for turn in range(times)])
    return Plan(repeated, member.training.model_copy(update={"batch_size": size}), 0, together=member.keep_studies)


def samples_at_once(studies: np.ndarray, member: MemberStage, size: int) -> int:
    """The most samples that one batch of about `size` has, `studies` (N,) being those of samples: more than that where
    whole studies stand in it."""
    return max(map(len, _plan(studies, member, size).epoch(0)))


def _timed(work: Iterator[None], accelerator: Any) -> float:
    """Seconds a step, median, without the first where there are more: kernels are chosen and loaders start in it."""
    found: list[float] = []
    began = time.perf_counter()
    for _ in islice(work, STEPS):
        _wait(accelerator)
        now = time.perf_counter()
        found.append(now - began)
        began = now
        if sum(found[1:]) > LONG_ENOUGH or found[0] > TOO_LONG:
            break
    return float(np.median(found[1:] or found))


def _wait(accelerator: Any) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()


def _memory(accelerator: Any, *, begin: bool = False) -> int:
    """The most memory that was taken since it was asked to `begin`, in bytes: the GPU's, or this process's."""
    if accelerator.device.type == "cuda":
        if begin:
            torch.cuda.reset_peak_memory_stats()
            return int(torch.cuda.memory_allocated())
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")  # Linux
    try:
        if begin:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0
    return 1024 * int(line.split()[1])


def gflop_of(spec: Any) -> float:
    """Of a forward pass of one sample: products and convolutions, a multiplication and an addition are two."""
    network = blueprint(spec, RECIPE).eval()
    if any(value.is_meta for value in network.state_dict().values()):
        network.to("meta")  # layers that a library made anew for other channels have memory all the same
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        asked(network, example(spec, next(network.parameters()).device))
    return counted.get_total_flops() / 1e9


def device_in_words(accelerator: Any) -> str:
    """The device in words."""
    if accelerator.device.type == "cuda":
        return f"{torch.cuda.get_device_name()} ({accelerator.mixed_precision})"
    return f"{torch.get_num_threads()} CPU threads ({accelerator.mixed_precision})"
