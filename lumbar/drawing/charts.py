"""Charts of predictions beside labels, as files: reliability, ROC, confusion, scores, keypoint errors.

Arrays are those of `metric`: tables (N, 5, 5, 3) and label codes (N, 5, 5). Lines differ in colour, marker and dash.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lumbar.drawing import style
from lumbar.files.write import check_replaceable, replacing, writing_into
from lumbar.labels import (
    CONDITION_GROUPS,
    CONDITIONS,
    LEVELS,
    SERIES_TYPES,
    SEVERITIES,
    SEVERITY_WEIGHTS,
    Condition,
    condition_title,
    level_title,
)
from lumbar.metric import UNLABELLED, label_codes, prediction_array

#: Edges of the bins of probability: narrow where most rows are.
EDGES: Final = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0])
#: A bin with fewer rows than this is left out of the picture: its share says nothing.
FEWEST: Final = 10
#: Bins nearer than this have their numbers one behind the other.
CLOSE: Final = 0.05
#: Two questions that split three severities: the code from which on a row counts as positive, and its name.
QUESTIONS: Final = ((1, "moderate or severe"), (2, "severe"))
#: Every picture bears it, so that a later call knows it again.
MARK: Final = {"Software": "Lumbar"}
_WEIGHTS: Final = np.array([SEVERITY_WEIGHTS[severity] for severity in SEVERITIES])


def draw_score_charts(labels: pd.DataFrame, predictions: pd.DataFrame, folder: Path) -> list[Path]:
    """Reliability, ROC and confusion of a submission, as PNG files into a folder; returns them.

    InputError where a table is malformed, the folder cannot be written to, or a picture of that name is none of ours.
    """
    studies, codes = label_codes(labels)
    table = prediction_array(predictions, studies)
    paths = [Path(folder) / name for name in ("reliability.png", "roc.png", "confusion.png")]
    with writing_into(folder):
        for path in paths:
            check_replaceable(path, drawn_here)
        return [
            draw_reliability({"submission": table}, codes, paths[0]),
            draw_roc(table, codes, paths[1]),
            draw_confusion(table, codes, paths[2]),
        ]


def drawn_here(path: Path) -> bool:
    """Whether a picture bears `MARK`."""
    with path.open("rb") as stream:
        return b"tEXtSoftware\0" + MARK["Software"].encode() in stream.read(4096)


def reliability(table: np.ndarray, codes: np.ndarray, group: str, severity: int) -> tuple[np.ndarray, float]:
    """Rows (bins, 3) of mean probability, observed share, count, and the mean gap of the two, by weight.

    Rows weigh 1/2/4 by their label, as in the score, for which the probabilities are made: a perfectly calibrated one
    lies on the diagonal. Rows without a label or a prediction play no part.
    """
    places = [CONDITIONS.index(condition) for condition in CONDITION_GROUPS[group]]
    truth, said = codes[:, places], table[:, places][..., severity]
    known = (truth != UNLABELLED) & np.isfinite(said)
    said, truth = said[known], truth[known]
    weights = _WEIGHTS[truth]
    place = np.clip(np.digitize(said, EDGES) - 1, 0, len(EDGES) - 2)
    bins = len(EDGES) - 1
    total = np.bincount(place, weights, bins)
    below = np.where(total > 0, total, 1.0)
    mean = np.bincount(place, weights * said, bins) / below
    share = np.bincount(place, weights * (truth == severity), bins) / below
    gap = float((np.abs(mean - share) * total).sum() / max(total.sum(), 1e-12))
    return np.stack([mean, share, np.bincount(place, minlength=bins)], axis=1), gap


def roc(table: np.ndarray, codes: np.ndarray, condition: Condition, positive: int) -> tuple[np.ndarray, float] | None:
    """Points (n, 2) of false and true positive rate of one condition, and the area under them; all levels pooled.

    A row is positive from severity code `positive` on. None where the labels are all positive or all negative.
    """
    from sklearn.metrics import auc, roc_curve

    place = CONDITIONS.index(condition)
    said = table[:, place, :, positive:].sum(axis=-1)
    known = (codes[:, place] != UNLABELLED) & np.isfinite(said)
    true = codes[:, place][known] >= positive
    if true.all() or not true.any():
        return None
    false_rate, true_rate, _ = roc_curve(true, said[known])
    return np.stack([false_rate, true_rate], axis=1), float(auc(false_rate, true_rate))


def confusion(table: np.ndarray, codes: np.ndarray, condition: Condition) -> np.ndarray:
    """Counts (3, 3): true severity (row) against the most probable one (column)."""
    place = CONDITIONS.index(condition)
    known = (codes[:, place] != UNLABELLED) & np.isfinite(table[:, place]).all(axis=-1)
    said = table[:, place][known].argmax(axis=-1)
    return np.bincount(codes[:, place][known] * 3 + said, minlength=9).reshape(3, 3)


def draw_reliability(tables: Mapping[str, np.ndarray], codes: np.ndarray, path: Path) -> Path:
    """Said against seen: groups down, severities across, a line for each of up to three named tables."""
    figure, grid = _page((13, 14.5), len(CONDITION_GROUPS), len(SEVERITIES), f"Reliability: {' and '.join(tables)}")
    for row, group in enumerate(CONDITION_GROUPS):
        for column, severity in enumerate(SEVERITIES):
            ax = grid[row, column]
            of_class, rows_in_all = _class_size(codes, CONDITION_GROUPS[group], column, column)
            style.dress(ax, f"{group}: {severity.replace('_', ' or ')}, n = {of_class} of {rows_in_all}")
            ax.plot([0, 1], [0, 1], color=style.GUIDE, linewidth=1, zorder=1)
            for line, (name, table) in enumerate(tables.items()):
                rows, gap = reliability(table, codes, group, column)
                rows = rows[rows[:, 2] >= FEWEST]
                how = style.line(line)
                ax.plot(rows[:, 0], rows[:, 1], label=f"{name}: mean gap {gap:.3f}", **how)
                last, step = -1.0, 0
                for x, y, count in rows:  # how many rows a bin rests on, above the first line and below the others
                    step = (step + 1) % 2 if x - last < CLOSE else 0  # numbers of near bins stand behind one another
                    last, away = x, 4 + 24 * step
                    place: dict[str, Any] = {"xytext": (0, -away if line else away), "va": "top" if line else "bottom"}
                    ax.annotate(
                        f"{count:.0f}", (x, y), textcoords="offset points", ha="center", rotation=90,
                        size=style.NOTE_SIZE, color=how["color"], **place,
                    )  # fmt: skip
            ax.set(xlim=(0, 1), ylim=(-0.23, 1.23), yticks=np.linspace(0, 1, 6), aspect="equal")
            ax.legend(fontsize=style.NOTE_SIZE, loc="upper left", frameon=False)
        grid[row, 0].set_ylabel("observed share (weighted)", size=style.LABEL_SIZE)
    for ax in grid[-1]:
        ax.set_xlabel(f"probability\nnumbers: rows a bin; bins under {FEWEST} rows not drawn", size=style.LABEL_SIZE)
    return _save(figure, path)


def _class_size(codes: np.ndarray, conditions: Sequence[Condition], first: int, last: int) -> tuple[int, int]:
    """How many labelled rows of some conditions bear the severities from `first` to `last`, and how many there are."""
    known = codes[:, [CONDITIONS.index(condition) for condition in conditions]]
    return int(((known >= first) & (known <= last)).sum()), int((known != UNLABELLED).sum())


def draw_roc(table: np.ndarray, codes: np.ndarray, path: Path) -> Path:
    """One panel a condition, one line a question."""
    figure, grid = _page((16, 3.9), 1, len(CONDITIONS), "ROC by condition, levels pooled")
    for ax, condition in zip(grid[0], CONDITIONS, strict=True):
        style.dress(ax, condition_title(condition))
        ax.plot([0, 1], [0, 1], color=style.GUIDE, linewidth=1, zorder=1)
        sizes = []
        for line, (positive, name) in enumerate(QUESTIONS):
            of_class, rows_in_all = _class_size(codes, (condition,), positive, len(SEVERITIES) - 1)
            sizes.append(f"{name}: n = {of_class}")
            found = roc(table, codes, condition, positive)
            if found is None:
                ax.plot([], [], label=f"{name}: labels all alike", **style.line(line, marker=""))
            else:
                points, area = found
                ax.plot(*points.T, label=f"{name}: area {area:.3f}", **style.line(line, marker=""))
        ax.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
        ax.set_xlabel(f"false positive rate\n{', '.join(sizes)}\nof {rows_in_all} rows", size=style.NOTE_SIZE)
        ax.legend(fontsize=style.NOTE_SIZE, loc="lower right", frameon=False)
    grid[0, 0].set_ylabel("true positive rate", size=style.LABEL_SIZE)
    return _save(figure, path)


def draw_confusion(table: np.ndarray, codes: np.ndarray, path: Path) -> Path:
    """Counts of label against most probable severity, one panel a condition, coloured by the share of the label."""
    figure, grid = _page((16, 3.9), 1, len(CONDITIONS), "Label against most probable severity")
    words = [severity.replace("_", "/") for severity in SEVERITIES]
    for ax, condition in zip(grid[0], CONDITIONS, strict=True):
        counts = confusion(table, codes, condition)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        style.dress(ax, condition_title(condition))
        image = ax.imshow(shares, cmap=style.SHARE_MAP, vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            ink = style.ink_on(image.to_rgba(shares[row, column]))
            ax.text(column, row, f"{count}", ha="center", va="center", color=ink, size=style.LABEL_SIZE)
        ax.set_xticks(range(3), words)
        ax.set_yticks(range(3), words, rotation=90, va="center")
        ax.set_xlabel("most probable", size=style.LABEL_SIZE)
    grid[0, 0].set_ylabel("label", size=style.LABEL_SIZE)
    return _save(figure, path)


def draw_scores(scores: Mapping[str, Mapping[str, float | None]], names: Sequence[str], path: Path) -> Path:
    """The parts of the official score of some named predictions, side by side; a part that one lacks stays empty."""
    parts = (*CONDITION_GROUPS, "any_severe_spinal", "total")
    figure, grid = _page((7, 4.2), 1, 1, "Official score (lower is better)")
    ax, width = grid[0, 0], 0.8 / len(names)
    style.dress(ax, "")
    for place, name in enumerate(names):
        x = np.arange(len(parts)) + (place - (len(names) - 1) / 2) * width
        heights = [np.nan if (value := scores[name][part]) is None else value for part in parts]
        bars = ax.bar(x, heights, width * 0.94, color=style.COLOURS[place], label=name.replace("_", " "))
        texts = ["" if np.isnan(height) else f"{height:.3f}" for height in heights]
        ax.bar_label(bars, texts, size=style.NOTE_SIZE, color=style.INK)
    ax.set_xticks(range(len(parts)), [part.replace("_", " ") for part in parts])
    ax.legend(fontsize=style.NOTE_SIZE, frameon=False)
    return _save(figure, path)


def draw_keypoint_errors(errors: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> Path:
    """Distance of found keypoints to the labels by series type and level, mm: quartiles, and every point beside them.

    `errors`: for each series type and level rows (n, 2) of distance, NaN where nothing was found, and whether the point
    lies nearer to another level's label; such points are crosses.
    """
    figure, grid = _page((14, 4.2), 1, len(SERIES_TYPES), "Keypoints: distance to the label")
    random = np.random.default_rng(0)  # points are spread sideways, the same way each time
    for ax, series in zip(grid[0], SERIES_TYPES, strict=True):
        style.dress(ax, series.replace("_", " "))
        missed = 0
        for place, level in enumerate(LEVELS):
            rows = errors[series][level]
            there = rows[~np.isnan(rows[:, 0])]
            missed += len(rows) - len(there)
            if not len(there):
                continue
            ax.boxplot(there[:, 0], positions=[place], widths=0.5, showfliers=False, medianprops={"color": style.INK})
            x = place + random.uniform(-0.18, 0.18, len(there))
            for wrong, marker in ((0, "o"), (1, "x")):
                chosen = there[:, 1] == wrong
                ax.scatter(x[chosen], there[chosen, 0], s=10, marker=marker, color=style.COLOURS[wrong], alpha=0.6)
        ax.set_xticks(range(len(LEVELS)), [level_title(level) for level in LEVELS])
        ax.set(xlim=(-0.6, len(LEVELS) - 0.4))
        ax.set_ylim(bottom=0)
        ax.set_xlabel(f"crosses: nearer to another level · not found: {missed}", size=style.NOTE_SIZE)
    grid[0, 0].set_ylabel("mm", size=style.LABEL_SIZE)
    return _save(figure, path)


def _page(inches: tuple[float, float], rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=inches, layout="constrained", facecolor=style.PAPER)
    figure.suptitle(title, size=13, color=style.INK)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, metadata=MARK)
    return path
