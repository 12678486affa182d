"""Does a bundle grade the canal of real patients? Severities beside grades by eye, on patients that no member has seen.

    python benchmarks/real_canal.py --weights weights --spider SPIDER

SPIDER is a folder with `midsagittal/`, `overview.csv` and `canal_grades.csv` (columns patient, level, grade: 0 normal
or mild, 1 moderate, 2 severe; the consensus of two blind readings by vision models, not of radiologists). Each study
is one mid-sagittal T2 image; only patients that are held out count, with all their grades. Intervals are the middle
95 % over 2,000 draws of patients. What is printed belongs into `[card.evidence]`, see lumbar/recipe/evidence.py; on
standard error stands how often a disc that is normal or mild is called severe, level by level. `--part train` looks
at the other patients, from whom the bundle may have learnt: to see what is to be mended, not to be stated.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import load_bundle
from lumbar.labels import CONDITIONS, LEVELS, SEVERITY_WEIGHTS, level_title
from lumbar.prediction.schedule import predict
from lumbar.spider.parts import is_held_out
from lumbar.spider.write import FIRST_ID, MIDSAGITTAL, write_spider
from lumbar.study.study import open_data

#: Which images are there at all, and which of them are stored upside down and have to be turned.
POINTS: Final = Path(__file__).resolve().parent.parent / "recipes" / "spider_midsagittal.csv"
GRADED_BY: Final = "two blind readings of vision models, no radiologist"
DRAWS: Final = 2000
#: A disc counts as called severe where severe is more probable than this.
CALLED: Final = 0.3


@dataclass(frozen=True)
class Discs:
    """Graded discs: probabilities (N, 3), grades (N,), places of their levels (N,), and patients (N,)."""

    probabilities: np.ndarray
    grades: np.ndarray
    levels: np.ndarray
    patients: np.ndarray

    def of(self, patients: np.ndarray) -> "Discs":
        """The discs of these patients, as often as each is among them."""
        rows = np.concatenate([np.flatnonzero(self.patients == patient) for patient in patients])
        return Discs(self.probabilities[rows], self.grades[rows], self.levels[rows], self.patients[rows])


def graded_discs(weights: Path, spider: Path, held_out: bool, points: Path = POINTS) -> Discs:
    """What the bundle says of the canal at every graded disc of the held-out patients, or of the others."""
    grades = pd.read_csv(spider / "canal_grades.csv")
    wanted = {(int(row.patient), str(row.level)): int(row.grade) for row in grades.itertuples()}
    patients = {
        FIRST_ID + 1000 * patient + MIDSAGITTAL: patient for patient, _ in wanted if is_held_out(patient) == held_out
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_spider(spider, Path(folder), "held_out" if held_out else "train", points)
        data = open_data(Path(folder))
        studies = [study for study in data.study_ids if study in patients]
        for result in predict(data, load_bundle(weights), study_ids=studies, progress=None):
            rows = result.probabilities[CONDITIONS.index("spinal_canal_stenosis")]
            patient = patients[result.study_id]
            for place, level in enumerate(LEVELS):
                if (key := (patient, level_title(level))) in wanted:
                    found.append((rows[place], wanted[key], place, patient))
    return Discs(*(np.array(column) for column in zip(*found, strict=True)))


def _loss(discs: Discs, probabilities: np.ndarray) -> float:
    weights = np.array(list(SEVERITY_WEIGHTS.values()))[discs.grades]
    own = probabilities[np.arange(len(discs.grades)), discs.grades]
    return float(-np.average(np.log(np.maximum(own, 1e-15)), weights=weights))


def _constant(discs: Discs) -> np.ndarray:
    """The best one row for all: the weighted shares of grades."""
    weights = np.array(list(SEVERITY_WEIGHTS.values()))[discs.grades]
    shares = np.array([weights[discs.grades == grade].sum() for grade in range(3)]) / weights.sum()
    return np.broadcast_to(shares, discs.probabilities.shape)


FIGURES: Final[dict[str, Callable[[Discs], float]]] = {
    "AUC of moderate or severe": lambda one: roc_auc_score(one.grades >= 1, one.probabilities[:, 1:].sum(axis=1)),
    "AUC of severe": lambda one: roc_auc_score(one.grades == 2, one.probabilities[:, 2]),
    "weighted log loss": lambda one: _loss(one, one.probabilities),
    "of the best constant": lambda one: _loss(one, _constant(one)),
    "quadratic kappa": lambda one: cohen_kappa_score(one.grades, one.probabilities.argmax(axis=1), weights="quadratic"),
}


def intervals(discs: Discs, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """The middle 95 % of each figure over draws of patients (bootstrap); draws without a severe disc are left out."""
    rng = np.random.default_rng(0)
    every = np.unique(discs.patients)
    drawn = [discs.of(rng.choice(every, len(every))) for _ in range(draws)]
    drawn = [one for one in drawn if len(np.unique(one.grades)) == 3]
    found = {}
    for name, figure in FIGURES.items():
        low, high = np.percentile([figure(one) for one in drawn], [2.5, 97.5])
        found[name] = (round(float(low), 3), round(float(high), 3))
    return found


def called_severe(discs: Discs) -> dict[str, tuple[int, int]]:
    """By level: of so many discs that are normal or mild, how many are called severe."""
    found = {}
    for place, level in enumerate(LEVELS):
        normal = (discs.grades == 0) & (discs.levels == place)
        found[level_title(level)] = int((discs.probabilities[normal, 2] > CALLED).sum()), int(normal.sum())
    return found


def main() -> None:
    """Print the figures as one entry of `tested`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--spider", type=Path, required=True, metavar="DIR", help="images, their table, and grades")
    parser.add_argument("--part", choices=("held_out", "train"), default="held_out", help="whose grades")
    parser.add_argument("--points", type=Path, default=POINTS, metavar="CSV", help="canal points of the images")
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="N", help="of patients, for the intervals")
    args = parser.parse_args()
    discs = graded_discs(args.weights, args.spider, args.part == "held_out", args.points)
    counts = " / ".join(map(str, np.bincount(discs.grades, minlength=3)))
    entry: dict[str, Any] = {
        "patients": len(np.unique(discs.patients)),
        "cases": f"{len(discs.grades)} discs on mid-sagittal T2 images: {counts} normal or mild / moderate / severe",
        "graded_by": GRADED_BY,
        "figures": {name: round(float(figure(discs)), 3) for name, figure in FIGURES.items()},
        "intervals": intervals(discs, args.draws),
        "command": "python benchmarks/real_canal.py --weights weights --spider SPIDER",
    }
    print(json.dumps(entry, indent=2))
    for level, (called, normal) in called_severe(discs).items():
        share = f", {called / normal:.1%}" if normal else ""
        print(f"{level}: {called} of {normal} normal or mild discs called severe{share}", file=sys.stderr)


if __name__ == "__main__":
    main()
