"""Folds, and figures of what they held out: keypoint errors, scores, reliability, confusion."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.metric import UNLABELLED
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.settings import Folds
from lumbar.study.keypoint import Keypoint
from lumbar.training.folds import make_folds
from lumbar.training.outcome import trust
from lumbar.training.outcome.evaluate import calibration, confusion, error_figures, errors_mm, member_score
from tests.support.tiny_recipe import tiny_recipe


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


def test_standard_errors_are_those_of_scores_of_studies_drawn_anew() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(-1, 3, (60, 5, 5))
    table = rng.dirichlet([2, 1, 1], (60, 5, 5))
    table[:20, 3:] = np.nan  # a member that is silent on a third of the recesses
    found = trust.spreads(codes, table)
    scores = []
    for _ in range(300):
        drawn = rng.integers(0, 60, 60)
        scores.append(member_score(codes[drawn], table[drawn]))
    for part, error in found.items():
        assert error == pytest.approx(float(np.std([row[part] for row in scores])), rel=0.15)
    conditions = trust.by_condition(codes, table)
    rows = codes[:, 0][codes[:, 0] >= 0]
    weights = np.array([1, 2, 4])[rows]
    loss = -np.log(table[:, 0][codes[:, 0] >= 0][np.arange(len(rows)), rows])
    value, error = conditions["spinal_canal_stenosis"]
    assert value == pytest.approx((loss * weights).sum() / weights.sum())
    assert 0 < error < value
    folds = np.arange(60) % 3
    for fold, total in trust.by_fold(codes, table, folds).items():
        assert total == pytest.approx(member_score(codes[folds == fold], table[folds == fold])["total"])


def test_a_member_that_grades_one_group_has_no_figures_of_others() -> None:
    codes, table = np.zeros((10, 5, 5), np.int64), np.full((10, 5, 5, 3), 1 / 3)
    table[:, 1:] = np.nan
    found = trust.spreads(codes, table)
    assert found["spinal"] == pytest.approx(0, abs=1e-12)
    assert found["foraminal"] is None
    assert found["total"] is None
    assert trust.by_condition(codes, table)["left_subarticular_stenosis"] is None
    assert trust.by_fold(codes, table, [0] * 5 + [1] * 5) == {0: None, 1: None}


def test_what_flatters_a_figure_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_recipe(folds=2), encoding="utf-8")
    told = " ".join(trust.flattered(load_recipe(path)))
    assert "the epochs of t2, t1" in told
    assert "folds are scored" not in told
    last = ["stage1.best_by=last", "stage2.best_by=last"]
    assert list(trust.flattered(load_recipe(path, last))) == []
    more = [
        *last,
        "folds.count=5",
        "stage2.soft_labels=table.csv",
        "leave_out=suspects.csv",
        "corrected_labels=new.csv",
    ]
    told = list(trust.flattered(load_recipe(path, more)))
    assert all(
        words in sentence
        for words, sentence in zip(("soft labels", "left out", "corrected", "2 of 5 folds"), told, strict=True)
    )
