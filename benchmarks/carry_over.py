"""Which part of training carries over to real images? The sagittal T2 detector without one part at a time, in mm.

    python train_utils.py phantom --studies 250 --seed 1 --out DATA
    python train_utils.py spider --source SPIDER --points recipes/spider_midsagittal.csv --out DATA
    python train_utils.py spider --source SPIDER --points recipes/spider_midsagittal.csv --part held_out --out HELD
    python benchmarks/carry_over.py --recipe recipes/shipped.toml --data DATA --held HELD --out RUN [--only WORD]

Each row trains anew for the same number of steps, with one fold, and is judged on patients that no row has seen: T2
SPACE (points from masks) and mid-sagittal T2 turbo spin echo (points set by hand). An interrupted call goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle import build_network
from lumbar.files import write_csv, write_json
from lumbar.keypoints.detect import detect
from lumbar.spider import FIRST_ID, MIDSAGITTAL
from lumbar.study import open_data, read_study
from lumbar.training import checkpoint
from lumbar.training.checks import open_checked
from lumbar.training.derive import label_keypoints, study_rows
from lumbar.training.evaluate import error_figures, errors_mm
from lumbar.training.machine import make_accelerator
from lumbar.training.recipe import load_recipe
from lumbar.training.run import Run

MEMBER = "sagittal_t2"
PLACE = f"stage1.members.{MEMBER}.augment."
#: Row of the table: which studies train, and what the recipe's augmentation loses.
ROWS: dict[str, tuple[str, Sequence[str]]] = {
    "all": ("all", ()),
    "no phantoms": ("real", ()),
    "no real images": ("phantoms", ()),
    "no turning and shearing": ("all", ("rotate_deg", "shear_deg")),
    "no zoom, shift and stretch (field of view, cropping)": ("all", ("zoom", "shift", "stretch")),
    "no gamma, shading and noise (contrast)": ("all", ("gamma", "shading", "noise")),
    "no blur and coarsening (resolution)": ("all", ("sharpen_or_blur_p", "coarsen")),
    "no padding bands": ("all", ("bands",)),
    "no single slices": ("all", ("repeat_p",)),
}


def subset(data: Path, out: Path, kind: str) -> Path:
    """The data folder with phantoms only or real images only: its own tables, the same image folder."""
    if kind == "all":
        return data
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv"):
        table = pd.read_csv(data / name)
        write_csv(table[(table["study_id"] >= FIRST_ID) == (kind == "real")], out / name)
    if not (out / "train_images").exists():
        (out / "train_images").symlink_to((data / "train_images").resolve())
    return out


def train(recipe: Path, data: Path, out: Path, off: Sequence[str], steps: int) -> tuple[object, object]:
    """The detector's spec and its network after about `steps` optimizer steps; skipped where it is there."""
    studies = len(pd.read_csv(data / "train.csv"))
    member = load_recipe(recipe).stage1.members[MEMBER]
    folds = load_recipe(recipe).folds.count
    epochs = max(1, round(steps * member.training.batch_size / (studies * (folds - 1) / folds)))
    settings = [f"stage1.members.{MEMBER}.epochs={epochs}", *(f"{PLACE}{key}=0.0" for key in off)]
    chosen = load_recipe(recipe, settings)
    run = Run(out, chosen, open_checked(data), make_accelerator(chosen.loop))
    run.prepare()
    run.stacks(MEMBER, chosen.stage1.members[MEMBER].spec)
    run.train_member(MEMBER, chosen.stage1.members[MEMBER], chosen.folds.train[0])
    spec = chosen.stage1.members[MEMBER].spec
    weights = run.folder.member(MEMBER, chosen.folds.train[0]) / "best.safetensors"
    return spec, checkpoint.read_weights(build_network(spec), weights).eval()


def judge(spec: object, network: object, held: Path) -> dict[str, dict[str, float | None]]:
    """Figures of `evaluate.error_figures` for both kinds of images, and the share of images with a wrong level."""
    data = open_data(held, "train")
    assert data.coordinates is not None
    rows = study_rows(data.coordinates)
    out = {}
    for kind in ("T2 SPACE", "T2 turbo spin echo"):
        ids = [study for study in data.study_ids if (study % 1000 == MIDSAGITTAL) == (kind != "T2 SPACE")]
        if not ids:
            continue
        errors = []
        for study_id in ids:
            study = read_study(data, study_id)
            told = list(label_keypoints(study, rows[study_id]).values())
            found = detect(study, {"sagittal_t2": [(spec, network)]})[0]  # type: ignore[list-item]
            errors.append(np.concatenate([*errors_mm({study_id: found}, {study_id: told})["sagittal_t2"].values()]))
        out[kind] = error_figures(np.concatenate(errors))
        out[kind]["images_with_wrong_level"] = float(np.mean([np.nanmax(each[:, 1]) > 0 for each in errors]))
        out[kind]["within_6_mm"] = float((np.concatenate(errors)[:, 0] <= 6).mean())
    return out


def main() -> None:
    """Print a line a row of the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, metavar="TOML")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="phantoms and SPIDER's part to train on"
    )
    parser.add_argument("--held", type=Path, required=True, metavar="DIR", help="SPIDER's held-out part")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a run folder a row, and carry_over.json"
    )
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="optimizer steps a row (1000)")
    parser.add_argument("--only", metavar="WORD", help="rows whose name holds this")
    args = parser.parse_args()
    figures = {}
    for name, (kind, off) in ROWS.items():
        if args.only and args.only not in name:
            continue
        place = args.out / name.split(" (")[0].replace(" ", "_").replace(",", "")
        data = subset(args.data, place / "data", kind)
        figures[name] = judge(*train(args.recipe, data, place / "run", off, args.steps), args.held)
        for image, row in figures[name].items():
            print(
                f"{name:<55}{image:<20} median {row['median_mm']:.1f} mm, 95 % {row['p95_mm']:.1f} mm, within 6 mm "
                f"{row['within_6_mm']:.1%}, images with a wrong level {row['images_with_wrong_level']:.1%}",
                flush=True,
            )
        write_json(figures, args.out / "carry_over.json")


if __name__ == "__main__":
    main()
