"""Heatmaps and back: encoding, sub-pixel decoding, confidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar.keypoints.answers.heatmaps import confidence, decode, gaussian_heatmaps, refine

SIZE = 64


inside = st.floats(0, SIZE - 1).filter(lambda value: abs(value - round(value)) < 0.49)


@given(st.lists(st.tuples(inside, inside), min_size=1, max_size=5), st.floats(1.0, 12.0))
def test_decoding_an_encoded_point_gives_its_nearest_pixel(points, sigma):
    maps = gaussian_heatmaps(np.array(points), SIZE, sigma)
    xy_px, peak, _ = decode(maps[None])
    assert xy_px[0].tolist() == [[round(x), round(y)] for x, y in points]
    assert (peak <= 1).all()
    assert (peak > 0.6).all()


@given(st.tuples(st.floats(16, SIZE - 17), st.floats(16, SIZE - 17)), st.floats(2.0, 6.0))
def test_a_point_between_pixels_is_found_to_a_twentieth_of_a_pixel(point, sigma):
    maps = gaussian_heatmaps(np.array([point]), SIZE, sigma)[None]
    assert refine(maps, decode(maps)[0], 2 * sigma)[0, 0] == pytest.approx(point, abs=0.05)


def test_a_second_blob_a_border_and_an_empty_map_do_not_pull_a_point_away():
    maps = np.stack([gaussian_heatmaps(np.array([[0.0, 20.0]]), SIZE, 4.0)[0], np.zeros((SIZE, SIZE), np.float32)])[
        None
    ]
    maps[0, 0] = np.maximum(maps[0, 0], 0.9 * gaussian_heatmaps(np.array([[40.0, 20.0]]), SIZE, 4.0)[0])
    (on_border, nowhere) = refine(maps, decode(maps)[0], 8.0)[0]
    assert on_border == pytest.approx([0, 20], abs=3)  # half a blob: its centroid lies within it
    assert nowhere.tolist() == [0, 0]


@pytest.mark.parametrize("point", [(np.nan, 5.0), (5.0, np.nan), (-3.0, 5.0), (5.0, SIZE + 1.0)])
def test_missing_points_and_points_outside_have_an_empty_map(point):
    assert not gaussian_heatmaps(np.array([point]), SIZE, 4.0).any()


def test_the_first_of_equal_maxima_counts_as_in_the_original():
    maps = np.zeros((1, 1, 8, 8))
    maps[0, 0, 2, 5] = maps[0, 0, 6, 1] = 1.0
    assert decode(maps)[0][0, 0].tolist() == [5, 2]


@given(st.floats(3.0, 9.0))
def test_the_spread_of_a_clean_map_is_its_sigma(sigma):
    _, peak, spread = decode(gaussian_heatmaps(np.array([[32.0, 32.0]]), SIZE, sigma)[None])
    assert spread[0, 0] == pytest.approx(sigma, rel=0.08)
    assert confidence(peak, spread, sigma)[0, 0] > 0.92


def test_confidence_falls_with_faint_double_and_flat_maps():
    one = gaussian_heatmaps(np.array([[16.0, 16.0]]), SIZE, 4.0)
    two = one + gaussian_heatmaps(np.array([[48.0, 48.0]]), SIZE, 4.0)
    maps = np.stack([one, 0.3 * one, two, np.full_like(one, 0.9), -one])
    _, peak, spread = decode(maps)
    sure = confidence(peak, spread, 4.0)[:, 0]
    assert sure[0] > 0.95
    assert sure[1] == pytest.approx(0.3, abs=0.02)
    assert sure[2] == pytest.approx(0.71, abs=0.03)
    assert sure[3] < 0.2
    assert sure[4] == 0
