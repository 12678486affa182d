"""The 25 answers of a study for the report: distributions, colours, where each came from, and the worst of them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.colors import to_hex

from lumbar.drawing import style
from lumbar.drawing.severity_table import COLUMNS
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition, level_title
from lumbar.prediction.result import StudyResult

#: Conditions as columns: the patient's right on the viewer's left.
ORDER: Final[tuple[Condition, ...]] = tuple(condition for condition, _ in COLUMNS)
COLUMN_TITLES: Final = tuple(title.replace("\n", " ") for _, title in COLUMNS)
SEVERITY_WORDS: Final = tuple(severity.replace("_", " or ") for severity in SEVERITIES)


def table(result: StudyResult, names: Sequence[str], truth: np.ndarray | None) -> list[list[dict[str, Any]]]:
    """Cells by level and condition (`ORDER`).

    `names`: the graders in the order of `result.members`. `truth` (5, 5): severities 0 to 2 or -1 by `CONDITIONS` and
    `LEVELS`, None without labels.
    """
    return [[_cell(result, condition, level, names, truth) for condition in ORDER] for level in range(len(LEVELS))]


def fill(result: StudyResult, condition: Condition, level: int) -> str:
    """The colour of a cell: grey where the prior stands in, pale where it is not to be shown as told."""
    row = CONDITIONS.index(condition)
    if not result.graded[row, level]:
        return to_hex(style.UNGRADED_COLOUR)
    return to_hex(_colour(result, row, level))


def mark_fill(result: StudyResult, condition: Condition, level: int) -> str:
    """The colour of a keypoint's mark: that of its cell, or grey where that is no severity to be shown."""
    shown = result.shown_as_told[CONDITIONS.index(condition), level]
    return fill(result, condition, level) if shown else to_hex(style.UNGRADED_COLOUR)


def counted(result: StudyResult) -> np.ndarray:
    """(5 conditions, 5 levels) bool: the cells that findings are told from.

    Those that networks graded and that may be shown as told: a test on patients backs them, and their regions are not
    strange; where there is none, all that were graded, else all.
    """
    graded = np.asarray(result.graded, dtype=bool)
    shown = graded & result.shown_as_told
    return shown if shown.any() else graded if graded.any() else np.ones_like(graded)


def worst(result: StudyResult) -> dict[str, Any]:
    """The cell of the largest expected severity among those that are `counted`."""
    expected = style.expected_severity(result.probabilities)  # (conditions, levels)
    mask = counted(result)
    by_level = np.where(mask, expected, -1.0)[[CONDITIONS.index(condition) for condition in ORDER]].T
    level, column = (int(place) for place in np.unravel_index(int(np.argmax(by_level)), by_level.shape))
    row = CONDITIONS.index(ORDER[column])
    probabilities = result.probabilities[row, level]
    colour = _colour(result, row, level)
    return {
        "cell": [level, column],
        "where": f"{level_title(LEVELS[level])} {COLUMN_TITLES[column]}",
        "grade": int(np.argmax(probabilities)),
        "percent": _percents(probabilities),
        "expected": round(float(expected[row, level]), 4),
        "backed": bool(result.shown_as_told[row, level]),
        "fill": to_hex(colour),
        "ink": style.ink_on(colour),
    }


def _cell(
    result: StudyResult, condition: Condition, level: int, names: Sequence[str], truth: np.ndarray | None
) -> dict[str, Any]:
    row = CONDITIONS.index(condition)
    probabilities = result.probabilities[row, level]
    graded, own = bool(result.graded[row, level]), bool(result.seen[row, level])
    spoken = zip(names, result.members[:, row, level], strict=True)
    return {
        "p": _rounded(probabilities),
        "percent": _percents(probabilities),
        "fill": fill(result, condition, level),
        "ink": style.ink_on(_colour(result, row, level)),
        "backed": bool(result.backed[row]),
        "strange": bool(result.strange[row, level]),
        "from": ("own view" if own else "other views") if graded else "prior",
        "label": None if truth is None or truth[row, level] < 0 else int(truth[row, level]),
        "members": [[name, _percents(one)] for name, one in spoken if np.isfinite(one).all()],
    }


def _colour(result: StudyResult, row: int, level: int) -> tuple[float, float, float, float]:
    colour = style.severity_colour(result.probabilities[row, level])
    return colour if result.shown_as_told[row, level] else style.pale(colour)


def _percents(probabilities: np.ndarray) -> list[int]:
    """What people read, rounded here and nowhere else."""
    return [style.percent(share) for share in probabilities]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
