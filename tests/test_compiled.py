"""Networks that OpenVINO computes answer as PyTorch's do, whoever calls them, and keep memory for their turn only."""

import copy
import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lumbar.bundle.network import build_network
from lumbar.compute import compiled, process_pool
from lumbar.compute.compiled import CompiledRunner
from lumbar.compute.engine import Engine, choose_engine, make_runner
from lumbar.compute.forward import Inputs, asked, mapped
from lumbar.compute.thread_pool import Lanes
from lumbar.issues import InputError
from lumbar.prediction import schedule
from lumbar.prediction.networks import Networks
from lumbar.prediction.predictor import Predictor
from lumbar.study.study import DataFolder, open_data
from tests.support.worlds import small_phantoms
from tests.test_engine import CPU, SPECS, inputs, lived_in, two_folds

#: Networks that are converted a second time, with another fold's weights: as one part, and as several.
TWICE = [
    "resnet",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("deeplab", "slice_channels", "condition attention")),
]
OPENVINO = importlib.util.find_spec("openvino") is not None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", studies=3))


def cut(batch: Inputs, part: slice) -> Inputs:
    return mapped(lambda value: value[part], batch)


def in_openvino(network: nn.Module, example: Inputs) -> CompiledRunner:
    """The network as member `one`, ready to be called."""
    state = copy.deepcopy(network.state_dict())
    runner = make_runner(network, Engine("openvino"), example)
    assert isinstance(runner, CompiledRunner)
    runner.fill(state, "one")
    return runner


@cache
def compiled_once(name: str) -> tuple[nn.Module, CompiledRunner]:
    """A network of a kind and its runner, which takes seconds to convert; whoever fills it ends with member `one`."""
    network = lived_in(build_network(SPECS[name]), 2)
    return network, in_openvino(copy.deepcopy(network), inputs(SPECS[name], 1))


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.parametrize("name", TWICE)
def test_openvino_gives_the_same_answer_and_takes_another_folds_weights(name: str) -> None:
    spec = SPECS[name]
    (first, runner), second = compiled_once(name), lived_in(build_network(spec), 3)
    batch, states = inputs(spec, 3), [copy.deepcopy(network.state_dict()) for network in (first, second)]
    with torch.inference_mode():
        expected = [asked(first, batch), asked(second, batch)]
    twin = runner.copy()
    twin.fill(states[1], "two")
    for network, answer in ((runner.network, expected[0]), (twin.network, expected[1])):
        torch.testing.assert_close(asked(network, batch), answer, atol=2e-5, rtol=1e-4)
    for own, place in (("two", 1), ("one", 0)):  # back and forth, from what was converted before
        runner.fill(states[place], own)
        torch.testing.assert_close(asked(runner.network, batch), expected[place], atol=2e-5, rtol=1e-4)
    twin.release()
    torch.testing.assert_close(asked(twin.network, cut(batch, slice(1))), expected[1][:1], atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_openvino_answers_as_pytorch_does_whatever_the_rest_of_its_batch(name: str) -> None:
    spec = SPECS[name]
    network, runner = compiled_once(name)
    batch = inputs(spec, 5)
    with torch.inference_mode():
        expected = asked(network, batch)
    answer = asked(runner.network, batch)
    torch.testing.assert_close(answer, expected, atol=2e-5, rtol=1e-4)
    # What PyTorch computes around the compiled parts may round its last bits another way in another batch.
    for part in (slice(0, 2), slice(3, 4)):
        torch.testing.assert_close(asked(runner.network, cut(batch, part)), answer[part], atol=1e-6, rtol=0)
    parts = [module for module in runner.network.modules() if isinstance(module, compiled.Part)]
    assert len(parts) == len(runner.names)
    for place in parts:
        images = torch.randn(7, *place._compiled.input(0).shape[1:])
        assert torch.equal(place(images)[2:5], place(images[2:5]))


def test_weights_are_converted_by_a_child_a_core_until_openvino_computes_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def who(name: str) -> None:
        (tmp_path / name).write_text(str(os.getpid()))

    def seen() -> list[int]:
        return [int((tmp_path / name).read_text()) for name in "abcd"]

    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr(compiled.started, "is_set", lambda: False)
    compiled.in_children(who, "abcd")
    if process_pool.POSSIBLE:
        assert os.getpid() not in seen()
        assert [seen().count(process) for process in seen()] == [2] * 4
    monkeypatch.setattr(compiled.started, "is_set", lambda: True)
    compiled.in_children(who, "abcd")
    assert seen() == [os.getpid()] * 4


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.slow
def test_lanes_call_openvino_side_by_side_and_get_the_same_bits() -> None:
    spec = SPECS["deeplab"]
    network, batch, answers = lived_in(build_network(spec), 2), inputs(spec, 2), []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2  # OpenVINO starts no more streams
    for count, streams, threads in ((2, min(2, cores), min(2, cores)), (1, 1, min(torch.get_num_threads(), cores))):
        runner = in_openvino(copy.deepcopy(network), cut(batch, slice(1)))
        with Lanes(count) as beside, torch.inference_mode():
            found = list(beside.answers(runner.network, [batch] * 4))
        assert isinstance(runner.network, compiled.Part)
        assert runner.network._compiled.get_property("NUM_STREAMS") == streams
        assert runner.network._compiled.get_property("INFERENCE_NUM_THREADS") == threads
        answers += found
    assert all(torch.equal(answers[0], answer) for answer in answers[:4])
    torch.testing.assert_close(answers[0], answers[-1], atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_memory_is_let_go_of_only_between_calls() -> None:
    spec = SPECS["deeplab"]
    network = lived_in(build_network(spec), 2)
    batch = inputs(spec, 4)
    with torch.inference_mode():
        expected = asked(network, batch)
    runner = in_openvino(network, cut(batch, slice(1)))

    def call(number: int) -> torch.Tensor:
        if number % 3 == 0:
            runner.release()  # the others may be in the middle of it
        return asked(runner.network, batch)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(40)):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert isinstance(runner.network, compiled.Part)
    asked(runner.network, batch)
    assert runner.network._compiled is not None
    runner.release()
    assert runner.network._compiled is None


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="signals are handled otherwise there")
def test_a_signal_finds_its_stack_when_networks_came_and_went() -> None:
    """Ctrl-C and alarms would else be handled in memory that was freed, which kills the process without a word."""
    before = compiled.signal_stack()
    assert before is not None
    spec = SPECS["resnet"]
    runners = [in_openvino(lived_in(build_network(spec), seed), inputs(spec, 1)) for seed in (2, 3)]
    for runner in runners:
        asked(runner.network, inputs(spec, 1))
    for runner in runners:  # the first to come is the first to go
        runner.release()
    after = compiled.signal_stack()
    assert after is not None
    assert (after.start, after.size) == (before.start, before.size)


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_large_networks_stay_compiled_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is all detectors', since every study asks them all, or one grader's."""
    bundle = two_folds(tmp_path, ("canal", "recess", "foraminal"))
    monkeypatch.setattr("lumbar.prediction.networks.LARGE", 0)
    names = [member.name for member in bundle.manifest.members]
    networks = Networks(bundle, names, Engine("openvino"), CPU)

    def compiled_now(name: str) -> set[str]:
        spec = bundle.member(name).spec
        with torch.inference_mode():
            asked(networks[name], inputs(spec, 1))
        held = {name: networks._runners[name].network.modules() for name in names}
        return {
            name
            for name, modules in held.items()
            if any(isinstance(module, compiled.Part) and module._compiled is not None for module in modules)
        }

    assert compiled_now("canal_fold0") == {"canal_fold0"}
    assert compiled_now("recess_fold1") == {"canal_fold0", "recess_fold1"}
    assert compiled_now("canal_fold0") == {"canal_fold0", "recess_fold1"}
    assert compiled_now("foraminal_fold0") == {"foraminal_fold0"}
    assert compiled_now("foraminal_fold1") == {"foraminal_fold1"}
    assert compiled_now("canal_fold1") == {"canal_fold1"}


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_openvino_grades_as_pytorch_does(tmp_path: Path, data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network for each fold and with weights swapped, in processes and in threads."""
    folds = two_folds(tmp_path, ("canal", "foramen", "foraminal"))
    expected = list(schedule.predict(data, folds))
    monkeypatch.setattr("lumbar.prediction.schedule.MANY", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    compiled.started.clear()
    for room in (2**30, 0):
        predictor = Predictor(folds, engine="openvino", room=room)
        assert predictor.networks.swaps == (not room)
        found = list(schedule.grade_all(predictor, data, list(data.study_ids)))
        assert compiled.started.is_set() == (not room)  # children compute where each fold has a network of its own
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(one.members, other.members, atol=1e-5)
            assert other.ran_on == "cpu, openvino float32"


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_auto_takes_openvino_where_it_pays_and_moves_nothing(
    tmp_path: Path, data: DataFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = two_folds(tmp_path, ("canal", "foraminal"))

    def ran_on(studies: int) -> str:
        return str(Predictor(bundle, studies=studies).engine)

    assert ran_on(1) == "fused float32"
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        assert ran_on(10**9) == "fused float32"
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "MOST_MOVED", 1e-12)
        assert ran_on(10**9) == "fused float32"
    assert "OpenVINO's answers differ by" in caplog.text
    monkeypatch.setattr(compiled, "pays", lambda gflop, networks: True)
    (result,) = schedule.predict(data, bundle, study_ids=data.study_ids[:1])
    assert result.ran_on == "cpu, openvino float32"


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_auto_does_without_openvino_where_it_cannot_take_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("openvino.convert_model", refuse)
    predictor = Predictor(two_folds(tmp_path, ("canal", "foraminal")), studies=10**9)
    assert str(predictor.engine) == "fused float32"


def test_openvino_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'openvino' computes on the CPU, not on cuda; add --device cpu"):
        choose_engine("openvino", torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert choose_engine("openvino", CPU).compiled
    with pytest.raises(InputError, match="'openvino-half': this CPU does not compute in bfloat16; choose 'openvino'"):
        choose_engine("openvino-half", CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="'openvino' needs OpenVINO; pip install openvino, or choose 'fused'"):
        choose_engine("openvino", CPU)
