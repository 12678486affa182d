"""The fourth place's arithmetic: every entry of its recorded numbers against what our public functions reckon.

What differs, and why (`DIFFERS`; docs/systems/fourth_place.md says it at length):

- nothing between: where no slice lies between the sides, none is named, where the original takes the outermost ones.
- half a pixel: pixel centres are whole numbers, so that a similarity lies half a pixel off.
- rounded: boxes are rounded, not truncated, up to one pixel, and the image's border is repeated where they leave it.
- whole: a target is a whole Gaussian, in steps of no 255th, which the original's ends after 22 pixels.
- mm: distances are millimetres, not shares of width and height mixed; one to a level farther off counts by its steps.
- by name: points are told by name, so that no order of theirs puts a crop or its slice elsewhere.
- there: a full stack has no padding, and padding never counts.
- percentiles: black and white are percentiles of the pixels, since the tags of the window may be missing or wrong.

Two entries are compared where their functions are: `test_grading_boxes.py` and `test_fourth_place.py`.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from lumbar import geometry
from lumbar.grading.boxes import neighbour_mm
from lumbar.keypoints.answers import heatmaps, slices
from lumbar.keypoints.places import Known, stacks_for
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.region import RegionSpec
from lumbar.study.keypoint import Keypoint, SlicePlace
from lumbar.study.slices import find_slice
from lumbar.study.standardise import slice_values
from lumbar.study.study import open_data, read_study
from lumbar.training.loop import targets
from tests.conftest import ROOT
from tests.support.small_study import axial, sagittal, small_study
from tests.test_grading_boxes import box_of, near, spots

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
#: Entries that agree, and those that differ with the reasons above; the last are blends', not this file's.
AGREES: Final = {"axial_level_slices", "decode_tattaka"}
DIFFERS: Final = {
    "t1_side_slices": "nothing between",
    "axial_similarity": "half a pixel",
    "sagittal_crops_yu4u": "rounded",
    "target_patch_sigma6": "whole",
    "target_patch_sigma9": "whole",
    "crops_tattaka_sagittal": "mm, rounded",
    "crops_tattaka_axial: as evaluation.py feeds it": "by name",
    "crops_tattaka_axial: as training meant it": "mm, rounded",
    "pad_mask_exp107": "there",
    "volume_tattaka_cc0_series6": "percentiles",
    "image_yu4u_cc0_series6_middle": "percentiles",
}
NO_FUNCTIONS: Final = {"how", "crops_tattaka_axial: note", "stackers_yu4u"}


@cache
def recorded(entry: str = "") -> Any:
    path = PARITY / "fourth" / "arithmetic.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the fourth place")
    content = json.loads(path.read_text(encoding="utf-8"))
    return content[entry] if entry else content


def finder(kind: str, decode: str, count: int, **fields: Any) -> DetectorSpec:
    whole: dict[str, Any] = {"answer": "slices", "place": "whole", "points": "series", "num_classes": 10}
    return DetectorSpec(**whole, series_type=kind, decode=decode, in_chans=count, image_size=64, **fields)


def scores_of(classes: list[int], count: int) -> np.ndarray:
    """(1, C, T) of a network that is sure of the class of each slice."""
    return 9 * np.eye(count, dtype=np.float32)[classes].T[None]


def test_every_recorded_entry_is_compared() -> None:
    assert set(recorded()) - NO_FUNCTIONS == AGREES | DIFFERS.keys()


def test_levels_lie_where_the_class_changes() -> None:
    told = recorded("axial_level_slices")
    raw = np.log(np.maximum(told["probabilities"], 1e-30)).T[None].astype(np.float32)
    found = slices.read(finder("axial_t2", "change", 12), raw).points[0, :, 2]
    expected = np.where(told["kept"], told["index"], np.nan)
    np.testing.assert_array_equal(found, [*expected, *expected])


def test_a_level_that_no_slice_shows_is_not_there() -> None:
    """Not found is no number: the original's -0 is a place."""
    found = slices.read(finder("axial_t2", "change", 8), scores_of([2, 2, 3, 3, 4, 4, 5, 5], 6))
    assert np.isnan(found.points[0, :2]).all()
    assert found.points[0, 2:5, 2].tolist() == [1, 3, 5]
    assert found.confidence[0, :2].tolist() == [0, 0]


def test_sides_lie_beside_the_slices_between_them() -> None:
    """Slices run from the patient's right to the left."""
    for case in recorded("t1_side_slices"):
        classes = case["argmax_of_first_two_classes"]
        found = slices.read(finder("sagittal_t1", "sides", len(classes)), scores_of(classes, 2)).points[0, :, 2]
        if not any(classes):  # differs: nobody knows where the sides lie
            assert np.isnan(found).all()
        else:
            right, left = case["slices"]
            assert found.tolist() == [left] * 5 + [right] * 5


@pytest.mark.parametrize(("kind", "decode", "classes"), [("axial_t2", "change", 6), ("sagittal_t1", "sides", 2)])
def test_empty_slices_are_of_no_class(kind: str, decode: str, classes: int) -> None:
    raw = np.random.default_rng(2).normal(size=(3, classes, 9)).astype(np.float32) * 4
    longer = np.concatenate([raw, np.full((3, classes, 4), np.nan, np.float32)], -1)
    plain, padded = (slices.read(finder(kind, decode, each.shape[-1]), each) for each in (raw, longer))
    np.testing.assert_array_equal(padded.points, plain.points)
    np.testing.assert_array_equal(padded.confidence, plain.confidence)
    longer[1, 0, 3] = np.nan
    assert not slices.read(finder(kind, decode, 13), longer).found[1].any()


def test_classes_are_taught_so_that_labels_are_read_again() -> None:
    """Slices from head to feet or the other way; T1's sides, whichever comes first."""
    levels = torch.tensor([[2.0, 5, 8, 11, 14], [13, 11, 8, 5, 2]])
    classes = targets.passed_levels(levels.repeat(1, 2), 18)
    for own, places in zip(classes, levels, strict=True):
        found = slices.read(finder("axial_t2", "change", 18), scores_of(own.tolist(), 6)).points[0, :5, 2]
        assert np.abs(found - places.numpy()).max() <= 1
    sides = torch.tensor(
        [[9.0] * 5 + [3.0] * 5, [10, 10, 11, 12, 12, torch.nan, 2, 2, 2, 2], [torch.nan] * 5 + [3.0] * 5]
    )
    classes = targets.between_sides(sides, 14)
    assert classes[2].tolist() == [-1] * 14
    for own, right, left in zip(classes, (3, 2), (9, 11), strict=False):
        found = slices.read(finder("sagittal_t1", "sides", 14), scores_of(own.tolist(), 2)).points[0, :, 2]
        assert found.tolist() == [left] * 5 + [right] * 5


def test_points_lie_where_rows_and_columns_hold_most() -> None:
    told, grid = recorded("decode_tattaka"), np.arange(64.0)

    def blob(x: float, y: float, two_variances: float) -> np.ndarray:
        return np.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / two_variances)

    peaks = ((30, 8, 3, 0.9), (29.4, 20.6, 4, 0.8), (27, 33, 3, 0.29), (26, 45, 5, 0.6), (28, 57, 2, 0.95))
    maps = np.stack([a * blob(x, y, 2 * s * s) + 0.01 for x, y, s, a in peaks])
    maps[3] += 0.5 * blob(50, 44, 18)
    spec = DetectorSpec(series_type="sagittal_t2", image_size=64, decode="sums")
    found = heatmaps.read(spec, maps[None].astype(np.float32)).points[0, :, :2] / 64
    expected = np.array(told["keypoints_xy"])
    np.testing.assert_allclose(found, np.where(expected < 0, np.nan, expected))


@pytest.mark.parametrize("sigma", [6, 9])
def test_targets_are_gaussians_as_recorded_within_a_byte(sigma: int) -> None:
    told = recorded(f"target_patch_sigma{sigma}")
    (own,) = targets.heatmaps(torch.tensor([[[5.0, 40.0]]]), 64, sigma)[0].numpy() * 255
    placed = told["placed_at_x5_y40_in_64"]
    row, column = np.array(placed["row40"]), np.array(placed["column5"])
    assert np.abs(own[40] - row)[: 5 + 22].max() <= 1
    assert np.abs(own[:, 5] - column)[40 - 22 : 40 + 22].max() <= 1
    beyond = own[40, 5 + 22 :]
    assert not row[5 + 22 :].any()  # differs: theirs ends
    assert (beyond > 0).all()
    assert beyond[0] == pytest.approx(255 * np.exp(-(22**2) / (2 * sigma**2)), rel=1e-5)


def test_sagittal_crops_are_as_large_as_levels_are_apart_whatever_the_image() -> None:
    told = recorded("crops_tattaka_sagittal")
    rows, columns = 200, 180
    shares = dict(zip(LEVELS, told["keypoints_xy"], strict=True))
    there = {level: (x * columns, y * rows) for level, (x, y) in shares.items() if x >= 0}
    keypoints, region = spots("sagittal_t2", there), RegionSpec(box="levels", extent=(2.0, 2.0))
    points = {level: np.array(place) for level, place in there.items()}
    for level, half, box in zip(LEVELS, told["half_side"], told["boxes_x1y1x2y2"], strict=True):
        assert (half is None) == (level not in there)  # a level that is not found has no crop
        if half is None:
            continue
        (x1, y1, x2, y2), placed = box_of("sagittal_t2", level, keypoints, region, (rows, columns))
        own = neighbour_mm(points, level)
        assert placed.size_mm == (2 * own, 2 * own)
        assert near(((x1 + x2) / 2, (y1 + y2) / 2), there[level])
        if level in ("l1_l2", "l5_s1"):  # its one neighbour is found: as high as theirs, which is narrower
            assert abs(own - half * rows) < 0.2
            assert own > half * columns + 2
            clipped = np.clip([x1, y1, x2, y2], 0, [columns, rows] * 2)
            assert near(clipped[[1, 3]], np.array(box)[[1, 3]])
        else:  # differs: half of the way to the level after the next counts, too
            steps = [np.linalg.norm(points["l4_l5"] - points["l2_l3"]) / 2]
            steps.append(np.linalg.norm(np.subtract(*(points[each] for each in _next_to(level)))))
            assert own == pytest.approx(np.mean(steps))


def _next_to(level: str) -> tuple[str, str]:
    return ("l1_l2", "l2_l3") if level == "l2_l3" else ("l4_l5", "l5_s1")


def test_axial_crops_lie_around_their_own_points_in_any_order() -> None:
    """Two crops as large as the recesses are apart, around the slice of the level: as training meant it."""
    meant = recorded("crops_tattaka_axial: as training meant it")
    fed = recorded("crops_tattaka_axial: as evaluation.py feeds it")
    (x_l, y_l, x_r, y_r, index), size = meant["numbers"][0], 160
    volume = np.random.RandomState(443).random_sample((12, size, size)).astype(np.float32)
    left, right = (
        spots("axial_left", {"l3_l4": (x_l * size, y_l * size)}),
        spots("axial_right", {"l3_l4": (x_r * size, y_r * size)}),
    )
    means = []
    for keypoints in (left | right, right | left):
        for view, (x, y) in (("axial_left", (x_l, y_l)), ("axial_right", (x_r, y_r))):
            region = RegionSpec(box="pair", extent=(2.0, 2.0))
            (x1, y1, x2, y2), placed = box_of(view, "l3_l4", keypoints, region, (size, size))  # type: ignore[arg-type]
            assert placed.turn == 0
            assert placed.size_mm[0] / 2 / size == pytest.approx(meant["half_side"])
            assert abs(placed.size_mm[0] / 2 / size - fed["half_side"]) > 0.02  # differs: by name
            assert near(((x1 + x2) / 2, (y1 + y2) / 2), (x * size, y * size))
            means.append(float(volume[index - 2 : index + 3, y1:y2, x1:x2].mean()))
    assert means[:2] == means[2:]
    np.testing.assert_allclose(means[:2], meant["mean"], atol=2e-3)


def test_the_first_slice_has_no_last_one_as_its_neighbour() -> None:
    """The window of a level on the first slice repeats it, where an index of -1 means the last one."""
    series = axial(heights=((0.0, 4.0, 8.0, 12.0),))
    place = SlicePlace("left_subarticular_stenosis", "l3_l4", series.series_id, series.slices[0].instance, 1.0)
    spec = DetectorSpec(series_type="axial_t2", place="found", num_classes=2, in_chans=3, image_size=64)
    known = Known(slices={(place.condition, place.level): place})
    (stack,), issues = stacks_for(small_study(axial_t2=(series,)), spec, known)
    assert [item.instance for item in stack.window.slices if item is not None] == [1, 1, 2]
    assert [issue.code for issue in issues if issue.code != "slice_missing"][:1] == ["window_repeated"]


def test_foramina_are_not_sought_on_the_middle_slice_where_nobody_named_theirs() -> None:
    """Points of a whole T1 series stand on its middle; a U-Net then looks beside it, and says so."""
    series = sagittal(2, 11)
    middle = series.slices[5]
    spec = DetectorSpec(
        series_type="sagittal_t1", place="found", unfound="middle", in_chans=3, image_size=64, offset_mm=14.0
    )
    for chosen, expected in (("middle", [9, 3]), ("answer", [6, 6])):
        points = {
            (condition, level): Keypoint(
                condition, level, 2, middle.instance, (30.0, 40.0), (0.0, 0.0, 20.0), 1.0, 1.0, 1.0, slice_from=chosen
            )
            for condition in CONDITIONS[1:3]
            for level in LEVELS
        }
        stacks, issues = stacks_for(small_study(sagittal_t1=(series,)), spec, Known(points))
        assert [stack.centre.instance for stack in stacks] == expected
        assert {issue.code for issue in issues} == ({"slice_guessed"} if chosen == "middle" else set())


def test_grey_values_are_the_recorded_ones_between_other_ends(cc0_study: Path) -> None:
    """The pixels agree where the window of the headers is taken, and the order where it is turned round."""
    whole, one = recorded("volume_tattaka_cc0_series6"), recorded("image_yu4u_cc0_series6_middle")
    data = open_data(cc0_study)
    study, spec = read_study(data, data.study_ids[0]), finder("sagittal_t1", "sides", 20)
    series = study.series_by_id(6)
    assert series is not None
    ordered = series.ordered(spec.preprocessing.order)
    x = [item.affine[0, 3] for item in ordered]
    assert x == sorted(x)  # from right to left
    assert [item.instance for item in ordered[::-1]] == whole["order"]
    low, high = whole["windowed_min_max"]
    values = np.stack([slice_values(item, spec.preprocessing)[0] for item in ordered])
    grey = (values.clip(low, high) - low) / (high - low)
    scaled = (grey - grey.min()) / (grey.max() - grey.min())
    assert scaled.mean() == pytest.approx(whole["mean"], abs=1e-4)
    assert scaled.std() == pytest.approx(whole["std"], abs=1e-4)
    found = find_slice(study, 6, one["file"])
    assert found is not None
    middle = grey[ordered.index(found[1])]
    assert middle.mean() == pytest.approx(one["mean"], abs=1e-4)
    assert geometry.common_normal(series.affines, 0)[0] > 0.9
