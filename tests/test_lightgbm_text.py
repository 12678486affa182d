"""A damaged LightGBM model is refused in words: LightGBM itself would end the process."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from lumbar.ensemble import boosting, raw_trees, trees

lightgbm = pytest.importorskip("lightgbm")
FEATURES = 7


@pytest.fixture(scope="module")
def model() -> str:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, FEATURES))
    truth = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 1)
    parts = [(rows[part], truth[part], np.zeros((150, 3))) for part in (slice(150), slice(150, 300))]
    return boosting._train_lightgbm(lightgbm, parts[0], parts[1], 0).decode()


def added(model: str) -> np.ndarray:
    return trees.added("lightgbm", model.encode(), np.zeros((2, FEATURES)))


def test_a_sound_model_is_taken(model: str) -> None:
    assert model.count("Tree=") >= 3
    assert np.ptp(added(model)[0]) > 0


#: The first place of a pattern, and what stands there instead.
DAMAGE: dict[str, Callable[[str], str]] = (
    {
        name: (lambda text, old=old, new=new: re.sub(old, new, text, count=1))  # type: ignore[misc]
        for name, (old, new) in {
            "a child that is none": (r"left_child=\S+", "left_child=999999999"),
            "a path that goes round": (r"left_child=-?\d+", "left_child=0"),
            "a leaf that is none": (r"right_child=-?\d+", "right_child=-99"),
            "a feature that is none": (r"split_feature=\d+", "split_feature=99999999"),
            "too few thresholds": (r"threshold=\S+ ", "threshold="),
            "a word for a number": (r"threshold=-?\d", "threshold=x"),
            "a value that is no number": (r"leaf_value=\S+", "leaf_value=nan"),
            "a length that is wrong": (r"tree_sizes=\d+", "tree_sizes=99999"),
            "fewer classes": (r"num_class=3", "num_class=2"),
        }.items()
    }
    | {"half of it": lambda text: text[: len(text) // 2]}
)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_refused(model: str, name: str) -> None:
    damaged = DAMAGE[name](model)
    assert damaged != model
    with pytest.raises(ValueError, match="LightGBM model"):
        added(damaged)


@pytest.fixture(scope="module")
def by_level() -> str:
    """A model that splits by a category, and by what is missing."""
    rng = np.random.default_rng(3)
    rows = np.column_stack([rng.random((3000, 2)), rng.integers(0, 5, 3000)])
    truth = np.isin(rows[:, 2], (1, 4)).astype(int)
    silent = rng.random(3000) < 0.3
    rows[silent, 0], truth[silent] = np.nan, 2
    parts = [(rows[part], truth[part], np.ones(1500)) for part in (slice(1500), slice(1500, 3000))]
    return str(raw_trees.train_lightgbm(parts[0], parts[1], 0, 0, patience=5).model_to_string())


def test_categories_and_missing_values_are_taken(by_level: str) -> None:
    assert re.search(r"num_cat=[1-9]", by_level)
    rows = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, 2.0], [np.nan, 0.5, 2.0], [0.5, 0.5, np.nan], [0.5, 0.5, 77.0]])
    found = trees.added("lightgbm", by_level.encode(), rows, alone=True)
    whole = lightgbm.Booster(model_str=by_level).predict(rows, raw_score=True)
    np.testing.assert_array_equal(found, whole)
    assert found[:3].argmax(axis=1).tolist() == [1, 0, 2]


BY_LEVEL = {
    "words that are not there": (r"cat_boundaries=0 \d+", "cat_boundaries=0 99999"),
    "a set that is none": (r"num_cat=\d+", "num_cat=99999"),
    "no sets": (r"num_cat=[1-9]\d*", "num_cat=0"),
    "a negative word": (r"cat_threshold=\d+", "cat_threshold=-1"),
    "a word that is too long": (r"cat_threshold=\d+", "cat_threshold=99999999999"),
    "bounds that go back": (r"cat_boundaries=0 \d+", "cat_boundaries=0 0"),
}


@pytest.mark.parametrize("name", BY_LEVEL)
def test_damaged_categories_are_refused(by_level: str, name: str) -> None:
    pattern, other = BY_LEVEL[name]
    at = re.search(r"num_cat=[1-9]", by_level)
    assert at is not None
    damaged = by_level[: at.start()] + re.sub(pattern, other, by_level[at.start() :], count=1)
    assert damaged != by_level
    with pytest.raises(ValueError, match="LightGBM model"):
        trees.added("lightgbm", damaged.encode(), np.zeros((1, 3)), alone=True)
