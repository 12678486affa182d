"""The third place's slices and boxes against what was recorded of the original, entry by entry of its `geometry.json`.

What differs on purpose, each asserted below (`test_third_place_answers.py` has the rest):

* Axial slices run from the feet to the head here, from the head there. No part of its network knows their order.
* A point lies at its pixel's middle here; the original's worlds and boxes take its corner, half a pixel away.
* An axial half is 60 % of a box's millimetres on both sides alike; the original cuts whole columns, so that its left
  half may be a column wider than its right.
* Places halfway between two slices go to the one nearer the middle, so that a mirrored series gives the mirrored ones;
  none of the recorded choices is such a tie.
"""

import hashlib
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lumbar import geometry
from lumbar.files.read import read_json
from lumbar.grading.boxes import spline
from lumbar.grading.intensity import ends, scaled
from lumbar.grading.regions import Region, cut_region, view_window
from lumbar.grading.windows import inner_from, spread
from lumbar.labels import CONDITIONS, LEVELS, Level
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.levels import level_slices, segments
from lumbar.study.slices import middle_slice
from lumbar.study.standardise import slice_values
from lumbar.study.study import Study, open_data, read_study
from tests.conftest import shared_path
from tests.support.small_study import CANAL as CANAL_MM
from tests.support.small_study import sagittal
from tests.test_grading_regions import Spot

CANAL, LEFT_FORAMEN, _, LEFT_RECESS, _ = CONDITIONS
#: Everything that is recorded; the test of each is named after it.
ENTRIES = {
    "stack", "given_sagittal_points_normalised", "middle_index_T2", "world_points_T2", "segment_ends",
    "axial_indices_per_level", "boxes", "equal_interval_selection", "side_half", "middle_half_25_75",
    "axial_side_columns", "heatmap_decode", "temperature", "losses", "gaussian_target",
}  # fmt: skip
LEVEL: dict[str, Level] = {f"{name.replace('_', '/').upper()}": name for name in LEVELS}
MM = 1e-4
PREPROCESSING = Preprocessing(box_origin="corner")  # the original's points are its pixels' corners
#: What the three teams cut, as a recipe says it.
CUTS: Mapping[str, dict[str, Any]] = {
    "v8": {"region": {"extent": [40.0, 60.0]}, "axial": {"extent": [80.0, 70.0]}},
    "v9": {
        "region": {"extent": [35.0, 50.0], "shift": [0.0, -5.0]},
        "axial": {"extent": [45.0, 75.0], "shift": [0.0, 5.0]},
    },
    "v11": {
        "region": {"extent": [36.0, 45.0], "shift": [-5.0, -3.5], "rotate": "canal"},
        "axial": {"extent": [45.0, 75.0], "shift": [0.0, 5.0]},
    },
}
GREY = {"intensity": "percentile", "scope": "slice", "percentiles": [0.1, 99.9], "around": "level", "point": "canal"}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    content = read_json(shared_path("parity/third/geometry.json"), "")
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(open_data(shared_path("real/cc0_study")), 1001)


def spec_of(cut: str, **fields: Any) -> GraderSpec:
    parts = CUTS[cut]
    return GraderSpec(
        views=["sagittal_t1", "sagittal_t2", "axial_middle"],
        conditions=[CANAL],
        region={**GREY, **parts["region"]},
        regions={"axial_middle": {**parts["axial"], "rotate": "none", "slices": 10}},
        preprocessing=PREPROCESSING,
        **fields,
    )


def points_on(study: Study, series_id: int, given: Mapping[str, Any]) -> dict[Any, Spot]:
    """Canal points of a series' middle slice, at shares of its image that name corners of pixels."""
    series = study.series_by_id(series_id)
    assert series is not None
    item = middle_slice(series, PREPROCESSING)
    found = {}
    for name, share in given.items():
        xy = np.array(share) * item.shape[::-1]
        mm = geometry.to_patient(item.affine, xy)
        found[CANAL, LEVEL[name]] = Spot(series_id, item.instance, tuple(xy.tolist()), tuple(mm.tolist()))
    return found


def test_every_entry_is_compared(told: dict[str, Any]) -> None:
    assert set(told) == ENTRIES


@pytest.mark.parametrize("series_id", ["6", "7", "8"])
def test_stack(told: dict[str, Any], study: Study, series_id: str) -> None:
    series, recorded = study.series_by_id(int(series_id)), told["stack"][series_id]
    assert series is not None
    ours = [item.instance for item in series.slices]
    assert ours == (recorded["instance_numbers"][::-1] if series_id == "8" else recorded["instance_numbers"])
    grey = spec_of("v9").region_of("sagittal_t2")
    for item in series.slices:
        assert list(item.shape) == recorded["shape"]
        assert item.pixel_spacing == pytest.approx(recorded["pixel_spacing"])
        image, _ = slice_values(item, PREPROCESSING)
        # the original cuts decimals off, so that what is whole already may fall either way
        whole = ((scaled(image, ends(image, grey), grey) + 1) / 2 * 255).astype(np.uint8)
        place = recorded["instance_numbers"].index(item.instance)
        assert whole.mean() == pytest.approx(recorded["uint8_mean_per_slice"][place], abs=0.01)
        assert item.affine[0 if series_id != "8" else 2, 3] == pytest.approx(
            recorded["standard_position"][place], abs=MM
        )
        if not place:
            assert hashlib.sha1(whole.tobytes()).hexdigest() == recorded["uint8_sha1_first_slice"]


def test_middle_index_t2_and_world_points_t2(told: dict[str, Any], study: Study) -> None:
    series = study.series_by_id(6)
    assert series is not None
    assert series.slices.index(middle_slice(series, PREPROCESSING)) == told["middle_index_T2"]
    found = points_on(study, 6, told["given_sagittal_points_normalised"]["6"])
    for name, world in told["world_points_T2"].items():
        np.testing.assert_allclose(found[CANAL, LEVEL[name]].mm, world, atol=MM)


def _world(told: dict[str, Any]) -> dict[Level, np.ndarray]:
    return {LEVEL[name]: np.array(mm) for name, mm in told["world_points_T2"].items()}


def test_segment_ends(told: dict[str, Any]) -> None:
    found = list(segments(_world(told)).values())
    assert all(np.array_equal(above[1], below[0]) for above, below in pairwise(found))
    ours = [found[0][0], *(lower for _, lower in found)]
    np.testing.assert_allclose(ours, list(told["segment_ends"].values()), atol=MM)


def test_axial_indices_per_level(told: dict[str, Any], study: Study) -> None:
    order = told["stack"]["8"]["instance_numbers"]
    found = level_slices(study, _world(told), "segments", PREPROCESSING)
    ours = {level: sorted(order.index(item.instance) for _, item in slices) for level, slices in found.items()}
    assert ours == {LEVEL[name]: places for name, places in told["axial_indices_per_level"].items()}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("series_id", "view"), [(6, "sagittal_t2"), (7, "sagittal_t1")])
def test_boxes(told: dict[str, Any], study: Study, cut: str, series_id: int, view: Any) -> None:
    """T1's boxes lie around points of its own there; here a region may be cut around any point that is called canal."""
    points = points_on(study, series_id, told["given_sagittal_points_normalised"][str(series_id)])
    for name, level in LEVEL.items():
        recorded = told["boxes"][str(series_id)][name][cut]
        region = cut_region(study, view, level, points, spec_of(cut, image_size=96))
        assert region is not None
        if cut != "v11":
            x1, y1, x2, y2 = region.boxes[0]  # type: ignore[misc]
            assert [x1, x2, y1, y2] == recorded["left_right_top_bottom"]
            assert not recorded["skipped"]
            continue
        np.testing.assert_allclose(
            _corners(region, points[CANAL, level], study), _recorded_corners(recorded), atol=1e-3
        )
        mean = (region.pixels[_middle_of(region, study)].mean() + 1) / 2 * 255
        assert mean == pytest.approx(recorded["crop_mean_middle_slice"], rel=0.03)  # another size, cubic


def _recorded_corners(recorded: Mapping[str, Any]) -> np.ndarray:
    return np.stack([recorded["corners_x"], recorded["corners_y"]], axis=-1)


def _middle_of(region: Region, study: Study) -> int:
    series = study.series_by_id(region.series_id)
    assert series is not None
    return region.slices.index(middle_slice(series, PREPROCESSING))


def _corners(region: Region, point: Spot, study: Study) -> np.ndarray:
    """(4, 2) px of a turned region, clockwise from its top left, from its size, its turn and the shift of v11."""
    series = study.series_by_id(region.series_id)
    assert series is not None
    spacing, (height, width) = geometry.spacing_mm(middle_slice(series, PREPROCESSING).affine)[0], region.size_mm
    x, y = CUTS["v11"]["region"]["shift"]
    around = [(-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2)]
    turn = np.array([[math.cos(region.turn), -math.sin(region.turn)], [math.sin(region.turn), math.cos(region.turn)]])
    return np.asarray(point.xy_px + (np.array(around) + np.array([x, y])) @ turn.T / spacing)


@pytest.mark.parametrize("series_id", ["6", "7"])
def test_boxes_spline(told: dict[str, Any], series_id: str) -> None:
    points = np.array(list(told["given_sagittal_points_normalised"][series_id].values())) * 512
    along, places = spline(points)
    recorded = np.array(told["boxes"][series_id]["spline_first_mid_last"])
    np.testing.assert_allclose(np.column_stack([places, along])[[0, 50, 99]], recorded, atol=1e-3)


@pytest.mark.parametrize("cut", CUTS)
def test_boxes_axial(told: dict[str, Any], study: Study, cut: str) -> None:
    recorded, series = told["boxes"]["8"], study.series_by_id(8)
    assert series is not None
    item = series.slices[8]
    xy = np.array(recorded["given_centre_normalised"]) * item.shape[::-1]
    mm = tuple(geometry.to_patient(item.affine, xy).tolist())
    points: dict[Any, Spot] = points_on(study, 6, told["given_sagittal_points_normalised"]["6"])
    for condition in CONDITIONS[3:]:  # both recesses at one place, so that their middle lies there
        points[condition, "l3_l4"] = Spot(8, item.instance, tuple(xy.tolist()), mm)
    spec = spec_of(cut).model_copy(update={"region": spec_of(cut).region.model_copy(update={"point": "own"})})
    region = cut_region(study, "axial_middle", "l3_l4", points, spec)
    assert region is not None
    x1, y1, x2, y2 = region.boxes[region.slices.index(item)]  # type: ignore[misc]
    assert [x1, x2, y1, y2] == recorded[cut]["left_right_top_bottom"]


def test_equal_interval_selection(told: dict[str, Any]) -> None:
    for words, chosen in told["equal_interval_selection"].items():
        count, num = map(int, words.split("->"))
        assert spread(count, num).tolist() == chosen


@pytest.mark.parametrize("side", ["left", "right"])
def test_side_half(told: dict[str, Any], side: str) -> None:
    for words, num in told["side_half"].items():
        shown = _places(int(words), f"sagittal_t2_{side}", slices=num, half=True)
        outer = range(1, num + 1) if side == "right" else range(int(words), int(words) - num, -1)
        assert shown == [*outer], "from the side's outer slice to the middle, each once"


def test_middle_half_25_75(told: dict[str, Any]) -> None:
    for words, (first, end) in told["middle_half_25_75"].items():
        assert inner_from(int(words), 0.5) == first
        assert _places(int(words), "sagittal_t2", slices=end - first, inner=0.5) == [*range(first + 1, end + 1)]


def _places(count: int, view: Any, **region: Any) -> list[int]:
    """Instances, numbered from the patient's right, that a view of a series of so many slices shows."""
    series = sagittal(1, count, 2.0)
    study = Study(1, {"sagittal_t2": (series,)}, ())
    points = {(CANAL, level): Spot(1, 1, (0.0, 0.0), tuple(mm.tolist())) for level, mm in CANAL_MM.items()}
    spec = GraderSpec(views=[view], conditions=[CANAL], region={"around": "level", **region})
    window = view_window(study, view, "l3_l4", points[CANAL, "l3_l4"], points, spec)
    assert window is not None
    return [item.instance for item in window.slices if item is not None]


def test_axial_side_columns(told: dict[str, Any]) -> None:
    """Here in millimetres around the middle of the whole box, the same on both sides."""
    for words, sides in told["axial_side_columns"].items():
        count = int(words)
        for side, (first, end) in sides.items():
            whole = (0.0, 0.6 * count) if side == "right" else (0.4 * count, count)
            assert abs(first - whole[0]) < 1
            assert abs(end - whole[1]) < 1
        assert sides["left"][1] - sides["left"][0] >= sides["right"][1] - sides["right"][0]
