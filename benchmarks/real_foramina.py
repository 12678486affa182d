"""Does the sagittal T1 detector find real foramina, in mm, and their slices where a series has its middle elsewhere?

    python train_utils.py phantom --studies 40 --seed 31 --out PHANTOMS
    python benchmarks/real_foramina.py --weights weights --spider SPIDER --phantoms PHANTOMS [--card FILE]

Points: slices of SPIDER beside the middle, of patients that nothing is trained on. By hand: `offmidline/points.csv`,
set by others on what is seen of foramina of two patients; clear: without those that it marks `ambiguous`. Ours: the
points of held-out patients in `recipes/spider_foramina.csv`, on T2. Each slice is a series of its own; both sides see
it, so that a level counts once. ± is the standard error by drawing slices anew: points of one slice err together.

Slices: phantoms lose two, four and six end slices of T1, or of T1 and T2, every second study on its left, so that the
middle of the series moves by one, two and three slices; all detectors look, since axial points tell where the canal is.
Judged are foramina whose labelled slice is still there.
"""

import argparse
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from one_sided import Cut, cut_study
from real_images import NEAR_MM, detectors_of, say

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import load_bundle
from lumbar.files.read import read_texts
from lumbar.keypoints.detect import Detectors, detect
from lumbar.labels import KEYPOINT_SERIES, LEVELS, SIDES, level_title, side_of
from lumbar.recipe.card import Measured
from lumbar.spider.foramina import study_of
from lumbar.spider.write import write_spider
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.outcome.evaluate import errors_mm

OURS = Path(__file__).resolve().parent.parent / "recipes" / "spider_foramina.csv"
DRAWS = 2000
CUTS = (Cut(), *(Cut(2 * off, both * 2 * off) for both in (0, 1) for off in (1, 2, 3)))
POINT_COLUMNS = ("points", "slices", "number", "median, mm", "95 %, mm", f"within {NEAR_MM:g} mm")
SLICE_COLUMNS = ("middle off by, slices", "of", "foramina", "right slice", "within one")


def errors_by_slice(detectors: Detectors, held: Path, studies: Collection[int]) -> dict[int, dict[str, float]]:
    """For each study of one slice: mm from the labelled foramen by level's title, within the slice; NaN: not found."""
    data = open_data(held, "train")
    assert data.coordinates is not None
    rows = study_rows(data.coordinates)
    found: dict[int, dict[str, float]] = {}
    for study_id in sorted(set(data.study_ids) & set(studies)):
        study = read_study(data, study_id)
        told = [each for each in label_keypoints(study, rows[study_id]).values() if side_of(each.condition) == SIDES[0]]
        errors = errors_mm({study_id: detect(study, detectors)[0]}, {study_id: told})["sagittal_t1"]
        found[study_id] = {level_title(level): float(errors[level][0, 0]) for level in LEVELS if len(errors[level])}
    return found


def figures(slices: list[np.ndarray]) -> dict[str, float]:
    """Of errors (n,) mm by slice: `slices`, `count`, `median`, `p95`, `within`, and standard errors over slices."""
    every = np.concatenate(slices)
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([slices[at] for at in rng.integers(0, len(slices), len(slices))]) for _ in range(DRAWS)]
    return {
        "slices": len(slices),
        "count": len(every),
        "median": float(np.median(every)),
        "median_error": float(np.std([np.median(each) for each in drawn])),
        "p95": float(np.percentile(every, 95)),
        "within": float((every <= NEAR_MM).mean()),
        "within_error": float(np.std([(each <= NEAR_MM).mean() for each in drawn])),
    }


def judge_points(detectors: Detectors, spider: Path) -> dict[str, dict[str, float]]:
    """`figures` of the points set by hand (all, clear ones, these on T1 alone) and of ours."""
    by_kind: dict[str, dict[str, list[float]]] = {}
    for points in (spider / "offmidline" / "points.csv", OURS):
        with tempfile.TemporaryDirectory() as held:
            write_spider(spider, Path(held), "held_out", foramina=points)
            table = read_texts(points, ("image", "level"))
            studies = {str(image): study_of(str(image)) or 0 for image in table["image"]}
            errors = errors_by_slice(detectors, Path(held), studies.values())
        doubt = ["0"] * len(table) if points == OURS else table["ambiguous"]
        for image, level, ambiguous in zip(table["image"], table["level"], doubt, strict=True):
            mm = errors.get(studies[image], {}).get(level)
            clear, on_t1 = ambiguous == "0", "_t1_" in image
            kinds = {"by hand, all": True, "by hand, clear": clear, "by hand, clear, T1": clear and on_t1}
            for kind in (kind for kind, counts in ({"ours": True} if points == OURS else kinds).items() if counts):
                if mm is not None:  # of a patient that is held out
                    by_kind.setdefault(kind, {}).setdefault(image, []).append(np.inf if np.isnan(mm) else mm)
    return {kind: figures([np.array(each) for each in own.values()]) for kind, own in by_kind.items()}


def judge_slices(detectors: Detectors, phantoms: Path) -> dict[Cut, dict[str, float]]:
    """For each cut: foramina whose slice is there (`count`), the share on it, and within one of it."""
    data = open_data(phantoms, "train")
    assert data.coordinates is not None
    rows = study_rows(data.coordinates)
    steps: dict[Cut, list[float]] = {cut: [] for cut in CUTS}
    for place, study_id in enumerate(data.study_ids):
        study = read_study(data, study_id)
        for cut in CUTS:
            less = cut_study(study, cut, SIDES[place % 2])
            found = {point.name: point for point in detect(less, detectors)[0]}
            for label in label_keypoints(less, rows[study_id]).values():
                if KEYPOINT_SERIES[label.condition] != "sagittal_t1":
                    continue
                point, series = found.get(label.name), less.series_by_id(label.series_id)
                assert series is not None
                order = [item.instance for item in series.slices]
                there = point is not None and point.series_id == label.series_id
                own = abs(order.index(point.instance) - order.index(label.instance)) if point and there else np.inf
                steps[cut].append(own)
    return {
        cut: {
            "count": len(own),
            "right": float(np.mean(np.array(own) == 0)),
            "near": float(np.mean(np.array(own) <= 1)),
        }
        for cut, own in steps.items()
    }


def cells(row: Mapping[str, float]) -> tuple[str, ...]:
    """`figures` as a table shows them, in the order of `POINT_COLUMNS`."""
    return (
        f"{row['slices']:.0f}",
        f"{row['count']:.0f}",
        f"{row['median']:.1f} ± {row['median_error']:.1f}",
        f"{row['p95']:.1f}",
        f"{row['within']:.0%} ± {row['within_error']:.0%}",
    )


def point_table(found: Mapping[str, Mapping[str, float]], command: str) -> Measured:
    """The figures of `judge_points` as a table."""
    rows = tuple((kind, *cells(row)) for kind, row in found.items())
    return Measured(title="Foramina on real slices", command=command, columns=POINT_COLUMNS, rows=rows)


def slice_table(found: Mapping[Cut, Mapping[str, float]], command: str) -> Measured:
    """The figures of `judge_slices` as a table."""
    rows = tuple(
        (
            f"{cut.t1 / 2:g}",
            "T1 and T2" if cut.t2 else "T1",
            f"{row['count']:.0f}",
            f"{row['right']:.1%}",
            f"{row['near']:.1%}",
        )
        for cut, row in found.items()
    )
    return Measured(title="Slices of foramina in phantoms", command=command, columns=SLICE_COLUMNS, rows=rows)


def main() -> None:
    """Print the tables, and write them for the card where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--spider", type=Path, metavar="DIR", help="SPIDER's folder")
    parser.add_argument("--phantoms", type=Path, metavar="DIR", help="labelled data folder of whole studies")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the tables here, for train_utils.py card")
    args = parser.parse_args()
    if not args.spider and not args.phantoms:
        parser.error("give --spider, --phantoms or both")
    detectors = detectors_of(load_bundle(args.weights))
    every = {kind: group[kind] for kind, group in detectors.items()}
    tables, command = [], "python benchmarks/real_foramina.py --weights weights"
    if args.spider:
        tables.append(point_table(judge_points(detectors["sagittal_t1"], args.spider), f"{command} --spider SPIDER"))
    if args.phantoms:
        tables.append(slice_table(judge_slices(every, args.phantoms), f"{command} --phantoms PHANTOMS"))
    say(tables, args.card)


if __name__ == "__main__":
    main()
