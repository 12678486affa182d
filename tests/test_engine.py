"""Engines change how networks run, not what they answer; folds share one network and leave no trace in each other."""

import copy
import importlib.util
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lumbar.prediction.networks
import lumbar.prediction.predictor
from lumbar.bundle import Bundle, Weights, build_network, save_bundle
from lumbar.compute import compiled, crew
from lumbar.compute.compiled import CompiledRunner
from lumbar.compute.engine import Engine, Runner, choose_engine, make_runner
from lumbar.compute.lanes import Lanes
from lumbar.issues import InputError
from lumbar.member import DetectorSpec, GraderSpec
from lumbar.prediction import pipeline
from lumbar.prediction.networks import Networks
from lumbar.study import DataFolder, open_data
from tests.worlds import detector_spec, grader_spec, small_phantoms, tiny_weights

CPU = torch.device("cpu")
OPENVINO = importlib.util.find_spec("openvino") is not None


def lived_in(network: nn.Module, seed: int) -> nn.Module:
    """A network whose norms have seen something, so that leaving one out would show."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert value is not None
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    return network.eval()


SPECS: dict[str, DetectorSpec | GraderSpec] = {
    "deeplab": detector_spec("sagittal_t2", 5, 5),
    "resnet": grader_spec("spinal"),
    "mil": grader_spec("global").model_copy(update={"network": "mil"}),
    "convnext": GraderSpec(task="foraminal", backbone="convnext_atto", image_size=64, slices=3),
    "efficientnet": GraderSpec(task="foraminal", backbone="tf_efficientnet_lite0", image_size=64, slices=3),
}


def inputs(spec: DetectorSpec | GraderSpec, samples: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    if isinstance(spec, DetectorSpec):
        return torch.randn(samples, spec.in_chans, spec.image_size, spec.image_size)
    views = {"spinal": 2, "foraminal": 1, "global": 5}[spec.task]
    return torch.randn(samples, views, spec.slices, spec.image_size, spec.image_size)


@pytest.mark.parametrize("name", SPECS)
def test_folded_layers_give_the_same_answer(name: str) -> None:
    spec = SPECS[name]
    network = lived_in(build_network(spec), 2)
    batch = inputs(spec)
    with torch.inference_mode():
        expected = network(batch)
    runner = Runner(network, Engine("fused", fused=True), batch[:1])
    with torch.inference_mode():
        torch.testing.assert_close(runner.network(batch), expected, atol=2e-5, rtol=1e-4)
    if name in ("deeplab", "resnet", "mil"):
        assert runner.pairs
        assert not any(isinstance(module, nn.BatchNorm2d) for module in runner.network.modules())


def test_another_folds_weights_take_the_place_of_the_first_whole() -> None:
    spec = SPECS["resnet"]
    first, second = lived_in(build_network(spec), 2), lived_in(build_network(spec), 3)
    batch, state = inputs(spec), second.state_dict()
    with torch.inference_mode():
        expected = second(batch)
    runner = Runner(first, Engine("fused", fused=True), batch[:1])
    runner.fill(state)
    with torch.inference_mode():
        torch.testing.assert_close(runner.network(batch), expected, atol=2e-5, rtol=1e-4)


def test_half_precision_stays_near_and_names_a_cpu_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="this CPU does not compute in bfloat16; choose 'fused'"):
        choose_engine("half", CPU)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert choose_engine("half", CPU).amp is torch.bfloat16
    assert choose_engine("auto", CPU) == Engine("fused", fused=True)
    assert choose_engine("auto", torch.device("cuda"), torch.float16).amp is torch.float16
    with pytest.raises(InputError, match="unknown engine 'warp'; known: auto, eager, fused, half, openvino"):
        choose_engine("warp", CPU)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU does not compute in bfloat16")
@pytest.mark.parametrize("name", SPECS)
def test_weights_kept_in_half_precision_answer_as_autocast_would(name: str) -> None:
    """And take half the memory where they are convolutions and linear layers."""
    spec = SPECS[name]
    network, batch = lived_in(build_network(spec), 2), inputs(spec)
    state, whole = copy.deepcopy(network.state_dict()), Runner(copy.deepcopy(network), Engine("fused", True), batch[:1])
    runner = Runner(network, Engine("half", True, torch.bfloat16), batch[:1])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = whole.network(batch)
        assert torch.equal(runner.network(batch), expected)
        runner.copy().fill({key: value + 1 for key, value in state.items()})  # a twin's weights are its own
        assert torch.equal(runner.network(batch), expected)
    assert 0.5 * whole.nbytes <= runner.nbytes < 0.8 * whole.nbytes


def test_room_on_a_gpu_counts_what_torch_keeps_and_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("mem_get_info", (1000, 5000)), ("memory_reserved", 600), ("memory_allocated", 200)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert lumbar.prediction.networks._room(torch.device("cuda")) == int(1400 * 0.6)


def in_openvino(network: nn.Module, example: torch.Tensor) -> CompiledRunner:
    """The network as member `one`, ready to be called."""
    state = copy.deepcopy(network.state_dict())
    runner = make_runner(network, Engine("openvino"), example)
    assert isinstance(runner, CompiledRunner)
    runner.fill(state, "one")
    return runner


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.parametrize("name", SPECS)
def test_openvino_gives_the_same_answer_and_takes_another_folds_weights(name: str) -> None:
    spec = SPECS[name]
    first, second = lived_in(build_network(spec), 2), lived_in(build_network(spec), 3)
    batch, states = inputs(spec, 3), [copy.deepcopy(network.state_dict()) for network in (first, second)]
    with torch.inference_mode():
        expected = [first(batch), second(batch)]
    runner = in_openvino(first, inputs(spec, 1))
    twin = runner.copy()
    twin.fill(states[1], "two")
    for network, answer in ((runner.network, expected[0]), (twin.network, expected[1])):
        torch.testing.assert_close(network(batch), answer, atol=2e-5, rtol=1e-4)
    for own, place in (("two", 1), ("one", 0)):  # back and forth, from what was converted before
        runner.fill(states[place], own)
        torch.testing.assert_close(runner.network(batch), expected[place], atol=2e-5, rtol=1e-4)
    twin.release()
    torch.testing.assert_close(twin.network(batch[:1]), expected[1][:1], atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.parametrize("name", SPECS)
def test_no_answer_of_openvino_depends_on_the_rest_of_its_batch(name: str) -> None:
    spec = SPECS[name]
    network = lived_in(build_network(spec), 2)
    batch = inputs(spec, 5)
    with torch.inference_mode():
        expected = network(batch)
    runner = in_openvino(network, inputs(spec, 1))
    answer = runner.network(batch)
    torch.testing.assert_close(answer, expected, atol=2e-5, rtol=1e-4)
    for part in (slice(0, 2), slice(3, 4)):
        torch.testing.assert_close(runner.network(batch[part]), answer[part], atol=1e-7, rtol=0)  # GRUs are PyTorch's
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
    if crew.POSSIBLE:
        assert os.getpid() not in seen()
        assert [seen().count(process) for process in seen()] == [2] * 4
    monkeypatch.setattr(compiled.started, "is_set", lambda: True)
    compiled.in_children(who, "abcd")
    assert seen() == [os.getpid()] * 4


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_lanes_call_openvino_side_by_side_and_get_the_same_bits() -> None:
    spec = SPECS["deeplab"]
    network, batch, answers = lived_in(build_network(spec), 2), inputs(spec, 2), []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2  # OpenVINO starts no more streams
    for count, streams, threads in ((2, min(2, cores), min(2, cores)), (1, 1, min(torch.get_num_threads(), cores))):
        runner = in_openvino(copy.deepcopy(network), batch[:1])
        with Lanes(count) as beside, torch.inference_mode():
            found = list(beside.answers(runner.network, [batch] * 4))
        assert isinstance(runner.network, compiled.Part)
        assert runner.network._compiled.get_property("NUM_STREAMS") == streams
        assert runner.network._compiled.get_property("INFERENCE_NUM_THREADS") == threads
        answers += found
    assert all(torch.equal(answers[0], answer) for answer in answers[:4])
    torch.testing.assert_close(answers[0], answers[-1], atol=2e-5, rtol=1e-4)


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_memory_is_let_go_of_only_between_calls() -> None:
    spec = SPECS["deeplab"]
    network = lived_in(build_network(spec), 2)
    batch = inputs(spec, 4)
    with torch.inference_mode():
        expected = network(batch)
    runner = in_openvino(network, batch[:1])

    def call(number: int) -> torch.Tensor:
        if number % 3 == 0:
            runner.release()  # the others may be in the middle of it
        return runner.network(batch)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(40)):
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert isinstance(runner.network, compiled.Part)
    runner.network(batch)
    assert runner.network._compiled is not None
    runner.release()
    assert runner.network._compiled is None


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_large_networks_stay_compiled_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is all detectors', since every study asks them all, or one grader's."""
    bundle = two_folds(tmp_path, ("canal", "recess", "foraminal"))
    monkeypatch.setattr("lumbar.prediction.networks.LARGE", 0)
    names = [member.name for member in bundle.manifest.members]
    networks = Networks(bundle, names, Engine("openvino"), CPU)

    def compiled_now(asked: str) -> set[str]:
        spec = bundle.member(asked).spec
        with torch.inference_mode():
            networks[asked](inputs(spec, 1))
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


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_openvino_grades_as_pytorch_does(tmp_path: Path, data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network for each fold and with weights swapped, in processes and in threads."""
    folds = two_folds(tmp_path, ("canal", "foramen", "recess", "foraminal"))
    expected = list(pipeline.predict(data, folds))
    monkeypatch.setattr("lumbar.prediction.pipeline.MANY", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    compiled.started.clear()
    for room in (2**30, 0):
        monkeypatch.setattr("lumbar.prediction.networks.CPU_ROOM", room)
        predictor = pipeline.Predictor(folds, engine="openvino")
        assert predictor.networks.swaps == (not room)
        found = list(pipeline.grade_all(predictor, data, list(data.study_ids)))
        assert compiled.started.is_set() == (not room)  # children compute where each fold has a network of its own
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(one.members, other.members, atol=1e-5)
            assert other.ran_on == "cpu, openvino float32"


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


def two_folds(folder: Path, names: Sequence[str]) -> Bundle:
    members = [
        Weights(f"{member.name}_fold{fold}", member.spec, member.state, fold=fold)
        for fold in range(2)
        for member in tiny_weights(seed=fold)
        if member.name in names
    ]
    return save_bundle(folder, members, prior=np.full((5, 5, 3), 1 / 3))


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two folds of everything."""
    return two_folds(tmp_path_factory.mktemp("folds"), [member.name for member in tiny_weights()])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms") / "data", studies=3))


def test_folds_swapped_through_one_network_answer_as_with_one_each(
    folds: Bundle, data: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # so that as many cores share a layer here and there
    roomy = list(pipeline.predict(data, folds))
    monkeypatch.setattr("lumbar.prediction.networks.CPU_ROOM", 0)
    monkeypatch.setattr("lumbar.prediction.predictor.TOGETHER", 2)
    predictor = pipeline.Predictor(folds)
    assert predictor.networks.swaps
    assert predictor.together == 2
    for one, other in zip(roomy, pipeline.predict(data, folds), strict=True):
        np.testing.assert_array_equal(one.members, other.members)
        assert one.keypoints == other.keypoints
        assert np.nanmax(np.abs(one.members[:4] - one.members[4:])) > 1e-4  # the folds do differ


def test_room_for_some_networks_only_bounds_their_memory(folds: Bundle) -> None:
    names = [member.name for member in folds.manifest.members]
    single = Networks(folds, names[:7], Engine("eager"), CPU)
    every = Networks(folds, names, Engine("eager"), CPU)
    assert every.nbytes == 2 * single.nbytes
    some = Networks(folds, names, Engine("eager"), CPU, room=single.nbytes * 3 // 2)
    assert some.swaps
    assert single.nbytes <= some.nbytes <= single.nbytes * 3 // 2


def test_regions_are_cut_once_and_a_stage_1_stack_is_never_repeated(
    folds: Bundle, data: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve graders share one cut of the regions; every detector sees each stack once."""
    cuts, stacks = [], []
    cut, call = lumbar.prediction.predictor.cut_regions, Networks.call

    def count(*arguments: object) -> object:
        cuts.append(arguments)
        return cut(*arguments)  # type: ignore[arg-type]

    def see(self: Networks, name: str, batch: torch.Tensor) -> torch.Tensor:
        stacks.extend((name, sample.numpy().tobytes()) for sample in batch)
        return call(self, name, batch)

    monkeypatch.setattr("lumbar.prediction.predictor.cut_regions", count)
    monkeypatch.setattr(Networks, "call", see)
    list(pipeline.predict(data, folds, study_ids=data.study_ids[:1]))
    assert len(cuts) == 1
    assert stacks
    assert len(set(stacks)) == len(stacks)
