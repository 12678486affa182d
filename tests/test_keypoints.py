"""Stage 1: input stacks, and keypoints found on them."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lumbar import geometry
from lumbar.bundle.convert.original import EXACT
from lumbar.issues import InputError
from lumbar.keypoints.answers.heatmaps import gaussian_heatmaps
from lumbar.keypoints.detect import detect
from lumbar.keypoints.stacks import Stack, axial_stacks, channel_names, sagittal_stacks
from lumbar.labels import LABEL_COLUMNS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.preprocessing import Preprocessing
from tests.support.small_study import CANAL, axial, sagittal, small_study, turned, upside_down

SIZE = 64

# ---- inputs --------------------------------------------------------------------------------------------------------


def spec_of(series_type: str, **fields) -> DetectorSpec:
    shapes = {"sagittal_t2": (5, 5), "sagittal_t1": (3, 5), "axial_t2": (3, 2)}
    in_chans, num_classes = shapes[series_type]
    return DetectorSpec(
        series_type=series_type, **{"in_chans": in_chans, "num_classes": num_classes, "image_size": SIZE, **fields}
    )


def instances(stack) -> list[int | None]:
    return [item.instance if item is not None else None for item in stack.window.slices]


def test_t2_stack_is_the_middle_of_the_series_and_standardised():
    (stack,), issues = sagittal_stacks(small_study(), spec_of("sagittal_t2"))
    assert instances(stack) == [4, 5, 6, 7, 8]
    assert stack.centre.instance == 6
    assert stack.pixels.mean() == pytest.approx(0, abs=1e-5)
    assert stack.pixels.std() == pytest.approx(1, abs=1e-5)
    assert issues == []


def test_t1_stacks_lie_on_their_sides_and_run_from_the_middle_outwards():
    (left, right), _ = sagittal_stacks(small_study(), spec_of("sagittal_t1"))
    assert (left.side, right.side) == ("left", "right")
    assert instances(left) == [9, 10, 11]
    assert instances(right) == [3, 2, 1]
    assert left.centre.affine[0, 3] == pytest.approx(18.0)  # patient left is +x
    assert right.centre.affine[0, 3] == pytest.approx(-18.0)


def test_t1_right_stack_of_the_original_runs_from_right_to_left():
    patient = Preprocessing(side_order="patient")
    (_, right), _ = sagittal_stacks(small_study(), spec_of("sagittal_t1", preprocessing=patient))
    assert instances(right) == [1, 2, 3]


def test_short_series_repeat_their_border_slice_with_an_issue_or_end_in_zeros():
    study = small_study(sagittal_t2=(sagittal(count=3),))
    (stack,), issues = sagittal_stacks(study, spec_of("sagittal_t2"))
    assert instances(stack) == [1, 1, 2, 3, 3]
    assert [issue.code for issue in issues] == ["window_repeated"]
    (stack,), issues = sagittal_stacks(study, spec_of("sagittal_t2", preprocessing=EXACT))
    assert instances(stack) == [1, 2, 3, None, None]
    assert issues == []


def test_axial_stack_is_taken_at_the_nearest_plane_and_stays_in_its_stack():
    canal = {"l1_l2": CANAL["l1_l2"], "l3_l4": CANAL["l3_l4"] + [0, 0, 2.5]}
    stacks, issues = axial_stacks(small_study(), canal, spec_of("axial_t2"))
    assert [(stack.level, instances(stack)) for stack in stacks] == [("l1_l2", [7, 8, 9]), ("l3_l4", [5, 6, 6])]
    assert [issue.code for issue in issues] == ["window_repeated"]


def test_levels_without_an_axial_plane_nearby_are_named():
    stacks, issues = axial_stacks(small_study(), {"l2_l3": CANAL["l2_l3"]}, spec_of("axial_t2"))
    assert stacks == []
    assert [(issue.code, issue.detail) for issue in issues] == [
        ("no_axial_slice", "L2/L3: the nearest axial slice is 28.0 mm away")
    ]


def test_missing_series_give_no_stack_but_stand_in_for_each_other_in_the_original():
    study = small_study(sagittal_t2=(sagittal(1),))
    assert sagittal_stacks(study, spec_of("sagittal_t1")) == ([], [])
    stacks, _ = sagittal_stacks(study, spec_of("sagittal_t1", preprocessing=EXACT))
    assert [stack.series.series_id for stack in stacks] == [1, 1]


@cache
def one_stack(series_type: str, exact: bool) -> Stack:
    spec = spec_of(series_type, preprocessing=EXACT if exact else Preprocessing())
    if series_type == "axial_t2":
        return axial_stacks(small_study(), {"l3_l4": CANAL["l3_l4"]}, spec)[0][0]
    return sagittal_stacks(small_study(), spec)[0][0]


@given(st.floats(0, SIZE - 1), st.floats(0, SIZE - 1), st.sampled_from(["sagittal_t2", "axial_t2"]), st.booleans())
def test_points_come_back_from_the_patient_to_the_networks_image(x, y, series_type, exact):
    stack = one_stack(series_type, exact)
    stored, mm = stack.to_slice(np.array([[x, y]]))
    assert stack.from_patient(mm)[0] == pytest.approx([x, y], abs=1e-9)
    assert geometry.to_patient(stack.centre.affine, stored) == pytest.approx(mm, abs=1e-9)


def test_the_way_an_image_is_stored_changes_neither_the_stack_nor_the_place_in_the_patient():
    plain, other = sagittal(1), turned(sagittal(1), upside_down)
    (one,), _ = sagittal_stacks(small_study(sagittal_t2=(plain,)), spec_of("sagittal_t2"))
    (two,), _ = sagittal_stacks(small_study(sagittal_t2=(other,)), spec_of("sagittal_t2"))
    assert np.array_equal(one.pixels, two.pixels)
    (stored, mm), (stored_two, mm_two) = one.to_slice(np.array([20.0, 30.0])), two.to_slice(np.array([20.0, 30.0]))
    assert mm == pytest.approx(mm_two)
    assert stored_two == pytest.approx([plain.slices[0].shape[0] - 1 - stored[1], stored[0]])


def test_channels_mean_levels_sides_or_all_25():
    assert channel_names(spec_of("sagittal_t1"), side="right")[0] == ("right_neural_foraminal_narrowing", "l1_l2")
    assert channel_names(spec_of("axial_t2"), level="l4_l5") == (
        ("left_subarticular_stenosis", "l4_l5"),
        ("right_subarticular_stenosis", "l4_l5"),
    )
    every = channel_names(spec_of("axial_t2", num_classes=25), level="l1_l2")
    assert [index for index, name in enumerate(every) if name is not None] == [15, 20]
    with pytest.raises(InputError, match="num_classes = 7 has no meaning; set it to 5 or 25"):
        channel_names(spec_of("sagittal_t2", num_classes=7))


# ---- detection -----------------------------------------------------------------------------------------------------


class Placed(nn.Module):
    """A detector that always sees its keypoints at given places of the network's image."""

    def __init__(self, xy_px: np.ndarray, strength: float = 1.0, sigma: float = 10.0) -> None:
        super().__init__()
        self.maps = torch.from_numpy(strength * gaussian_heatmaps(xy_px, SIZE, sigma))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps.expand(len(images), -1, -1, -1)


def canal_pixels() -> np.ndarray:
    """The canal points in the network's image of the small study's sagittal series, 100 x 80 pixels of 2 mm."""
    return np.array([[(mm[1] + 60) / 2 * SIZE / 80, (100 - mm[2]) / 2 * SIZE / 100] for mm in CANAL.values()])


def placed_detectors(**places) -> dict:
    places = {"sagittal_t2": canal_pixels(), "sagittal_t1": canal_pixels(), "axial_t2": [[38, 33], [26, 33]], **places}
    return {
        name: [(spec_of(name, sigma_px=4.0), Placed(np.asarray(xy_px, np.float64), sigma=4.0))]
        for name, xy_px in places.items()
        if xy_px is not None
    }


def by_name(points) -> dict:
    return {(point.condition, point.level): point for point in points}


def test_detection_finds_all_points_where_they_are():
    points, issues = detect(small_study(), placed_detectors())
    found = by_name(points)
    assert len(points) == 5 + 10 + 6  # two levels have no axial plane nearby
    for level, mm in CANAL.items():
        assert found["spinal_canal_stenosis", level].mm == pytest.approx(mm, abs=2.6)  # half a pixel of the image
        assert found["left_neural_foraminal_narrowing", level].mm[0] == pytest.approx(18.0)
        assert found["right_neural_foraminal_narrowing", level].mm[0] == pytest.approx(-18.0)
    for level in ("l1_l2", "l3_l4", "l5_s1"):
        left, right = found["left_subarticular_stenosis", level], found["right_subarticular_stenosis", level]
        assert left.mm == pytest.approx([14.2, 14.1, CANAL[level][2]], abs=1.1)
        assert right.mm[0] == pytest.approx(-11.2, abs=1.1)
    assert not any(point.repaired for point in points)
    assert all(point.confidence > 0.85 for point in points)
    assert [issue.code for issue in issues] == ["no_axial_slice", "no_axial_slice"]


def test_keypoints_stand_in_the_order_of_the_labels():
    points, _ = detect(small_study(), placed_detectors())
    names = [f"{point.condition}_{point.level}" for point in points]
    assert names == [name for name in LABEL_COLUMNS if name in names]


def test_heatmaps_of_folds_are_averaged():
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    true, wrong = canal_pixels(), canal_pixels()[::-1]
    members = [(spec, Placed(true, 1.0, 4.0)), (spec, Placed(wrong, 0.4, 4.0)), (spec, Placed(true, 1.0, 4.0))]
    points, _ = detect(small_study(), {"sagittal_t2": members})
    for point in points:
        assert point.mm == pytest.approx(CANAL[point.level], abs=2.6)
    assert points[0].peak == pytest.approx(2 / 3, abs=0.02)


def test_detectors_of_different_inputs_are_joined_by_what_they_read():
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    near, far = Placed(canal_pixels(), 1.0, 4.0), Placed(np.add(canal_pixels(), [3, 0]), 1.0, 4.0)
    wide = spec.model_copy(update={"in_chans": 3})
    points, _ = detect(small_study(), {"sagittal_t2": [(spec, near), (wide, far)]})
    alone, moved = (by_name(detect(small_study(), {"sagittal_t2": [(spec, each)]})[0]) for each in (near, far))
    for point in points:
        between = (np.array(alone[point.name].mm) + moved[point.name].mm) / 2
        assert point.mm == pytest.approx(between, abs=1e-6)
        assert point.instance == 6
        assert point.confidence == pytest.approx(alone[point.name].confidence, abs=0.02)


def test_without_t2_the_foramina_lead_to_the_axial_slices():
    study = small_study(sagittal_t1=(sagittal(2),), axial_t2=(axial(3),))
    points, _ = detect(study, placed_detectors())
    assert sorted(point.level for point in points if point.condition == "left_subarticular_stenosis") == [
        "l1_l2",
        "l3_l4",
        "l5_s1",
    ]


def test_a_study_without_series_has_no_keypoints():
    assert detect(small_study(sagittal_t2=()), placed_detectors()) == ([], [])


def test_a_misplaced_level_is_repaired_with_an_issue_and_kept_where_the_spec_says_so():
    places = canal_pixels()
    places[2] = [5.0, 5.0]
    points, issues = detect(small_study(), placed_detectors(sagittal_t2=places, sagittal_t1=None, axial_t2=None))
    fixed = by_name(points)["spinal_canal_stenosis", "l3_l4"]
    assert fixed.repaired
    assert fixed.mm == pytest.approx(CANAL["l3_l4"], abs=3.5)
    assert [(issue.code, issue.detail[:27]) for issue in issues] == [
        ("keypoint_repaired", "Spinal Canal Stenosis L3/L4")
    ]
    spec = spec_of("sagittal_t2", sigma_px=4.0, preprocessing=Preprocessing(keypoints="keep"))
    points, issues = detect(small_study(), {"sagittal_t2": [(spec, Placed(places, sigma=4.0))]})
    assert not any(point.repaired for point in points)
    assert issues == []


def test_faint_keypoints_are_reported():
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    points, issues = detect(small_study(), {"sagittal_t2": [(spec, Placed(canal_pixels(), 0.15, 4.0))]})
    assert [issue.code for issue in issues] == ["keypoint_low_confidence"]
    assert "L3/L4 and 2 more: confidence 0.15" in issues[0].detail
    assert not any(point.repaired for point in points)
