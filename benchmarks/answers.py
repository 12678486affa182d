"""Judge the detectors of a run, whatever they answer, on labelled studies that they have not seen.

    python train_utils.py phantom --studies 180 --seed 4242 --out phantoms
    python train_utils.py phantom --studies 60 --seed 909 --out unseen
    python train_utils.py train --recipe recipes/parts/slices.toml --data phantoms --out RUN
    python benchmarks/answers.py --run RUN --data unseen

Each detector gets the stacks that training would make of the studies, and its answer is read as prediction reads it.
Distances lie in the plane of the slice; a slice counts as right where it is the label's own.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.network import build_network
from lumbar.keypoints.answers.registry import answer_of
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.folder import RunFolder
from lumbar.training.loop import checkpoint, targets


def judge(data: DataFolder, spec: DetectorSpec, network: torch.nn.Module) -> dict[str, str]:
    """What a detector's answers to all labelled stacks of a folder come to, as text by column."""
    assert data.coordinates is not None
    rows, answer, found = study_rows(data.coordinates), answer_of(spec), defaultdict(list)
    for study_id in data.study_ids:
        study = read_study(data, study_id)
        arrays = stack_arrays(study, label_keypoints(study, rows[study_id]), spec)
        if not len(arrays["images"]):
            continue
        with torch.inference_mode():
            raw = network(torch.from_numpy(arrays["images"]).float())
        reading = answer.read(spec, answer.join([raw]).float().numpy())
        truth = arrays["points"]
        labelled = np.isfinite(truth).all(-1)
        found["found"].append(reading.found[labelled])
        if spec.answer != "slices":
            away = (reading.points[..., :2] - truth) * arrays["mm_per_px"][:, None]
            found["mm"].append(np.linalg.norm(away, axis=-1)[labelled])
        if spec.names_slices:
            steps = np.abs(np.rint(reading.points[..., 2]) - arrays["slices"])
            found["slices"].append(steps[np.isfinite(arrays["slices"])])
        if reading.size_px is not None:
            true = targets.sizes(torch.from_numpy(truth)).numpy()
            ratio = reading.size_px.mean(-1) / true
            found["size"].append(ratio[labelled & np.isfinite(true)])
    return _figures({name: np.concatenate(parts) for name, parts in found.items()})


def _figures(found: dict[str, np.ndarray]) -> dict[str, str]:
    out = {"labels": f"{len(found['found'])}", "found": f"{found['found'].mean():.1%}"}
    if "mm" in found:
        mm = found["mm"][np.isfinite(found["mm"])]
        out |= {"median": f"{np.median(mm):.1f} mm", "95 %": f"{np.percentile(mm, 95):.1f} mm"}
    if "slices" in found:
        right, near = ((found["slices"] <= reach).mean() for reach in (0, 1))
        out |= {"right slice": f"{right:.1%}", "within one": f"{near:.1%}"}
    if "size" in found:
        off = np.abs(found["size"] - 1)
        out |= {"size off by (median)": f"{np.median(off):.1%}", "within 20 %": f"{(off <= 0.2).mean():.1%}"}
    return out


def main() -> None:
    """Print a line a detector and fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled data folder, unseen")
    args = parser.parse_args()
    folder, data = RunFolder(args.run), open_data(args.data, "train")
    recipe = folder.recipe()
    for fold in recipe.folds.train:
        for name, member in recipe.stage1.members.items():
            weights = folder.member(name, fold) / "best.safetensors"
            if not weights.is_file():
                continue
            network = build_network(member.spec)
            checkpoint.read_weights(network, weights)
            figures = judge(data, member.spec, network.eval())
            print(
                f"{name}, fold {fold}: " + ", ".join(f"{word} {value}" for word, value in figures.items()), flush=True
            )


if __name__ == "__main__":
    main()
