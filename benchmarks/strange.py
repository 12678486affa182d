"""Does a bundle tell regions that look like nothing its graders learnt from? Areas under the curve, shares, cost.

    python train_utils.py phantom --studies 30 --seed 4040 --out DATA
    python benchmarks/strange.py --weights weights --data DATA [--others DIR] [--real DIR ...] [--card FILE]

The bundle holds likenesses (`train_utils.py likeness`). Each phantom is graded as it is and once of every kind: all its
pixels replaced (noise, a painted head, a painted knee, each DICOM image of --others, scaled to the slices), the grey
values turned round, T1 and T2 in each other's place, and its regions cut around keypoints 40 mm beside those that were
found. The area under the curve says how well strangeness tells the regions of a kind from those of the phantoms as they
are; beyond the bar lie those that raise an Issue. --real: folders of real studies, for which shares are told. No folder
chooses anything.

There is no knee in pydicom's and pydicom-data's files; for --others take emri_small.dcm (a head), MR2_UNCR.dcm (a
shoulder) and MR-SIEMENS-DICOM-WithOverlays.dcm (a belly) out of pydicom-data.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from degenerate import CASES, changed
from pydicom import dcmread
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.geometry import to_pixel
from lumbar.grading.regions import cut_all_regions
from lumbar.labels import CONDITION_GROUPS, CONDITIONS
from lumbar.prediction.case import Case
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.card import Measured, write_measured
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.terminal.progress import follow

#: Patient millimetres (left, back, up) by which keypoints are moved.
MOVES = {"regions 40 mm forward": (0.0, -40.0, 0.0), "regions 40 mm up": (0.0, 0.0, 40.0)}
COLUMNS = ("regions", *(f"{group}: {what}" for group in CONDITION_GROUPS for what in ("area", "beyond the bar")))


def knee(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Femur above tibia, a kneecap, cartilage, muscle and skin fat, with noise; the image's size and range."""
    rows, columns = image.shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    out = np.where(np.abs(x) < 0.75, 0.85, 0.02)  # fat under the skin
    out[np.abs(x) < 0.65] = 0.3  # muscle
    out[(np.abs(x) < 0.26) & (np.abs(y) > 0.1)] = 0.65  # shafts
    for centre, high in ((-0.22, 0.26), (0.3, 0.22)):  # condyles, plateau: bone within cartilage
        out[(x / 0.5) ** 2 + ((y - centre) / high) ** 2 < 1] = 0.95
        out[(x / 0.45) ** 2 + ((y - centre) / (high - 0.05)) ** 2 < 1] = 0.6
    out[((x + 0.56) / 0.09) ** 2 + ((y + 0.2) / 0.2) ** 2 < 1] = 0.6  # kneecap
    out += 0.03 * rng.standard_normal(image.shape)
    return np.clip(out, 0, 1) * float(image.max())


def turned_round(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark for bright."""
    turned: np.ndarray = image.max() - image
    return turned


def shown(other: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of another image's frames (N, H, W), at the image's size and range."""
    frame = other[rng.integers(len(other))].astype(np.float64)
    scaled = cv2.resize(frame, image.shape[::-1], interpolation=cv2.INTER_AREA)
    return scaled / max(float(scaled.max()), 1.0) * float(image.max())


def moved(study: Study, point: Keypoint, move: tuple[float, float, float]) -> Keypoint:
    """A keypoint elsewhere, on its slice's plane or on that which is nearest."""
    series = study.series_by_id(point.series_id)
    assert series is not None
    affine = next(item.affine for item in series.slices if item.instance == point.instance)
    mm = tuple(np.add(point.mm, move).tolist())
    return replace(point, mm=mm, xy_px=tuple(np.asarray(to_pixel(affine, mm))[:2].tolist()))


def scores(predictor: Predictor, study: Study, move: tuple[float, float, float] | None = None) -> np.ndarray:
    """Strangeness (5, 5) of a study's regions, which were cut around the keypoints that were found or beside them."""
    case = Case(study.study_id, study, list(study.issues))
    look, *ask = predictor.steps()
    predictor.take(look, case)
    if move is not None:
        beside = {(point.condition, point.level): moved(study, point, move) for point in case.keypoints}
        case.regions = [cut_all_regions(study, beside, list(predictor.graders.values()))]
    for step in ask:
        predictor.take(step, case)
    return predictor.result(case).strangeness


def kinds(others: Iterable[Path]) -> dict[str, Callable[[Predictor, Study], np.ndarray]]:
    """What is done to a study, by name, and its scores then."""
    changes = {name: CASES[name] for name in ("as it is", "noise", "head")} | {"knee": knee, "inverted": turned_round}
    for path in others:
        frames = dcmread(path).pixel_array
        changes[f"image {path.name}"] = partial(shown, frames if frames.ndim == 3 else frames[None])

    def pixels(name: str, predictor: Predictor, study: Study) -> np.ndarray:
        return scores(predictor, changed(study, changes[name], study.study_id % 2**32))

    found: dict[str, Callable[[Predictor, Study], np.ndarray]] = {name: partial(pixels, name) for name in changes}
    found["T1 and T2 exchanged"] = lambda predictor, study: scores(predictor, study.weightings_exchanged())
    for name, move in MOVES.items():
        found[name] = partial(scores, move=move)
    return found


def judged(table: np.ndarray, sound: np.ndarray | None) -> list[str]:
    """Area under the curve and share beyond the bar of scores (N, 5, 5), a pair for each group of conditions."""
    cells: list[str] = []
    for conditions in CONDITION_GROUPS.values():
        rows = [CONDITIONS.index(condition) for condition in conditions]
        own = table[:, rows][np.isfinite(table[:, rows])]
        area = "–"
        if sound is not None and len(own):
            plain = sound[:, rows][np.isfinite(sound[:, rows])]
            truth = np.repeat([0, 1], [len(plain), len(own)])
            area = f"{roc_auc_score(truth, np.concatenate([plain, own])):.3f}"
        cells += [area, f"{(own > 1).mean():.1%} of {len(own)}" if len(own) else "–"]
    return cells


def judge(bundle: Bundle, data: DataFolder, others: Iterable[Path], real: Iterable[Path]) -> list[tuple[str, ...]]:
    """A row a kind of regions."""
    predictor, every = Predictor(bundle), kinds(others)
    found: dict[str, list[np.ndarray]] = {name: [] for name in every}
    for study in follow(data.study_ids, "studies", len(data.study_ids), "study"):
        read = read_study(data, study)
        for name, made in every.items():
            found[name].append(made(predictor, read))
    for folder in real:
        studies = open_data(folder)
        found[f"real: {folder.name}"] = [scores(predictor, read_study(studies, study)) for study in studies.study_ids]
    tables = {name: np.stack(each) for name, each in found.items()}
    sound = tables["as it is"]
    return [(name, *judged(table, None if table is sound else sound)) for name, table in tables.items()]


def cost(bundle: Bundle, data: DataFolder, rounds: int) -> Mapping[str, float]:
    """Processor seconds a study, reading left out: with scores and without, by turns."""
    predictor = Predictor(bundle)
    studies = [read_study(data, study) for study in data.study_ids]
    spent: dict[str, list[float]] = {"without": [], "with": []}
    predictor(studies[0])
    for _ in range(rounds):
        for name, own in spent.items():
            predictor.listened = set(predictor.likenesses) if name == "with" else set()
            started = time.process_time()
            for study in studies:
                predictor(study)
            own.append((time.process_time() - started) / len(studies))
    return {name: float(np.median(own)) for name, own in spent.items()}


def main() -> None:
    """Print a line a kind and the cost, and write them for the card where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder, with likenesses")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="phantoms never seen")
    parser.add_argument("--others", type=Path, metavar="DIR", help="DICOM images of other parts of the body")
    parser.add_argument("--real", type=Path, nargs="*", default=[], metavar="DIR", help="folders of real studies")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of measuring what it costs")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the table here, for train_utils.py card")
    args = parser.parse_args()
    bundle, data = load_bundle(args.weights), open_data(args.data)
    others = sorted(args.others.iterdir()) if args.others else []
    rows = judge(bundle, data, others, args.real)
    for row in rows:
        print(*row, sep=" | ")
    spent = cost(bundle, data, args.rounds)
    print(f"processor seconds a study: {spent['with']:.4f} with scores, {spent['without']:.4f} without")
    if args.card:
        command = "python benchmarks/strange.py --weights weights --data PHANTOMS --others IMAGES --real REAL"
        title = "Regions that look like nothing seen in training"
        write_measured([Measured(title=title, command=command, columns=COLUMNS, rows=tuple(rows))], args.card)


if __name__ == "__main__":
    main()
