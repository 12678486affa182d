"""Graders whose conditions know of each other: sequences of them, and attention between them."""

import pytest
import torch

from lumbar.bundle.network import noise
from lumbar.compute.forward import asked
from lumbar.grading.networks.registry import build_grader
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec
from tests.support.contract import SeeingContract, fixed_weights
from tests.support.grader_kinds import (
    KINDS,
    SMALL,
)


class TestGlobalAttention(SeeingContract):
    spec = GraderSpec(task="global", network="attention", **{**SMALL, "network_args": {"hidden": 16}})
    golden = [-0.02197, 0.09224, -0.13178, 0.18304, -0.02339, 0.16429]


class TestAttentionOfFiveLevels(SeeingContract):
    """Views of different sizes and slices, one with neighbours as channels."""

    spec = KINDS["five levels at once"].model_copy(update={"network": "attention", "network_args": {"hidden": 16}})
    golden = [-0.00763, 0.32846, -0.30417, 0.15801, -0.20811, -0.32432]


class TestAcrossConditions(SeeingContract):
    """The fifth place's grader, version 1."""

    spec = GraderSpec(task="global", network="condition_sequence", **SMALL)
    golden = [-0.00821, 0.13942, 0.03971, -0.13157, -0.03376, -0.25521]


class TestAcrossConditionsWithASkip(SeeingContract):
    """Its version 2, with a rate a head."""

    args = {"sequence": "skip", "dropout": [0.4, 0.2, 0.4]}
    spec = GraderSpec(task="global", network="condition_sequence", **{**SMALL, "network_args": args})
    golden = [-0.00609, 0.16483, 0.14886, -0.04015, 0.00338, -0.30868]


class TestAcrossTheSlicesOfConditions(SeeingContract):
    """Its version 3, of one side, whose conditions stand in another order."""

    spec = GraderSpec(
        views=["sagittal_t1_left", "axial_left"],
        conditions=["left_subarticular_stenosis", "left_neural_foraminal_narrowing"],
        network="condition_sequence",
        network_args={"sequence": "slices"},
        **{key: value for key, value in SMALL.items() if key != "network_args"},
    )
    golden = [0.00057, 0.09107, 0.08873, 0.08241, 0.09078, 0.08663]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network_args": {"sequence": "levels"}}, "sequence = 'levels' is none of features, skip, slices"),
        ({"network_args": {"dropout": [0.1, 0.2]}}, "dropout names 2 rates for the heads of 3 groups"),
        ({"task": "spinal"}, "condition_sequence sees each condition on its own view, and none on axial_middle"),
        (
            {
                "task": None,
                "views": ["sagittal_t1_left", "axial_left"],
                "conditions": ["left_neural_foraminal_narrowing", "left_subarticular_stenosis"],
                "regions": {"axial_left": {"size": [64, 64]}},
            },
            "one backbone of condition_sequence sees all views; give their regions one size",
        ),
    ],
)
def test_what_makes_no_sequence_of_conditions_is_refused_in_one_sentence(fields, words):
    with pytest.raises(InputError, match=words):
        build_grader(GraderSpec(**{"task": "global", "network": "condition_sequence", **SMALL, **fields}))


class TestConditionsAttend(SeeingContract):
    """The fourth place's transformer, its first form."""

    args = {"hidden": 16, "heads": 2, "inner": 16}
    spec = GraderSpec(task="global", network="condition_attention", **{**SMALL, "network_args": args})
    golden = [-0.06952, 0.69348, -0.88751, 1.07138, -0.66283, -0.23717]

    def test_a_slice_without_contrast_is_padding(self) -> None:
        network = fixed_weights(build_grader(self.spec)).eval()
        views, seen = noise(self.spec, 2)
        views["sagittal_t2"][:, :, -1] = 0
        other = {name: view.clone() for name, view in views.items()}
        other["sagittal_t2"][:, :, -1] = 3
        with torch.inference_mode():
            torch.testing.assert_close(network(views, seen), network(other, seen))
            other["sagittal_t2"][:, :, -1] = torch.randn(32, 32)
            assert not torch.allclose(network(views, seen), network(other, seen))

    def test_before_the_transformer_a_condition_sees_its_own_views_alone(self) -> None:
        network, (views, seen) = fixed_weights(build_grader(self.spec)).eval(), noise(self.spec, 2)
        network.training = True
        other = {**views, "axial_left": views["axial_left"] + torch.randn(2, 1, 3, 1, 32, 32)}
        with torch.inference_mode():
            plain, changed = (network(each, seen)["auxiliary"] for each in (views, other))
        moved = (plain != changed).any(-1).all(0)[0].tolist()
        assert moved == [name == "left_subarticular_stenosis" for name in CONDITIONS]

    def test_tokens_are_left_out_in_training_alone(self) -> None:
        spec = self.spec.model_copy(update={"network_args": {**self.args, "token_dropout": 0.9, "dropout": 0.0}})
        network, inputs = fixed_weights(build_grader(spec)), noise(spec, 2)
        torch.manual_seed(0)
        with torch.inference_mode():
            said = [network.train()(*inputs)["severity"] for _ in range(2)]
            assert not torch.allclose(*said)
            assert torch.equal(network.eval()(*inputs), network(*inputs))


class TestConditionsAttendByFeature(SeeingContract):
    """Its second form, of views of different slices, on channels that come last."""

    args = {"encoders": "one", "positions": "view", "weights": "feature", "auxiliary": "all"}
    spec = KINDS["a side from outside in"].model_copy(
        update={
            "network": "condition_attention",
            "network_args": {**args, "hidden": 16, "heads": 2, "inner": 16, "layers": 1},
            "backbone": "swinv2_cr_tiny_ns_224",
            "backbone_args": {"img_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
            "image_size": 64,
        }
    )
    golden = [-0.02949, 0.34397, -0.37356, 0.48178, -0.35601, 0.49061]


class TestConditionsAttendWithAnEncoderAView(SeeingContract):
    """Five levels, one view with neighbours as channels."""

    spec = KINDS["five levels at once"].model_copy(
        update={
            "network": "condition_attention",
            "network_args": {"encoders": "views", "auxiliary": "none", "hidden": 16, "heads": 2, "inner": 16},
        }
    )
    golden = [-0.09578, 0.70624, -1.11662, 1.01328, -0.84679, -0.08442]


def test_attending_conditions_say_in_training_what_the_auxiliary_loss_asks():
    spec = TestConditionsAttend.spec
    found = asked(build_grader(spec).train(), noise(spec, 2))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "severity": (2, 1, 5, 3),
        "auxiliary": (2, 1, 5, 3),
    }
    without = TestConditionsAttendWithAnEncoderAView.spec
    assert [*asked(build_grader(without).train(), noise(without, 1))] == ["severity"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network_args": {"encoders": "two"}}, 'encoders = \'two\' cannot be used; give one of "planes", "one"'),
        ({"network_args": {"hidden": 20}}, "hidden = 20 cannot be shared by 8 heads"),
        (
            {
                "task": None,
                "views": ["sagittal_t2", "sagittal_t1_left"],
                "conditions": ["left_neural_foraminal_narrowing"],
                "regions": {"sagittal_t2": {"size": [64, 64]}},
            },
            "one encoder sees sagittal_t2, sagittal_t1_left, whose regions differ in size or channels; make them alike",
        ),
    ],
)
def test_what_makes_no_attending_conditions_is_refused_in_one_sentence(fields, words):
    with pytest.raises(InputError, match=words):
        build_grader(GraderSpec(**{"task": "global", "network": "condition_attention", **SMALL, **fields}))
