"""The page of plots of an evaluated run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lumbar.labels import CONDITION_GROUPS, LEVELS, SERIES_TYPES, SEVERITIES, level_title

matplotlib.use("Agg")


def draw(result: Mapping[str, Any], errors: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Write one page: keypoint errors by series type and level, scores, reliability, confusion by condition.

    `result` and `errors` are those of `evaluate` and `errors_mm`.
    """
    figure = Figure(figsize=(16, 13), layout="constrained")
    grid = figure.subplots(3, 5)
    for axis, series in zip(grid[0], SERIES_TYPES, strict=False):
        _errors(axis, series, errors[series])
    _scores(grid[0, 3], result["scores"])
    grid[0, 4].axis("off")
    for axis, severity in zip(grid[1], SEVERITIES, strict=False):
        _reliability(axis, severity, result["reliability"][severity])
    for axis in grid[1, 3:]:
        axis.axis("off")
    for axis, (condition, counts) in zip(grid[2], result["confusion"].items(), strict=True):
        _confusion(axis, condition, np.array(counts))
    figure.suptitle(f"{result['recipe']}: {result['studies']} held-out studies")
    figure.savefig(path, dpi=80)


def _errors(axis: Any, series: str, levels: Mapping[str, np.ndarray]) -> None:
    values = [rows[~np.isnan(rows[:, 0]), 0] for rows in levels.values()]
    axis.boxplot([v if len(v) else [np.nan] for v in values], showfliers=False)
    axis.set_xticks(range(1, 1 + len(LEVELS)), [level_title(level) for level in LEVELS])  # type: ignore[arg-type]
    axis.set(title=f"{series}: distance to the label", ylabel="mm")
    axis.set_ylim(bottom=0)


def _scores(axis: Any, scores: Mapping[str, Mapping[str, float | None]]) -> None:
    parts = (*CONDITION_GROUPS, "any_severe_spinal")
    for offset, name in ((-0.2, "blend"), (0.2, "weighted_prior")):
        heights = [scores[name][part] or 0.0 for part in parts]
        axis.bar(np.arange(len(parts)) + offset, heights, 0.4, label=f"{name} {scores[name]['total'] or np.nan:.3f}")
    axis.set_xticks(range(len(parts)), [part.replace("_", "\n") for part in parts], fontsize=7)
    axis.set(title="weighted log loss")
    axis.legend(fontsize=7)


def _reliability(axis: Any, severity: str, bins: Mapping[str, list[float | None]]) -> None:
    pairs = [(p, o) for p, o in zip(bins["predicted"], bins["observed"], strict=True) if p is not None]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axis.plot(*np.array(pairs, np.float64).reshape(-1, 2).T, marker="o")
    axis.set(
        title=f"{severity}: reliability", xlabel="predicted", ylabel="observed (weighted)", xlim=(0, 1), ylim=(0, 1)
    )


def _confusion(axis: Any, condition: str, counts: np.ndarray) -> None:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axis.text(
            column, row, str(count), ha="center", va="center", color="white" if shares[row, column] > 0.6 else "black"
        )
    words = [severity.replace("_", "/") for severity in SEVERITIES]
    axis.set_xticks(range(3), words, fontsize=7)
    axis.set_yticks(range(3), words, fontsize=7, rotation=90, va="center")
    axis.set_title(condition.replace("_", " "), fontsize=8)
    axis.set(xlabel="most probable", ylabel="label")
