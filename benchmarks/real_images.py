"""Do the sagittal detectors find their points on real images of patients that they have never seen? In mm.

    python train_utils.py spider --source SPIDER --points recipes/spider_midsagittal.csv --part held_out --out HELD
    python benchmarks/real_images.py --weights weights --held HELD [--study DIR] [--card FILE]

T2 SPACE: points from SPIDER's masks. Mid-sagittal T2 turbo spin echo: points that a person checked or set. Mid-sagittal
T1: no foramen is to be seen there; the points are where the foramina of each level would be (see
lumbar/spider/write.py), so that the figures tell whether levels are recognised. Each detector is judged alone, without
the other's points.

--study: a whole study, judged against a JSON of points set by hand: {"sagt2": {level: [x, y]}, "sagt1": {side: {level:
[x, y]}}, "axial": {side: ...}} in pixels of the slices as stored; without --points those of the study in the public
domain that the tests know, in `real_study_points.json`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.keypoints.detect import Detectors, detect
from lumbar.labels import SeriesType, condition_title, level_title
from lumbar.prediction.schedule import predict
from lumbar.recipe.card import Measured, write_measured
from lumbar.spider.write import MIDSAGITTAL
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.outcome.evaluate import error_figures, errors_mm

NEAR_MM = 6.0
#: Points of a study in the public domain (the folder says: Unlicense), set by eye.
POINTS = Path(__file__).resolve().parent / "real_study_points.json"
#: Kind of image: the series type, and whether the studies are mid-sagittal pairs.
KINDS: dict[str, tuple[SeriesType, bool]] = {
    "T2 SPACE": ("sagittal_t2", False),
    "T2 turbo spin echo, mid-sagittal": ("sagittal_t2", True),
    "T1, mid-sagittal": ("sagittal_t1", True),
}
COLUMNS = ("kind", "images", "points", "median, mm", "95 %, mm", f"within {NEAR_MM:g} mm", "images with a wrong level")


def detectors_of(bundle: Bundle) -> dict[SeriesType, Detectors]:
    """The bundle's detectors by series type, each as `detect` takes them."""
    found: dict[SeriesType, Detectors] = {}
    for name, spec in bundle.manifest.detectors.items():
        kind = spec.series_type
        earlier = found.get(kind, {}).get(kind, ())
        found[kind] = {kind: [*earlier, (spec, bundle.network(name))]}
    return found


def judge(detectors: dict[SeriesType, Detectors], held: Path) -> dict[str, dict[str, float | None]]:
    """For each kind of image that is there: `error_figures`, share near enough, images with a wrong level."""
    data = open_data(held, "train")
    assert data.coordinates is not None
    rows = study_rows(data.coordinates)
    out: dict[str, dict[str, float | None]] = {}
    for kind, (series_type, paired) in KINDS.items():
        errors = []
        for study_id in data.study_ids:
            study = read_study(data, study_id)
            if series_type not in detectors or (study_id % 1000 == MIDSAGITTAL) != paired:
                continue
            told = label_keypoints(study, rows[study_id]).values()
            found = detect(study, detectors[series_type])[0]
            each = errors_mm({study_id: found}, {study_id: list(told)})[series_type]
            errors.append(np.concatenate([*each.values()]))
        errors = [each for each in errors if len(each)]
        if errors:
            every = np.concatenate(errors)
            out[kind] = error_figures(every)
            out[kind]["within"] = float((every[:, 0] <= NEAR_MM).mean())
            out[kind]["images"] = len(errors)
            out[kind]["images_with_wrong_level"] = float(np.mean([np.nanmax(each[:, 1]) > 0 for each in errors]))
    return out


def table(figures: dict[str, dict[str, float | None]], command: str) -> Measured:
    """The figures of `judge` as a table."""
    rows = []
    for kind, row in figures.items():
        numbers = [f"{row[key]:.0f}" for key in ("images", "count")] + [
            f"{row[k]:.1f}" for k in ("median_mm", "p95_mm")
        ]
        shares = [f"{row[key]:.1%}" for key in ("within", "images_with_wrong_level")]
        rows.append((kind, *numbers, *shares))
    return Measured(title="Keypoints on real patients never seen", command=command, columns=COLUMNS, rows=tuple(rows))


def by_hand(bundle: Bundle, folder: Path, points: Path) -> Iterator[tuple[str, str, float, float]]:
    """Condition, level, distance (mm, within the slice) to the point set by hand, and confidence, of one study."""
    told = json.loads(points.read_text(encoding="utf-8"))
    told = told.get("coordinates", told)
    data = open_data(folder)
    study = read_study(data, data.study_ids[0])
    for point in next(iter(predict(data, bundle, progress=False))).keypoints:
        side = point.condition.split("_")[0]
        if point.condition.startswith("spinal"):
            place = told["sagt2"][point.level]
        else:
            place = told["axial" if point.condition.endswith("stenosis") else "sagt1"][side][point.level]
        series = study.series_by_id(point.series_id)
        assert series is not None
        affine = next(item.affine for item in series.slices if item.instance == point.instance)
        off = affine[:3, :2] @ (np.array(point.xy_px) - np.array(place))
        name = (condition_title(point.condition), level_title(point.level))
        yield *name, float(np.linalg.norm(off)), point.confidence


def say(tables: Sequence[Measured], card: Path | None) -> None:
    """Print tables, and write them for `train_utils.py card` where asked."""
    for each in tables:
        print(each.title, *(" | ".join(map(str, row)) for row in (each.columns, *each.rows)), sep="\n")
    if card:
        write_measured(tables, card)


def main() -> None:
    """Print the tables, and write them for the card where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--held", type=Path, required=True, metavar="DIR", help="SPIDER's held-out part")
    parser.add_argument("--study", type=Path, metavar="DIR", help="data folder of one whole study")
    parser.add_argument("--points", type=Path, default=POINTS, metavar="FILE", help="its points, set by hand")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the tables here, for train_utils.py card")
    args = parser.parse_args()
    bundle = load_bundle(args.weights)
    figures = judge(detectors_of(bundle), args.held)
    tables = [table(figures, "python benchmarks/real_images.py --weights weights --held HELD")]
    if args.study:
        rows = tuple(
            (c, level, f"{mm:.1f}", f"{sure:.2f}") for c, level, mm, sure in by_hand(bundle, args.study, args.points)
        )
        command = "python benchmarks/real_images.py --weights weights --held HELD --study STUDY"
        columns = ("keypoint", "level", "from the point set by hand, mm", "confidence")
        tables.append(Measured(title="One whole real study", command=command, columns=columns, rows=rows))
    say(tables, args.card)


if __name__ == "__main__":
    main()
