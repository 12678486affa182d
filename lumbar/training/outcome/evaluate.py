"""How good a run is on studies that its networks had not seen: keypoint errors, official scores, calibration.

Numbers come from a run's own files (out-of-fold keypoints and probabilities), so a run can be judged without its data.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumbar.drawing import charts
from lumbar.files.write import write_json
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, KEYPOINT_SERIES, LEVELS, SERIES_TYPES, SEVERITIES
from lumbar.metric import label_codes, prediction_array, read_predictions, score_arrays, weighted_prior
from lumbar.study.keypoint import Keypoint
from lumbar.training.folder import RunFolder
from lumbar.training.outcome import trust
from lumbar.training.outcome.blending import choice, suspects
from lumbar.training.outcome.page import write_page

FAR_MM = (5.0, 10.0)
Points = Mapping[int, Sequence[Keypoint]]


def evaluate(run: Path) -> str:
    """Evaluate a finished run; returns the tables to print.

    Writes `evaluation.json`, the charts in `plots/`, and `evaluation.html`, a page of both.

    Raises InputError where training has not ended.
    """
    folder = RunFolder(Path(run))
    folder.check_finished()
    recipe = folder.recipe()
    found, told = folder.keypoints(recipe.folds.train), folder.labelled_keypoints(recipe.folds.train)
    names = [*recipe.stage2.bundled(), "blend"]
    studies, codes = label_codes(folder.labels().loc[sorted(found)])
    tables = {name: prediction_array(read_predictions(folder.prediction_file(name)), studies) for name in names}
    fold_of = folder.folds().set_index("study_id")["fold"]
    prior = np.broadcast_to(weighted_prior(folder.labels().loc[sorted(found)]), (len(studies), 5, 5, 3))
    result: dict[str, Any] = {
        "recipe": recipe.name,
        "studies": len(studies),
        "folds": list(recipe.folds.train),
        "keypoints": keypoint_errors(found, told),
        "scores": {name: member_score(codes, table) for name, table in {**tables, "weighted_prior": prior}.items()},
        "standard_errors": {name: trust.spreads(codes, table) for name, table in tables.items()},
        "conditions": {name: trust.by_condition(codes, table) for name, table in tables.items()},
        "by_fold": {name: trust.by_fold(codes, table, fold_of.loc[studies]) for name, table in tables.items()},
        "published": recipe.published,
        "flattered": list(trust.flattered(recipe)),
        "reliability": calibration(codes, tables["blend"]),
        "confusion": confusion(codes, tables["blend"]),
        "blend": choice(folder),
        "suspect_labels": suspects(folder, studies, codes, {name: tables[name] for name in names}),
    }
    write_json(result, folder.root / "evaluation.json")
    plots = folder.root / "plots"
    drawn = [
        charts.draw_keypoint_errors(errors_mm(found, told), plots / "keypoint_error.png"),
        charts.draw_scores(result["scores"], ("blend", "weighted_prior"), plots / "scores.png"),
        charts.draw_reliability({"blend": tables["blend"]}, codes, plots / "reliability.png"),
        charts.draw_roc(tables["blend"], codes, plots / "roc.png"),
        charts.draw_confusion(tables["blend"], codes, plots / "confusion.png"),
    ]
    text = table(result)
    write_page(f"{recipe.name}: {len(studies)} held-out studies", text, drawn, folder.root / "evaluation.html")
    return text


def errors_mm(found: Points, told: Points) -> dict[str, dict[str, np.ndarray]]:
    """For each series type and level: rows (n, 2) of distance to the labelled keypoint, mm, and whether another level's
    label of that condition is nearer (1) or not (0); NaN where nothing was found.

    Distances lie in the plane of the labelled slice: which slice to look at is not the detectors' to choose on sagittal
    series. The plane is spanned by the labels' own patient axes: sagittal without x, axial without z.
    """
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {
        series: {level: [] for level in LEVELS} for series in SERIES_TYPES
    }
    for study, labelled in told.items():
        detected = {(point.condition, point.level): np.array(point.mm) for point in found.get(study, ())}
        truth = {(point.condition, point.level): np.array(point.mm) for point in labelled}
        for (condition, level), mm in truth.items():
            series = KEYPOINT_SERIES[condition]
            own = detected.get((condition, level))
            if own is None:
                rows[series][level].append((np.nan, np.nan))
                continue
            along = [1, 2] if series.startswith("sagittal") else [0, 1]
            error = float(np.linalg.norm((own - mm)[along]))
            others = [truth[condition, other] for other in LEVELS if other != level and (condition, other) in truth]
            nearer = any(np.linalg.norm(own - other) < np.linalg.norm(own - mm) for other in others)
            rows[series][level].append((error, float(nearer)))
    return {
        series: {level: np.array(values, np.float64).reshape(-1, 2) for level, values in levels.items()}
        for series, levels in rows.items()
    }


def keypoint_errors(found: Points, told: Points) -> dict[str, dict[str, dict[str, float | None]]]:
    """For each series type and level (and `all`): figures of `errors_mm`."""
    every = errors_mm(found, told)
    return {
        series: {
            name: error_figures(rows) for name, rows in [*levels.items(), ("all", np.concatenate([*levels.values()]))]
        }
        for series, levels in every.items()
    }


def error_figures(rows: np.ndarray) -> dict[str, float | None]:
    """`count` of labelled keypoints, share `missed`, `median_mm`, `p95_mm`, shares beyond 5 and 10 mm and at another
    level; of those found, None where there is none."""
    there = rows[~np.isnan(rows[:, 0])]
    figures: dict[str, float | None] = {
        "count": len(rows),
        "missed": 1 - len(there) / len(rows) if len(rows) else None,
        "median_mm": float(np.median(there[:, 0])) if len(there) else None,
        "p95_mm": float(np.percentile(there[:, 0], 95)) if len(there) else None,
    }
    for limit in FAR_MM:
        figures[f"beyond_{limit:g}_mm"] = float((there[:, 0] > limit).mean()) if len(there) else None
    figures["wrong_level"] = float(there[:, 1].mean()) if len(there) else None
    return figures


def member_score(codes: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """The official score and its parts over the rows where a member spoke; None for parts that it does not grade."""
    score = score_arrays(trust.spoken(codes, probabilities), probabilities)
    parts = ("total", "spinal", "foraminal", "subarticular", "any_severe_spinal")
    return {part: None if np.isnan(getattr(score, part)) else float(getattr(score, part)) for part in parts}


def calibration(codes: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, dict[str, Any]]]:
    """`charts.reliability` for each group and severity: `predicted`, `observed`, `count` by bin, and the mean `gap`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for group in CONDITION_GROUPS:
        found[group] = {}
        for code, severity in enumerate(SEVERITIES):
            rows, gap = charts.reliability(probabilities, codes, group, code)
            found[group][severity] = {
                "predicted": [mean if count else None for mean, _, count in rows.tolist()],
                "observed": [share if count else None for _, share, count in rows.tolist()],
                "count": rows[:, 2].astype(int).tolist(),
                "gap": gap,
            }
    return found


def confusion(codes: np.ndarray, probabilities: np.ndarray) -> dict[str, list[list[int]]]:
    """For each condition a 3 x 3 table of counts: true severity (row) against the most probable one (column)."""
    return {condition: charts.confusion(probabilities, codes, condition).tolist() for condition in CONDITIONS}


def table(result: Mapping[str, Any]) -> str:
    """The result as text: keypoints by series type and level, scores by member, reliability, confusion."""
    lines = [f"{result['recipe']}: {result['studies']} held-out studies of folds {result['folds']}", ""]
    columns = ("count", "missed", "median_mm", "p95_mm", *(f"beyond_{limit:g}_mm" for limit in FAR_MM), "wrong_level")
    lines.append(_line("keypoints", columns, 14))
    for series, levels in result["keypoints"].items():
        lines += [_line(f"{series} {name}", [figures[c] for c in columns], 14) for name, figures in levels.items()]
    parts = ("total", *CONDITION_GROUPS, "any_severe_spinal")
    lines += ["", _line("scores (lower is better)", parts, 18)]
    errors = result.get("standard_errors", {})
    for name, scores in result["scores"].items():
        around = errors.get(name, {})
        lines.append(_line(name, [_around(scores[part], around.get(part)) for part in parts], 18))
    ours, prior = (result["scores"][name]["total"] for name in ("blend", "weighted_prior"))
    if ours is not None and prior:
        lines += ["", f"blend / weighted prior of the same studies: {ours / prior:.3f}"]
    if published := result.get("published"):
        lines.append(
            f"the original published: {', '.join(f'{value:g} ({where})' for where, value in published.items())}"
        )
    lines += ["", *_condition_lines(result["conditions"])] if result.get("conditions") else []
    lines += ["", *_fold_lines(result["by_fold"])] if result.get("by_fold") else []
    lines += ["", *(f"note: {sentence}" for sentence in result["flattered"])] if result.get("flattered") else []
    lines += ["", *_reliability_lines(result["reliability"]), "", *_confusion_lines(result["confusion"])]
    if why := result.get("blend", {}).get("why"):
        lines += ["", f"blend: {why}"]
    if count := result.get("suspect_labels"):
        lines.append(f"suspect_labels.csv lists {count} label(s) that the blend finds hard to believe")
    return "\n".join(lines)


def _condition_lines(conditions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [_line("weighted log loss ± standard error", CONDITIONS, 34)]
    return lines + [
        _line(name, [None if value is None else _around(*value) for value in found.values()], 34)
        for name, found in conditions.items()
    ]


def _fold_lines(by_fold: Mapping[str, Mapping[int, float | None]]) -> list[str]:
    lines = [_line("official score by fold", [f"fold {fold}" for fold in by_fold["blend"]], 18)]
    return lines + [_line(name, found.values(), 18) for name, found in by_fold.items()]


def _around(value: float | None, error: float | None) -> str | float | None:
    """A figure with its standard error behind it."""
    return value if value is None or error is None else f"{value:.4f} ± {error:.4f}"


def _reliability_lines(reliability: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    lines = [_line("blend: |predicted - true|", SEVERITIES, 18)]
    return lines + [
        _line(group, [found[severity]["gap"] for severity in SEVERITIES], 18) for group, found in reliability.items()
    ]


def _confusion_lines(confusion: Mapping[str, list[list[int]]]) -> list[str]:
    lines = [_line("label, then most probable", SEVERITIES, 18)]
    return lines + [
        _line(f"{condition if not code else ''}", [f"{severity}:", *counts[code]], 18)
        for condition, counts in confusion.items()
        for code, severity in enumerate(SEVERITIES)
    ]


def _line(name: str, values: Iterable[Any], width: int) -> str:
    words = ["-" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]
    return f"{name:<34}" + "".join(f"{word:>{width}}" for word in words)
