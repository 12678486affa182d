"""How good a run is on studies that its networks had not seen: keypoint errors, official scores, calibration.

Numbers come from a run's own files (out-of-fold keypoints and probabilities), so a run can be judged without its data.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumbar.files import replacing, write_json
from lumbar.issues import InputError
from lumbar.keypoints.keypoint import Keypoint
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, KEYPOINT_SERIES, LEVELS, SERIES_TYPES, SEVERITIES
from lumbar.metric import UNLABELLED, label_codes, prediction_array, read_predictions, score_arrays, weighted_prior
from lumbar.training.blending import choice, suspects
from lumbar.training.folder import RunFolder

FAR_MM = (5.0, 10.0)
BINS = 10
Points = Mapping[int, Sequence[Keypoint]]


def evaluate(run: Path) -> str:
    """Evaluate a finished run; writes `evaluation.json` and `evaluation.png` into it and returns the table to print.

    Raises InputError naming the members that are not trained yet.
    """
    folder = RunFolder(Path(run))
    if missing := folder.untrained():
        raise InputError(f"{run}: not trained yet: {', '.join(missing)}; run train_utils.py train again, it goes on")
    recipe = folder.recipe()
    found, told = folder.keypoints(recipe.folds.train), folder.labelled_keypoints(recipe.folds.train)
    names = [*recipe.stage2.members, "blend"]
    studies, codes = label_codes(folder.labels().loc[sorted(found)])
    tables = {name: prediction_array(read_predictions(folder.prediction_file(name)), studies) for name in names}
    prior = np.broadcast_to(weighted_prior(folder.labels().loc[sorted(found)]), (len(studies), 5, 5, 3))
    result = {
        "recipe": recipe.name,
        "studies": len(studies),
        "folds": list(recipe.folds.train),
        "keypoints": keypoint_errors(found, told),
        "scores": {name: member_score(codes, table) for name, table in {**tables, "weighted_prior": prior}.items()},
        "reliability": reliability(codes, tables["blend"]),
        "confusion": confusion(codes, tables["blend"]),
        "blend": choice(folder),
        "suspect_labels": suspects(folder, studies, codes, {name: tables[name] for name in names}),
    }
    write_json(result, folder.root / "evaluation.json")
    from lumbar.training.plots import draw

    with replacing(folder.root / "evaluation.png") as temporary:
        draw(result, errors_mm(found, told), temporary)
    return table(result)


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
    spoken = np.where(np.isnan(probabilities).any(-1), UNLABELLED, codes)
    score = score_arrays(spoken, probabilities)
    parts = ("total", "spinal", "foraminal", "subarticular", "any_severe_spinal")
    return {part: None if np.isnan(getattr(score, part)) else float(getattr(score, part)) for part in parts}


def reliability(codes: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, list[float | None]]]:
    """For each severity: mean `predicted` and `observed` share and `count` in ten bins of predicted probability.

    Rows weigh 1/2/4 by their label, as in the score that the networks are trained for.
    """
    labelled = codes != UNLABELLED
    truth, rows = codes[labelled], probabilities[labelled]
    weights = np.array([1.0, 2.0, 4.0])[truth]
    out: dict[str, dict[str, list[float | None]]] = {}
    for code, severity in enumerate(SEVERITIES):
        place = np.clip((rows[:, code] * BINS).astype(int), 0, BINS - 1)
        total = np.bincount(place, weights, BINS)
        predicted = np.bincount(place, weights * rows[:, code], BINS)
        observed = np.bincount(place, weights * (truth == code), BINS)
        out[severity] = {
            "predicted": _shares(predicted, total),
            "observed": _shares(observed, total),
            "count": np.bincount(place, minlength=BINS).tolist(),
        }
    return out


def _shares(parts: np.ndarray, total: np.ndarray) -> list[float | None]:
    return [float(part / whole) if whole else None for part, whole in zip(parts, total, strict=True)]


def confusion(codes: np.ndarray, probabilities: np.ndarray) -> dict[str, list[list[int]]]:
    """For each condition a 3 x 3 table of counts: true severity (row) against the most probable one (column)."""
    tables: dict[str, list[list[int]]] = {}
    for place, condition in enumerate(CONDITIONS):
        truth, said = codes[:, place].ravel(), probabilities[:, place].argmax(-1).ravel()
        known = truth != UNLABELLED
        tables[condition] = np.bincount(truth[known] * 3 + said[known], minlength=9).reshape(3, 3).tolist()
    return tables


def table(result: Mapping[str, Any]) -> str:
    """The result as text: keypoints by series type and level, scores by member."""
    lines = [f"{result['recipe']}: {result['studies']} held-out studies of folds {result['folds']}", ""]
    columns = ("count", "missed", "median_mm", "p95_mm", *(f"beyond_{limit:g}_mm" for limit in FAR_MM), "wrong_level")
    lines.append(_line("keypoints", columns, 14))
    for series, levels in result["keypoints"].items():
        lines += [_line(f"{series} {name}", [figures[c] for c in columns], 14) for name, figures in levels.items()]
    parts = ("total", *CONDITION_GROUPS, "any_severe_spinal")
    lines += ["", _line("scores (lower is better)", parts, 18)]
    lines += [_line(name, [scores[part] for part in parts], 18) for name, scores in result["scores"].items()]
    ours, prior = (result["scores"][name]["total"] for name in ("blend", "weighted_prior"))
    if ours is not None and prior:
        lines += ["", f"blend / weighted prior of the same studies: {ours / prior:.3f}"]
    if why := result.get("blend", {}).get("why"):
        lines += ["", f"blend: {why}"]
    if count := result.get("suspect_labels"):
        lines.append(f"suspect_labels.csv lists {count} label(s) that the blend finds hard to believe")
    return "\n".join(lines)


def _line(name: str, values: Iterable[Any], width: int) -> str:
    words = ["-" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]
    return f"{name:<28}" + "".join(f"{word:>{width}}" for word in words)
