"""Does a bundle grade the canal of real patients? Severities beside grades by eye, on patients that no member has seen.

    python train_utils.py spider --source SPIDER --part images --out IMAGES
    python benchmarks/canal.py --weights weights --data IMAGES --grades SPIDER/canal_grades.csv

Each study is one mid-sagittal T2 image of SPIDER; only patients that are held out count. The grades (columns patient,
level, grade: 0 normal or mild, 1 moderate, 2 severe) are the consensus of two blind readings by vision models, not of
radiologists. What is printed belongs into `[card.evidence]`, see lumbar/recipe/evidence.py.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import load_bundle
from lumbar.labels import CONDITIONS, LEVELS, SEVERITY_WEIGHTS, level_title
from lumbar.prediction.schedule import predict
from lumbar.spider.write import FIRST_ID, MIDSAGITTAL, is_held_out
from lumbar.study.study import open_data

GRADED_BY = "two blind readings of vision models, no radiologist"


def graded_discs(weights: Path, data: Path, grades: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Probabilities (N, 3) and grades (N,) of the canal at the held-out patients' discs, and how many patients."""
    folder = open_data(data)
    wanted = {(int(row.patient), str(row.level)): int(row.grade) for row in grades.itertuples()}
    patients = {FIRST_ID + 1000 * patient + MIDSAGITTAL: patient for patient, _ in wanted if is_held_out(patient)}
    studies = [study for study in folder.study_ids if study in patients]
    found = []
    for result in predict(folder, load_bundle(weights), study_ids=studies, progress=None):
        rows = result.probabilities[CONDITIONS.index("spinal_canal_stenosis")]
        keys = [(patients[result.study_id], level_title(level)) for level in LEVELS]
        found += [(row, wanted[key]) for row, key in zip(rows, keys, strict=True) if key in wanted]
    return np.array([row for row, _ in found]), np.array([grade for _, grade in found]), len(studies)


def figures(probabilities: np.ndarray, grades: np.ndarray) -> dict[str, float]:
    """Agreement, ranking, and the score's loss beside that of the best constant."""
    weights = np.array(list(SEVERITY_WEIGHTS.values()))[grades]
    constant = np.array([weights[grades == grade].sum() for grade in range(3)]) / weights.sum()
    own = np.arange(len(grades)), grades
    return {
        "quadratic kappa": cohen_kappa_score(grades, probabilities.argmax(axis=1), weights="quadratic"),
        "AUC of moderate or severe": roc_auc_score(grades >= 1, probabilities[:, 1:].sum(axis=1)),
        "AUC of severe": roc_auc_score(grades == 2, probabilities[:, 2]),
        "weighted log loss": -np.average(np.log(probabilities[own]), weights=weights),
        "of the best constant": -np.average(np.log(constant[grades]), weights=weights),
    }


def main() -> None:
    """Print the figures as one entry of `tested`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="SPIDER's part images")
    parser.add_argument("--grades", type=Path, required=True, metavar="CSV", help="grades by disc")
    args = parser.parse_args()
    probabilities, grades, patients = graded_discs(args.weights, args.data, pd.read_csv(args.grades))
    counts = " / ".join(map(str, np.bincount(grades, minlength=3)))
    entry = {
        "patients": patients,
        "cases": f"{len(grades)} discs on mid-sagittal T2 images: {counts} normal or mild / moderate / severe",
        "graded_by": GRADED_BY,
        "figures": {name: round(float(value), 3) for name, value in figures(probabilities, grades).items()},
        "command": "python benchmarks/canal.py --weights weights --data IMAGES --grades SPIDER/canal_grades.csv",
    }
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
