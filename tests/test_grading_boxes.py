"""Boxes and slices of regions against what other systems reckoned, where the folder of their numbers is there."""

import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar import geometry
from lumbar.grading import boxes
from lumbar.grading.points import Points
from lumbar.grading.windows import spread
from lumbar.labels import LEVELS, Level, level_title
from lumbar.recipe.region import Region, RegionSpec
from lumbar.recipe.views import OWN_VIEW, View
from tests.support.small_study import small_study

FOLDER = Path(os.environ.get("LUMBAR_PARITY", Path(__file__).resolve().parents[1].parent / "shared" / "parity"))
recorded_there = pytest.mark.skipif(not (FOLDER / "third").is_dir(), reason="the folder of recorded numbers is missing")
CONDITION_OF = {view: condition for condition, view in OWN_VIEW.items()}


@cache
def recorded(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Spot:
    """A point in a patient whose millimetres are the pixels of a picture."""

    xy_px: tuple[float, float]
    series_id: int = 1
    instance: int = 1
    repaired: bool = False
    size_mm: tuple[float, float] | None = None

    @property
    def mm(self) -> tuple[float, float, float]:
        return (*self.xy_px, 0.0)


def spots(view: View, places: dict[Level, tuple[float, float]]) -> dict[Any, Spot]:
    return {(CONDITION_OF[view], level): Spot(place) for level, place in places.items()}


def box_of(
    view: View, level: Level, keypoints: Points, region: RegionSpec, shape: tuple[int, int], spacing: float = 1.0
) -> tuple[tuple[int, int, int, int], boxes.Placed]:
    """(x1, y1, x2, y2) without the half pixel of pixel centres, which the others do not count, and the box."""
    frame = np.diag([spacing, spacing, 1.0, 1.0])
    point = keypoints[CONDITION_OF[view], level]
    whole = Region((64, 64), 5, (50.0, 50.0)).over(region)
    placed = boxes.placed(small_study(), view, level, point, keypoints, whole, shape, frame)
    assert placed is not None
    at = geometry.to_pixel(frame, point.mm)
    middle = boxes.middle_px((float(at[0]), float(at[1])), placed, (spacing, spacing))
    return geometry.box_px(middle, placed.size_mm, (spacing, spacing)), placed


def near(found: Any, expected: Any, most: float = 1.0) -> bool:
    return bool(np.abs(np.subtract(found, expected)).max() <= most)


FIRST = {
    "scs_sagT2": ("sagittal_t2", (80, 128), (-32, 0), (-32, 20)),
    "nfn_sagT1_right": ("sagittal_t1_right", (64, 160), (-16, 0), (-16, 10)),
    "nfn_sagT1_left": ("sagittal_t1_left", (64, 160), (-16, 0), (-16, 10)),
    "ss_axial_right": ("axial_right", (192, 192), (48, 0), None),
    "ss_axial_left": ("axial_left", (192, 192), (48, 0), None),
}


@recorded_there
@pytest.mark.parametrize("name", FIRST)
def test_first_places_crops_are_shares_of_the_image(name: str) -> None:
    view, extent, shift, last = FIRST[name]
    share = {"extent": tuple(side / 512 for side in extent), "shift": tuple(side / 512 for side in shift)}
    if last is not None:
        share["shift_l5_s1"] = tuple(side / 512 for side in last)
    count = 0
    for key, crop in recorded("first/geometry.json")["severity_crops"].items():
        kind, _, title = key.rpartition("_")
        if kind != name:
            continue
        level = next(level for level in LEVELS if level_title(level) == title)
        keypoints = spots(view, {level: tuple(map(float, crop["point_px"]))})
        (x1, y1, x2, y2), _ = box_of(view, level, keypoints, RegionSpec(box="share", **share), (512, 512))
        assert [y1, y2, x1, x2] == crop["box_top_bottom_left_right_in_512"]
        count += 1
    assert count


THIRD = {
    "v8": {"6": ((40.0, 60.0), (0.0, 0.0)), "8": ((80.0, 70.0), (0.0, 0.0))},
    "v9": {"6": ((35.0, 50.0), (0.0, -5.0)), "8": ((45.0, 75.0), (0.0, 5.0))},
    "v11": {"6": ((36.0, 45.0), (-5.0, -3.5)), "8": ((45.0, 75.0), (0.0, 5.0))},
}


@recorded_there
@pytest.mark.parametrize("name", THIRD)
def test_third_places_crops_are_millimetres_one_of_them_along_the_canal(name: str) -> None:
    record = recorded("third/geometry.json")
    spacing = record["stack"]["6"]["pixel_spacing"][0]
    extent, shift = THIRD[name]["6"]
    given = record["given_sagittal_points_normalised"]["6"]
    places = {level: tuple(512 * spacing * share for share in given[level_title(level)]) for level in LEVELS}
    keypoints = spots("sagittal_t2", places)
    rotate = "canal" if name == "v11" else "none"
    for level in LEVELS:
        region = RegionSpec(extent=extent, shift=shift, rotate=rotate)
        found, placed = box_of("sagittal_t2", level, keypoints, region, (512, 512), spacing)
        expected = record["boxes"]["6"][level_title(level)][name]
        if name != "v11":
            left, right, top, bottom = expected["left_right_top_bottom"]
            assert found == (left, top, right, bottom)
            continue
        corners = _corners(placed, places[level], spacing)
        assert near(corners, np.stack([expected["corners_x"], expected["corners_y"]], axis=1), 1e-3), level
    extent, shift = THIRD[name]["8"]
    spacing = record["stack"]["8"]["pixel_spacing"][0]
    centre = tuple(512 * spacing * share for share in record["boxes"]["8"]["given_centre_normalised"])
    axial = spots("axial_left", {"l3_l4": centre})
    found, _ = box_of("axial_left", "l3_l4", axial, RegionSpec(extent=extent, shift=shift), (512, 512), spacing)
    left, right, top, bottom = record["boxes"]["8"][name]["left_right_top_bottom"]
    assert near(found, (left, top, right, bottom), 1 if name == "v11" else 0)


def _corners(box: boxes.Placed, point: tuple[float, float], spacing: float) -> np.ndarray:
    """(4, 2) px: top left, top right, bottom right, bottom left."""
    middle = boxes.middle_px((point[0] / spacing, point[1] / spacing), box, (spacing, spacing))
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [box.size_mm[1], box.size_mm[0]] / 2 / spacing
    turn = np.array([[np.cos(box.turn), -np.sin(box.turn)], [np.sin(box.turn), np.cos(box.turn)]])
    return np.array(middle) + half @ turn.T


@recorded_there
def test_third_places_spline_and_slices() -> None:
    record = recorded("third/geometry.json")
    given = record["given_sagittal_points_normalised"]["6"]
    points = np.array([[512 * share for share in given[level_title(level)]] for level in LEVELS])
    along, samples = boxes.spline(points)
    found = np.column_stack([samples, along])[[0, 50, 99]]
    assert near(found, record["boxes"]["6"]["spline_first_mid_last"], 1e-3)
    for key, chosen in record["equal_interval_selection"].items():
        count, num = map(int, key.split("->"))
        assert spread(count, num).tolist() == chosen, key
    for width, columns in record["axial_side_columns"].items():  # 60 % of the width, whichever way it is rounded
        box = boxes.placed(
            small_study(),
            "axial_left",
            "l3_l4",
            Spot((0.0, 0.0)),
            {},
            Region((64, 64), 5, (int(width), int(width)), half=True),
            (512, 512),
            np.eye(4),
        )
        assert box is not None
        middle = int(width) / 2 + box.shift_mm[0]
        assert near((middle - box.size_mm[1] / 2, middle + box.size_mm[1] / 2), columns["left"])


@recorded_there
def test_fourth_places_similarity_puts_both_points_where_they_belong() -> None:
    """Half a pixel off, since pixel centres are whole numbers here."""
    for case in recorded("fourth/arithmetic.json")["axial_similarity"]:
        right, left = (case["x1"], case["y1"]), (case["x2"], case["y2"])  # the patient's right is at the image's left
        keypoints = spots("axial_left", {"l3_l4": left}) | spots("axial_right", {"l3_l4": right})
        region = Region((case["size"],) * 2, 5, (2.0, 2.0), box="pair")
        middle = Spot(((left[0] + right[0]) / 2, (left[1] + right[1]) / 2))
        box = boxes.placed(small_study(), "axial_middle", "l3_l4", middle, keypoints, region, (512, 512), np.eye(4))
        assert box is not None
        ours = boxes.matrix(boxes.middle_px(middle.xy_px, box, (1.0, 1.0)), box, region.size, (1.0, 1.0))
        back = np.linalg.inv(np.vstack([ours, [0, 0, 1]]))[:2]
        expected = np.array(case["matrix"]) - [[0, 0, 0.5], [0, 0, 0.5]]
        assert near(back, expected, 1e-6 * np.abs(expected).max())


@recorded_there
def test_fourth_places_sagittal_crops_are_as_large_as_levels_are_apart() -> None:
    record = recorded("fourth/arithmetic.json")["sagittal_crops_yu4u"]
    keypoints = spots("sagittal_t1_left", dict(zip(LEVELS, map(tuple, record["keypoints"]), strict=True)))
    for level, expected in zip(LEVELS, record["boxes_x1y1x2y2"], strict=True):
        region = RegionSpec(box="levels", extent=(1.0, 1.0), span="spine")
        found, placed = box_of("sagittal_t1_left", level, keypoints, region, (256, 300))
        assert placed.size_mm[0] / 2 == pytest.approx(record["half_side"])
        assert near(found, expected)  # truncated there, rounded here


@recorded_there
def test_fifth_and_seventh_places_crops_are_shares_too() -> None:
    """Truncated there, rounded here; where a box leaves the image they cut or move it, here its border is repeated."""
    for case in recorded("fifth/arithmetic.json")["crops_ahmed"]["cases"][:1]:
        y, x = (2.0 * value for value in case["point_zyx_of_256"][1:])
        keypoints = spots("sagittal_t2", {"l3_l4": (x, y)})
        (x1, y1, x2, y2), _ = box_of(
            "sagittal_t2", "l3_l4", keypoints, RegionSpec(box="share", extent=(0.125, 0.125)), (512, 512)
        )
        assert ([y1, y2], [x1, x2]) == (case["rows"], case["columns"])
    for case in recorded("seventh/arithmetic.json")["crops2d_v2"][:1]:
        keypoints = spots("sagittal_t2", {"l3_l4": tuple(case["p"])})
        found, _ = box_of("sagittal_t2", "l3_l4", keypoints, RegionSpec(box="share", extent=(0.25, 0.25)), (512, 512))
        assert near(found[:2], case["start_yx"][::-1])
        assert (found[2] - found[0], found[3] - found[1]) == tuple(case["shape"][1:])


def test_a_box_of_its_own_is_as_large_as_its_point() -> None:
    keypoints = {("spinal_canal_stenosis", "l3_l4"): Spot((50.0, 60.0), size_mm=(30.0, 10.0))}
    found, placed = box_of(
        "sagittal_t2", "l3_l4", keypoints, RegionSpec(box="own", extent=(2.0, 1.5), shift=(-0.5, 0.0)), (100, 100)
    )
    assert placed.size_mm == (20.0, 45.0)
    assert near(found, (50 - 15 - 22.5, 50, 50 - 15 + 22.5, 70), 0.5)
    bare = {("spinal_canal_stenosis", "l3_l4"): Spot((50.0, 60.0))}
    region = Region((64, 64), 5, (1.5, 1.5), box="own")
    point = bare["spinal_canal_stenosis", "l3_l4"]
    assert boxes.placed(small_study(), "sagittal_t2", "l3_l4", point, bare, region, (9, 9), np.eye(4)) is None


def test_a_turned_region_shows_what_lies_along_the_canal() -> None:
    """A bright line through the points runs from top to bottom of every region."""
    places = {level: (40.0 + 12 * number, 10.0 + 20 * number) for number, level in enumerate(LEVELS)}
    keypoints = spots("sagittal_t2", places)
    columns, rows = np.meshgrid(np.arange(120), np.arange(110))
    image = np.exp(-(((columns - 40 - 0.6 * (rows - 10)) / 1.5) ** 2)).astype(np.float32)
    _, box = box_of("sagittal_t2", "l3_l4", keypoints, RegionSpec(extent=(30.0, 30.0), rotate="canal"), image.shape)
    assert box.turn == pytest.approx(-np.arctan(0.6), abs=1e-6)
    part, outside = boxes.turned_crop(image, boxes.matrix(places["l3_l4"], box, (31, 31), (1.0, 1.0)), (31, 31))
    assert not outside
    assert set(part.argmax(axis=1)) == {15}


@pytest.mark.parametrize("count", [1, 2, 5, 9, 14, 15, 16])
@pytest.mark.parametrize("num", [1, 3, 10, 15])
def test_chosen_slices_of_a_mirrored_series_are_mirrored(count: int, num: int) -> None:
    """But where the middle one of an even number has no slice."""
    chosen = spread(count, num)
    other = count - 1 - chosen[::-1]
    middle = num // 2 if num % 2 and count % 2 == 0 else None
    differing = np.flatnonzero(chosen != other).tolist()
    assert differing in ([], [middle])
    assert (np.diff(chosen) >= 0).all()
    assert chosen.min() >= 0
    assert chosen.max() < count


PLACES = st.tuples(*[st.sampled_from([0.0, 1e-9, 3.0, 40.0, 41.0])] * 2)


@given(st.lists(PLACES, max_size=5), PLACES)
def test_the_canal_leans_by_a_right_angle_at_most_wherever_its_points_are(
    line: list[tuple[float, float]], at: tuple[float, float]
) -> None:
    turn = boxes.canal_turn([np.array(place) for place in line], np.eye(4), Spot(at))
    assert -math.pi / 2 <= turn <= math.pi / 2
