"""Does a bundle know when it does not know? Keypoint confidence and Issues where there is nothing to find.

    python train_utils.py phantom --studies 20 --seed 4040 --out DATA
    python benchmarks/degenerate.py --weights weights --data DATA [--held HELD] [--card FILE]

Each phantom study is graded as it is and once with all its pixels replaced: nearly empty, noise, a head-like phantom
(skull, brain, ventricles), and the study stored upside down with its geometry left as it was. A keypoint is good where
it lies within 6 mm of its label and a canal or foramen can be there at all; the area under the curve says how well
confidence tells good from bad, over phantoms, their degenerate copies and (--held) real images never seen.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from real_images import NEAR_MM, detectors_of
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.keypoints.detect import detect
from lumbar.keypoints.repair import LOW_CONFIDENCE
from lumbar.labels import KEYPOINT_SERIES
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.card import Measured, write_measured
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def head(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Skull, brain and ventricles as ellipses, with noise; the image's size and range."""
    rows, columns = image.shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    out = np.zeros(image.shape)
    for wide, high, value in ((0.75, 0.9, 0.9), (0.68, 0.83, 0.1), (0.64, 0.79, 0.5), (0.12, 0.3, 1.0)):
        out[(x / wide) ** 2 + (y / high) ** 2 < 1] = value
    out += 0.03 * rng.standard_normal(image.shape)
    return np.clip(out, 0, 1) * float(image.max())


CASES: dict[str, Change | None] = {
    "as it is": None,
    "empty": lambda image, rng: (rng.random(image.shape) < 0.001).astype(np.float64),
    "noise": lambda image, rng: rng.integers(0, max(int(image.max()), 1) + 1, image.shape).astype(np.float64),
    "head": head,
    "upside down": lambda image, rng: image[::-1],
}


def changed(study: Study, change: Change | None, seed: int) -> Study:
    """The study with every image replaced, geometry and all else left alone."""
    if change is None:
        return study
    rng = np.random.default_rng(seed)
    series = {
        kind: tuple(
            replace(
                one,
                slices=tuple(
                    replace(item, pixels=np.ascontiguousarray(change(item.pixels, rng)).astype(item.pixels.dtype))
                    for item in one.slices
                ),
            )
            for one in listed
        )
        for kind, listed in study.series.items()
    }
    return replace(study, series=series)


def labelled(found: Iterable[Keypoint], told: Mapping[Any, Keypoint]) -> Iterator[tuple[str, float, bool]]:
    """Series type, confidence, and whether the keypoint is near its label, of every found point that has one."""
    for point in found:
        truth = told.get((point.condition, point.level))
        if truth is not None:
            kind = KEYPOINT_SERIES[point.condition]
            along = [1, 2] if kind.startswith("sagittal") else [0, 1]
            off = np.linalg.norm((np.array(point.mm) - np.array(truth.mm))[along])
            yield kind, point.confidence, bool(off <= NEAR_MM)


Found = list[tuple[str, float, bool]]


def judge_cases(bundle: Bundle, data: DataFolder) -> tuple[list[tuple[str, ...]], Found]:
    """A row a case, and every keypoint of all cases that has a label."""
    assert data.coordinates is not None
    predictor, coordinates = Predictor(bundle), study_rows(data.coordinates)
    mixture: Found = []
    rows: list[tuple[str, ...]] = []
    for name, change in CASES.items():
        sure: list[float] = []
        issues = Counter[str]()
        for study_id in data.study_ids:
            study = read_study(data, study_id)
            result = predictor(changed(study, change, study_id % 2**32))
            sure += [point.confidence for point in result.keypoints]
            issues.update({issue.code for issue in result.issues if issue.code.startswith(("keypoint", "condition"))})
            near = labelled(result.keypoints, label_keypoints(study, coordinates[study_id]))
            mixture += near if change is None else [(kind, each, False) for kind, each, _ in near]
        low = float(np.mean(np.array(sure) < LOW_CONFIDENCE))
        told_by = ", ".join(f"{code} in {count}" for code, count in sorted(issues.items())) or "none"
        rows.append((name, f"{np.median(sure):.2f}", f"{low:.0%}", f"{told_by} of {len(data.study_ids)} studies"))
        print(*rows[-1], sep="  ", flush=True)
    return rows, mixture


def judge_real(bundle: Bundle, held: DataFolder) -> Iterator[tuple[str, float, bool]]:
    """Every keypoint of the held-out real images that has a label."""
    assert held.coordinates is not None
    coordinates, detectors = study_rows(held.coordinates), detectors_of(bundle)
    for study_id in held.study_ids:
        study = read_study(held, study_id)
        told = label_keypoints(study, coordinates[study_id])
        for each in detectors.values():
            yield from labelled(detect(study, each)[0], told)


def areas(mixture: Found) -> list[tuple[str, ...]]:
    """A row a series type and one for all: how many keypoints, the good ones' share, the area under the curve."""
    rows: list[tuple[str, ...]] = []
    for kind in (*dict.fromkeys(KEYPOINT_SERIES.values()), "all"):
        part = [(sure, good) for series, sure, good in mixture if kind in {series, "all"}]
        good = [each for _, each in part]
        area = roc_auc_score(good, [sure for sure, _ in part])
        rows.append((kind, str(len(part)), f"{np.mean(good):.0%}", f"{area:.3f}"))
        print(*rows[-1], sep="  ")
    return rows


def main() -> None:
    """Print a line a case and the areas under the curve, and write them for the card where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled phantoms never seen")
    parser.add_argument("--held", type=Path, metavar="DIR", help="SPIDER's held-out part")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the tables here, for train_utils.py card")
    args = parser.parse_args()
    bundle = load_bundle(args.weights)
    rows, mixture = judge_cases(bundle, open_data(args.data, "train"))
    if args.held:
        mixture += judge_real(bundle, open_data(args.held, "train"))
    figures = areas(mixture)
    if args.card:
        command = "python benchmarks/degenerate.py --weights weights --data PHANTOMS --held HELD"
        columns = ("what the study holds", "median confidence", f"below {LOW_CONFIDENCE}", "Issues")
        tables = [Measured(title="Where there is nothing to find", command=command, columns=columns, rows=tuple(rows))]
        columns = ("series", "keypoints", f"good (within {NEAR_MM:g} mm)", "area under the curve")
        note = "Phantoms, their degenerate copies and real images together."
        title = "Confidence tells good keypoints from bad"
        tables.append(Measured(title=title, command=command, columns=columns, rows=tuple(figures), note=note))
        write_measured(tables, args.card)


if __name__ == "__main__":
    main()
