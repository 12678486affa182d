"""Coordinates: against highdicom and against the recorded numbers of the original system."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lumbar import geometry
from lumbar.geometry import PLANE_AXIS, Plane
from tests.conftest import shared_path

number = st.floats(-300, 300)
unit = st.floats(-1, 1)


@st.composite
def rotations(draw: st.DrawFn) -> NDArray[np.float64]:
    """Random rotation matrix (3, 3) from a quaternion."""
    w, x, y, z = draw(st.tuples(unit, unit, unit, unit).filter(lambda q: sum(v * v for v in q) > 0.01))
    w, x, y, z = np.array([w, x, y, z]) / np.linalg.norm([w, x, y, z])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@st.composite
def tags(draw: st.DrawFn) -> tuple[list[float], list[float], list[float]]:
    """ImagePositionPatient, ImageOrientationPatient, PixelSpacing of a random oblique plane."""
    turn = draw(rotations())
    spacing = draw(st.lists(st.floats(0.2, 2.0), min_size=2, max_size=2))
    return draw(st.lists(number, min_size=3, max_size=3)), [*turn[:, 0], *turn[:, 1]], spacing


points = st.lists(st.tuples(number, number), min_size=1, max_size=5).map(np.array)


def _axial(z: float, tilt: float = 0.0) -> geometry.FloatArray:
    direction = [1, 0, 0, 0, np.cos(tilt), np.sin(tilt)]
    return geometry.slice_affine([-90.0, -90.0, z], direction, [0.7, 0.6])


@given(tags(), points)
def test_pixels_land_where_highdicom_puts_them(plane: tuple, xy_px: NDArray[np.float64]) -> None:
    spatial = pytest.importorskip("highdicom.spatial")
    expected = spatial.ImageToReferenceTransformer(*plane)(xy_px + 0.5)  # its image coordinates start at pixel corners
    assert np.allclose(geometry.to_patient(geometry.slice_affine(*plane), xy_px), expected, atol=1e-6, rtol=0)


@given(tags(), st.lists(st.tuples(number, number, number), min_size=1, max_size=5).map(np.array))
def test_patient_points_land_where_highdicom_puts_them(plane: tuple, mm: NDArray[np.float64]) -> None:
    spatial = pytest.importorskip("highdicom.spatial")
    expected = spatial.ReferenceToImageTransformer(*plane)(mm)
    found = geometry.to_pixel(geometry.slice_affine(*plane), mm)
    assert np.allclose(found[:, 0] + 0.5, expected[:, 0], atol=1e-6, rtol=1e-9)
    assert np.allclose(found[:, 1] + 0.5, expected[:, 1], atol=1e-6, rtol=1e-9)
    assert np.allclose(np.abs(found[:, 2]), np.abs(expected[:, 2]), atol=1e-6, rtol=1e-9)


@given(tags(), points)
def test_pixel_to_patient_and_back_is_the_same_pixel_in_the_plane(plane: tuple, xy_px: NDArray[np.float64]) -> None:
    affine = geometry.slice_affine(*plane)
    back = geometry.to_pixel(affine, geometry.to_patient(affine, xy_px))
    assert np.allclose(back[:, :2], xy_px, atol=1e-6)
    assert np.allclose(back[:, 2], 0, atol=1e-6)


def test_a_point_beside_the_plane_keeps_its_distance() -> None:
    affine = _axial(10.0, tilt=0.4)
    point = geometry.to_patient(affine, (5, 7)) + 3.5 * geometry.normal(affine)
    assert np.allclose(geometry.to_pixel(affine, point), [5, 7, 3.5])
    assert np.allclose(geometry.plane_distances(affine[None], point), [3.5])


@given(tags(), st.integers(1, 6), st.integers(1, 7), st.sampled_from(sorted(PLANE_AXIS)))
def test_canonical_orientation_leaves_every_pixel_in_its_place(plane: tuple, h: int, w: int, name: Plane) -> None:
    affine = geometry.slice_affine(*plane)
    pixels = np.arange(h * w).reshape(h, w)
    turned, turned_affine = geometry.canonical(pixels, affine, name)
    assert sorted(turned.ravel()) == list(range(h * w))
    for row, column in np.ndindex(turned.shape):
        old_row, old_column = divmod(int(turned[row, column]), w)
        expected = geometry.to_patient(affine, (old_column, old_row))
        assert np.allclose(geometry.to_patient(turned_affine, (column, row)), expected, atol=1e-9)


@given(tags())
def test_canonical_axes_run_the_usual_way_and_stay(plane: tuple) -> None:
    affine = geometry.slice_affine(*plane)
    name = geometry.plane_of(affine)
    pixels, turned = geometry.canonical(np.zeros((3, 4)), affine)
    (x_axis, x_sign), (y_axis, y_sign) = geometry.DISPLAY[name]
    assert turned[x_axis, 0] * x_sign >= 0
    assert turned[y_axis, 1] * y_sign >= 0
    again, same = geometry.canonical(pixels, turned, name)
    assert again.shape == pixels.shape
    assert np.array_equal(same, turned)
    assert np.allclose(geometry.normal(turned), np.cross(turned[:3, 0], turned[:3, 1]) / plane[2][0] / plane[2][1])


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ([0, 1, 0, 0, 0, -1], [[0, 1], [2, 3]]),  # as it should be
        ([0, 1, 0, 0, 0, 1], [[2, 3], [0, 1]]),  # head at the bottom
        ([0, -1, 0, 0, 0, -1], [[1, 0], [3, 2]]),  # belly on the right
        ([0, 0, -1, 0, 1, 0], [[0, 2], [1, 3]]),  # lying
    ],
)
def test_a_sagittal_slice_shows_the_belly_left_and_the_head_up(direction: list[float], expected: list) -> None:
    affine = geometry.slice_affine([0, 0, 0], direction, [1, 1])
    assert geometry.canonical(np.array([[0, 1], [2, 3]]), affine)[0].tolist() == expected


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ([1, 0, 0, 0, 1, 0], ("R", "L")),
        ([-1, 0, 0, 0, 1, 0], ("L", "R")),
        ([0, 1, 0, 0, 0, -1], ("A", "P")),
        ([0, -0.98, 0.2, 0, 0.2, 0.98], ("P", "A")),
        ([0, 0, 1, 0, 1, 0], ("F", "H")),
    ],
)
def test_the_edges_of_an_image_are_named_after_its_orientation(direction: list[float], letters: tuple) -> None:
    assert geometry.edge_letters(geometry.slice_affine([0, 0, 0], direction, [1, 1])) == letters


def test_an_axial_slice_shows_the_patients_left_on_the_right() -> None:
    affine = geometry.slice_affine([0, 0, 0], [-1, 0, 0, 0, 1, 0], [1, 1])
    assert geometry.canonical(np.array([[0, 1], [2, 3]]), affine)[0].tolist() == [[1, 0], [3, 2]]


def test_the_nearest_plane_is_found_and_a_far_one_is_none() -> None:
    affines = np.stack([_axial(z) for z in (0.0, 4.0, 4.0, 8.0)])
    assert geometry.nearest_plane(affines, (0, 0, 4.5), 5.0) == (1, pytest.approx(0.5))
    assert geometry.nearest_plane(affines, (0, 0, 14.0), 5.0) == (None, pytest.approx(6.0))
    assert geometry.nearest_plane(affines, (0, 0, 13.0), 5.0) == (3, pytest.approx(5.0))
    assert geometry.nearest_plane(np.zeros((0, 4, 4)), (0, 0, 0), 5.0) == (None, float("inf"))
    assert geometry.nearest_plane(affines, (np.nan, 0, 0), 5.0) == (None, float("inf"))


counts = st.integers(1, 40)
nums = st.integers(1, 9)


@given(counts, nums, st.floats(-60, 60), st.floats(0.5, 6))
def test_a_mirrored_series_gives_the_mirrored_window(count: int, num: int, offset: float, spacing: float) -> None:
    one = geometry.window_indices(count, num, offset_mm=offset, spacing_mm=spacing)
    other = geometry.window_indices(count, num, offset_mm=-offset, spacing_mm=spacing)
    if (count - num) % 2 and abs(offset) <= spacing * 1e-6:
        assert one.tolist() == other.tolist()  # exactly in the middle there is one slice too many
    else:
        assert one.tolist() == (count - 1 - other[::-1]).tolist()


@given(counts, nums, st.integers(-8, 8))
def test_a_mirrored_window_survives_ties(count: int, num: int, halves: int) -> None:
    one = geometry.window_indices(count, num, offset_mm=halves * 0.5 * 4.4, spacing_mm=4.4)
    other = geometry.window_indices(count, num, offset_mm=-halves * 0.5 * 4.4, spacing_mm=4.4 * (1 + 1e-12))
    if halves or (count - num) % 2 == 0:
        assert one.tolist() == (count - 1 - other[::-1]).tolist()


@given(st.integers(9, 40), nums, st.floats(-1.5, 1.5), st.floats(0.5, 6))
def test_the_window_lies_as_near_as_slices_allow(count: int, num: int, steps: float, spacing: float) -> None:
    window = geometry.window_indices(count, num, offset_mm=steps * spacing, spacing_mm=spacing, end_rule="repeat")
    wanted = (count - 1) / 2 + steps
    starts = np.arange(-num, count + num)
    best = np.abs(starts + (num - 1) / 2 - wanted).min()
    if window[0] > 0 and window[-1] < count - 1:
        assert abs(window[0] + (num - 1) / 2 - wanted) <= best + 1e-5


@given(st.integers(0, 39), st.sampled_from([1, 3, 5, 7]))
def test_a_window_around_a_slice_is_centred_on_it(center: int, num: int) -> None:
    window = geometry.window_indices(40, num, center_index=center)
    assert window.tolist() == np.clip(np.arange(center - num // 2, center + num // 2 + 1), 0, 39).tolist()


@pytest.mark.parametrize(
    ("count", "num", "expected"), [(10, 5, [2, 3, 4, 5, 6]), (4, 5, [0, 0, 1, 2, 3]), (0, 2, [-1, -1])]
)
def test_the_middle_window_takes_the_lower_half(count: int, num: int, expected: list[int]) -> None:
    assert geometry.window_indices(count, num).tolist() == expected


def test_an_offset_without_spacing_means_the_middle() -> None:
    for spacing in (None, 0.0, float("nan")):
        for rule in ("nearest", "ceil"):
            window = geometry.window_indices(11, 3, offset_mm=20.0, spacing_mm=spacing, center_rule=rule)
            assert window.tolist() == [4, 5, 6]


@given(counts, nums, st.floats(-60, 60))
def test_a_window_that_stays_inside_repeats_nothing_where_it_need_not(count: int, num: int, offset: float) -> None:
    window = geometry.window_indices(count, num, offset_mm=offset, spacing_mm=4.4, end_rule="inside")
    plain = geometry.window_indices(count, num, offset_mm=offset, spacing_mm=4.4)
    if num <= count:
        assert np.diff(window).tolist() == [1] * (num - 1)
        if len(set(plain.tolist())) == num:
            assert window.tolist() == plain.tolist()
    else:
        assert window.tolist() == geometry.window_indices(count, num).tolist()


@pytest.mark.parametrize(("count", "num"), [(5, 0), (-1, 3)])
def test_an_impossible_window_is_refused(count: int, num: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        geometry.window_indices(count, num)


def test_a_window_stays_inside_its_stack() -> None:
    stacks = (0, 0, 0, 0, 1, 1, 1, 2)
    assert geometry.slab_window(stacks, 4, 5).tolist() == [4, 4, 4, 5, 6]
    assert geometry.slab_window(stacks, 3, 3).tolist() == [2, 3, 3]
    assert geometry.slab_window(stacks, 7, 3).tolist() == [7, 7, 7]
    assert geometry.slab_window(stacks, 6, 3, "ceil", "zeros").tolist() == [5, 6, -1]


@pytest.fixture(scope="module")
def recorded() -> dict:
    """What the original system computed on the real study."""
    return json.loads((shared_path("parity") / "preprocessing.json").read_text())


def test_windows_and_boxes_are_those_of_the_original(recorded: dict) -> None:
    rules = {"center_rule": "ceil", "end_rule": "zeros"}
    for key, roi in recorded["roi"].items():
        if roi["series"] == "None" or roi["x_norm"] is None:
            continue
        series = recorded["series"][str(roi["series"])]
        names = series["natural_order"][::-1] if series["reversed"] else series["natural_order"]
        kind, place = roi["instance_number_type"], roi["instance_number"]
        wanted = {}
        if kind == "centered_mm":
            wanted = {"offset_mm": place, "spacing_mm": series["spacing_between_slices"]}
        elif kind == "filename":
            wanted = {"center_index": names.index(f"{place:.0f}.dcm")}
        num = 13 if "window_gt_n" in key else 5
        window = geometry.window_indices(len(names), num, **wanted, **rules)
        files = [names[index] for index in window if index >= 0]
        assert roi["read_files"] == files[: len(roi["read_files"])], key
        if roi["filled_slices"]:
            assert roi["read_files"] == files, key
        if roi["box"]:
            center = roi["x_norm"] * series["cols"], roi["y_norm"] * series["rows"]
            box = geometry.box_px(center, 50.0, tuple(series["pixel_spacing"]))
            assert box == tuple(roi["box"][name] for name in ("x1", "y1", "x2", "y2")), key
    assert len(recorded["roi"]) > 60


def test_stage_one_windows_are_those_of_the_original(recorded: dict) -> None:
    names = recorded["series"]["7"]["natural_order"]
    for side, sign in (("left", 1), ("right", -1)):
        window = geometry.window_indices(
            len(names), 3, offset_mm=sign * 16.8, spacing_mm=4.5, center_rule="ceil", end_rule="zeros"
        )
        assert [names[index] for index in window] == recorded["stage1"][f"sagt1_{side}"]["selected_files"]


def test_projected_points_and_distances_are_those_of_the_original(recorded: dict) -> None:
    by_rows = np.array(recorded["projection"]["affine_row_col"])
    iop = [*by_rows[:3, 1] / 0.68359375, *by_rows[:3, 0] / 0.68359375]
    affine = geometry.slice_affine(by_rows[:3, 3], iop, [0.68359375, 0.68359375])
    keypoints = recorded["coordinates"]["sagt2"]
    for level, row in recorded["projection"]["levels"].items():
        assert np.allclose(geometry.to_patient(affine, keypoints[level]), row["world_xyz_mm"], atol=1e-9)


@given(st.tuples(number, number), st.floats(5, 80), st.tuples(st.floats(0.2, 2), st.floats(0.2, 2)))
def test_a_box_is_as_long_as_its_millimetres(center: tuple, size: float, spacing: tuple) -> None:
    x1, y1, x2, y2 = geometry.box_px(center, size, spacing)
    assert abs((x2 - x1) - size / spacing[1]) <= 1
    assert abs((y2 - y1) - size / spacing[0]) <= 1
    assert abs((x1 + x2) / 2 - center[0]) <= 0.5
    assert abs((y1 + y2) / 2 - center[1]) <= 0.5
