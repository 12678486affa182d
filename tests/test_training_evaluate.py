"""Folds, and figures of what they held out: keypoint errors, scores, reliability, confusion."""

import numpy as np
import pandas as pd
import pytest

from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.metric import UNLABELLED
from lumbar.recipe.settings import Folds
from lumbar.study.keypoint import Keypoint
from lumbar.training.folds import make_folds
from lumbar.training.outcome.evaluate import calibration, confusion, error_figures, errors_mm, member_score


def test_a_study_never_straddles_folds_and_severe_ones_are_spread() -> None:
    rng = np.random.default_rng(0)
    words = np.array(["Normal/Mild", "Moderate", "Severe"], dtype=object)
    columns = [f"{condition}_{level}" for condition in CONDITIONS for level in LEVELS]
    labels = pd.DataFrame(words[np.zeros((100, 25), int)], index=range(100), columns=columns)
    severe = rng.permutation(100)[:20]
    labels.iloc[severe, 3] = "Severe"
    table = make_folds(labels, list(range(100)), Folds(method="stratified_group", count=5))
    assert table["study_id"].is_unique
    counts = table.set_index("study_id").loc[severe].groupby("fold").size()
    assert counts.tolist() == [4] * 5
    same = make_folds(labels, list(range(100))[::-1], Folds(method="kfold", count=5))
    assert same.equals(make_folds(labels, list(range(100)), Folds(method="kfold", count=5)))
    with pytest.raises(InputError, match="5 folds"):
        make_folds(labels, [1, 2, 3], Folds(count=5))


def _point(level: str, y: float, condition: str = "spinal_canal_stenosis") -> Keypoint:
    return Keypoint(condition, level, 1, 1, (0, 0), (5.0, y, 0.0), 1, 1, 1)


def test_keypoint_errors_count_misses_and_wrong_levels() -> None:
    told = {1: [_point("l1_l2", 0), _point("l2_l3", 30), _point("l3_l4", 60)]}
    found = {1: [_point("l1_l2", 3), _point("l2_l3", 58)]}
    rows = errors_mm(found, told)["sagittal_t2"]
    assert rows["l1_l2"].tolist() == [[3.0, 0.0]]
    assert rows["l2_l3"].tolist() == [[28.0, 1.0]]
    figures = error_figures(np.concatenate(list(rows.values())))
    assert figures["count"] == 3
    assert figures["missed"] == pytest.approx(1 / 3)
    assert figures["median_mm"] == 15.5
    assert figures["beyond_5_mm"] == figures["beyond_10_mm"] == figures["wrong_level"] == 0.5
    assert error_figures(np.empty((0, 2)))["median_mm"] is None


def test_member_scores_leave_out_what_a_member_does_not_grade() -> None:
    codes = np.zeros((4, 5, 5), np.int64)
    probabilities = np.full((4, 5, 5, 3), 1 / 3)
    probabilities[:, 1:] = np.nan
    score = member_score(codes, probabilities)
    assert score["spinal"] == pytest.approx(np.log(3))
    assert score["foraminal"] is score["total"] is None


def test_confusion_and_reliability_leave_out_empty_labels() -> None:
    codes = np.full((2, 5, 5), UNLABELLED)
    codes[0, 0, :3] = [0, 1, 2]
    probabilities = np.broadcast_to([0.55, 0.25, 0.2], (2, 5, 5, 3))
    assert confusion(codes, probabilities)["spinal_canal_stenosis"] == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    bins = calibration(codes, probabilities)["spinal"]["severe"]
    assert sum(bins["count"]) == 3
    (place,) = np.flatnonzero(bins["count"])
    assert bins["observed"][place] == pytest.approx(4 / 7)
    assert bins["predicted"][place] == pytest.approx(0.2)
