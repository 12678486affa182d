"""The seventh place's arithmetic: every entry of its recorded numbers against what our public functions reckon. What
was recorded of a real study: `test_seventh_place_study.py`.

What differs, and why (`DIFFERS`; docs/systems/seventh_place.md says it at length):

- lean: slices are chosen evenly around the middle of their series, of a side from outside in, and axially with both
  ends among them, where the original's lean to one end: in the mirror they would show other slices.
- border: a box that leaves the image repeats its border, where the original moves it inside; without a point there is
  no region, where the original has a black one.
- smooth: images are resized by cubic interpolation, where the original repeats rows and columns.
- fall: how much less a slice shows a level than the one beside it is the same everywhere, where the original's depends
  on how near the end of its window is; and what shows no level shows nothing, not a thousandth.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from lumbar.ensemble import by_hand
from lumbar.ensemble.cells import Cells
from lumbar.ensemble.objective import softmax
from lumbar.grading.windows import axial_slices_of, sagittal_slices
from lumbar.keypoints.answers import points, slices
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.spans import whole_span
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, LEVELS, Level
from lumbar.recipe.blend import Blend
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.recipe.region import RegionSpec
from lumbar.recipe.views import View
from lumbar.study.levels import level_groups
from lumbar.study.standardise import resize
from lumbar.training.loop import targets
from tests.conftest import ROOT
from tests.support.grader_kinds import small_grader
from tests.support.small_study import axial, sagittal, small_study
from tests.test_grading_boxes import Spot, box_of, near, spots

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
LEVEL: Final[Level] = "l3_l4"
CANAL, LEFT_RECESS, RIGHT_RECESS = CONDITIONS[0], CONDITIONS[3], CONDITIONS[4]
#: Entries that agree, and those that differ with the reasons above.
AGREES: Final = {
    "neighbours",
    "level_groups",
    "axial_3d_decode",
    "nearest_depth",
    "axial_z_decode",
    "axial_xy_slices",
    "axial_720_crop",
    "sag7_split",
    "blend",
}
DIFFERS: Final = {
    "sagittal_10_slices": "lean",
    "select_6": "lean",
    "crops3d": "border",
    "crops2d_v2": "border",
    "nearest_72_to_128_rows": "smooth",
    "nearest_64_to_128_rows": "smooth",
    "nearest_96_to_128_columns": "smooth",
    "axial_level_labels": "fall",
}


@cache
def recorded(entry: str = "") -> Any:
    path = PARITY / "seventh" / "arithmetic.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the seventh place")
    content = json.loads(path.read_text(encoding="utf-8"))
    return content[entry] if entry else content


@cache
def recipe(name: str = "seventh_place") -> Recipe:
    return load_recipe(ROOT / "recipes" / f"{name}.toml")


def test_every_recorded_entry_is_compared() -> None:
    assert set(recorded()) == AGREES | DIFFERS.keys()


class At(Spot):
    """A point of a series of known millimetres."""

    place: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def mm(self) -> tuple[float, float, float]:
        return self.place


def at(mm: np.ndarray, series_id: int = 1, instance: int = 1) -> At:
    point = At((0.0, 0.0), series_id, instance)
    object.__setattr__(point, "place", tuple(map(float, mm)))
    return point


def sagittal_places(count: int, view: View, spec: GraderSpec, slice_at: float = 0.0) -> list[int]:
    """Which of `count` slices, from the patient's right to left, a member sees of a view around a point of L3/L4."""
    series = sagittal(1, count, shape=(4, 4))
    study = small_study(sagittal_t2=[series], sagittal_t1=[series])
    whole = int(np.floor(slice_at))
    low, high = (series.slices[min(max(number, 0), count - 1)].affine[:3, 3] for number in (whole, whole + 1))
    point = at(low + (slice_at - whole) * (high - low))
    found = sagittal_slices(study, series, view, LEVEL, point, {}, spec)
    assert found is not None
    return [series.slices.index(item) for item in found.slices if item is not None]


def axial_places(count: int, spec: GraderSpec) -> list[int]:
    """Which of `count` axial slices, all of L3/L4, and of their neighbours, a member sees of it."""
    series = axial(3, [tuple(4.0 * (count - number) for number in range(count))], shape=(4, 4))
    ordered = series.ordered("position")
    point = at(ordered[0].affine[:3, 3], 3, ordered[0].instance)
    wanted = spec.region_of("axial_middle")
    assert (wanted.around, wanted.levels_by) == ("level", "found")
    whole = RegionSpec(around="level", slices=wanted.slices, neighbours=wanted.neighbours)
    canal: dict[Any, Any] = {
        (CANAL, level): at(np.array([0.0, 0.0, height])) for level, height in (("l2_l3", 9e3), (LEVEL, 0.0))
    }
    member = spec.model_copy(update={"regions": {"axial_middle": whole}})
    found = axial_slices_of(small_study(axial_t2=[series]), LEVEL, point, canal, member, "axial_middle")
    assert found is not None
    return [ordered.index(item) for item in found.slices if item is not None]


THREE: Final = "three_pvt_v2_b2"


def grader(name: str) -> GraderSpec:
    spec = recipe().stage2.members[name].spec
    assert isinstance(spec, GraderSpec)
    return spec


@pytest.mark.parametrize(
    ("view", "other", "first"),
    [
        ("sagittal_t2", "sagittal_t2", 3),
        ("sagittal_t1_left", "sagittal_t1_right", 5),
        ("sagittal_t1_right", "sagittal_t1_left", 0),
    ],
)
def test_five_of_ten_sagittal_slices_are_those_recorded_but_evenly_about_the_middle(
    view: View, other: View, first: int
) -> None:
    for key, ten in recorded("sagittal_10_slices").items():
        count = int(key)
        found = sagittal_places(count, view, grader(THREE))
        twin = [count - 1 - place for place in sagittal_places(count, other, grader(THREE))]
        if view == "sagittal_t2":  # of an even number there is no middle one
            middle = 2 if count % 2 == 0 else None
            assert all(
                place == there or at == middle for at, (place, there) in enumerate(zip(found, twin[::-1], strict=True))
            )
        else:
            assert found == twin
        assert np.abs(np.sort(found) - ten[first : first + 5]).max() <= 1.5 + 0.1 * count  # differs: lean


def test_six_axial_slices_of_a_level_have_both_ends_among_them() -> None:
    for count, theirs in recorded("select_6").items():
        found = axial_places(int(count), grader(THREE))[1::3]
        assert (found[0], found[-1]) == (0, int(count) - 1)
        assert np.abs(np.subtract(found, theirs)).max() <= max(int(count) / 6, 1)  # differs: lean
    assert axial_places(6, grader(THREE))[1::3] == recorded("select_6")["6"]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_axial_slices_bring_their_neighbours_within_the_level(count: int) -> None:
    told = recorded("neighbours")[str(count)]
    found = axial_places(count, grader(THREE))
    assert (found[1::3], found[0::3], found[2::3]) == (told["ind"], told["before"], told["after"])


def test_the_axial_volumes_points_are_read_as_recorded_and_their_slices_make_the_levels_groups() -> None:
    told = recorded("axial_3d_decode")
    spec = recipe().stage1.members["axial_3d"].spec.model_copy(update={"in_chans": told["depth"], "image_size": 512})
    raw = np.array(told["points(10,3)"], np.float32) / np.array([4, 4, 16], np.float32)  # shares of 512 px, of slices
    assert isinstance(spec, DetectorSpec)
    found = points.read(spec, raw[None]).points[0].reshape(2, len(LEVELS), 3).mean(0)
    assert np.rint(found[:, :2]).tolist() == told["center_xy"]
    places = np.rint(found[:, 2]).tolist()
    assert [list(group) for group in level_groups(places, told["depth"])] == told["groups"]


@pytest.mark.parametrize("number", range(36))
def test_crops_of_volumes_are_the_recorded_ones_inside_the_image(number: int) -> None:
    case = recorded("crops3d")[number]
    (x, y, z), depth = case["p"], 9
    keypoints = spots("sagittal_t2", {LEVEL: (x, y)})
    share = RegionSpec(box="share", extent=(case["h"] / 512, case["w"] / 512))
    (x1, y1, x2, y2), _ = box_of("sagittal_t2", LEVEL, keypoints, share, (512, 512))
    first, top, left = case["start_zyx"]
    assert (y2 - y1, x2 - x1) == (case["h"], case["w"])
    if case["zeros"]:
        assert z < 0  # differs: border; beyond the series nothing is found
        return
    inside = np.clip([x1, y1], 0, [512 - case["w"], 512 - case["h"]])  # differs: border
    assert near(inside, (left, top))
    spec = small_grader(
        views=["sagittal_t2"],
        conditions=CONDITIONS[:1],
        slices=case["z_imgs"],
        region={"around": "point"},
        preprocessing=recipe().stage2.members["t2_rexnetr_200_lstm"].spec.preprocessing,
    )
    found = sagittal_places(depth, "sagittal_t2", spec, round(z))
    assert found == list(range(first, first + case["z_imgs"]))


def test_boxes_of_the_three_views_are_a_quarter_of_the_image() -> None:
    for case in recorded("crops2d_v2"):
        x, y = case["p"]
        region = RegionSpec(box="share", extent=(0.25, 0.25))
        (x1, y1, x2, y2), _ = box_of("sagittal_t2", LEVEL, spots("sagittal_t2", {LEVEL: (x, y)}), region, (512, 512))
        assert (x2 - x1, y2 - y1) == tuple(case["shape"][:0:-1])
        assert near(np.clip([x1, y1], 0, 384), case["start_yx"][::-1])  # differs: border


@pytest.mark.parametrize("entry", [name for name, why in DIFFERS.items() if why == "smooth"])
def test_stretched_crops_show_within_a_pixel_what_was_recorded(entry: str) -> None:
    theirs = np.array(recorded(entry))
    count = int(entry.split("_")[1])
    ours = resize(np.arange(count, dtype=np.float32)[None], (1, 128))[0]
    assert np.abs(ours - theirs).max() < 1  # differs: smooth


def test_series_are_brought_to_slices_as_recorded() -> None:
    tables = recorded("nearest_depth")
    for key, table in tables.items():
        count, wanted = map(int, key.split("_to_"))
        fields: dict[str, Any] = {"image_size": 64, "in_chans": wanted}
        if wanted == 25:  # as many as there are 3 mm in 17 slices of 4.5 mm
            fields = {"image_size": 64, "in_chans": 96, "pad": True, "slice_mm": 3.0}
        spec = DetectorSpec(series_type="axial_t2", place="whole", num_classes=10, resample="nearest", **fields)
        source = whole_span(sagittal(1, count, 4.5, shape=(4, 4)), spec).source
        assert source[: len(table)].tolist() == table
        assert np.isnan(source[len(table) :]).all()


@pytest.mark.parametrize("name", ["sagittal_3d", "t1_3d_resnet34d"])
def test_a_mirrored_sagittal_series_is_brought_to_mirrored_slices(name: str) -> None:
    """Which the original's are not: nearest leans to the patient's right."""
    spec = recipe().stage1.members[name].spec
    assert isinstance(spec, DetectorSpec)
    for count in range(5, 40):
        source = whole_span(sagittal(1, count, shape=(4, 4)), spec).source
        assert source.tolist() == (count - 1 - source[::-1]).tolist()


def test_slices_of_axial_levels_are_read_as_recorded_and_the_surest_series_counts() -> None:
    told = np.array(recorded("axial_z_decode")["z_conf (series,side,level,[z/len,conf])"])
    logits = np.random.RandomState(7202).standard_normal((13, 2, 5)).astype(np.float32) * 2
    for level in range(len(LEVELS)):
        logits[2 * level + 1, :, level] += 6
    member = recipe().stage1.members["axial_levels"].spec
    assert isinstance(member, DetectorSpec)
    for own, expected in zip((logits[:8], logits[8:]), told, strict=True):
        spec = member.model_copy(update={"in_chans": len(own)})
        reading = slices.read(spec, own.transpose(1, 2, 0).reshape(1, 10, -1))
        np.testing.assert_allclose(reading.points[0, :, 2] / len(own), expected[..., 0].ravel(), atol=1e-6)
        np.testing.assert_allclose(reading.confidence[0], expected[..., 1].ravel(), atol=1e-6)
    series = axial(3, [tuple(4.0 * (8 - number) for number in range(8))])
    span = whole_span(series, member.model_copy(update={"slice_mm": 4.0}))
    places = [span.index_at(8 * share) for share in told[0, 0, :, 0]]
    assert [series.ordered("position").index(span.nearest(place)) for place in places] == recorded("axial_xy_slices")


def test_axial_crops_are_those_of_the_720_pixel_image() -> None:
    told = recorded("axial_720_crop")
    said, crops = np.array(told["points (2,5,4)"]), np.array(told["out (5,2,4)"])
    for side, level in np.ndindex(2, len(LEVELS)):
        x, y, z, sure = said[side, level]
        expected = crops[level, side]
        keypoints = spots("axial_left", {LEVEL: (720 * x, 720 * y)})
        region = RegionSpec(box="share", extent=(128 / 720, 128 / 720))
        (x1, y1, x2, y2), _ = box_of("axial_left", LEVEL, keypoints, region, (720, 720))
        assert (x2 - x1, y2 - y1) == (128, 128)
        assert near((x1, y1), expected[:2] + 104 - 64)
        assert (z * told["depth"], sure) == pytest.approx(tuple(expected[2:]))
    assert grader("axial_pvt_v2_b1").region_of("axial_left").extent == pytest.approx((200 * 128 / 720,) * 2, abs=0.1)


def test_each_sides_sagittal_slices_run_from_the_point_outwards() -> None:
    told = recorded("sag7_split")
    spec = grader("axial_pvt_v2_b1")
    for side in ("left", "right"):
        assert sagittal_places(7, f"sagittal_t2_{side}", spec, 3) == told[side]  # type: ignore[arg-type]
    assert sagittal_places(7, "sagittal_t2_left", spec, 5) == [5, 6, 6, 6]


@pytest.mark.parametrize("seed", ["seed8620", "seed666"])
def test_both_kinds_of_graders_are_blended_as_recorded(seed: str) -> None:
    told = recorded("blend")
    state = np.random.RandomState(7204)
    logits = [state.standard_normal((1, 5, 5, 3)).astype(np.float32) for _ in range(2)]
    shares = next(value for key, value in told.items() if key.startswith(f"{seed} weights"))
    weights: Any = {
        group: {"three": share, "single": 1 - share} for group, share in zip(CONDITION_GROUPS, shares, strict=True)
    }
    fitted = by_hand.weighted(["three", "single"], Blend(method="weighted", on="logits", weights=weights))
    members = np.stack([softmax(each.astype(np.float64)) for each in logits], axis=1)
    found = by_hand.predict(fitted, Cells(members, np.full((5, 5, 3), 1 / 3)))
    np.testing.assert_allclose(found[0].reshape(-1), np.array(told[seed]).reshape(-1), atol=1e-6)
    ours = recipe("seventh_place" if seed == "seed8620" else "seventh_place_666").blend.weights
    two_stages = [ours[group]["three"] + ours[group]["single"] for group in CONDITION_GROUPS]
    assert two_stages == pytest.approx([1, 0.75 if "one_stage_pvt_v2_b4" in ours["foraminal"] else 1, 1])
    of_three = [ours[group]["three"] / whole for group, whole in zip(CONDITION_GROUPS, two_stages, strict=True)]
    assert of_three == pytest.approx(shares)


def test_slices_show_levels_as_recorded_where_the_fall_is_the_same() -> None:
    told = recorded("axial_level_labels")
    places = torch.tensor([[place if place >= 0 else float("nan") for place in told["z"]]])
    found = targets.around_slices(places, told["z_len"])[0].T.numpy()
    theirs = np.array(told["sparse"])
    np.testing.assert_array_equal(found > 0, theirs > 0.01)
    np.testing.assert_allclose(found[:4, 0], theirs[:4, 0], atol=1e-5)
    assert np.abs(found - theirs).max() < 0.17  # differs: fall
    shown = targets.levels_shown(torch.cat([places, places], 1), told["z_len"])[0].T.numpy()
    for slice_shown, label in zip(shown, told["label"], strict=True):
        assert not slice_shown.any() or int(slice_shown.argmax()) == label


def test_the_recipe_gives_each_kind_of_grader_its_own_keypoints_and_the_weights_that_were_meant() -> None:
    members = recipe().stage2.members
    for name, member in members.items():
        assert member.spec.sets == (("slices",) if name.startswith("three") else ("volumes",))
    single = recipe().blend.inner["single"].weights
    assert single["subarticular"]["axial_pvt_v2_b1"] == 0.0987
    for own in single.values():
        assert sum(own.values()) == pytest.approx(1, abs=2e-3)
    named = {name for own in single.values() for name in own}
    assert named == {name for name in members if not name.startswith(("three", "one_stage"))}
    assert recipe().blend.weights["foraminal"]["one_stage_pvt_v2_b4"] == 0.25


def test_a_study_without_t1_is_still_seen_as_two_channels() -> None:
    spec = recipe().stage1.members["sagittal_3d"].spec.model_copy(update={"image_size": 32, "in_chans": 8})
    assert isinstance(spec, DetectorSpec)
    (stack,), _ = stacks_for(small_study(sagittal_t2=[sagittal(1)]), spec, Known())
    assert stack.pixels.shape == (16, 32, 32)
    assert stack.pixels[:8].any()
    assert not stack.pixels[8:].any()
    assert Preprocessing() != spec.preprocessing


def test_the_second_seed_has_the_same_parts_with_points_graders_and_weights_of_its_own() -> None:
    first, second = recipe(), recipe("seventh_place_666")
    assert second.seed == second.folds.seed == 666
    of_points, names = second.stage1.sets, second.stage1.members.keys() - first.stage1.members.keys()
    assert names == {"t2_3d_densenet161", "t2_3d_resnet34d"}  # both types of series from 32 slices of their own
    assert of_points["slices"] == first.stage1.sets["slices"]
    assert set(of_points["volumes"]) == {*first.stage1.sets["volumes"], *names} - {"sagittal_3d"}
    for each in (first, second):
        for kind in each.blend.inner.values():
            for weights in kind.weights.values():
                assert sum(weights.values()) == pytest.approx(1.0, abs=0.01)
                assert weights.keys() <= each.stage2.members.keys()
    for name in first.stage2.members.keys() & second.stage2.members.keys() - {
        "t1_convnext_small",
        "t1_convnext_tiny_gru",
    }:
        assert first.stage2.members[name] == second.stage2.members[name]
