"""A damaged LightGBM model is refused in words: LightGBM itself would end the process."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from lumbar.ensemble import boosting, trees

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
