"""The sixth place's arithmetic: every entry of its first member's recorded numbers against what our public functions
reckon, and what its recipe says of one network that sees T1 and T2 alike.

What differs, and why (`DIFFERS`; docs/systems/sixth_place.md says it at length):

- short: a series shorter than its window lies in the window's middle, both borders repeated alike, where the original
  repeats the last slice alone: its mirror image would give other slices.
- rounded: boxes are rounded, not truncated, up to one pixel, and lie around the middle of their pixel.
- unlabelled: a label that is missing counts nowhere, in a crop model's loss neither as an error nor in what that is
  divided by.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from lumbar.ensemble.objective import loss_and_gradient
from lumbar.grading.grade import speaks
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.regions import cut_regions
from lumbar.grading.tasks import task_of
from lumbar.grading.windows import sagittal_slices
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, mirrored, side_of
from lumbar.metric import UNLABELLED
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.recipe.region import RegionSpec
from lumbar.recipe.settings import Training
from lumbar.training.loop.detector_losses import LOSSES, Truth
from lumbar.training.loop.shared_losses import severity_loss
from tests.conftest import ROOT
from tests.support.contract import fixed_weights
from tests.support.grader_kinds import small_grader
from tests.support.small_study import sagittal, small_study
from tests.test_grading_boxes import Spot, box_of, near, spots

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
#: Entries that agree, those that differ with the reasons above, and those of the second member, which is not built.
AGREES: Final = {"theo_coords_loss"}
DIFFERS: Final = {"theo_frames": "short", "theo_crops": "rounded", "theo_losses": "unlabelled"}
LEFT_OUT: Final = "darragh_"


@cache
def recorded(entry: str = "") -> Any:
    path = PARITY / "sixth" / "arithmetic.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the sixth place")
    content = json.loads(path.read_text(encoding="utf-8"))
    return content[entry] if entry else content


@cache
def recipe() -> Recipe:
    return load_recipe(ROOT / "recipes" / "sixth_place.toml")


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def test_every_recorded_entry_of_the_first_member_is_compared() -> None:
    entries = {name for name in recorded() if not name.startswith(LEFT_OUT)}
    assert entries - {"how"} == AGREES | DIFFERS.keys()


def places(count: int, at: int, slices: int) -> list[int]:
    """The slices of a window around a slice, as places in a series of so many, neighbours with them."""
    series, rules = sagittal(1, count), Preprocessing(window_end="inside")
    region = RegionSpec(around="point", neighbours=True)
    spec = small_grader(
        views=["sagittal_t2"], conditions=CONDITIONS[:1], slices=slices, region=region, preprocessing=rules
    )
    level, middle = "l3_l4", series.slices[at].affine[:3, 3]

    class At(Spot):
        @property
        def mm(self) -> tuple[float, float, float]:
            return float(middle[0]), float(middle[1]), float(middle[2])

    found = sagittal_slices(small_study(sagittal_t2=[series]), series, "sagittal_t2", level, At((0.0, 0.0)), {}, spec)
    assert found is not None
    return [series.slices.index(item) for item in found.slices if item is not None]


def test_frames_are_the_recorded_ones_with_their_neighbours_as_channels() -> None:
    short = []
    for case in recorded("theo_frames")["cases"]:
        count, slices = case["max_frame"] + 1, case["n_frames"]
        found = places(count, min(case["frame"], count - 1), slices)
        assert len(found) == 3 * slices
        if 1 < count < slices + 2:  # differs: in the middle of the window, not at its beginning
            short.append(case)
            assert found[1::3] == np.clip(np.arange(slices) + (count - slices) // 2, 0, count - 1).tolist()
            assert [count - 1 - place for place in found[::-1]] == found
        else:
            assert found == case["frames"]
    assert len(short) == 1


def test_boxes_are_the_recorded_ones() -> None:
    told = recorded("theo_crops")
    width, height = told["width"], told["height"]
    for (x, y), expected in zip(told["keypoints_xy"], told["boxes_x1y1x2y2"], strict=True):
        keypoints = spots("sagittal_t2", {"l3_l4": (x * width, y * height)})
        region = RegionSpec(box="share", extent=(2 * told["delta"],) * 2)
        found, _ = box_of("sagittal_t2", "l3_l4", keypoints, region, (height, width))
        assert near(np.clip(found, 0, [width, height] * 2), expected)  # differs: rounded; its border is repeated


def test_points_are_learnt_in_hundredths() -> None:
    told = recorded("theo_coords_loss")
    points = torch.tensor([told["targets"]] * 2, dtype=torch.float32)
    points[points == -1] = torch.nan
    member = recipe().stage1.members["t2_points"]
    spec, weight = member.spec, member.losses["squared"]
    assert isinstance(spec, DetectorSpec)
    truth = Truth(spec, Training(), points * spec.image_size)
    answer = {"answer": normal(643, 2, 10).sigmoid().view(2, 5, 2)}
    total, count = LOSSES["points"]["squared"](answer, truth)
    assert float(total) * weight == pytest.approx(np.sum(told["per_point"]), rel=1e-5)
    assert int(count) == 8  # of ten, two without a label


def test_severities_are_learnt_unweighted_and_unlabelled_ones_count_nothing() -> None:
    told = recorded("theo_losses")
    labels, logits = torch.tensor(told["labels"])[:, :5], normal(642, 6, 25, 3)[:, :5]
    weighted = recipe().stage2.members["crop"].training.class_weights != "none"
    assert not weighted
    total, count = severity_loss(logits.contiguous(), labels.contiguous(), weighted=weighted)
    assert float(total) == pytest.approx(sum(told["series_first_five"]), rel=1e-5)
    assert float(total) == pytest.approx(told["series_mean"] * labels.numel(), rel=1e-5)
    assert int(count) == int((labels != -1).sum()) < labels.numel()  # differs: what the original divides by


def test_a_missing_label_has_no_weight_in_the_second_levels_loss() -> None:
    """The fault that is told of the original's denominator does not show in the recorded number."""
    told = recorded("theo_losses")
    labels, logits = np.array(told["labels"]), normal(642, 6, 25, 3).numpy().reshape(6, 5, 5, 3)
    labels[:, :5] = np.maximum(labels[:, :5], 0)  # as it was recorded: of the canal none is missing
    codes = np.where(labels < 0, UNLABELLED, labels).reshape(6, 5, 5)
    assert (codes == UNLABELLED).any()
    assert loss_and_gradient(logits, codes)[0] == pytest.approx(told["study_with_missing_unclamped"], abs=1e-5)


@pytest.fixture(scope="module")
def sided() -> tuple[GraderSpec, Any]:
    spec = small_grader(
        views=["sagittal_series"],
        conditions=CONDITIONS,
        network="lstm",
        slices=13,
        region={"neighbours": True},
        network_args={"sides": True, "delta": 2},
    )
    return spec, fixed_weights(build_grader(spec)).eval()


def answers(network: Any, slices: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network({"sagittal_series": slices}, torch.ones(1, 1, 1, dtype=torch.bool))[0, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("shown", "moved"),
    [
        ((0, 4), ("right",)),
        ((4, 6), ("right", "canal")),
        ((6, 7), ("right", "canal", "left")),
        ((7, 9), ("canal", "left")),
        ((9, 13), ("left",)),
    ],
)
def test_each_side_is_answered_from_its_own_slices(
    sided: tuple[GraderSpec, Any], shown: tuple[int, int], moved: tuple[str, ...]
) -> None:
    """Slices run from the patient's right to left; the canal is answered from two slices either way of the middle."""
    slices = torch.randn(1, 1, 13, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    other = slices.clone()
    other[:, :, slice(*shown)] += torch.randn(other[:, :, slice(*shown)].shape)
    away = (answers(sided[1], slices) - answers(sided[1], other)).abs().amax(-1)
    sides = {side_of(name) or "canal" for name, far in zip(CONDITIONS, away, strict=True) if far > 1e-5}
    assert sides == set(moved)


def test_sides_change_places_where_their_weights_do_and_the_series_is_mirrored(sided: tuple[GraderSpec, Any]) -> None:
    """A bi-LSTM read backwards is one whose directions are exchanged."""
    spec, network = sided
    state, twin = network.state_dict(), build_grader(spec).eval()
    mean_max = 2  # directions lie within the mean, and within the maximum

    def source(key: str) -> str:
        parts = key.split(".")
        if parts[2:3] == ["along"]:
            parts[3] = {"0": "0", "1": "2", "2": "1"}[parts[3]]
            parts[-1] = parts[-1].removesuffix("_reverse") if parts[-1].endswith("_reverse") else f"{parts[-1]}_reverse"
        elif parts[0] == "heads":
            parts[1] = {"0": "0", "1": "2", "2": "1"}[parts[1]]
        return ".".join(parts)

    def exchanged(key: str, value: torch.Tensor) -> torch.Tensor:
        if key.startswith("heads.") and key.endswith("weight"):
            return value.unflatten(1, (mean_max, 2, -1)).flip(2).flatten(1)
        return value

    twin.load_state_dict({key: exchanged(key, state[source(key)]) for key in state})
    slices = torch.randn(1, 1, 13, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    swapped = [CONDITIONS.index(mirrored(name)) for name in CONDITIONS]
    torch.testing.assert_close(answers(twin, slices.flip(2))[swapped], answers(network, slices), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"views": ["sagittal_t1_left"], "conditions": CONDITIONS[1:2]}, "sagittal_t1_left is none; leave them out"),
        ({"views": ["axial_middle"], "conditions": CONDITIONS[:1]}, "axial_middle is none; leave them out"),
        ({"views": ["sagittal_t2"], "conditions": CONDITIONS[:1], "slices": 6}, "make slices odd, and 5 or more"),
        ({"views": ["sagittal_t2"], "conditions": CONDITIONS[:1], "slices": 3}, "make slices odd, and 5 or more"),
    ],
)
def test_what_has_no_sides_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_grader(small_grader(**{"network": "lstm", "network_args": {"sides": True}, "slices": 7, **fields}))


def test_the_recipe_asks_one_network_of_t1_and_of_t2_apart() -> None:
    members = recipe().stage2.members
    assert {name for name in members if name not in recipe().stage2.bundled()} == {"crop", "crop_2"}
    for name in ("crop", "crop_2"):
        for kind in ("t1", "t2"):
            own = members[f"{name}_{kind}"]
            assert (own.training.begins_with, own.training.epochs) == (name, 0)
            assert own.spec.views == (f"sagittal_{kind}",)
            learnt = members[name].spec
            assert own.spec.region_of(own.spec.views[0]) == learnt.region_of("sagittal_series")
    assert recipe().blend.method == "cells"


def test_each_table_is_silent_where_its_series_is_missing_and_the_network_of_both_where_all_are() -> None:
    points = {
        (condition, level): Spot((15.0 * side, 10.0))
        for condition, side in ((CONDITIONS[1], 1), (CONDITIONS[2], -1))
        for level in LEVELS
    }
    t1 = small_study(sagittal_t1=(sagittal(2),))
    for study, expected in ((t1, {"crop": True, "crop_t1": True, "crop_t2": False}), (small_study(axial_t2=()), {})):
        for name in ("crop", "crop_t1", "crop_t2"):
            spec = recipe().stage2.members[name].spec
            regions = cut_regions(study, points, spec)
            said = {
                speaks(regions, spec, sample, condition, level)
                for sample in task_of(spec).samples
                for condition in sample.conditions
                for level in range(len(LEVELS))
            }
            assert said == {expected.get(name, False)}
