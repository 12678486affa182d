"""The second place's arithmetic: every entry of its recorded numbers against what our public functions reckon; those of
crops are in `test_second_place_boxes.py`.

What differs, and why (`DIFFERS`; docs/systems/second_place.md says it at length):

- order: slices run from the patient's right to left, as everywhere here.
- middle: windows lie around the middle alike, where the original's even ones, and its padding, lean to one side.
- rounded: boxes are rounded where the original truncates them, up to two pixels of height or width, and a box that
  leaves the image repeats its border, which the original cuts off.
- grey: values are not cut to bytes, and images are resized by OpenCV's cubic interpolation.
- rows: a loss is divided by what its rows weigh, unlabelled ones nothing; of shares each severity weighs as it does.
- padding: slices that are padding learn that they show nothing, since the highest slice of all counts; how far they are
  off nobody asks, as in the original.
- valid: no network says whether a slice is the annotated one; that is what the finders of slices are for.
- drawn: crops are shifted at random, not to eight places.
"""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from lumbar import geometry
from lumbar.grading.intensity import Scales
from lumbar.grading.windows import spread
from lumbar.keypoints.answers.slices import rolling_place
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.chain import one_step
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.recipe.settings import Training
from lumbar.study.standardise import resize, slice_values
from lumbar.study.study import Study, open_data, read_study
from lumbar.training.loop import shared_losses
from lumbar.training.loop.detector_losses import LOSSES, Truth
from tests.conftest import ROOT

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
CANAL: Final = CONDITIONS[0]
#: Entries that agree, those that differ with the reasons above, and those that are compared elsewhere.
AGREES: Final = {"ian.bce_1_2_4", "ian.crop_x1_y1_x2_y2", "yuji.axial_boxes", "yuji.slice_choice"}
DIFFERS: Final = {
    "bartley.6": "order, grey, rounded",
    "bartley.7": "order, grey, rounded",
    "bartley.frames": "middle",
    "bartley.loss": "rows",
    "ian.bce_with_valid_slice": "valid",
    "ian.slice_sequence_loss": "padding",
    "ian.shift_px": "drawn",
    **dict.fromkeys(
        ("yuji.spinal_x0.3_y0.5", "yuji.spinal_x0.3_y0.7", "yuji.subarticular_x1_y0.7", "yuji.subarticular_x0.3_y2"),
        "rounded, grey",
    ),
    **dict.fromkeys(("yuji.foraminal_x0.7_y1", "yuji.foraminal_x1.5_y1"), "rounded, grey"),
}
ELSEWHERE: Final = {
    "team_blend": "test_by_hand.py",
    "yuji.blend": "test_by_hand.py",
    "noise_rule": "test_clean_up.py",
}
#: What the entries were reckoned with.
GIVEN: Final = {
    "bartley.given_points_T2",
    "bartley.given_points_T1",
    "yuji.image",
    "ian.labels",
    "ian.logits",
    "ian.valid",
}
#: What each of Artley's series tells: here, and in test_second_place_boxes.py the crops.
OF_SERIES: Final = {"instance_numbers_in_order", "series_percentiles_1_99", "native_shape", "stage1_uint8"} | {
    "crops",
    "crop_array_shape",
    "crop_mean_all",
}
SIDE: Final = 512


@cache
def recorded(*place: str) -> Any:
    path = PARITY / "second" / "geometry.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the second place")
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in place:
        content = content[key]
    return content


@cache
def recipe() -> Recipe:
    return load_recipe(ROOT / "recipes" / "second_place.toml")


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def study(cc0_study: Path) -> Study:
    data = open_data(cc0_study)
    return read_study(data, data.study_ids[0])


def test_every_recorded_entry_is_compared() -> None:
    content = recorded()
    parts = ("bartley", "ian", "yuji")
    entries = {f"{part}.{name}" for part in parts for name in content[part]} | content.keys() - {*parts}
    assert entries == AGREES | DIFFERS.keys() | ELSEWHERE.keys() | GIVEN
    for number, more in (("6", {"disc_angle_degrees"}), ("7", set())):
        assert content["bartley"][number].keys() == OF_SERIES | more


def test_graders_look_around_the_points_of_their_author() -> None:
    sets = recipe().stage1.sets
    assert not {*sets["yuji_artley"]} & {*sets["pan"]}
    assert {"axial_boxes", "t2_ends"} <= {*sets["yuji_artley"]}
    assert {"axial_points", "t2_sequence"} <= {*sets["pan"]}
    for name, member in recipe().stage2.members.items():
        assert member.spec.sets == (("pan",) if name.startswith("p_") else ("yuji_artley",))
    for name in sets["pan"]:  # in every fold somebody finds what his graders look at
        kind = recipe().stage1.members[name].spec
        alike = [each for each in sets["pan"] if one_step(recipe().stage1.members[each].spec, kind)]
        assert {fold for each in alike for fold in recipe().folds_of(each)} == set(range(5))


# ---- slices --------------------------------------------------------------------------------------------------------


def test_slices_run_the_other_way_and_grey_ranges_are_the_recorded_ones(study: Study) -> None:
    for kind, name in (("sagittal_t2", "6"), ("sagittal_t1", "7")):
        told, series = recorded("bartley", name), study.series[kind][0]  # type: ignore[index]
        spec = recipe().stage2.members["b_su"].spec
        assert [item.instance for item in series.slices] == told["instance_numbers_in_order"][::-1]
        assert list(series.slices[0].shape) == told["native_shape"] == [SIDE, SIDE]
        scales = Scales(lambda item, spec=spec: slice_values(item, spec.preprocessing)[0])
        low, high = scales.of_series(series, spec.region_of(spec.views[0]))
        assert [low, high] == pytest.approx(told["series_percentiles_1_99"], abs=0.5)
        means = []
        for item in series.slices:
            image = np.clip((scales.images(item) - low) / (high - low), 0, 1) * 255
            means.append(float(resize(image.astype(np.float32), told["stage1_uint8"]["shape"][0]).mean()))
        np.testing.assert_allclose(means[::-1], told["stage1_uint8"]["mean_per_slice"], rtol=0.02)


def test_windows_lie_around_the_middle_alike() -> None:
    leaning = 0
    for case, told in recorded("bartley", "frames").items():
        count, frames = (int(number) for number in case.split("->"))
        leaning += told.get("pad_left") != told.get("pad_right") or (count - frames) % 2 == 1
        own = spread(count, frames)
        np.testing.assert_array_equal(count - 1 - own[::-1], own)
        odd = geometry.window_indices(count, frames | 1)
        if count % 2:
            np.testing.assert_array_equal(count - 1 - odd[::-1], odd)
    assert leaning == 5


def test_the_highest_mean_of_five_slices_is_the_recorded_one() -> None:
    told = recorded("yuji", "slice_choice")
    shares = np.repeat(np.array(told["given"])[None, None], 2 * len(LEVELS), axis=1)
    shares[:, len(LEVELS) :] = shares[:, len(LEVELS) :, ::-1]
    place, sure = rolling_place(shares)
    assert set(place[0, : len(LEVELS)]) == {told["chosen_index"]}
    assert set(place[0, len(LEVELS) :]) == {len(told["given"]) - 1 - told["chosen_index"]}
    highest = max(value for value in told["rolling_mean_5_centred"] if value is not None)
    assert sure[0, 0] == pytest.approx(5 * highest / sum(told["given"]))


# ---- losses --------------------------------------------------------------------------------------------------------


def test_severities_asked_apart_cost_as_recorded() -> None:
    told, logits = recorded("ian"), normal(82, 5, 4)
    targets = shared_losses.distributions(torch.tensor(told["labels"]))
    total, weight = shared_losses.odds_loss(logits[:, :3], targets)
    assert float(total) / len(logits) == pytest.approx(told["bce_1_2_4"], rel=1e-5)
    assert float(weight) == 2 * 1 + 2 + 2 * 4  # two normal ones, a moderate one, two severe ones
    valid = torch.tensor(told["valid"]) > 0
    total, _ = shared_losses.odds_loss(logits[valid][:, :3], targets[valid])
    flag = nnf.binary_cross_entropy_with_logits(logits[:, 3], torch.tensor(told["valid"]))  # differs: not asked
    assert float(total / valid.sum() + flag) == pytest.approx(told["bce_with_valid_slice"], rel=1e-5)


def test_shares_cost_as_recorded_where_they_are_labels() -> None:
    told, logits = recorded("bartley", "loss"), normal(81, 6, 3)
    targets, weights = torch.tensor(told["targets"]).clamp_min(0), torch.tensor(told["weights_used"])
    hard = targets.amax(-1) == 1
    own = [float(shared_losses.distribution_loss(row, target)[0]) for row, target in zip(logits, targets, strict=True)]
    theirs = -(targets * logits.log_softmax(-1)).sum(-1) * weights
    assert float(theirs.sum()) / len(logits) == pytest.approx(told["loss"], rel=1e-4)  # differs: the masked row counts
    np.testing.assert_allclose(np.array(own)[hard], theirs[hard], rtol=1e-5)
    assert own[4] == 0  # without a label
    assert (np.array(own)[2:4] > theirs[2:4].numpy()).all()  # differs: the share of the severer one weighs as severe


def test_slices_of_a_sequence_cost_as_recorded_where_they_are_there() -> None:
    """Pan's: five scores and five distances a slice; as stacks of two slices, of which the second is there."""
    told = recorded("ian", "slice_sequence_loss")
    there = ~torch.tensor(told["padding_mask"])
    said, wanted = normal(83, 2, 4, 10)[there], (normal(84, 2, 4, 10)[there] > 0).float()
    spec = recipe().stage1.members["t2_sequence"].spec.model_copy(update={"in_chans": 2})
    second = torch.tensor([[False, True]]).expand(len(said), -1)
    # with its label on the second slice that is 0 off, on the first one 1, as far as all that are there reach
    truth = Truth(spec, Training(), torch.zeros(len(said), 5, 2), 1 - wanted[:, 5:], there=second)
    lesson, scores = wanted[:, :5, None], said[:, :5, None]
    plain, count = LOSSES["slices"]["bce"]({"answer": scores}, replace(truth, lesson=lesson))
    assert float(plain / count) == pytest.approx(told["cls_loss"], rel=1e-5)
    distances = torch.stack([torch.full_like(said[:, 5:], 9.0), said[:, 5:]], dim=-1)
    both, _ = LOSSES["slices"]["bce"]({"answer": scores, "distances": distances}, replace(truth, lesson=lesson))
    assert float((both - plain) / count) == pytest.approx(told["dist_loss"], rel=1e-5)
    assert float(both / count) == pytest.approx(told["loss"], rel=1e-5)
    empty = {"answer": torch.cat([torch.full_like(scores, 9.0), scores], dim=-1)}
    taught = torch.cat([torch.zeros_like(lesson), lesson], dim=-1)
    counted, _ = LOSSES["slices"]["bce"](empty, replace(truth, lesson=taught))
    assert counted > 2 * plain  # differs: padding that is said to show something
