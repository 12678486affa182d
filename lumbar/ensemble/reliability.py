"""Calibration as a picture: what was said against what was true, by group of conditions and severity."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from lumbar.ensemble.cells import GROUPS
from lumbar.ensemble.objective import ROW_WEIGHTS
from lumbar.files import replacing
from lumbar.labels import CONDITION_GROUPS, SEVERITIES
from lumbar.metric import UNLABELLED

#: Edges of the bins of probability: narrow where most rows are.
EDGES: Final = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0])
#: A bin with fewer rows than this is left out of the picture: its share says nothing.
FEWEST: Final = 10


def reliability(table: np.ndarray, codes: np.ndarray, group: int, severity: int) -> tuple[np.ndarray, float]:
    """Rows (bins, 3) of mean probability, observed share, count, and the mean gap of the two, by weight.

    `table` (N, 5, 5, 3), `codes` (N, 5, 5). Rows weigh 1/2/4 by their label, as in the score, for which the
    probabilities are made: a perfectly calibrated one lies on the diagonal.
    """
    places = list(GROUPS[group])
    truth = codes[:, places]
    known = truth != UNLABELLED
    said, true = table[:, places][known][:, severity], truth[known] == severity
    weights = ROW_WEIGHTS[truth[known]]
    place = np.clip(np.digitize(said, EDGES) - 1, 0, len(EDGES) - 2)
    bins = len(EDGES) - 1
    total = np.bincount(place, weights, bins)
    below = np.where(total > 0, total, 1.0)
    mean = np.bincount(place, weights * said, bins) / below
    share = np.bincount(place, weights * true, bins) / below
    gap = float((np.abs(mean - share) * total).sum() / max(total.sum(), 1e-12))
    return np.stack([mean, share, np.bincount(place, minlength=bins)], axis=1), gap


def draw_reliability(
    before: np.ndarray, after: np.ndarray, codes: np.ndarray, names: tuple[str, str], path: Path
) -> None:
    """Write the picture: groups down, severities across; `before` and `after` (N, 5, 5, 3), out of fold."""
    from matplotlib.figure import Figure

    from lumbar import style

    figure = Figure(figsize=(11, 10.5), layout="constrained")
    grid = figure.subplots(len(GROUPS), len(SEVERITIES), sharex=True, sharey=True)
    for row, group in enumerate(CONDITION_GROUPS):
        for column, severity in enumerate(SEVERITIES):
            _panel(grid[row, column], before, after, codes, row, column, names)
            title = f"{group}: {severity.replace('_', ' or ')}"
            grid[row, column].set_title(title, size=style.TITLE_SIZE, color=style.INK, loc="left")
        grid[row, 0].set_ylabel("observed share (weighted)", size=style.LABEL_SIZE)
    for axis in grid[-1]:
        axis.set_xlabel("probability (out of fold)", size=style.LABEL_SIZE)
    figure.suptitle(f"Reliability before ({names[0]}) and after ({names[1]})", size=13, color=style.INK)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, facecolor=style.PAPER)


def _panel(
    axis: Any,
    before: np.ndarray,
    after: np.ndarray,
    codes: np.ndarray,
    group: int,
    severity: int,
    names: tuple[str, str],
) -> None:
    from lumbar import style

    axis.plot([0, 1], [0, 1], color="#b8bec5", linewidth=1, zorder=1)
    looks = (("#c4791a", "o", "--"), ("#1f6fb2", "s", "-"))
    for table, name, (colour, marker, line) in zip((before, after), names, looks, strict=True):
        rows, gap = reliability(table, codes, group, severity)
        rows = rows[rows[:, 2] >= FEWEST]
        label = f"{name}: mean gap {gap:.3f}"
        axis.plot(rows[:, 0], rows[:, 1], line, marker=marker, markersize=4, linewidth=1.4, color=colour, label=label)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.legend(fontsize=style.NOTE_SIZE, loc="upper left", frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=style.NOTE_SIZE, colors=style.FAINT)
