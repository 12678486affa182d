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
    """The colour of a cell, which is that of its keypoint's mark, too; grey where the prior stands in."""
    row = CONDITIONS.index(condition)
    graded = bool(result.graded[row, level])
    return to_hex(style.severity_colour(result.probabilities[row, level]) if graded else style.UNGRADED_COLOUR)


def worst(result: StudyResult) -> dict[str, Any]:
    """The cell of the largest expected severity; cells that the prior fills count only where there is no other."""
    expected = style.expected_severity(result.probabilities)  # (conditions, levels)
    counted = np.where(result.graded, expected, -1.0) if np.any(result.graded) else expected
    by_level = counted[[CONDITIONS.index(condition) for condition in ORDER]].T
    level, column = (int(place) for place in np.unravel_index(int(np.argmax(by_level)), by_level.shape))
    row = CONDITIONS.index(ORDER[column])
    probabilities = result.probabilities[row, level]
    colour = style.severity_colour(probabilities)
    return {
        "cell": [level, column],
        "where": f"{level_title(LEVELS[level])} {COLUMN_TITLES[column]}",
        "grade": int(np.argmax(probabilities)),
        "p": _rounded(probabilities),
        "expected": round(float(expected[row, level]), 4),
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
        "fill": fill(result, condition, level),
        "ink": style.ink_on(style.severity_colour(probabilities)),
        "from": ("own view" if own else "other views") if graded else "prior",
        "label": None if truth is None or truth[row, level] < 0 else int(truth[row, level]),
        "members": [[name, _rounded(one)] for name, one in spoken if np.isfinite(one).all()],
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
