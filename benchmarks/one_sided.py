"""What slices missing on one side cost: take end slices off the sagittal series, and score what the bundle says.

    python train_utils.py phantom --studies 60 --seed 31 --out heldout
    python benchmarks/one_sided.py --data heldout --weights weights [--middle series canal]

Every second study loses them on its left, the others on their right. A score is compared with that of the complete
series over the same studies; ± is the standard error of the difference, by drawing studies anew. "Shown" are the
foramina whose labelled slice is still there: of the others no rule of windows can know anything.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.compute import device as devices
from lumbar.dicom.series import Series
from lumbar.files.write import write_json
from lumbar.labels import CONDITIONS, LEVELS, SIDES, Side
from lumbar.metric import UNLABELLED, label_codes, score_arrays
from lumbar.prediction.predictor import Predictor
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.terminal.progress import bar
from lumbar.training.data.labelled import label_keypoints, study_rows

WIDTHS = (24, 26, 7, 24, 26, 6)  # of the table's columns


@dataclass(frozen=True)
class Cut:
    """So many end slices less, and series types that are left out whole."""

    t1: int = 0
    t2: int = 0
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        less = [f"T1 -{self.t1}"] * (self.t1 > 0) + [f"T2 -{self.t2}"] * (self.t2 > 0)
        return ", ".join([*less, *(f"no {name.replace('_', ' ')}" for name in self.without)]) or "complete"


ONE_SERIES = tuple(Cut(t1, t2) for t1, t2 in ((1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (0, 3), (1, 1), (2, 2), (3, 3)))
FEWER_TYPES = tuple(
    Cut(t1, t2, (without,)) for without in ("axial_t2", "sagittal_t2") for t1, t2 in ((0, 0), (2, 0), (2, 2))
)


def cut_study(study: Study, cut: Cut, side: Side) -> Study:
    """The study without those slices of a side and without those series types."""
    parts = {"sagittal_t1": cut.t1, "sagittal_t2": cut.t2}
    series = {
        kind: () if kind in cut.without else tuple(shorter(one, parts.get(kind, 0), side) for one in group)
        for kind, group in study.series.items()
    }
    return replace(study, series=series)


def shorter(series: Series, count: int, side: Side) -> Series:
    """The series without `count` end slices on a side of the patient; it runs from right to left."""
    kept = slice(count, None) if side == "right" else slice(0, len(series) - count)
    return Series(series.series_id, series.description, series.plane, series.slices[kept], series.slabs[kept])


def counted_from(bundle: Bundle, middle: str) -> Bundle:
    """The same networks with T1 windows counted from the middle of the series or from the canal."""
    members = []
    for member in bundle.manifest.members:
        prep = member.spec.preprocessing.model_copy(update={"middle": middle})
        members.append(member.model_copy(update={"spec": member.spec.model_copy(update={"preprocessing": prep})}))
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"members": tuple(members)}))


def lost_rows(study: Study, less: Study, rows: Any) -> np.ndarray:
    """(5 conditions, 5 levels) bool: labelled on a slice that is not there any more."""
    there = label_keypoints(less, rows)
    lost = np.zeros((len(CONDITIONS), len(LEVELS)), bool)
    for condition, level in label_keypoints(study, rows).keys() - there.keys():
        lost[CONDITIONS.index(condition), LEVELS.index(level)] = True
    return lost


def grade(data: DataFolder, predictor: Predictor, cuts: Sequence[Cut]) -> dict[Cut, dict[str, np.ndarray]]:
    """For each cut: `probabilities` (N, 5, 5, 3), `lost` (N, 5, 5) and `issues` (N,), studies in the folder's order."""
    assert data.coordinates is not None
    rows = study_rows(data.coordinates)
    found: dict[Cut, dict[str, list[Any]]] = {cut: {"probabilities": [], "lost": [], "issues": []} for cut in cuts}
    with bar("grading", len(data.study_ids)) as shown:
        for place, study_id in enumerate(data.study_ids):
            study, side = read_study(data, study_id), SIDES[place % 2]
            for cut in cuts:
                less = cut_study(study, cut, side)
                result = predictor(less)
                found[cut]["probabilities"].append(result.probabilities)
                found[cut]["lost"].append(lost_rows(study, less, rows[study_id]))
                found[cut]["issues"].append(any(issue.code == "series_off_centre" for issue in result.issues))
            shown.update()
    return {cut: {key: np.array(values) for key, values in parts.items()} for cut, parts in found.items()}


def compare(codes: np.ndarray, whole: np.ndarray, cut: Mapping[str, np.ndarray], draws: int) -> dict[str, float]:
    """Scores of the cut studies and their differences from the complete ones, with standard errors."""
    shown = np.where(cut["lost"], UNLABELLED, codes)
    out: dict[str, float] = {"lost": float(cut["lost"][:, 1:3].mean()), "told": float(cut["issues"].mean())}
    for name, part, labels in (
        ("foraminal", "foraminal", codes),
        ("shown", "foraminal", shown),
        ("spinal", "spinal", codes),
        ("subarticular", "subarticular", codes),
    ):
        out[name] = getattr(score_arrays(labels, cut["probabilities"]), part)
        out[f"{name}_more"] = out[name] - getattr(score_arrays(labels, whole), part)
        rng, n = np.random.default_rng(0), len(codes)
        drawn = [rng.integers(0, n, n) for _ in range(draws)]
        differences = [
            getattr(score_arrays(labels[at], cut["probabilities"][at]), part)
            - getattr(score_arrays(labels[at], whole[at]), part)
            for at in drawn
        ]
        out[f"{name}_error"] = float(np.std(differences))
    return out


def main() -> None:
    """Print a table a rule, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled data folder")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--middle", nargs="+", choices=("series", "canal"), default=["series", "canal"])
    parser.add_argument("--fewer-types", action="store_true", help="without axial or T2 series as well")
    parser.add_argument("--draws", type=int, default=500, metavar="N", help="draws of studies for the standard error")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    data, bundle = open_data(args.data, "train"), load_bundle(args.weights)
    if data.labels is None or data.coordinates is None:
        raise SystemExit(f"{data.root} has no train.csv or no train_label_coordinates.csv; give a labelled folder")
    device, amp = devices.choose_device(say=lambda sentence: print(sentence, file=sys.stderr))
    order, codes = label_codes(data.labels.loc[list(data.study_ids)])
    assert tuple(order) == data.study_ids
    cuts = (Cut(), *ONE_SERIES, *(FEWER_TYPES if args.fewer_types else ()))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for middle in args.middle:
        graded = grade(data, Predictor(counted_from(bundle, middle), device, amp), cuts)
        figures[middle] = {}
        print(f"\nT1 windows counted from the middle of: {middle}")
        heads = zip(("foraminal", "of those shown", "lost", "spinal", "subarticular", "told"), WIDTHS, strict=True)
        print(f"{'':<24}" + "".join(f"{head:>{width}}" for head, width in heads))
        for cut, parts in graded.items():
            base = graded[replace(cut, t1=0, t2=0)]["probabilities"]
            row = figures[middle][str(cut)] = compare(codes, base, parts, args.draws)
            cells = [
                f"{row[name]:.3f} ({row[f'{name}_more']:+.3f} ± {row[f'{name}_error']:.3f})"
                for name in ("foraminal", "shown", "spinal", "subarticular")
            ]
            cells = [*cells[:2], f"{row['lost']:.1%}", *cells[2:], f"{row['told']:.0%}"]
            line = "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
            print(f"{cut!s:<24}{line}", flush=True)
    if args.json:
        write_json(figures, args.json)


if __name__ == "__main__":
    main()
