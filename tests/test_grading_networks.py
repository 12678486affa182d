"""Graders: tasks, what every network keeps, what cannot be built."""

import pytest
import torch

from lumbar.bundle.network import noise
from lumbar.compute.forward import asked
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.tasks import TASKS
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW
from tests.support.contract import GraderContract, SeeingContract
from tests.support.grader_kinds import (
    KINDS,
    SMALL,
    small_grader,
)


def test_tasks_answer_every_condition_once_split_and_once_global():
    split = [condition for name in ("spinal", "foraminal", "subarticular") for condition in TASKS[name].conditions]
    assert split == list(CONDITIONS)
    assert TASKS["global"].conditions == CONDITIONS


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_samples_of_a_task_have_one_layout_and_every_condition_sees_its_own_view(task):
    for sample in task.samples:
        assert len(sample.views) == len(task.encoders)
        assert len(sample.conditions) == task.num_conditions
        assert all(OWN_VIEW[condition] in sample.views for condition in sample.conditions)


class TestSpinalGru(GraderContract):
    spec = GraderSpec(task="spinal", **SMALL)
    golden = [-0.0293, 0.17699, -0.15605, -0.17753, 0.1838, -0.14447]


class TestGlobalGru(GraderContract):
    spec = GraderSpec(task="global", **SMALL)
    golden = [-0.0145, 0.13089, 0.22434, 0.07006, -0.20361, 0.00535]


class TestSpinalMil(GraderContract):
    spec = GraderSpec(task="spinal", network="mil", **SMALL)
    golden = [0.08117, 0.00167, 0.08181, 0.08204, 0.07882, 0.08356]


class TestGlobalMil(GraderContract):
    spec = GraderSpec(task="global", network="mil", **SMALL)
    golden = [0.00729, 0.07712, 0.00252, -0.02298, 0.16614, 0.02946]


class TestBagsOfTwoViews(GraderContract):
    """Views of different sizes."""

    spec = KINDS["bags of slices"].model_copy(update={"network": "slice_bags"})
    golden = [-0.08489, 0.0251, -0.08924, -0.05599, -0.10831, -0.09114]


class TestBagsOfOneView(GraderContract):
    spec = GraderSpec(task="subarticular", network="slice_bags", **SMALL)
    golden = [-0.07787, 0.04029, -0.03004, -0.12014, -0.08366, -0.03071]


class TestBagsOnConvNext(GraderContract):
    """Whose head norm is left out."""

    spec = GraderSpec(
        task="global",
        network="slice_bags",
        backbone="convnext_atto",
        image_size=32,
        network_args={"hidden": 12, "layers": 1},
        backbone_args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    )
    golden = [-0.01933, 0.1036, 0.00823, 0.15838, 0.05931, 0.16936]

    def test_the_backbone_has_no_norm_behind_its_last_stage(self) -> None:
        for encoder in build_grader(self.spec).encoders:
            assert not [name for name, _ in encoder.backbone.named_parameters() if name.startswith("head.")]


class TestGruBothWays(GraderContract):
    """The seventh place's, of one view."""

    spec = GraderSpec(task="foraminal", network_args={"bidirectional": True, "dropout": 0.2}, **SMALL)
    golden = [0.10117, 0.05459, 0.03811, 0.1611, 0.10451, 0.03983]


class TestLstmAlongSlices(GraderContract):
    """Two views, whose features stand side by side."""

    spec = GraderSpec(task="spinal", network="lstm", **SMALL)
    golden = [-0.00568, 0.31493, -0.16367, 0.44646, -0.35673, -0.06477]


class TestLstmOfSides(GraderContract):
    """The sixth place's: the canal from the middle slices, each side from its half; neighbours as channels."""

    spec = small_grader(
        views=["sagittal_series"],
        conditions=list(CONDITIONS),
        network="lstm",
        slices=7,
        region={"neighbours": True, "box": "share", "intensity": "minmax"},
        network_args={"sides": True},
    )
    golden = [-0.01268, 0.16084, -0.035, -0.14134, -0.00018, 0.09793]


class TestTransformerOfTheMean(SeeingContract):
    """The third place's class A, without asking which level it is."""

    spec = GraderSpec(
        task="global",
        network="transformer",
        network_args={"level_head": False, "dropout": [0.1, 0.5]},
        **{**SMALL, "image_size": 64},  # the power of a mean over a single pixel learns nothing
    )
    golden = [0.01402, 0.15257, -0.21779, 0.07555, -0.16638, -0.19518]


class TestTransformerOfWeighedSlices(SeeingContract):
    """Its V8, of one side."""

    spec = KINDS["a side from outside in"].model_copy(
        update={
            "network": "transformer",
            "network_args": {"pool": "attention", "inner": 16, "reduction": 8},
            "image_size": 64,
        }
    )
    golden = [-0.06079, 0.23573, -0.06668, 0.30502, -0.06646, 0.30791]


class TestTransformerThatAsksEverySlice(SeeingContract):
    """Its V9, of views of different sizes and slices."""

    spec = KINDS["five levels at once"].model_copy(
        update={
            "network": "transformer",
            "network_args": {"pool": "attention", "slice_head": True, "reduction": 8},
            "image_size": 64,
        }
    )
    golden = [-0.01103, 0.13988, -0.02401, 0.10641, -0.14573, -0.08593]


def test_a_transformer_says_in_training_what_losses_may_ask():
    spec = GraderSpec(task="global", network="transformer", **{**SMALL, "network_args": {"slice_head": True}})
    found = asked(build_grader(spec).train(), noise(spec, 2))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "severity": (2, 1, 5, 3),
        "slice_scores": (2, 1, 15, 5, 3),
        "level": (2, 1, 5),
    }


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"pool": "sum"}, 'pool = \'sum\' cannot be used; give "mean" or "attention"'),
        ({"slice_head": 1}, "slice_head = 1 cannot be used; give true or false"),
        ({"heads": 3}, "gives 16 features, which 3 heads cannot share; set heads"),
    ],
)
def test_a_transformer_with_other_arguments_is_refused(args, words):
    with pytest.raises(InputError, match=words):
        build_grader(GraderSpec(task="spinal", network="transformer", **{**SMALL, "network_args": args}))


@pytest.mark.parametrize(
    "network", ["attention", "condition_attention", "group_lstm", "slice_channels", "slice_pool", "transformer"]
)
def test_a_network_that_goes_by_seen_answers_numbers_without_any_view(network):
    args = {"gate": True} if network == "slice_channels" else {}
    spec = GraderSpec(task="global", network=network, network_args=args, **SMALL)
    views, seen = noise(spec, 2)
    assert build_grader(spec).eval()(views, torch.zeros_like(seen)).isfinite().all()


def test_slices_folded_into_the_batch_give_the_numbers_of_a_loop_over_slices():
    torch.manual_seed(0)
    network = build_grader(GraderSpec(task="global", **SMALL)).eval()
    views = torch.randn(2, 5, 3, 32, 32)
    pooled = []
    with torch.inference_mode():
        for place, index in enumerate(TASKS["global"].encoders):
            encoder = network.encoders[index]
            slices = [encoder.backbone(views[:, place, number : number + 1]) for number in range(3)]
            pooled.append(encoder.rnn(torch.stack(slices, dim=1))[0].mean(dim=1))
        logits = network.head(torch.cat(pooled, dim=1)).reshape(2, 3, 5).transpose(1, 2)
        named = {name: views[:, None, place, :, None] for place, name in enumerate(network.views)}
        assert torch.allclose(network(named, torch.ones(2, 1, 5, dtype=torch.bool))[:, 0], logits, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "unknown"}, "unknown grading network 'unknown'; known: .*gru"),
        ({"backbone": "resnet999"}, "timm cannot build backbone 'resnet999': there is no network of that name"),
        ({"backbone_args": {"colour": 1}}, "timm cannot build backbone 'resnet18': .*colour"),
        ({"backbone": "hf-hub:someone/model"}, "names a place to load from; give the plain name"),
        ({"backbone_args": {"pretrained": True}}, "'pretrained', which loads weights by itself; leave it out"),
        ({"backbone_args": {"pretrained_cfg": {"url": "x"}}}, "'pretrained_cfg', which loads weights"),
    ],
)
def test_graders_that_cannot_be_built_are_refused_in_one_sentence(fields, words):
    with pytest.raises(InputError, match=words):
        build_grader(GraderSpec(task="spinal", **fields))
