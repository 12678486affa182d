"""Levels read together: a map that takes its level for a neighbour is put right by the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar.keypoints.answers.heatmaps import decode, gaussian_heatmaps, local_maxima, read_at
from lumbar.keypoints.repair import choose_chain, choose_pair

SIZE, MM = 96, 2.0
TRUE = np.array([[50, 12], [48, 28], [46, 44], [48, 60], [54, 73]])  # px; steps of 32 mm, the last shorter


def to_mm(pixels: np.ndarray) -> np.ndarray:
    """A sagittal plane at x = 0, columns to the back, rows to the feet."""
    return np.stack([np.zeros(len(pixels)), pixels[:, 0] * MM, -pixels[:, 1] * MM], axis=-1)


def maps(second: dict[int, tuple[int, float]]) -> np.ndarray:
    """Maps of the true points; `second`: level -> (level whose place is also marked there, how high)."""
    each = 0.6 * gaussian_heatmaps(TRUE, SIZE, 2.0)
    for level, (other, height) in second.items():
        each[level] += height * gaussian_heatmaps(TRUE[other : other + 1], SIZE, 2.0)[0]
    return each


@pytest.mark.parametrize(
    "second", [{2: (1, 0.8)}, {1: (2, 0.8)}, {3: (4, 0.9)}, {0: (1, 0.7), 3: (2, 0.7)}, {4: (3, 0.95), 2: (3, 0.7)}]
)
def test_a_level_taken_for_another_is_put_right_by_the_others(second: dict[int, tuple[int, float]]) -> None:
    found = maps(second)
    assert not np.array_equal(decode(found[None])[0][0], TRUE)
    chosen = choose_chain(found, to_mm)
    np.testing.assert_array_equal(chosen, TRUE)
    peak, _ = read_at(found[None], TRUE[None])
    np.testing.assert_allclose(peak[0], 0.6, atol=0.02)


def test_maps_that_agree_are_read_as_they_are() -> None:
    np.testing.assert_array_equal(choose_chain(maps({}), to_mm), TRUE)


def test_maps_without_a_spine_give_none() -> None:
    assert choose_chain(np.zeros((5, SIZE, SIZE), np.float32), to_mm) is None
    one_place = np.repeat(gaussian_heatmaps(TRUE[:1], SIZE, 2.0), 5, axis=0)
    assert choose_chain(one_place, to_mm) is None


LEFT, RIGHT, ELSEWHERE = (55, 40), (45, 41), (80, 20)  # px; the pair lies 20 mm apart


def axial_mm(pixels: np.ndarray) -> np.ndarray:
    """An axial plane at z = 0, columns to the patient's left, rows to the back."""
    return np.stack([pixels[:, 0] * MM, pixels[:, 1] * MM, np.zeros(len(pixels))], axis=-1)


def side_maps(left: dict[tuple[int, int], float], right: dict[tuple[int, int], float]) -> np.ndarray:
    """A map a side, each with blobs of these heights."""
    found = np.zeros((2, SIZE, SIZE), np.float32)
    for own, side in zip(found, (left, right), strict=True):
        for place, height in side.items():
            own += height * gaussian_heatmaps(np.array([place]), SIZE, 2.0)[0]
    return found


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({LEFT: 0.3, ELSEWHERE: 0.7}, {RIGHT: 0.5}),  # too far from the other side
        ({LEFT: 0.5}, {RIGHT: 0.3, LEFT: 0.6}),  # both on one side
        ({LEFT: 0.5}, {RIGHT: 0.4, (45, 60): 0.6}),  # at another height
        ({LEFT: 0.2, ELSEWHERE: 0.3}, {RIGHT: 0.2, (70, 80): 0.3}),  # both mistaken
    ],
)
def test_a_side_that_is_mistaken_is_put_right_by_the_other(
    left: dict[tuple[int, int], float], right: dict[tuple[int, int], float]
) -> None:
    found = side_maps(left, right)
    assert decode(found[None])[0][0].astype(int).tolist() != [list(LEFT), list(RIGHT)]
    assert choose_pair(found, axial_mm).tolist() == [list(LEFT), list(RIGHT)]
    mirrored = choose_pair(found[::-1, :, ::-1], axial_mm)  # the mirrored patient's left is his right
    assert mirrored.tolist() == [[SIZE - 1 - x, y] for x, y in (RIGHT, LEFT)]


def test_sides_that_agree_are_read_as_they_are_and_silent_ones_stay() -> None:
    assert choose_pair(side_maps({LEFT: 0.5}, {RIGHT: 0.4, ELSEWHERE: 0.3}), axial_mm).tolist() == [[*LEFT], [*RIGHT]]
    assert choose_pair(side_maps({LEFT: 0.5}, {}), axial_mm) is None
    assert choose_pair(side_maps({RIGHT: 0.5}, {LEFT: 0.5}), axial_mm) is None  # sides exchanged: no pair at all


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_local_maxima_are_the_highest_places_no_neighbour_exceeds(seed: int, most: int) -> None:
    heatmap = np.random.default_rng(seed).random((9, 11)).astype(np.float32)
    found = local_maxima(heatmap, 0.3, most)
    heights = heatmap[found[:, 1], found[:, 0]]
    assert len(found) <= most
    assert (np.diff(heights) <= 0).all()
    assert heights[0] == heatmap.max()
    for (column, row), height in zip(found, heights, strict=True):
        assert height >= heatmap[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].max()


def test_a_plateau_counts_once() -> None:
    heatmap = np.zeros((9, 9), np.float32)
    heatmap[4, 3:6] = 1.0
    assert local_maxima(heatmap, 0.5, 5).tolist() == [[3, 4]]
