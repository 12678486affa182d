"""The memory of a training step that is worked out without computing is what real steps take."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lumbar.bundle.network import build_network
from lumbar.compute.forward import asked, tensors
from lumbar.recipe.recipe import load_recipe
from lumbar.training.loop import ema
from lumbar.training.loop.beginning import freeze, rest
from lumbar.training.loop.optimizer import make_optimizer
from lumbar.training.outcome.forecast import Cost, Forecast
from lumbar.training.outcome.step_memory import FILLED, Memory, memory_of, step_bytes
from lumbar.training.stages import MemberStage, members_of
from tests.support.tiny_recipe import tiny_recipe

#: Kinds of members; what a step keeps differs from one to the next.
MEMBERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"ema_decay": 0.9},
    "looking_ahead": {"optimizer": "radam_lookahead"},
    "accumulating": {"accumulate": 2},
    "frozen": {"frozen": ["encoders"]},
}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, MemberStage]]:
    """A detector and a grader of every kind by name, each with its spec."""
    path = tmp_path_factory.mktemp("memory") / "tiny.toml"
    detectors = {"t2": {"series_type": "sagittal_t2"}}
    graders = {name: {"task": "spinal", **keys} for name, keys in MEMBERS.items()}
    path.write_text(tiny_recipe(detectors, graders), encoding="utf-8")
    recipe = load_recipe(path)
    return {name: (recipe.members()[name].spec, member) for name, member in members_of(recipe).items()}


def allocated(spec: Any, member: MemberStage, samples: int, half: torch.dtype | None) -> int:
    """The most bytes that torch's allocator had given at once during two real steps on the CPU."""
    training = member.training
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        network = build_network(spec)
        freeze(network, training.frozen)
        rest(network.train(), training.frozen)
        optimizer = make_optimizer(network, training)
        average = ema.begin(network) if training.ema_decay else None
        inputs = member.step_inputs(network, samples, "cpu")
        for _ in range(2):
            for _ in range(training.accumulate):
                with torch.autocast("cpu", dtype=half, enabled=half is not None):
                    answers = tensors(asked(network, inputs))
                torch.stack([value.float().sum() for value in answers]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        del average
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("name", MEMBERS)
def test_it_is_what_the_allocator_gives_to_real_steps(name: str, members: dict[str, tuple[Any, MemberStage]]) -> None:
    told, given = step_bytes(*members[name], 8, half=False), allocated(*members[name], 8, None)
    assert told == pytest.approx(given, rel=0.03)


@pytest.mark.parametrize("half", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", ["t2", "plain"])
def test_it_lacks_only_what_kernels_take_beside(
    name: str, half: torch.dtype | None, members: dict[str, tuple[Any, MemberStage]]
) -> None:
    """Convolutions on a CPU order their tensors anew, one layer after the other: much of so few layers."""
    told, given = step_bytes(*members[name], 8, half=half is not None), allocated(*members[name], 8, half)
    assert 0.8 * given < told < 1.02 * given


def test_a_gpu_keeps_what_autocast_halves_in_half_of_the_memory(members: dict[str, tuple[Any, MemberStage]]) -> None:
    whole, half = (step_bytes(*members["t2"], 8, half=half) for half in (False, True))
    assert 0.5 * whole < half < 0.75 * whole


def large(spec: Any, member: MemberStage, batch_size: int) -> tuple[Memory, Any]:
    """What a batch of so many samples needs, and how it is trained."""
    training = member.training.model_copy(update={"batch_size": batch_size})
    member.training = training
    return memory_of(spec, member, lambda size: size), training


def test_a_batch_that_no_t4_holds_is_told_with_the_keys_that_make_it_one(
    members: dict[str, tuple[Any, MemberStage]],
) -> None:
    spec, member = members["t2"]
    before = member.training
    needed, training = large(spec, member, 2**16)  # whose pictures alone would fill more than a gigabyte
    member.training = before
    size = needed.smaller[16]
    assert step_bytes(spec, member, size) <= FILLED * 16e9 < step_bytes(spec, member, 2 * size)
    cost = Cost("t2", 5, 1, 1, 1.0, 1.0, 1, 1.0, 4.0, training, needed)
    small = replace(cost, name="small", gpu=Memory(10**9, {}))
    said = Forecast("tiny", 6, "a CPU", (cost, small), 1, 1, 1.0).text().splitlines()
    told = next(
        line for line in said if line.startswith("Too large for 16 GB (T4, P100), by estimate; lower batch_size")
    )
    assert told.endswith(f": t2 ({needed.bytes / 1e9:.3g} GB; batch_size={size}, accumulate={2**16 // size}).")
    assert next(line for line in said if line.startswith("| small |")).split("|")[7] == " 1 "
