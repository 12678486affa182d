"""What the seventh place needed of the house: axial series that compete a side and level, slices so many millimetres
apart, samples around labelled points among those around found ones, a backbone of its own for axial slices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumbar.dicom.series import Series
from lumbar.grading.networks.registry import build_grader
from lumbar.issues import InputError
from lumbar.keypoints.detect import detect
from lumbar.keypoints.networks.registry import build_detector
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.stacks import channel_names
from lumbar.labels import CONDITIONS, LEVELS, side_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.settings import Training
from lumbar.study.keypoint import SlicePlace
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.loop.detector_objective import DetectorObjective
from tests.conftest import ROOT
from tests.support.contract import fixed_weights
from tests.support.grader_kinds import small_grader
from tests.support.small_study import axial, small_study
from tests.support.tiny_recipe import BACKBONE

RECIPE = ROOT / "recipes" / "small" / "seventh_place.toml"
LEFT, RIGHT = CONDITIONS[3:]
LEVELS_NETWORK: dict[str, Any] = {
    "series_type": "axial_t2",
    "network": "level_scores",
    "answer": "slices",
    "decode": "centroid",
    "place": "whole",
    "points": "series",
    "num_classes": 10,
    "in_chans": 8,
    "image_size": 64,
    "pad": True,
    "slice_mm": 4.0,
    "encoder": "resnet18",
    "encoder_args": BACKBONE,
    "network_args": {"hidden": 8, "inner": 8},
    "preprocessing": {"series": "all"},
}
PLACES: dict[str, Any] = {
    "series_type": "axial_t2",
    "network": "regressor",
    "answer": "points",
    "place": "found",
    "in_chans": 1,
    "num_classes": 2,
    "image_size": 64,
    "preprocessing": {"series": "all", "keypoints": "keep"},
}


def two_series() -> tuple[Series, Series]:
    """Six slices, and four."""
    return axial(3, [tuple(4.0 * n for n in range(6))]), axial(4, [tuple(4.0 * n for n in range(4))])


def of_levels(stacks: torch.Tensor) -> torch.Tensor:
    """Scores: all left points on the second slice, surer in the series of six; right ones on the fourth, in that of
    four."""
    six = ((stacks.amax((2, 3)) > stacks.amin((2, 3))).sum(1) == 6).float()[:, None]
    scores = torch.full((len(stacks), 2, 5, 8), -30.0)
    scores[:, 0, :, 1] = 1 + six
    scores[:, 1, :, 3] = 3 - 2 * six
    return scores.flatten(1, 2)


def in_the_middle(stacks: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[0.6, 0.5], [0.4, 0.5]]).repeat(len(stacks), 1, 1)


def outside(stacks: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[1.2, 0.5], [0.4, 0.5]]).repeat(len(stacks), 1, 1)


@pytest.mark.parametrize("apart", [True, False])
def test_axial_series_compete_for_each_side_of_each_level(apart: bool) -> None:
    study = small_study(axial_t2=two_series())
    levels = DetectorSpec(**LEVELS_NETWORK | {"preprocessing": {"series": "all", "keypoints": "keep"}})
    found, _ = detect(study, [(levels, of_levels), (DetectorSpec(**PLACES, apart=apart), in_the_middle)])
    places = {side_of(point.condition): (point.series_id, point.instance) for point in found}
    sure = {side_of(point.condition): point.confidence for point in found}
    assert len(found) == 2 * len(LEVELS)
    # Points say nothing of their own: they are as sure as the level network was of their slices, which has decided.
    assert sure == {"left": pytest.approx(1 / (1 + np.exp(-2))), "right": pytest.approx(1 / (1 + np.exp(-3)))}
    if apart:
        assert places == {"left": (3, 2), "right": (4, 4)}
    else:
        assert len({series for series, _ in places.values()}) == 1  # one series for both sides
    assert {point.mm[0] for point in found if point.condition == LEFT}.pop() > 0


def test_a_point_beyond_the_image_is_as_unsure_as_ever() -> None:
    study = small_study(axial_t2=two_series())
    levels = DetectorSpec(**LEVELS_NETWORK | {"preprocessing": {"series": "all", "keypoints": "keep"}})
    found, issues = detect(study, [(levels, of_levels), (DetectorSpec(**PLACES, apart=True), outside)])
    assert {point.confidence for point in found if point.condition == LEFT} == {0.0}
    assert "keypoint_low_confidence" in {issue.code for issue in issues}


def test_sides_on_one_slice_share_a_stack_and_those_apart_have_one_each() -> None:
    study, spec = small_study(axial_t2=two_series()), DetectorSpec(**PLACES, apart=True)
    slices = {(side, "l3_l4"): SlicePlace(side, "l3_l4", 3, 2, 1.0) for side in (LEFT, RIGHT)}
    (stack,), _ = stacks_for(study, spec, Known(slices=slices))
    assert (stack.side, channel_names(spec, stack.side, stack.level)) == (None, ((LEFT, "l3_l4"), (RIGHT, "l3_l4")))
    slices[RIGHT, "l3_l4"] = SlicePlace(RIGHT, "l3_l4", 3, 5, 1.0)
    left, right = stacks_for(study, spec, Known(slices=slices))[0]
    assert [left.centre.instance, right.centre.instance] == [2, 5]
    assert channel_names(spec, left.side, left.level) == ((LEFT, "l3_l4"), None)
    assert channel_names(spec, right.side, right.level) == (None, (RIGHT, "l3_l4"))


def test_empty_slices_show_no_level_and_cost_nothing() -> None:
    spec = DetectorSpec(**LEVELS_NETWORK)
    network = fixed_weights(build_detector(spec)).eval()
    stacks = torch.rand(2, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    stacks[1, 5:] = 0.0
    with torch.inference_mode():
        said = network(stacks).sigmoid()
    assert (said[1, :, 5:] == 0).all()
    assert (said[0] > 0).all()
    training = Training(loss={"bce": 1.0, "l1": 0.1})
    batch = {"image": stacks, "points": torch.full((2, 10, 2), 20.0), "slices": torch.full((2, 10), 4.0)}
    terms = DetectorObjective(spec, training).terms(network.train(), batch, train=True)
    assert all(float(term.total.detach() / term.weight) < 5 for term in terms.values())


def test_a_share_of_the_samples_lies_around_labelled_points(tmp_path: Path) -> None:
    spec = small_grader(views=["axial_left"], conditions=[LEFT], image_size=16, slices=1)
    for name, value, there in (("found", 1.0, [1, 1, 1, 1, 1]), ("labels", 2.0, [1, 1, 0, 1, 1])):
        arrays: dict[str, np.ndarray] = {}
        for view in ("axial_left", "axial_right"):
            arrays[view] = np.zeros((5, 1, 16, 16), np.uint8)
            arrays[f"{view}/range"] = np.tile(np.array([value, value + 1], np.float32), (5, 1))
            arrays[f"{view}/present"] = np.array(there, np.uint8)
        write_arrays(tmp_path / name / "7.safetensors", arrays)
    codes = {7: np.zeros((5, 5), np.int64)}
    training = Training(labelled_p=0.5)
    samples = RegionSamples(tmp_path / "found", [7], codes, spec, training, labelled=tmp_path / "labels")
    shown: dict[int, list[float]] = {}
    for place, (_, level, _, _) in enumerate(samples.rows.tolist()):
        assert samples.sample(place, None)["views"].min() == 1  # in validation around found ones
        for seed in range(40):
            values = samples.sample(place, np.random.default_rng([seed, place]))["views"]
            shown.setdefault(level, []).append(float(values.min()))
    assert set(shown[2]) == {1.0}  # nothing is labelled there
    rest = [value for level, values in shown.items() if level != 2 for value in values]
    assert 0.4 < np.mean(np.array(rest) == 2) < 0.6


FUSED: dict[str, Any] = {
    "views": ["sagittal_t2_left", "axial_left"],
    "conditions": [LEFT],
    "network": "slice_channels",
}


def test_axial_slices_may_pass_a_backbone_of_their_own() -> None:
    args = {"hidden": 8, "features": 8, "axial_backbone": "resnet10t", "axial_args": {}}
    network: Any = build_grader(small_grader(**FUSED, network_args=args))
    stems = ["conv1.0.weight" in each.backbone.state_dict() for each in network.encoders]
    assert stems == [False, True]  # resnet10t begins with three convolutions


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"axial_args": BACKBONE}, "'axial_args' are those of an axial_backbone; name one, or leave them out"),
        ({"axial_backbone": "resnet18"}, "'axial_backbone' sees axial views; add one of these, or leave it out"),
    ],
)
def test_what_no_axial_backbone_needs_is_refused(args: dict[str, Any], words: str) -> None:
    views = {"views": ["sagittal_t2_left"]} if "axial_backbone" in args else {}
    with pytest.raises(InputError, match=words):
        build_grader(small_grader(**{**FUSED, **views}, network_args=args))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stage1.members.axial_xy.place='plane'", "apart looks for the sides of an axial level on slices of their own"),
        ("stage1.members.axial_levels.pad=false", "slice_mm = 4 brings series to as many slices as they are long"),
        ("stage1.members.t2_2d.slice_mm=3.0", 'slice_mm = 3.0 holds for place = "whole" only'),
        ("stage1.members.axial_xy.labelled_p=0.5", "labelled_p chooses the keypoints of graders' regions"),
        ("stage2.members.t1.labelled_p=0.5", 'labelled_p has no effect beside keypoints = "labels"'),
        ("stage2.members.axial.slice_shift=[0.5, 0.5]", 'half with around = "point" has none'),
        ("stage2.members.axial.region.around='offset'", "half takes the slices of half a series; it needs"),
        ("stage1.members.axial_levels.decode='centre'", "centroid"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(change: str, words: str) -> None:
    with pytest.raises(InputError) as told:
        load_recipe(RECIPE, [change])
    assert words in str(told.value)
