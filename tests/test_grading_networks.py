"""Graders: tasks, what every network keeps, what cannot be built."""

import pytest
import torch

from lumbar.bundle.network import noise
from lumbar.compute.forward import asked
from lumbar.grading.networks.mil import GatedAttention
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.networks.slice_pool import ExtremePool
from lumbar.grading.tasks import TASKS
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW
from tests.support.contract import GraderContract, SeeingContract, fixed_weights
from tests.support.grader_kinds import (
    CANAL,
    KINDS,
    LEFT_FORAMEN,
    LEFT_RECESS,
    RIGHT_FORAMEN,
    RIGHT_RECESS,
    small_grader,
)

SMALL = {"backbone_args": {"channels": [8, 8, 16, 16]}, "image_size": 32, "slices": 3, "rnn_hidden": 8}


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


class TestSliceChannels(SeeingContract):
    """The seventh place's: slices are channels; of one side."""

    spec = small_grader(
        views=["sagittal_t1_left"], conditions=[LEFT_FORAMEN], network="slice_channels", network_args={"hidden": 16}
    )
    golden = [0.1577, 0.08078, 0.07775, 0.25313, 0.13398, 0.11805]


class TestSliceChannelsOfFiveLevels(SeeingContract):
    """A bi-LSTM along the levels, and neighbours as further channels."""

    spec = small_grader(
        views=["sagittal_t2"],
        conditions=[CANAL],
        network="slice_channels",
        levels="all",
        rnn_layers=2,
        region={"neighbours": True},
        network_args={"hidden": 16},
    )
    golden = [-0.06715, 0.01417, -0.0645, -0.07038, -0.07224, -0.07555]


class TestSliceChannelsBehindAGate(SeeingContract):
    """Both sides' foramina, told apart by their names alone."""

    spec = small_grader(
        views=["sagittal_t1_left", "sagittal_t1_right"],
        conditions=[LEFT_FORAMEN, RIGHT_FORAMEN],
        network="slice_channels",
        network_args={"hidden": 16, "gate": True},
    )
    golden = [0.10582, 0.05526, 0.14575, 0.13465, 0.12272, 0.10836]


class TestSliceChannelsOfThreeViews(SeeingContract):
    """The seventh place's first model: the canal's view is the recesses', too, and axial slices have neighbours."""

    spec = small_grader(
        views=["sagittal_t2", "sagittal_t1_left", "sagittal_t1_right", "axial_middle"],
        conditions=list(CONDITIONS),
        network="slice_channels",
        regions={"axial_middle": {"neighbours": True, "slices": 2, "size": [24, 32]}},
        network_args={"hidden": 16, "features": 6, "gate": True},
    )
    golden = [-0.0563, 0.14953, 0.03139, 0.21153, 0.06766, 0.15955]


class TestSliceChannelsJoinedWithASide(SeeingContract):
    """Its axial hybrid, of one side."""

    spec = small_grader(
        views=["sagittal_t2_left", "axial_left"],
        conditions=[LEFT_RECESS],
        network="slice_channels",
        levels="all",
        regions={"axial_left": {"slices": 2}},
        network_args={"hidden": 16, "features": 6, "fuse": "join"},
    )
    golden = [-0.08574, 0.18615, 0.03915, 0.03192, -0.34254, 0.05211]


@pytest.mark.parametrize("case", [TestSliceChannelsOfFiveLevels, TestSliceChannelsJoinedWithASide])
def test_a_level_that_was_not_seen_says_nothing_to_the_others(case):
    torch.manual_seed(0)
    network = build_grader(case.spec).eval()
    views, seen = noise(case.spec, 1)
    first = next(iter(views))
    other = {**views, first: views[first].clone()}
    other[first][:, 2] = 3 * torch.randn_like(other[first][:, 2])
    with torch.inference_mode():
        assert not torch.allclose(network(views, seen)[:, 1], network(other, seen)[:, 1])
        seen[:, 2, 0] = False
        torch.testing.assert_close(network(views, seen), network(other, seen))


def test_of_more_or_fewer_slices_as_channels_the_nearest_count():
    spec = TestSliceChannels.spec
    network = build_grader(spec).eval()
    views, seen = noise(spec, 1)
    with torch.inference_mode():
        one = views["sagittal_t1_left"][:, :, :1]
        again = network({"sagittal_t1_left": one.repeat(1, 1, 3, 1, 1, 1)}, seen)
        torch.testing.assert_close(network({"sagittal_t1_left": one}, seen), again)
        plain = network(views, seen)
        twice = views["sagittal_t1_left"].repeat_interleave(2, dim=2)
        torch.testing.assert_close(network({"sagittal_t1_left": twice}, seen), plain)


def test_a_gate_tells_conditions_of_one_view_apart():
    spec = TestSliceChannelsOfThreeViews.spec
    network = build_grader(spec).eval()
    views, seen = noise(spec, 1)
    with torch.inference_mode():
        canal, *_, left, right = network(views, seen)[0, 0]
    assert not torch.allclose(canal, left)
    assert not torch.allclose(left, right)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"views": ["sagittal_t2"], "conditions": [LEFT_RECESS, RIGHT_RECESS]},
            "several conditions of sagittal_t2 alike; set network_args gate = true",
        ),
        ({"views": ["axial_left"], "conditions": [LEFT_RECESS]}, "no sagittal view of left_subarticular_stenosis; add"),
        (
            {"views": ["sagittal_t2", "sagittal_t1"], "conditions": [CANAL]},
            "grades no condition on sagittal_t1; leave it out of its views",
        ),
        (
            {
                "views": ["sagittal_t2", "sagittal_t1_left"],
                "conditions": [CANAL, LEFT_FORAMEN],
                "regions": {"sagittal_t2": {"slices": 5}},
            },
            "sees sagittal_t2, sagittal_t1_left by one backbone; give them the same size",
        ),
        (
            {"views": ["sagittal_t2"], "conditions": [CANAL], "network_args": {"fuse": "join"}},
            "'fuse' joins sagittal with axial views; add one",
        ),
        (
            {"views": ["sagittal_t2", "axial_middle"], "conditions": [CANAL], "network_args": {"fuse": "sum"}},
            'fuse = \'sum\' is no way to fuse; write "add" or "join"',
        ),
        (
            {"views": ["sagittal_t2"], "conditions": [CANAL], "levels": "all", "network_args": {"hidden": 15}},
            "hidden = 15 cannot be used; give an even whole number",
        ),
    ],
)
def test_slices_as_channels_that_cannot_be_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        build_grader(small_grader(network="slice_channels", **fields))


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
