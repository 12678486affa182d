"""Graders that pool slices, by whatever rule, and LSTMs of groups of conditions."""

import pytest
import torch

from lumbar.bundle.network import noise
from lumbar.compute.forward import asked
from lumbar.grading.networks.mil import GatedAttention
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.networks.slice_pool import ExtremePool
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec
from tests.support.contract import SeeingContract
from tests.support.grader_kinds import (
    KINDS,
    SMALL,
)

POOLED = {key: value for key, value in SMALL.items() if key != "network_args"}


class TestPoolByOneLayer(SeeingContract):
    """The fourth place's single-view classifier, of two views here."""

    spec = GraderSpec(task="spinal", network="slice_pool", **POOLED)
    golden = [-0.09952, 0.43563, -0.36676, 0.08636, 0.09612, -0.84946]


class TestPoolOfExtremes(SeeingContract):
    """The second place's MIL; ConvNeXt's head norm is left out."""

    spec = GraderSpec(
        task="foraminal",
        network="slice_pool",
        backbone="convnext_atto",
        image_size=32,
        backbone_args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        network_args={"features": "max_mean", "pool": "max_mean"},
    )
    golden = [0.33435, 1.52421, 0.84763, -1.35325, 1.31365, 1.77632]


class TestPoolByMish(SeeingContract):
    args = {"features": "gem", "pool": "mish", "inner_dropout": 0.1, "dropout": 0.5}
    spec = GraderSpec(task="subarticular", network="slice_pool", **{**POOLED, "image_size": 64}, network_args=args)
    golden = [9.71369, 120.55187, -113.7655, 20.50725, 122.2006, -144.83075]


class TestPoolByGates(SeeingContract):
    """An attention of its own for every severity of every condition."""

    args = {"features": "mean", "pool": "gated"}
    spec = GraderSpec(task="global", network="slice_pool", **POOLED, network_args=args)
    golden = [6.22426, 26.17437, 16.01899, -28.62254, 31.26983, -12.48643]


class TestPoolOfTokens(SeeingContract):
    spec = GraderSpec(
        task="spinal",
        network="slice_pool",
        backbone="xcit_nano_12_p8_224",
        image_size=32,
        slices=2,
        backbone_args={"embed_dim": 16, "depth": 1, "num_heads": 2},
        network_args={"features": "mean", "pool": "mean"},
    )
    golden = [-0.05469, 0.4327, 0.35247, 0.01069, -0.57796, 0.49041]


def test_a_bag_of_extremes_is_the_maximum_and_the_mean_over_slices():
    slices = torch.tensor([[[1.0, 8.0], [5.0, 2.0]]])
    assert ExtremePool()(slices).tolist() == [[[5.0, 5.0]]]


@pytest.mark.parametrize("features", ["avg", "gem", "mean", "max_mean"])
@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "test_convnext", "test_vit"])
def test_slices_are_pooled_whatever_comes_behind_a_backbones_maps(features, backbone):
    """A head that widens features, one that norms them, and tokens."""
    args = {"features": features, "pool": "max_mean" if features == "max_mean" else "gated"}
    sized = {"img_size": 32} if backbone == "test_vit" else {}
    spec = GraderSpec(
        task="spinal",
        network="slice_pool",
        backbone=backbone,
        backbone_args=sized,
        image_size=32,
        slices=2,
        network_args=args,
    )
    assert asked(build_grader(spec).eval(), noise(spec, 1)).shape == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"pool": "sum"}, 'pool = \'sum\' cannot be used; give one of "mean", "linear"'),
        ({"features": "cls"}, 'features = \'cls\' cannot be used; give one of "avg", "gem"'),
        ({"pool": "max_mean"}, "pool = 'max_mean' needs features = 'max_mean'"),
    ],
)
def test_a_pool_of_slices_with_other_arguments_is_refused(args, words):
    with pytest.raises(InputError, match=words):
        build_grader(GraderSpec(task="spinal", network="slice_pool", **POOLED, network_args=args))


class TestGroupsOfConditions(SeeingContract):
    """The second place's three heads, of conditions in another order than its groups."""

    spec = GraderSpec(
        views=["sagittal_t2"],
        conditions=[*CONDITIONS[3:], *CONDITIONS[:3]],
        network="group_lstm",
        **POOLED,
    )
    golden = [-0.01268, 0.41851, 0.01304, 0.52218, -0.47148, 0.27463]

    def test_a_slice_without_contrast_is_not_attended_to(self) -> None:
        network = build_grader(self.spec).eval()
        slices, there = torch.randn(1, 3, 16), torch.tensor([[True, True, False]])
        pool = network.along[0].pool
        with torch.inference_mode():
            torch.testing.assert_close(pool(slices, there), pool(slices[:, :2]))
        seen: list[torch.Tensor] = []
        network.along[0].register_forward_pre_hook(lambda _, given: seen.append(given[1]))
        views, shown = noise(self.spec, 1)
        views["sagittal_t2"][:, :, -1] = 1
        network(views, shown)
        assert torch.equal(seen[0], there)


class TestOneGroupOfTwoViews(SeeingContract):
    spec = GraderSpec(
        views=["sagittal_t1_left", "axial_left"],
        conditions=CONDITIONS[1:2],
        network="group_lstm",
        network_args={"hidden": 8},
        **POOLED,
    )
    golden = [0.69686, 0.5064, 1.18396, 0.79174, 0.04616, 1.1987]


def test_groups_whose_lstm_cannot_be_halved_are_refused():
    args = {"channels": [8, 8, 16, 15]}
    with pytest.raises(InputError, match="gives 15 features; set an even hidden in network_args"):
        build_grader(GraderSpec(task="spinal", network="group_lstm", **{**POOLED, "backbone_args": args}))


def test_bags_are_asked_view_by_view_and_which_slice_is_annotated_in_training_only():
    spec = KINDS["bags of slices"].model_copy(update={"network": "slice_bags"})
    network = build_grader(spec)
    found = asked(network.train(), noise(spec, 2))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "severity": (2, 1, 1, 3),
        "views": (2, 1, 2, 1, 3),
        "annotated_slice": (2, 1, 6),
    }
    alone = build_grader(GraderSpec(task="subarticular", network="slice_bags", **SMALL))
    assert "views" not in asked(alone.train(), noise(GraderSpec(task="subarticular", **SMALL), 2))


def test_a_bag_is_asked_slice_by_slice_in_training_only():
    network_spec = GraderSpec(task="global", network="mil", **SMALL)
    network = build_grader(network_spec)
    inputs = noise(network_spec, 2)
    found = asked(network.train(), inputs)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "severity": (2, 1, 5, 3),
        "slices": (2, 1, 3, 5, 3),
    }
    assert isinstance(asked(network.eval(), inputs), torch.Tensor)


def test_attention_weighs_the_slices_of_a_bag():
    attention = GatedAttention(2, 1)
    with torch.no_grad():
        attention.value.weight[:], attention.value.bias[:] = torch.tensor([[100.0, 0.0]]), 0.0
        attention.gate.weight[:], attention.gate.bias[:] = 0.0, 100.0
        attention.weight.weight[:] = 50.0
    bag = torch.tensor([[[-1.0, 3.0], [1.0, 7.0], [-1.0, 5.0]]])  # the second slice is the one that is sick
    assert torch.allclose(attention(bag), torch.tensor([[1.0, 7.0]]))
