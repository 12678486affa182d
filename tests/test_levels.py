"""Which axial slices belong to a level."""

import json

import numpy as np
import pytest
from conftest import SHARED

from lumbar.labels import LEVELS
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.keypoint import SlicePlace
from lumbar.study.levels import level_groups, level_slices, segments
from lumbar.study.study import open_data, read_study
from tests.support.small_study import CANAL, axial, small_study

PARITY, REAL = SHARED / "parity", SHARED / "real" / "cc0_study"
HEIGHTS = {"l1_l2": 80.0, "l2_l3": 48.0, "l3_l4": 16.0, "l4_l5": -16.0, "l5_s1": -40.0}


def heights(found) -> dict[str, list[float]]:
    return {level: [round(float(item.affine[2, 3]), 1) for _, item in slices] for level, slices in found.items()}


def test_neighbouring_segments_meet_midway_and_the_outer_ones_reach_as_far_out_as_in():
    found = segments(CANAL)
    assert [round(float(upper[2]), 6) for upper, _ in found.values()] == [96, 64, 32, 0, -28]
    assert [round(float(lower[2]), 6) for _, lower in found.values()] == [64, 32, 0, -28, -52]


def test_a_missing_level_leaves_a_gap_and_a_single_one_has_no_segment():
    found = segments({level: CANAL[level] for level in ("l1_l2", "l3_l4")})
    assert [(upper[2], lower[2]) for upper, lower in found.values()] == [(96, 64), (32, 0)]
    assert segments({"l1_l2": CANAL["l1_l2"]}) == {}


def test_every_slice_of_every_axial_series_belongs_to_the_segment_that_it_cuts():
    study = small_study(axial_t2=(axial(3, [(100.0, 90.0, 70.0, 64.0, 63.0)]), axial(4, [(-50.0, -60.0, 10.0)])))
    found = level_slices(study, CANAL, "segments", Preprocessing())
    assert heights(found) == {"l1_l2": [90, 70, 64], "l2_l3": [63], "l3_l4": [10], "l5_s1": [-50]}
    assert {series.series_id for series, _ in found["l3_l4"]} == {4}


def test_the_nearest_plane_counts_within_reach():
    found = level_slices(small_study(), CANAL, "nearest", Preprocessing())
    assert heights(found) == {"l1_l2": [80], "l3_l4": [16], "l5_s1": [-40]}


def test_found_slices_reach_halfway_to_their_neighbours_series_by_series():
    study = small_study(axial_t2=(axial(3, [tuple(range(40, 0, -4))]), axial(4, [(7.0, 3.0)])))
    names = ("left_subarticular_stenosis", "right_subarticular_stenosis")
    ordered = study.series["axial_t2"][0].ordered("position")
    places = [
        SlicePlace(name, level, 3, ordered[at].instance, 0.9)
        for level, at in (("l3_l4", 8), ("l4_l5", 4))
        for name in names
    ]
    places.append(SlicePlace(names[0], "l5_s1", 4, 1, 0.5))
    found = level_slices(study, {}, "found", Preprocessing(), places=places)
    at = {level: [item.instance for _, item in slices] for level, slices in found.items()}
    instances = [item.instance for item in ordered]
    assert at["l3_l4"] == instances[6:]
    assert at["l4_l5"] == instances[2:7]
    assert [series.series_id for series, _ in found["l5_s1"]] == [4]


@pytest.mark.skipif(not PARITY.is_dir(), reason="needs the recorded results in ../shared/parity")
def test_groups_of_the_seventh_place_are_those_recorded():
    cases = json.loads((PARITY / "seventh" / "arithmetic.json").read_text())["level_groups"]
    ours = [level_groups(case["z"], case["depth"]) for case in cases]
    for number, (case, groups) in enumerate(zip(cases, ours, strict=True)):
        if number != 3:
            assert [list(group) for group in groups] == case["groups"]
    # from foot to head the original takes the neighbours' distances the wrong way round: [2, 7]
    assert ours[3][3] == (3, 8)


@pytest.mark.skipif(not (PARITY.is_dir() and REAL.is_dir()), reason="needs ../shared/parity and ../shared/real")
def test_segments_and_slices_of_the_third_place_are_those_recorded():
    recorded = json.loads((PARITY / "third" / "geometry.json").read_text())
    names = {f"{level[:2]}/{level[3:]}".upper(): level for level in LEVELS}
    canal = {names[name]: np.array(mm) for name, mm in recorded["world_points_T2"].items()}
    ends = recorded["segment_ends"]
    cut = segments(canal)
    assert cut["l1_l2"][0] == pytest.approx(ends["L1/L2_upper"], abs=1e-4)
    assert cut["l5_s1"][1] == pytest.approx(ends["L5/S1_lower"], abs=1e-4)
    for (name, mm), level in zip(list(ends.items())[1:5], LEVELS, strict=False):
        assert cut[level][1] == pytest.approx(mm, abs=1e-4), name
    study = read_study(open_data(REAL), 1001)
    found = level_slices(study, canal, "segments", Preprocessing())
    order = recorded["stack"]["8"]["instance_numbers"]
    assert {level: sorted(item.instance for _, item in slices) for level, slices in found.items()} == {
        names[name]: sorted(order[index] for index in indices)
        for name, indices in recorded["axial_indices_per_level"].items()
    }
