"""Judge a bundle on labelled studies that it has not seen: official score by member and blend, keypoint error in mm.

    python train_utils.py phantom --studies 40 --seed 2026 --out heldout
    python benchmarks/heldout.py --data heldout --weights weights

The floor is the weighted prior of the very studies judged, the best constant there is for them. `--labelled-points` has
the graders look around labelled keypoints in place of found ones: what is lost to points, and what to grading.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.compute import device as devices
from lumbar.ensemble.average import BLEND_METHODS, blend
from lumbar.files.write import write_json
from lumbar.labels import CONDITION_GROUPS
from lumbar.metric import label_codes, weighted_prior
from lumbar.prediction import schedule
from lumbar.recipe.card import Measured, write_measured
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, sized, study_rows
from lumbar.training.outcome import evaluate, trust


def judge(data: DataFolder, bundle: Bundle, studies: int | None = None, engine: str = "auto") -> dict[str, object]:
    """Figures as `lumbar.training.outcome.evaluate` names them, over the first `studies` of the folder (None: all)."""
    if data.labels is None or data.coordinates is None:
        raise SystemExit(f"{data.root} has no train.csv or no train_label_coordinates.csv; give a labelled folder")
    ids = [study for study in data.study_ids if study in data.labels.index][:studies]
    device, amp = devices.choose_device(say=lambda sentence: print(sentence, file=sys.stderr))
    results = list(schedule.predict(data, bundle, device=device, amp=amp, engine=engine, study_ids=ids))
    order, codes = label_codes(data.labels.loc[ids])
    by_study = {result.study_id: result for result in results}
    members = np.stack([by_study[int(study)].members for study in order])  # (N, M, 5, 5, 3)
    prior = weighted_prior(data.labels.loc[ids])
    tables = {name: _blend(members[:, places], bundle, prior) for name, places in _groups(bundle).items()}
    tables["blend"] = np.stack([by_study[int(study)].probabilities for study in order])
    tables["weighted_prior"] = np.broadcast_to(prior, tables["blend"].shape)
    rows = study_rows(data.coordinates)
    told = {study: list(label_keypoints(read_study(data, study), rows[study]).values()) for study in ids}
    return {
        "recipe": bundle.manifest.description,
        "studies": len(ids),
        "folds": "held out",
        "keypoints": evaluate.keypoint_errors({study: by_study[study].keypoints for study in ids}, told),
        "slices": _slices({study: by_study[study].keypoints for study in ids}, told),
        "scores": {name: evaluate.member_score(codes, table) for name, table in tables.items()},
        "standard_errors": {name: trust.spreads(codes, table) for name, table in tables.items()},
        "conditions": {name: trust.by_condition(codes, table) for name, table in tables.items()},
        "reliability": evaluate.calibration(codes, tables["blend"]),
        "confusion": evaluate.confusion(codes, tables["blend"]),
        "seconds_per_study": float(np.median([result.seconds for result in results])),
    }


@contextmanager
def labelled_points(data: DataFolder) -> Iterator[None]:
    """Whatever is graded meanwhile in this process: around the labelled keypoints of `data`, in place of found ones."""
    assert data.coordinates is not None
    rows = study_rows(data.coordinates)

    def told(study: Study, *_: object) -> tuple[list[Keypoint], list[object]]:
        return list(sized(label_keypoints(study, rows[study.study_id])).values()), []

    with patch("lumbar.keypoints.detect.detect", told):
        yield


def _slices(found: evaluate.Points, told: evaluate.Points) -> dict[str, float | None]:
    """Of labelled keypoints that were found on the label's series: the share on its slice, and within one of it."""
    steps = []
    for study, labelled in told.items():
        by_name = {point.name: point for point in found[study]}
        pairs = [(label, by_name[label.name]) for label in labelled if label.name in by_name]
        steps += [abs(one.instance - other.instance) for one, other in pairs if one.series_id == other.series_id]
    if not steps:
        return {"count": 0, "right": None, "within_one": None}
    away = np.array(steps)
    return {"count": len(away), "right": float((away == 0).mean()), "within_one": float((away <= 1).mean())}


def _groups(bundle: Bundle) -> dict[str, list[int]]:
    """Places of the graders: all that grade one condition group as `split`, all that grade everything as `global`."""
    tasks = [spec.task for spec in bundle.manifest.graders.values()]
    groups = {
        "split": [place for place, task in enumerate(tasks) if task != "global"],
        "global": [place for place, task in enumerate(tasks) if task == "global"],
    }
    return {name: places for name, places in groups.items() if places}


def _blend(members: np.ndarray, bundle: Bundle, prior: np.ndarray) -> np.ndarray:
    """(N, m, 5, 5, 3) → (N, 5, 5, 3); the prior where none of the members speaks. What was fitted, was for all."""
    method = bundle.manifest.blend.method
    average = method if method in BLEND_METHODS else "mean"
    return np.stack([blend(study, prior, average)[0] for study in members])


COMMAND = "python benchmarks/heldout.py --data HELDOUT --weights weights"


def tables(result: dict[str, Any]) -> list[Measured]:
    """The figures of `judge` as tables for the card."""
    parts = ("total", *CONDITION_GROUPS, "any_severe_spinal")
    scores = [
        (name, *("–" if row[part] is None else f"{row[part]:.3f}" for part in parts))
        for name, row in result["scores"].items()
    ]
    named = {
        "split": "split members",
        "global": "global member",
        "weighted_prior": "weighted prior of the same studies",
    }
    scores = [(named.get(name, name), *row) for name, *row in scores]
    keys = ("count", "median_mm", "p95_mm", "beyond_5_mm", "wrong_level")
    points = []
    for series, levels in result["keypoints"].items():
        count, median, p95, beyond, wrong = (levels["all"][key] for key in keys)
        points.append((series, f"{count}", f"{median:.1f}", f"{p95:.1f}", f"{beyond:.1%}", f"{wrong:.1%}"))
    about = f"{result['studies']} phantom studies of another seed, without label noise; lower is better."
    columns = ("official score", *(part.replace("_", " ") for part in parts))
    error = ("keypoints", "points", "median, mm", "95 %, mm", "beyond 5 mm", "wrong level")
    return [
        Measured(
            title="Severity on phantoms never seen", command=COMMAND, columns=columns, rows=tuple(scores), note=about
        ),
        Measured(title="Keypoints on phantoms never seen", command=COMMAND, columns=error, rows=tuple(points)),
    ]


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled data folder")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--studies", type=int, metavar="N", help="the first N studies only")
    parser.add_argument("--engine", default="auto", metavar="WORD", help="how networks run, as of predict")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the tables here, for train_utils.py card")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--labelled-points", action="store_true", help="graders look around labelled keypoints")
    args = parser.parse_args()
    data = open_data(args.data, "train")
    with labelled_points(data) if args.labelled_points else nullcontext():
        result = judge(data, load_bundle(args.weights), args.studies, args.engine)
    print(evaluate.table(result))
    if args.card:
        write_measured(tables(result), args.card)
    if args.json:
        write_json(result, args.json)


if __name__ == "__main__":
    main()
