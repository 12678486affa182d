"""Repair of implausible keypoints: along the spine, and beside the canal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar import geometry
from lumbar.keypoints.detect import canal_points
from lumbar.keypoints.repair import repair_axial, repair_sagittal
from lumbar.labels import LEVELS
from lumbar.study.keypoint import Keypoint
from tests.support.small_study import CANAL


def keypoint(condition: str, level: str, mm, confidence: float = 0.9, instance: int = 1) -> Keypoint:
    mm = tuple(float(value) for value in mm)
    return Keypoint(condition, level, 1, instance, (mm[1], -mm[2]), mm, confidence, 10.0, confidence)


def sagittal_planes(x: float) -> dict:
    return {(1, 1): geometry.slice_affine([x, 0, 0], (0, 1, 0, 0, 0, -1), [1, 1])}


def canal_chain(places: dict, **confidences: float) -> list[Keypoint]:
    return [keypoint("spinal_canal_stenosis", lv, mm, confidences.get(lv, 0.9)) for lv, mm in places.items()]


steps = st.lists(st.floats(26, 38), min_size=4, max_size=4)
slants = st.lists(st.floats(-0.4, 0.4), min_size=4, max_size=4)


@given(steps, slants, st.floats(0.05, 1.0))
def test_plausible_chains_stay_untouched_whatever_their_confidence(lengths, angles, sure):
    places, at = {"l1_l2": np.array([0.0, 0.0, 60.0])}, np.array([0.0, 0.0, 60.0])
    for level, length, angle in zip(LEVELS[1:], lengths, angles, strict=True):
        at = at + length * np.array([0.0, np.sin(angle), -np.cos(angle)])
        places[level] = at
    chain = canal_chain(places, **dict.fromkeys(LEVELS, sure))
    fixed, issues = repair_sagittal(chain, sagittal_planes(0), {}, 7)
    assert all(one is other for one, other in zip(fixed, chain, strict=True))
    assert issues == []


@given(st.sampled_from(LEVELS), st.floats(-80, 80), st.floats(-80, 80))
def test_one_wild_point_never_moves_the_others_and_lands_near_its_place(level, dy, dz):
    straight = {lv: np.array([0.0, 0.0, 64.0 - 32.0 * place]) for place, lv in enumerate(LEVELS)}
    if np.hypot(dy, dz) < 45:
        return
    wild = {lv: mm + ([0, dy, dz] if lv == level else [0, 0, 0]) for lv, mm in straight.items()}
    fixed, issues = repair_sagittal(canal_chain(wild), sagittal_planes(0), {}, 7)
    for point in fixed:
        assert point.mm == pytest.approx(straight[point.level], abs=1e-6)
        assert point.repaired == (point.level == level)
        assert point.xy_px == pytest.approx((point.mm[1], -point.mm[2]))
    assert [issue.code for issue in issues] == ["keypoint_repaired"]


def test_two_levels_on_one_disc_are_told_apart_by_their_confidence():
    places = {**CANAL, "l3_l4": CANAL["l2_l3"]}
    fixed, issues = repair_sagittal(canal_chain(places, l3_l4=0.4), sagittal_planes(0), {}, 7)
    assert [point.level for point in fixed if point.repaired] == ["l3_l4"]
    assert fixed[2].mm[2] == pytest.approx(16, abs=1)
    assert "derived from its neighbours" in issues[0].detail


def test_levels_in_reverse_order_are_not_believed():
    places = dict(zip(LEVELS, reversed(CANAL.values()), strict=True))
    fixed, issues = repair_sagittal(canal_chain(places), sagittal_planes(0), {}, 7)
    assert not any(point.repaired for point in fixed)
    assert [issue.code for issue in issues] == ["keypoint_low_confidence"] * 5
    assert "too few neighbours" in issues[0].detail


def test_faint_points_are_derived_even_where_they_happen_to_fit():
    fixed, _ = repair_sagittal(canal_chain(CANAL, l2_l3=0.01), sagittal_planes(0), {}, 7)
    assert [point.level for point in fixed if point.repaired] == ["l2_l3"]


def test_foramina_one_level_too_low_are_brought_back_by_the_canal():
    shifted = dict(zip(LEVELS, [*list(CANAL.values())[1:], CANAL["l5_s1"] + [0, 8, -28]], strict=True))
    chain = [keypoint("left_neural_foraminal_narrowing", level, [18, *mm[1:]]) for level, mm in shifted.items()]
    fixed, issues = repair_sagittal(chain, sagittal_planes(18.0), CANAL, 7)
    for point in fixed:
        assert point.repaired
        assert point.mm == pytest.approx([18, *CANAL[point.level][1:]])
    assert "derived from the canal points" in issues[0].detail


def pair(left, right, sure=(0.9, 0.9)) -> list[Keypoint]:
    return [
        keypoint("left_subarticular_stenosis", "l4_l5", left, sure[0]),
        keypoint("right_subarticular_stenosis", "l4_l5", right, sure[1]),
    ]


AXIAL_PLANES = {(1, 1): geometry.slice_affine([0, 0, -16], (1, 0, 0, 0, 1, 0), [1, 1])}


def repaired_pair(left, right, sure=(0.9, 0.9), canal=CANAL):
    fixed, issues = repair_axial(pair(left, right, sure), AXIAL_PLANES, canal, 7)
    return {("left" if point.condition.startswith("left") else "right"): point for point in fixed}, issues


def test_plausible_axial_pairs_stay_untouched():
    points = pair([9, 12, -16], [-12, 15, -16], sure=(0.1, 0.9))
    fixed, issues = repair_axial(points, AXIAL_PLANES, CANAL, 7)
    assert all(one is other for one, other in zip(fixed, points, strict=True))
    assert issues == []


def test_an_axial_point_far_from_the_canal_is_mirrored_from_the_other_side():
    found, issues = repaired_pair([60, -30, -16], [-11, 13, -16])
    assert found["left"].mm == pytest.approx([11, 13, -16])
    assert not found["right"].repaired
    assert "derived from the other side" in issues[0].detail


def test_of_two_axial_points_on_one_side_the_surer_stays():
    found, _ = repaired_pair([12, 12, -16], [9, 13, -16], sure=(0.5, 0.9))
    assert not found["left"].repaired  # it lies on its own side, the right one does not
    assert found["right"].mm == pytest.approx([-12, 12, -16])


def test_of_two_axial_points_that_are_equally_sure_none_is_preferred():
    """Detectors that say points alone are as sure of the one as of the other; in the mirror they are the same two."""
    found, _ = repaired_pair([12, 4, -16], [-9, 22, -16], sure=(1.0, 1.0))
    twin, _ = repaired_pair([9, 22, -16], [-12, 4, -16], sure=(1.0, 1.0))
    for side, other in (("left", "right"), ("right", "left")):
        assert twin[other].mm == pytest.approx(np.array(found[side].mm) * [-1, 1, 1])
        assert found[side].repaired


def test_swapped_axial_sides_are_put_beside_the_canal():
    found, issues = repaired_pair([-10, 12, -16], [10, 12, -16])
    assert found["left"].mm == pytest.approx([10, 14, -16])
    assert found["right"].mm == pytest.approx([-10, 14, -16])
    assert [issue.code for issue in issues] == ["keypoint_repaired"] * 2


def test_without_a_canal_point_axial_pairs_are_left_alone():
    found, issues = repaired_pair([-10, 12, -16], [10, 12, -16], canal={})
    assert not found["left"].repaired
    assert issues == []


def test_canal_points_come_from_the_canal_then_from_both_foramina():
    left = keypoint("left_neural_foraminal_narrowing", "l1_l2", [18, 4, 80])
    right = keypoint("right_neural_foraminal_narrowing", "l1_l2", [-16, 6, 82])
    assert canal_points([left, right])["l1_l2"].tolist() == [1, 5, 81]
    own = keypoint("spinal_canal_stenosis", "l1_l2", [0, 10, 80])
    assert canal_points([left, right, own])["l1_l2"].tolist() == [0, 10, 80]
    assert canal_points([left, replace(own, confidence=0.01)], least=0.05) == {}
