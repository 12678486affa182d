"""What prediction costs against its size: studies in a run, slices in a series, members in the bundle.

    python benchmarks/cost.py --out benchmarks/cost.png [--studies 10 100 1000]

Small phantoms (links to a few for many studies) and the shipped bundle; processor seconds and resident memory, each
with the straight line through its points. Processor seconds, since they hardly mind what else the machine does.
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.save import Weights, save_bundle
from lumbar.drawing.style import INK
from lumbar.prediction import schedule
from lumbar.prediction.predictor import Predictor
from lumbar.study.study import DataFolder, open_data
from tests.support.worlds import small_phantoms

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
SLICES, FOLDS = (8, 40, 80, 120, 160, 200), (1, 2, 4, 8)
#: Runs of which the cheapest counts, where a run is short.
ROUNDS = 5


def many(phantoms: Path, out: Path, studies: int) -> DataFolder:
    """A data folder of so many studies, each a link to one of a few."""
    table = pd.read_csv(phantoms / "train_series_descriptions.csv")
    own = list(dict.fromkeys(table["study_id"]))
    (out / "train_images").mkdir(parents=True)
    rows = []
    for number in range(studies):
        source = own[number % len(own)]
        (out / "train_images" / str(number + 1)).symlink_to(phantoms / "train_images" / str(source))
        rows.append(table[table["study_id"] == source].assign(study_id=number + 1))
    pd.concat(rows).to_csv(out / "train_series_descriptions.csv", index=False)
    return open_data(out)


def run(predictor: Predictor, data: DataFolder) -> tuple[float, float]:
    """Processor seconds of all studies, and the most memory held after one of them, MB; children's too."""
    started, most = sum(os.times()[:4]), 0.0
    for _ in schedule.grade_all(predictor, data, list(data.study_ids), progress=False):
        most = max(most, held_mb())
    return sum(os.times()[:4]) - started, most


def cheapest(predictor: Predictor, data: DataFolder) -> tuple[float, float]:
    """The least of each over some runs, seconds a study: what else the machine did is in the others."""
    seconds, memory = zip(*(run(predictor, data) for _ in range(ROUNDS)), strict=True)
    return min(seconds) / len(data.study_ids), min(memory)


def held_mb() -> float:
    """Memory of this process and its children, MB; what they share counts once."""
    held = 0
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        with suppress(OSError):  # a child that has just ended
            held += int(re.findall(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)[0])
    return held / 1024


def folds(bundle: Bundle, out: Path, count: int) -> Bundle:
    """The bundle with each grader `count` times."""
    members = []
    for member in bundle.manifest.members:
        state = bundle.network(member.name).state_dict()
        for fold in range(1 if member.spec.stage == "keypoints" else count):
            members.append(Weights(f"{member.name}_{fold}", member.spec, state, fold=fold))
    return save_bundle(out, members, prior=np.asarray(bundle.manifest.prior))


def measure(scratch: Path, counts: list[int]) -> dict[str, list[tuple[float, float, float]]]:
    """Points (size, processor seconds, MB) by what grows; seconds a study for slices and members."""
    bundle = load_bundle(WEIGHTS)
    phantoms = small_phantoms(scratch / "few", studies=4)
    predictor = Predictor(bundle)
    run(predictor, many(phantoms, scratch / "warm", 4))
    points: dict[str, list[tuple[float, float, float]]] = {"studies": [], "slices a series": [], "graders": []}
    for count in counts:
        points["studies"].append((count, *run(predictor, many(phantoms, scratch / f"studies{count}", count))))
    for slices in SLICES:
        one = {"sagittal_slices": (slices, slices), "axial_kind": "angled", "stack_slices": (slices // 5 + 1,) * 2}
        data = open_data(small_phantoms(scratch / f"slices{slices}", 3, variations=dict.fromkeys(range(3), one)))
        points["slices a series"].append((slices, *cheapest(predictor, data)))
    few = open_data(phantoms)
    for count in FOLDS:
        more = Predictor(folds(bundle, scratch / f"folds{count}", count))
        points["graders"].append((len(more.graders), *cheapest(more, few)))
    return points


def draw(points: dict[str, list[tuple[float, float, float]]], out: Path) -> dict[str, Any]:
    """Six panels; the slopes and how straight the lines are (R²)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(points), figsize=(10, 5.4), layout="constrained")
    lines: dict[str, Any] = {}
    for column, (size, rows) in enumerate(points.items()):
        x, seconds, memory = np.array(rows).T
        for axis, y, unit in ((axes[0, column], seconds, "s"), (axes[1, column], memory, "MB")):
            slope, start = np.polyfit(x, y, 1)
            left = y - slope * x - start
            straight = 1 - (left**2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12)
            lines[f"{unit} by {size}"] = {"slope": slope, "at_zero": start, "r_squared": straight}
            axis.plot(x, y, "o", color=INK)
            axis.plot(x, slope * x + start, color=INK, linewidth=1)
            axis.set(xlabel=size, ylim=(0, 1.1 * y.max()), title=f"{slope:.3g} {unit} each, R² {straight:.3f}")
        a_study = "" if size == "studies" else " a study"
        axes[0, column].set_ylabel(f"processor seconds{a_study}")
        axes[1, column].set_ylabel("memory, MB")
    figure.savefig(out, dpi=110)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--studies", type=int, nargs="+", default=[10, 100, 1000], metavar="N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), args.studies)
    print(json.dumps({"points": found, "lines": draw(found, args.out)}, indent=2))
