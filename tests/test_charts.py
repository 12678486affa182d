"""Charts show the numbers that they name: areas, shares, counts; what is unlabelled or missing plays no part."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.metrics import roc_auc_score

import train_utils
from lumbar.drawing import charts, style
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SERIES_TYPES, SEVERITY_LABELS, row_ids
from lumbar.metric import UNLABELLED

STUDIES = 40


@pytest.fixture(scope="module")
def tables() -> tuple[np.ndarray, np.ndarray]:
    """Predictions that lean towards the truth, and codes of which a few are empty."""
    random = np.random.default_rng(3)
    codes = random.integers(0, 3, (STUDIES, 5, 5))
    raw = random.dirichlet([1, 1, 1], (STUDIES, 5, 5)) + 0.6 * np.eye(3)[codes]
    codes[random.random(codes.shape) < 0.05] = UNLABELLED
    return raw / raw.sum(-1, keepdims=True), codes


def test_reliability_weighs_rows_by_their_label_and_leaves_out_empty_ones() -> None:
    codes = np.full((2, 5, 5), UNLABELLED)
    codes[0, 0, :3] = [0, 1, 2]
    rows, gap = charts.reliability(np.broadcast_to([0.55, 0.25, 0.2], (2, 5, 5, 3)), codes, "spinal", 2)
    (filled,) = np.flatnonzero(rows[:, 2])
    assert rows[filled] == pytest.approx([0.2, 4 / 7, 3])
    assert gap == pytest.approx(4 / 7 - 0.2)


def test_the_area_under_the_curve_is_that_of_the_pooled_labelled_rows(tables: tuple[np.ndarray, np.ndarray]) -> None:
    table, codes = tables
    for condition in CONDITIONS:
        place = CONDITIONS.index(condition)
        known = codes[:, place] != UNLABELLED
        for positive, _ in charts.QUESTIONS:
            found = charts.roc(table, codes, condition, positive)
            assert found is not None
            said = table[:, place][known][:, positive:].sum(-1)
            assert found[1] == pytest.approx(roc_auc_score(codes[:, place][known] >= positive, said))
            assert found[0][0].tolist() == [0, 0]
            assert found[0][-1].tolist() == [1, 1]


def test_labels_all_alike_have_no_curve(tables: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    table, _ = tables
    codes = np.ones((STUDIES, 5, 5), int)
    assert charts.roc(table, codes, CONDITIONS[0], 1) is None
    assert charts.roc(table, codes, CONDITIONS[0], 2) is None
    assert charts.draw_roc(table, codes, tmp_path / "roc.png").stat().st_size > 5_000


def test_a_silent_member_counts_nowhere(tables: tuple[np.ndarray, np.ndarray]) -> None:
    table, codes = tables
    silent = table.copy()
    silent[0] = np.nan
    assert charts.confusion(silent, codes, CONDITIONS[1]).sum() == (codes[1:, 1] != UNLABELLED).sum()
    assert charts.reliability(silent, codes, "foraminal", 0)[0][:, 2].sum() == (codes[1:, 1:3] != UNLABELLED).sum()


def test_the_command_draws_a_submission_beside_its_labels(
    tables: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, codes = tables
    words = np.array([*SEVERITY_LABELS, ""])[codes].reshape(STUDIES, 25)
    labels = pd.DataFrame(words, columns=list(LABEL_COLUMNS))
    labels.insert(0, "study_id", range(1, STUDIES + 1))
    labels.to_csv(tmp_path / "train.csv", index=False)
    rows = pd.DataFrame(table.reshape(-1, 3), columns=["normal_mild", "moderate", "severe"])
    rows.insert(0, "row_id", [name for study in range(1, STUDIES + 1) for name in row_ids(study)])
    rows.to_csv(tmp_path / "submission.csv", index=False)
    command = ["score", "--labels", str(tmp_path / "train.csv"), "--predictions", str(tmp_path / "submission.csv")]
    assert train_utils.main([*command, "--plots", str(tmp_path / "plots")]) == 0
    assert "any_severe_spinal" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "confusion.png",
        "reliability.png",
        "roc.png",
    ]
    for path in (tmp_path / "plots").iterdir():
        assert imread(path)[..., :3].std() > 0.05
    assert train_utils.main([*command, "--plots", str(tmp_path / "train.csv")]) == 1
    assert "cannot be written to" in capsys.readouterr().err


def test_reliability_and_roc_say_how_many_rows_a_bin_and_a_class_have(
    tables: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, codes = tables
    drawn: list[Figure] = []
    keep = lambda figure, path, **_: (drawn.append(figure), Path(path).touch())  # noqa: E731
    monkeypatch.setattr(Figure, "savefig", keep)
    charts.draw_reliability({"one": table}, codes, tmp_path / "r.png")
    charts.draw_roc(table, codes, tmp_path / "roc.png")
    panel = drawn[0].axes[2]
    severe, known = (codes[:, 0] == 2).sum(), (codes[:, 0] != UNLABELLED).sum()
    assert panel.get_title(loc="left") == f"spinal: severe, n = {severe} of {known}"
    rows, _ = charts.reliability(table, codes, "spinal", 2)
    shown = [int(text.get_text()) for text in panel.texts]
    assert shown == [int(count) for count in rows[:, 2] if count >= charts.FEWEST]
    assert all(text.get_size() >= style.NOTE_SIZE for text in panel.texts)
    assert f"bins under {charts.FEWEST} rows not drawn" in drawn[0].axes[-1].get_xlabel()
    assert f"severe: n = {severe}\nof {known} rows" in drawn[1].axes[0].get_xlabel()


def test_keypoint_errors_and_scores_are_drawn_with_gaps_in_them(tmp_path: Path) -> None:
    errors = {series: {level: np.empty((0, 2)) for level in LEVELS} for series in SERIES_TYPES}
    errors["axial_t2"]["l4_l5"] = np.array([[1.5, 0], [30.0, 1], [np.nan, np.nan]])
    assert charts.draw_keypoint_errors(errors, tmp_path / "errors.png").stat().st_size > 5_000
    parts = {"total": None, "spinal": 0.3, "foraminal": None, "subarticular": 0.6, "any_severe_spinal": 0.2}
    assert charts.draw_scores({"a": parts, "b": parts}, ("a", "b"), tmp_path / "scores.png").stat().st_size > 5_000


def test_lines_differ_for_readers_without_colours_and_stand_out_from_paper() -> None:
    looks = [style.line(place) for place in range(4)]
    assert len({look["color"] for look in looks}) == len({look["linestyle"] for look in looks}) == 4
    assert len({look["marker"] for look in looks}) == 4
    for first, second in [(0, 1)]:  # most charts have two lines: they differ in lightness, too
        grey = [np.dot(to_rgb(style.COLOURS[place]), [0.2126, 0.7152, 0.0722]) for place in (first, second)]
        assert abs(grey[0] - grey[1]) > 0.05
