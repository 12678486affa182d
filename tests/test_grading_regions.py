"""Regions of interest: windows, boxes, borders, and the ways images are stored."""

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumbar import geometry
from lumbar.bundle.convert.original import EXACT
from lumbar.dicom.series import Series, Slice
from lumbar.grading.regions import cut_region, cut_regions, region_key, view_window
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.recipe.views import TASK_VIEWS
from lumbar.study.study import Study
from tests.support.small_study import CANAL, axial, patterned, sagittal, small_study, turned, upside_down

SMALL = {
    "backbone_args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "image_size": 32,
    "slices": 3,
    "rnn_hidden": 8,
}


@dataclass(frozen=True)
class Spot:
    """The least that stage 2 needs of a keypoint."""

    series_id: int
    instance: int
    xy_px: tuple[float, float]
    mm: tuple[float, float, float]
    repaired: bool = False


def spot(study: Study, series_id: int, instance: int, mm) -> Spot:
    item = next(one for one in study.series_by_id(series_id).slices if one.instance == instance)
    column, row, _ = geometry.to_pixel(item.affine, mm)
    return Spot(series_id, instance, (float(column), float(row)), tuple(map(float, mm)))


def spots(study: Study) -> dict:
    """Keypoints of the small study: the axial stacks lie at L1/L2, L3/L4 and L5/S1."""
    found = {}
    for level, mm in CANAL.items():
        found["spinal_canal_stenosis", level] = spot(study, 1, 6, mm)
        for side, sign in (("left", 1), ("right", -1)):
            instance = 10 if side == "left" else 2
            found[f"{side}_neural_foraminal_narrowing", level] = spot(study, 2, instance, [sign * 18, *mm[1:]])
    for level, instance in (("l5_s1", 2), ("l3_l4", 5), ("l1_l2", 8)):
        for side, sign in (("left", 1), ("right", -1)):
            mm = CANAL[level] + [sign * 12, 0, 0]
            found[f"{side}_subarticular_stenosis", level] = spot(study, 3, instance, mm)
    return found


def spec_of(**fields) -> GraderSpec:
    return GraderSpec(task="global", **{**SMALL, "slices": 5, **fields})


def instances(region) -> list[int | None]:
    return [item.instance if item is not None else None for item in region.slices]


def test_windows_lie_in_the_middle_beside_it_and_around_the_keypoint():
    study = small_study()
    cuts = cut_regions(study, spots(study), spec_of()).cuts
    assert instances(cuts["sagittal_t2", "l3_l4"]) == [4, 5, 6, 7, 8]
    assert instances(cuts["sagittal_t1_left", "l1_l2"]) == [7, 8, 9, 10, 11]  # 14.9 mm is 3.3 slices of 4.5 mm
    assert instances(cuts["sagittal_t1_right", "l1_l2"]) == [5, 4, 3, 2, 1]
    assert instances(cuts["sagittal_t1_left", "l5_s1"]) == [8, 9, 10, 11, 11]
    assert instances(cuts["axial_left", "l3_l4"]) == [4, 4, 5, 6, 6]


def test_regions_are_boxes_of_so_many_millimetres_around_their_point():
    study = small_study()
    cuts = cut_regions(study, spots(study), spec_of(roi_mm=24.0)).cuts
    x1, y1, x2, y2 = cuts["sagittal_t2", "l3_l4"].boxes[2]  # 2 mm pixels: 12 of them
    assert (x2 - x1, y2 - y1) == (12, 12)
    assert ((x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5) == pytest.approx(((11 + 60) / 2, (100 - 16) / 2), abs=0.5)
    x1, _, x2, _ = cuts["axial_left", "l3_l4"].boxes[2]
    assert x2 - x1 == 16


def test_the_axial_middle_lies_between_left_and_right():
    study = small_study()
    cuts = cut_regions(study, spots(study), spec_of()).cuts
    boxes = [cuts[view, "l3_l4"].boxes[2] for view in ("axial_left", "axial_right", "axial_middle")]
    assert boxes[2][0] == pytest.approx((boxes[0][0] + boxes[1][0]) / 2, abs=1)
    points = spots(study)
    del points["right_subarticular_stenosis", "l3_l4"]
    alone = cut_region(study, "axial_middle", "l3_l4", points, spec_of())
    assert alone.boxes[2] == boxes[0]


@pytest.mark.parametrize("exact", [False, True])
def test_a_region_shows_the_patient_around_its_point(exact):
    study = small_study()
    spec = spec_of(roi_mm=40.0, preprocessing=EXACT if exact else Preprocessing())
    region = cut_regions(study, spots(study), spec).cuts["sagittal_t2", "l3_l4"]
    y, z = np.meshgrid(
        CANAL["l3_l4"][1] + (np.arange(32) - 15.5) * 1.25, CANAL["l3_l4"][2] - (np.arange(32) - 15.5) * 1.25
    )
    ideal = patterned(np.stack([np.zeros_like(y), y, z], axis=-1))
    assert np.corrcoef(region.pixels[2].ravel(), ideal.ravel())[0, 1] > 0.99


def test_regions_are_standardised_over_the_whole_stack():
    study = small_study()
    region = cut_regions(study, spots(study), spec_of()).cuts["sagittal_t2", "l3_l4"]
    assert region.pixels.mean() == pytest.approx(0, abs=1e-5)
    assert region.pixels.std() == pytest.approx(1, abs=1e-5)


def mirrored_paint(mm: np.ndarray) -> np.ndarray:
    return patterned(np.concatenate([np.abs(mm[..., :1]), mm[..., 1:]], axis=-1))


def test_in_a_symmetrical_patient_right_regions_equal_left_ones():
    study = small_study(
        sagittal_t1=(sagittal(2, paint=mirrored_paint),),
        axial_t2=(axial(3, shape=(70, 89), paint=mirrored_paint),),  # odd: x = 0 is a pixel
        sagittal_t2=(sagittal(1),),
    )
    tensors = cut_regions(study, spots(study), spec_of()).tensors
    np.testing.assert_allclose(tensors["sagittal_t1_right"], tensors["sagittal_t1_left"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(tensors["axial_right"], tensors["axial_left"], rtol=0, atol=1e-4)
    plain = cut_regions(study, spots(study), spec_of(mirror_right=False)).tensors
    assert plain["axial_right"][..., ::-1] == pytest.approx(plain["axial_left"], abs=1e-4)


def test_the_way_images_are_stored_changes_no_region():
    plain = small_study()
    other = small_study(
        sagittal_t2=(turned(sagittal(1), upside_down),),
        sagittal_t1=(turned(sagittal(2), upside_down),),
        axial_t2=(turned(axial(3), upside_down),),
    )
    one, two = cut_regions(plain, spots(plain), spec_of()), cut_regions(other, spots(other), spec_of())
    for view in TASK_VIEWS:
        assert np.array_equal(one.tensors[view], two.tensors[view]), view


def test_regions_past_the_border_repeat_it_with_an_issue_or_are_zero_in_the_original():
    study = small_study()
    points = spots(study)
    points["spinal_canal_stenosis", "l3_l4"] = spot(study, 1, 6, [0, -55.0, 16.0])
    regions = cut_regions(study, points, spec_of(roi_mm=30.0))
    region = regions.cuts["sagittal_t2", "l3_l4"]
    assert region.padded
    assert region.boxes[0][0] < 0
    assert region.filled == 5
    assert np.ptp(region.pixels[:, :, :4], axis=2).max() == pytest.approx(0, abs=1e-5)  # the border, repeated
    assert [issue.detail for issue in regions.issues if issue.code == "region_padded"] == [
        "sagittal t2 L3/L4: the 30 mm region reaches past the image; its border was repeated"
    ]
    exact = cut_regions(study, points, spec_of(roi_mm=30.0, preprocessing=EXACT))
    assert not exact.present["sagittal_t2"][2]
    assert not exact.tensors["sagittal_t2"][2].any()


def test_regions_wholly_outside_the_image_are_absent():
    study = small_study()
    points = spots(study)
    points["spinal_canal_stenosis", "l3_l4"] = spot(study, 1, 6, [0, 400.0, 16.0])
    regions = cut_regions(study, points, spec_of())
    assert regions.present["sagittal_t2"].tolist() == [True, True, False, True, True]


def test_levels_without_keypoints_are_absent_and_zero():
    study = small_study()
    regions = cut_regions(study, spots(study), spec_of())
    assert regions.present["axial_left"].tolist() == [True, False, True, False, True]
    assert not regions.tensors["axial_left"][1].any()
    assert regions.present["sagittal_t1_right"].all()


def test_windows_past_the_end_have_one_issue_a_view():
    study = small_study()
    issues = cut_regions(study, spots(study), spec_of()).issues
    left = [issue.detail for issue in issues if issue.code == "window_repeated" and "axial left" in issue.detail]
    assert left == ["axial left L1/L2, L3/L4, L5/S1: the 5 slices reach past the end; the border slice was repeated"]


def test_slices_of_another_size_show_the_same_place():
    series = sagittal(1)
    fine = sagittal(1, shape=(200, 160), px=1.0)
    mixed = replace(series, slices=(*series.slices[:6], *fine.slices[6:]))
    study = small_study(sagittal_t2=(mixed,), sagittal_t1=(sagittal(2),), axial_t2=(axial(3),))
    region = cut_regions(study, spots(study), spec_of()).cuts["sagittal_t2", "l3_l4"]
    assert np.corrcoef(region.pixels[2].ravel(), region.pixels[3].ravel())[0, 1] > 0.98


def test_only_what_members_see_decides_whether_they_share_regions():
    one = spec_of()
    assert region_key(one) == region_key(one.model_copy(update={"task": "spinal", "rnn_hidden": 64}))
    for other in (spec_of(image_size=64), spec_of(roi_mm=40.0), spec_of(preprocessing=EXACT), spec_of(slices=3)):
        assert region_key(one) != region_key(other)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_sound_and_exact_boxes_lie_within_a_pixel_of_each_other(dy, dz):
    study = STUDY
    point = spot(study, 1, 6, CANAL["l3_l4"] + [0, dy, dz])
    points = {("spinal_canal_stenosis", "l3_l4"): point}
    exact = spec_of(roi_mm=10.0, preprocessing=EXACT)
    one = cut_region(study, "sagittal_t2", "l3_l4", points, spec_of(roi_mm=10.0))
    two = cut_region(study, "sagittal_t2", "l3_l4", points, exact)
    assert np.abs(np.subtract(one.boxes[2], two.boxes[2])).max() <= 1


STUDY = small_study()


SIDES = (256, 320, 384, 512, 640)
#: Spacings with which a box's edge can lie exactly between two pixels, and many others.
SPACINGS = st.sampled_from(["0.3125", "0.390625", "0.4", "0.5", "0.625", "0.78125", "0.8", "1", "1.25"]) | st.integers(
    312_500, 1_250_000
).map(lambda millionths: str(Decimal(millionths) / 1_000_000))


def edges_by_rule(place: int, pixels: int, spacing: str) -> tuple[int, int]:
    """Where a box begins and ends, by the rule of the original's boxes in decimals; `place` of the 512 px heatmap."""
    centre, half = Decimal(place) / 512 * pixels, Decimal(50) / Decimal(spacing) / 2
    first, last = (edge.to_integral_value(ROUND_HALF_EVEN) for edge in (centre - half, centre + half))
    return int(first), int(last)


@settings(max_examples=400)
@given(
    st.tuples(st.sampled_from(SIDES), st.sampled_from(SIDES)),
    st.tuples(SPACINGS, SPACINGS),
    st.tuples(st.integers(0, 511), st.integers(0, 511)),
    st.none() | st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)
@example((320, 320), ("1.25", "1.25"), (200, 260), (0.1, 0.2))  # edges at exactly a half
def test_exact_boxes_lie_where_the_originals_rule_puts_them(shape, spacing, place, angles) -> None:
    turn, tilt = angles or (0.0, 0.0)
    row = np.array([np.sin(turn), np.cos(turn), 0.0])
    column = np.array([np.cos(turn) * np.sin(tilt), -np.sin(turn) * np.sin(tilt), -np.cos(tilt)])
    direction = np.round([*row, *column], 6)  # as headers have it
    tags = float(spacing[0]), float(spacing[1])
    affine = geometry.slice_affine([0, -60, 100], direction, tags)
    item = Slice(Path("1.dcm"), 1, np.zeros(shape, np.uint8), affine, pixel_spacing=tags)
    study = small_study(sagittal_t2=(Series(1, "Sagittal T2/STIR", "sagittal", (item,), (0,)),))
    xy = place[0] / 512 * shape[1], place[1] / 512 * shape[0]
    points = {("spinal_canal_stenosis", "l3_l4"): Spot(1, 1, xy, tuple(geometry.to_patient(affine, xy)))}
    region = cut_region(study, "sagittal_t2", "l3_l4", points, spec_of(slices=1, preprocessing=EXACT))
    (x1, x2), (y1, y2) = edges_by_rule(place[0], shape[1], spacing[1]), edges_by_rule(place[1], shape[0], spacing[0])
    inside = x1 >= 0 and y1 >= 0 and x2 <= shape[1] and y2 <= shape[0]
    assert region.boxes == ((x1, y1, x2, y2) if inside else None,)


def test_a_box_of_next_to_nothing_is_a_pixel():
    @dataclass(frozen=True)
    class Sized(Spot):
        size_mm: tuple[float, float] = (0.1, 0.6)

    study = small_study()
    points = {name: Sized(**vars(point)) for name, point in spots(study).items()}
    for size in ((0.1, 0.6), (0.0, 0.0)):
        sized = {name: replace(point, size_mm=size) for name, point in points.items()}
        region = cut_regions(study, sized, spec_of(region={"box": "own"})).cuts["sagittal_t2", "l3_l4"]
        x1, y1, x2, y2 = region.boxes[2]
        assert (x2 - x1, y2 - y1) == (1, 1)
    lost = {name: replace(point, size_mm=(np.nan, 1.0)) for name, point in points.items()}
    assert not cut_regions(study, lost, spec_of(region={"box": "own"})).present["sagittal_t2"].any()


def test_only_sagittal_regions_turn_along_the_canal():
    """A task cuts axial views beside its own; and theirs stay upright."""
    study = small_study()
    foraminal = GraderSpec(task="foraminal", **SMALL, region={"rotate": "canal"})
    cuts = cut_regions(study, spots(study), foraminal).cuts
    assert cuts["sagittal_t2", "l5_s1"].turn != 0
    assert cuts["axial_left", "l5_s1"].turn == 0


@pytest.mark.parametrize("count", [5, 6, 7, 12])
@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {"region": {"neighbours": True}},
        {"region": {"neighbours": True}, "t1_offsets_mm": (60.0,) * 5},
        {"region": {"around": "level"}},
        {"region": {"around": "level"}, "preprocessing": Preprocessing(side_order="patient")},
        {"region": {"around": "level", "half": True, "neighbours": True}},
    ],
)
def test_a_right_side_shows_the_mirrored_slices_of_the_left(count, num, fields):
    study = small_study(sagittal_t2=(sagittal(1),), sagittal_t1=(sagittal(2, count),), axial_t2=(axial(3),))
    spec = GraderSpec(task="foraminal", **{**SMALL, "slices": num}, **fields)
    keypoints = {("spinal_canal_stenosis", level): spot(study, 1, 6, mm) for level, mm in CANAL.items()}
    left, right = (
        view_window(study, view, "l3_l4", None, keypoints, spec) for view in ("sagittal_t1_left", "sagittal_t1_right")
    )
    there = [count + 1 - item.instance for item in left.slices]
    alike = spec.preprocessing.side_order == "medial" or spec.region.half
    assert [item.instance for item in right.slices] == (there if alike else there[::-1])


def test_a_levels_axial_slices_go_by_the_found_ones_where_it_asks_so():
    """One series over two levels: halfway to the other's slice, wherever the canal's points say that levels lie."""
    heights = [*range(-30, 34, 4)]  # 16 slices from the feet to the head
    study = small_study(sagittal_t2=(sagittal(1),), axial_t2=(axial(3, [heights]),))
    points = {("spinal_canal_stenosis", level): spot(study, 1, 6, mm) for level, mm in CANAL.items()}
    for name, instance in {("left", "l3_l4"): 16, ("right", "l3_l4"): 14, ("left", "l4_l5"): 7}.items():
        side, level = name
        mm = [12 if side == "left" else -12, 10, heights[instance - 1]]
        points[f"{side}_subarticular_stenosis", level] = spot(study, 3, instance, mm)

    def shown(level, **region):
        spec = GraderSpec(task="subarticular", **{**SMALL, "slices": 16}, region={"around": "level", **region})
        return sorted(set(instances(cut_region(study, "axial_left", level, points, spec))))

    assert shown("l3_l4", levels_by="found") == [*range(11, 17)]  # the slice halfway between 7 and 15 belongs to both
    assert shown("l4_l5", levels_by="found") == [*range(3, 12)]
    assert shown("l3_l4") == shown("l3_l4", levels_by="segments") == [*range(9, 17)]
    assert shown("l4_l5") == [*range(2, 9)]
