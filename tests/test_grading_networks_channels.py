"""Graders whose slices are channels: the seventh place's."""

import pytest
import torch

from lumbar.bundle.network import noise
from lumbar.grading.networks.registry import build_grader
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from tests.support.contract import SeeingContract
from tests.support.grader_kinds import (
    CANAL,
    LEFT_FORAMEN,
    LEFT_RECESS,
    RIGHT_FORAMEN,
    RIGHT_RECESS,
    small_grader,
)


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
