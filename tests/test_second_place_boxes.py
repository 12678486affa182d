"""The second place's crops: boxes along discs, around both recesses, and shares of the image, as recorded.

What differs, and why, `test_second_place.py` names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from lumbar import geometry
from lumbar.grading import boxes
from lumbar.grading.points import region_point
from lumbar.grading.regions import cut_regions
from lumbar.labels import CONDITIONS, LEVELS, Level, level_title
from lumbar.recipe.region import Region, RegionSpec
from lumbar.recipe.views import View
from lumbar.study.study import Study, open_data, read_study
from tests.support.grader_kinds import small_grader
from tests.support.small_study import axial, small_study
from tests.test_grading_boxes import Spot, near, spots
from tests.test_second_place import CANAL, SIDE, recipe, recorded


@dataclass(frozen=True)
class Disc(Spot):
    """A canal point that knows where its disc ends in front."""

    front: tuple[float, float] = (0.0, 0.0)

    @property
    def front_mm(self) -> tuple[float, float, float]:
        return (*self.front, 0.0)


def discs() -> dict[Any, Disc]:
    """The given ends of discs, front first, in pixels of an image of 512."""
    given = recorded("bartley", "given_points_T2")
    ends = {level: np.array(given[level_title(level)]) * SIDE for level in LEVELS}
    return {
        (CANAL, level): Disc(tuple(two[1]), front=tuple(two[0]))  # type: ignore[arg-type]
        for level, two in ends.items()
    }


def placed(view: View, level: Level, keypoints: Any, region: Region) -> tuple[boxes.Placed, tuple[float, float]]:
    """The box, and its middle, on an image whose pixels are millimetres."""
    point = region_point(small_study(), view, level, keypoints, region)
    assert point is not None
    found = boxes.placed(small_study(), view, level, point, keypoints, region, (SIDE, SIDE), np.eye(4))
    assert found is not None
    return found, boxes.middle_px(point.xy_px, found, (1.0, 1.0))


def region_of(member: str) -> Region:
    spec = recipe().stage2.members[member].spec
    return spec.region_of(spec.views[0])


def turned_back(place: Any, degrees: float) -> np.ndarray:
    """A place of an image that was turned about its middle, in the image as it was."""
    angle = np.radians(degrees)
    middle = np.array([SIDE / 2, SIDE / 2])
    x, y = np.array(place) - middle
    cos, sin = np.cos(angle), np.sin(angle)
    return middle + np.array([x * cos + y * sin, y * cos - x * sin])


def test_crops_along_discs_are_the_recorded_ones() -> None:
    """Artley's: as high as the way between levels, as wide as discs are long, both the median of all."""
    told, region, keypoints = recorded("bartley", "6"), region_of("b_sp2"), discs()
    for crop in told["crops"]:
        level = next(level for level in LEVELS if level_title(level) == crop["level"])
        found, middle = placed("sagittal_t2", level, keypoints, region)
        degrees = told["disc_angle_degrees"][crop["level"]]
        assert np.degrees(found.turn) == pytest.approx(-degrees, abs=1e-4)
        share = np.array([crop["y_fraction"], crop["x_fraction"]]) * 2 * SIDE
        # differs: along the spine in mm, not along the rows; the disc's own length, not along the columns
        np.testing.assert_allclose(found.size_mm, share, rtol=0.035)
        back = np.array(keypoints[CANAL, level].xy_px)
        apart = back - turned_back(crop["point"], degrees)
        assert np.linalg.norm(apart) <= 1.5  # differs: whole pixels of turned images
        ahead = np.array([np.cos(found.turn), np.sin(found.turn)]) * found.size_mm[1] / 4
        np.testing.assert_allclose(middle, back - ahead, atol=1e-6)


def test_what_crops_along_discs_show_is_what_the_recorded_ones_do(study: Study) -> None:
    told, found = recorded("bartley", "6"), cut_along(study, "b_sp2")
    for crop in told["crops"]:
        level = next(level for level in LEVELS if level_title(level) == crop["level"])
        tall, wide = crop["crop_shape"]  # differs: the recorded mean counts the black borders that make it a square
        assert found[level] == pytest.approx(crop["slice_mean_middle"] * tall / wide, rel=0.03)
    every = cut_along(study, "b_sp2", told["crop_array_shape"][-1])
    assert np.mean([*every.values()]) * wide / tall == pytest.approx(told["crop_mean_all"], rel=0.03)


def test_crops_of_foramina_are_the_recorded_ones() -> None:
    told, region = recorded("bartley", "7"), region_of("b_fo")
    given = recorded("bartley", "given_points_T1")
    keypoints: dict[Any, Spot] = {}
    for place, view in enumerate(("sagittal_t1_left", "sagittal_t1_right")):
        own = {level: tuple(SIDE * share for share in given[level_title(level)][place]) for level in LEVELS}
        keypoints |= spots(view, own)  # type: ignore[arg-type]
    for crop in told["crops"]:
        level = next(level for level in LEVELS if level_title(level) == crop["level"])
        found, middle = placed("sagittal_t1", level, keypoints, region)
        np.testing.assert_allclose(middle, crop["point"], atol=0.01)
        np.testing.assert_allclose(
            found.size_mm, np.array([crop["y_fraction"], crop["x_fraction"]]) * 2 * SIDE, rtol=0.06
        )


def test_what_crops_of_foramina_show_is_what_the_recorded_ones_do(study: Study) -> None:
    told, given, series = (
        recorded("bartley", "7"),
        recorded("bartley", "given_points_T1"),
        study.series["sagittal_t1"][0],
    )
    item, points = series.slices[len(series) // 2], {}
    for level in LEVELS:
        for condition, share in zip(CONDITIONS[1:3], given[level_title(level)], strict=True):
            at = SIDE * np.array(share)
            mm = tuple(geometry.to_patient(item.affine, at).tolist())
            points[condition, level] = End(tuple(at), series.series_id, item.instance, place_mm=mm)  # type: ignore[arg-type]
    count = told["crop_array_shape"][-1]
    middle, every = (cut_along(study, "b_fo", slices, "sagittal_t1", points) for slices in (1, count))
    for crop in told["crops"]:
        level = next(level for level in LEVELS if level_title(level) == crop["level"])
        tall, wide = crop["crop_shape"]  # differs: black borders
        assert middle[level] == pytest.approx(crop["slice_mean_middle"] * wide / tall, rel=0.05)
    assert np.mean([*every.values()]) * tall / wide == pytest.approx(told["crop_mean_all"], rel=0.05)


CUTS: Final = {
    "spinal_x0.3_y0.5": "y_mil_spinal_a",
    "spinal_x0.3_y0.7": "y_mil_spinal_b",
    "subarticular_x1_y0.7": "y_mil_subarticular_d",
    "subarticular_x0.3_y2": "y_mil_subarticular_c",
    "foraminal_x0.7_y1": "y_mil_foraminal_a",
    "foraminal_x1.5_y1": "y_mil_foraminal_b",
}


@dataclass(frozen=True)
class End(Disc):
    """A point of a real study."""

    place_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    front_place_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def mm(self) -> tuple[float, float, float]:
        return self.place_mm

    @property
    def front_mm(self) -> tuple[float, float, float]:
        return self.front_place_mm


@pytest.fixture(scope="module")
def study(cc0_study: Path) -> Study:
    data = open_data(cc0_study)
    return read_study(data, data.study_ids[0])


def real_discs(study: Study) -> dict[Any, End]:
    """The given ends on the middle slice of the study's T2 series."""
    series = study.series["sagittal_t2"][0]
    item = series.slices[len(series) // 2]
    found = {}
    for (condition, level), disc in discs().items():
        back, front = (
            tuple(geometry.to_patient(item.affine, np.array(at)).tolist()) for at in (disc.xy_px, disc.front)
        )
        found[condition, level] = End(
            disc.xy_px,
            series.series_id,
            item.instance,
            place_mm=back,
            front_place_mm=front,  # type: ignore[arg-type]
        )
    return found


@pytest.mark.parametrize("name", CUTS)
def test_crops_of_bags_are_the_recorded_ones(name: str, study: Study) -> None:
    """Ariyasu's: as high as a share of the image, as wide as the disc is long, around its back end; its grey values."""
    region = region_of(CUTS[name])
    found = cut_along(study, CUTS[name])
    for level in LEVELS:
        told = recorded("yuji", name, level_title(level))
        rows, columns = told["shape"]
        flat, middle = placed("sagittal_t2", level, discs(), region)
        assert abs(flat.size_mm[1] - columns) <= 3.2  # differs: twice what is cut off of either half, rounded points
        inside = rows == 2 * int(region.extent[0] / 2 * SIDE)  # type: ignore[index]
        assert abs(flat.size_mm[0] - rows) <= 2 or not inside
        assert np.linalg.norm(np.subtract(middle, discs()[CANAL, level].xy_px)) < 1e-6
        if inside:
            assert found[level] == pytest.approx(told["mean"], rel=0.03)
        else:  # differs: what leaves the image is cut off
            assert rows < flat.size_mm[0]


def cut_along(
    study: Study, member: str, slices: int = 1, view: View = "sagittal_t2", points: Any = None
) -> dict[Level, float]:
    """The mean grey value, 0 to 255, of the region's middle slices at each level, as a member's box lies."""
    grey = {"intensity": "percentile", "scope": "series", "size": [64, 64]}
    condition = CONDITIONS[0] if view == "sagittal_t2" else CONDITIONS[1]
    region = {**region_fields(member), **grey}
    spec = small_grader(views=[view], conditions=[condition], slices=slices, region=region)
    found = cut_regions(study, points or real_discs(study), spec)
    return {level: float(found.cuts[view, level].pixels.mean() + 1) / 2 * 255 for level in LEVELS}


def region_fields(member: str) -> dict[str, Any]:
    region = region_of(member)
    keys = ("box", "across", "rotate", "extent", "shift", "span")
    return {key: getattr(region, key) for key in keys} | {"around": "point"}


def test_a_box_around_both_recesses_is_the_recorded_one() -> None:
    told = recorded("yuji", "axial_boxes")
    at = {
        side: tuple((told["given"][side][f"{axis}_min"] + told["given"][side][f"{axis}_max"]) / 2 for axis in "xy")
        for side in ("left", "right")
    }
    keypoints = {**spots("axial_left", {"l3_l4": at["left"]}), **spots("axial_right", {"l3_l4": at["right"]})}  # type: ignore[dict-item]
    whole = Region((64, 64), 1, (1.0, 1.0), box="union", point="middle")
    for member, expected in (
        (None, [told["union"][key] for key in ("x_min", "y_min", "x_max", "y_max")]),
        ("y_axial_spinal_a", told["union_padded_x.5_y6"]),
        ("y_axial_spinal_b", told["union_padded_x1_y2"]),
    ):
        found, middle = placed("axial_middle", "l3_l4", keypoints, region_of(member) if member else whole)
        tall, wide = found.size_mm
        box = [middle[0] - wide / 2, middle[1] - tall / 2, middle[0] + wide / 2, middle[1] + tall / 2]
        assert near(box, expected, 2.0)  # the given boxes end on whole pixels


def test_a_sides_box_reaches_from_the_middle_outwards() -> None:
    keypoints = {**spots("axial_left", {"l3_l4": (300.0, 250.0)}), **spots("axial_right", {"l3_l4": (212.0, 254.0)})}
    for member, across in (("y_axial_side_a", 0.0), ("y_axial_side_b", 0.0), ("y_axial_side_c", 0.1)):
        for view, sign in (("axial_left", 1), ("axial_right", -1)):
            found, middle = placed(view, "l3_l4", keypoints, region_of(member))  # type: ignore[arg-type]
            inner, outer = (middle[0] + sign * way * found.size_mm[1] / 2 for way in (-1, 1))
            assert sign * (inner - 256) == pytest.approx(-across * SIDE)
            assert sign * (outer - 256) == pytest.approx(SIDE / 2)


def test_shares_of_the_image_are_the_recorded_crops() -> None:
    region = region_of("p_foraminal_maxvit")
    for key, expected in recorded("ian", "crop_x1_y1_x2_y2").items():
        shape, at = key.split(" at ")
        rows, columns = (int(side) for side in shape.split("x"))
        point = tuple(float(value) for value in at.strip("()").split(","))
        keypoints = spots("sagittal_t1_left", {"l3_l4": point})  # type: ignore[dict-item]
        spot = next(iter(keypoints.values()))
        found = boxes.placed(
            small_study(), "sagittal_t1_left", "l3_l4", spot, keypoints, region, (rows, columns), np.eye(4)
        )
        assert found is not None
        assert near(geometry.box_px(boxes.middle_px(point, found, (1.0, 1.0)), found.size_mm, (1.0, 1.0)), expected)  # type: ignore[arg-type]


def test_crops_are_shifted_as_far_as_the_original_ones() -> None:
    """Differs: by any way up to that far, not to eight places."""
    member = recipe().stage2.members["p_foraminal_maxvit"]
    region = region_of("p_foraminal_maxvit")
    assert region.extent is not None
    for key, most in recorded("ian", "shift_px").items():
        rows, columns = (int(side) for side in key.split("x"))
        share = member.training.augment.shift
        assert near([share * region.extent[1] * columns, share * region.extent[0] * rows], most, 1.01)


def test_an_axial_point_in_the_middle_stands_halfway_between_the_slices_of_both_sides() -> None:
    series = axial()
    chosen = {"axial_left": series.slices[0], "axial_right": series.slices[2]}

    @dataclass(frozen=True)
    class At(Spot):
        place: tuple[float, float, float] = (0.0, 0.0, 0.0)

        @property
        def mm(self) -> tuple[float, float, float]:
            return self.place

    keypoints: dict[Any, Any] = {}
    for (view, item), name in zip(chosen.items(), CONDITIONS[3:], strict=True):
        mm = tuple(geometry.to_patient(item.affine, np.array([20.0, 20.0])).tolist())
        keypoints[name, "l3_l4"] = At((20.0, 20.0), series.series_id, item.instance, place=mm)  # type: ignore[arg-type]
        assert view.startswith("axial")
    region = Region((32, 32), 1, (1.0, 1.0)).over(RegionSpec(point="middle"))
    found = region_point(small_study(axial_t2=(series,)), "axial_left", "l3_l4", keypoints, region)
    assert found is not None
    assert found.instance == series.slices[1].instance
