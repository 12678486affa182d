"""Engines change how networks run, not what they answer; folds share one network and leave no trace in each other."""

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

import lumbar.grading.regions
import lumbar.prediction.networks
from lumbar.bundle.bundle import Bundle
from lumbar.bundle.network import build_network, noise
from lumbar.bundle.save import Weights, save_bundle
from lumbar.compute.engine import AT_ONCE, LARGE_SLICE, Engine, Runner, choose_engine
from lumbar.compute.forward import Inputs, asked, mapped
from lumbar.issues import InputError
from lumbar.prediction import schedule
from lumbar.prediction.networks import Networks
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.study.study import DataFolder, open_data
from tests.support.grader_kinds import KINDS, LEFT_RECESS, small_grader
from tests.support.worlds import detector_spec, grader_spec, small_phantoms, tiny_weights

CPU = torch.device("cpu")


def lived_in(network: nn.Module, seed: int) -> nn.Module:
    """A network whose norms have seen something, so that leaving one out would show."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for value in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert value is not None
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    return network.eval()


SPECS: dict[str, DetectorSpec | GraderSpec] = {
    "deeplab": detector_spec("sagittal_t2", 5, 5),
    "resnet": grader_spec("spinal"),
    "mil": grader_spec("spinal").model_copy(update={"network": "mil"}),
    "slice bags": KINDS["bags of slices"].model_copy(update={"network": "slice_bags"}),
    "lstm of sides": KINDS["every sagittal series"].model_copy(
        update={"network": "lstm", "network_args": {"sides": True, "delta": 1}}
    ),
    "volumes": DetectorSpec(
        series_type="sagittal_t2",
        network="convnext3d",
        answer="slices",
        place="whole",
        in_chans=9,
        image_size=32,
        network_args={"widths": [8, 16, 16], "depths": [1, 1, 1]},
    ),
    "inflated": DetectorSpec(
        series_type="sagittal_t2",
        network="regressor",
        answer="points",
        depth=True,
        place="whole",
        in_chans=32,
        image_size=32,
        encoder="densenet121",
        encoder_args={"growth_rate": 4, "block_config": [1, 1, 1, 1]},
        network_args={"volume": True},
    ),
    "slice_channels": small_grader(
        views=["sagittal_t2_left", "axial_left"],
        conditions=[LEFT_RECESS],
        levels="all",
        network="slice_channels",
        regions={"axial_left": {"neighbours": True}},
        network_args={"hidden": 16, "gate": True},
    ),
    "attention": KINDS["five levels at once"].model_copy(
        update={"network": "attention", "network_args": {"hidden": 16}}
    ),
    "transformer": KINDS["a side from outside in"].model_copy(
        update={"network": "transformer", "network_args": {"pool": "attention", "reduction": 8, "inner": 16}}
    ),
    "condition attention": KINDS["a side from outside in"].model_copy(
        update={"network": "condition_attention", "network_args": {"hidden": 16, "heads": 2, "inner": 16}}
    ),
    "slice pool": grader_spec("spinal").model_copy(
        update={"network": "slice_pool", "network_args": {"features": "gem", "pool": "gated"}}
    ),
    "group lstm": grader_spec("spinal").model_copy(update={"network": "group_lstm"}),
    "unet head": DetectorSpec(
        series_type="sagittal_t2",
        network="unet_head",
        place="whole",
        encoder="resnet18",
        encoder_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        in_chans=4,
        image_size=64,
        network_args={"channels": [24, 24, 12, 12, 12]},
    ),
    "frames": DetectorSpec(
        series_type="sagittal_t2",
        network="frames",
        answer="points",
        place="whole",
        encoder="resnet18",
        encoder_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        in_chans=4,
        image_size=64,
    ),
    "slices by transformer": DetectorSpec(
        series_type="axial_t2",
        network="slice_scores",
        answer="slices",
        place="whole",
        canal_distances=True,
        encoder="resnet18",
        encoder_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        in_chans=4,
        image_size=64,
        network_args={"along": "transformer", "features": "gem", "heads": 4, "distances": True},
    ),
    "points by gem": DetectorSpec(
        series_type="sagittal_t2",
        network="regressor",
        answer="points",
        ends=True,
        num_classes=10,
        encoder="resnet18",
        encoder_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        in_chans=3,
        image_size=64,
        network_args={"pool": "gem"},
    ),
    "conditions": GraderSpec(
        task="global",
        levels="all",
        network="condition_sequence",
        backbone_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        image_size=32,
        slices=3,
    ),
    "pointer": DetectorSpec(
        series_type="sagittal_t1",
        network="pointer",
        depth=True,
        place="whole",
        points="series",
        num_classes=10,
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        in_chans=4,
        image_size=64,
        network_args={"decoder_channels": [8] * 5, "pointer": "transformer", "pointer_hidden": 16},
    ),
    "convnext": GraderSpec(task="foraminal", backbone="convnext_atto", image_size=64, slices=3),
    "efficientnet": GraderSpec(task="foraminal", backbone="tf_efficientnet_lite0", image_size=64, slices=3),
}


def inputs(spec: DetectorSpec | GraderSpec, samples: int = 2) -> Inputs:
    return noise(spec, samples)


def first(batch: Inputs) -> Inputs:
    return mapped(lambda value: value[:1], batch)


@pytest.mark.parametrize("name", SPECS)
def test_folded_layers_give_the_same_answer(name: str) -> None:
    spec = SPECS[name]
    network = lived_in(build_network(spec), 2)
    batch = inputs(spec)
    with torch.inference_mode():
        expected = asked(network, batch)
    runner = Runner(network, Engine("fused", fused=True), first(batch))
    with torch.inference_mode():
        torch.testing.assert_close(asked(runner.network, batch), expected, atol=2e-5, rtol=1e-4)
    if name in ("deeplab", "resnet", "mil", "transformer"):
        assert runner.pairs
        assert not any(isinstance(module, nn.BatchNorm2d) for module in runner.network.modules())


@pytest.mark.parametrize("name", ["convnext", "resnet", "mil", "transformer", "conditions", "slice_channels"])
def test_slices_through_a_backbone_in_lots_give_the_same_answer(name: str) -> None:
    spec = SPECS[name]
    network, batch = lived_in(build_network(spec), 2), inputs(spec, 5)
    seen: list[int] = []
    for encoder in network.get_submodule("encoders").children():
        encoder.get_submodule("backbone").register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with torch.inference_mode():
        expected = asked(network, batch)
        whole, seen[:] = sum(seen), []
        for encoder in network.get_submodule("encoders").children():
            encoder.slices_at_once = 4
        torch.testing.assert_close(asked(network, batch), expected, atol=1e-6, rtol=0)
    assert max(seen) == 4
    assert sum(seen) == whole


def test_large_slices_go_through_a_backbone_in_lots_on_a_cpu() -> None:
    spec = SPECS["convnext"].model_copy(update={"image_size": LARGE_SLICE, "slices": 1})
    for word, at_once in (("eager", None), ("fused", AT_ONCE)):
        runner = Runner(build_network(spec), choose_engine(word, CPU), inputs(spec, 1))
        assert runner.copy().network.encoders[0].slices_at_once == at_once


@pytest.mark.parametrize("own", [{}, {"pointer_encoder": "tu-resnet18", "pointer_args": {"channels": [8, 8, 8, 8]}}])
def test_slices_of_a_whole_series_go_through_a_pointer_in_lots_and_answer_the_same(own: dict[str, object]) -> None:
    spec = DetectorSpec(
        series_type="sagittal_t2", network="pointer", depth=True, place="whole", pad=True, image_size=64, in_chans=12,
        num_classes=5, encoder="tu-resnet18", encoder_args={"channels": [8, 8, 8, 8]},
        network_args={"decoder_channels": [8] * 5, "pointer_hidden": 8, **own},
    )  # fmt: skip
    network = lived_in(build_network(spec), 5).eval()
    seen: list[int] = []
    network.get_submodule("encoder").register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    batch = noise(spec, 2)
    with torch.inference_mode():
        expected = asked(network, batch)
        network.slices_at_once = 5  # type: ignore[assignment]  # a number, no module
        torch.testing.assert_close(asked(network, batch), expected, atol=1e-6, rtol=1e-4)
    assert seen == [24, 5, 5, 5, 5, 4]


def test_another_folds_weights_take_the_place_of_the_first_whole() -> None:
    spec = SPECS["resnet"]
    one, second = lived_in(build_network(spec), 2), lived_in(build_network(spec), 3)
    batch, state = inputs(spec), second.state_dict()
    with torch.inference_mode():
        expected = asked(second, batch)
    runner = Runner(one, Engine("fused", fused=True), first(batch))
    runner.fill(state)
    with torch.inference_mode():
        torch.testing.assert_close(asked(runner.network, batch), expected, atol=2e-5, rtol=1e-4)


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
    state = copy.deepcopy(network.state_dict())
    whole = Runner(copy.deepcopy(network), Engine("fused", True), first(batch))
    runner = Runner(network, Engine("half", True, torch.bfloat16), first(batch))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = asked(whole.network, batch)
        assert torch.equal(asked(runner.network, batch), expected)
        runner.copy().fill({key: value + 1 for key, value in state.items()})  # a twin's weights are its own
        assert torch.equal(asked(runner.network, batch), expected)
    assert 0.5 * whole.nbytes <= runner.nbytes < 0.8 * whole.nbytes


#: It works tables out while it is built, which no state dict holds.
SWIN = GraderSpec(
    task="foraminal",
    backbone="swin_tiny_patch4_window7_224",
    backbone_args={"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    image_size=224,
    slices=1,
    rnn_hidden=8,
)


@pytest.mark.parametrize(
    "spec",
    [*SPECS.values(), SWIN],
    ids=[*SPECS, "swin"],
)
def test_a_network_of_a_bundle_is_filled_and_nothing_is_drawn_for_it(
    tmp_path: Path, spec: DetectorSpec | GraderSpec
) -> None:
    built = lived_in(build_network(spec), 2)
    weights = Weights("one", spec, built.state_dict())
    bundle = save_bundle(tmp_path, [weights], prior=np.full((5, 5, 3), 1 / 3), precision="float32")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    network = bundle.network("one")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not network.training
    batch = inputs(spec, 1)
    with torch.inference_mode():
        torch.testing.assert_close(asked(network, batch), asked(built, batch), atol=0, rtol=0)


def test_room_on_a_gpu_counts_what_torch_keeps_and_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("mem_get_info", (1000, 5000)), ("memory_reserved", 600), ("memory_allocated", 200)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert lumbar.prediction.networks._room(torch.device("cuda")) == int(1400 * 0.6)


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


@pytest.mark.slow
def test_folds_swapped_through_one_network_answer_as_with_one_each(
    folds: Bundle, data: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # so that as many cores share a layer here and there
    roomy = list(schedule.predict(data, folds))
    monkeypatch.setattr("lumbar.prediction.predictor.TOGETHER", 2)
    predictor = Predictor(folds, room=0)
    assert predictor.networks.swaps
    assert predictor.together == 2
    for one, other in zip(roomy, schedule.grade_all(predictor, data, list(data.study_ids)), strict=True):
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
    cut, call = lumbar.grading.regions.cut_regions, Networks.call

    def count(*arguments: object) -> object:
        cuts.append(arguments)
        return cut(*arguments)  # type: ignore[arg-type]

    def see(self: Networks, name: str, batch: torch.Tensor) -> torch.Tensor:
        stacks.extend((name, sample.numpy().tobytes()) for sample in batch)
        return call(self, name, batch)

    monkeypatch.setattr("lumbar.grading.regions.cut_regions", count)
    monkeypatch.setattr(Networks, "call", see)
    list(schedule.predict(data, folds, study_ids=data.study_ids[:1]))
    assert len(cuts) == 1
    assert stacks
    assert len(set(stacks)) == len(stacks)


# A library may come to want more of the compiler.
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_networks_that_were_loaded_without_the_compiler_can_be_compiled() -> None:
    """Whether what was loaded wants the compiler itself, or not; torch is loaded once for both."""
    lines = (
        "import os, sys, torch",
        "from lumbar.compute.uncompiled import without_compiler",
        "for wanted in ('timm', 'torch._dynamo.exc'):",
        "    if os.fork() == 0:",
        "        with without_compiler(): __import__(wanted)",
        "        print('torch._dynamo' in sys.modules)",
        "        print(torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(1)).item(), flush=True)",
        "        os._exit(0)",
        "    os.wait()",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "1.0", "True", "1.0"], done.stderr
