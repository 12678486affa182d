"""Which part of training carries over to real images? The sagittal T2 detector without one part at a time, in mm.

    python train_utils.py phantom --studies 600 --seed 1 --workers 2 --out DATA
    python train_utils.py spider --source SPIDER --points recipes/spider_midsagittal.csv --out DATA
    python train_utils.py spider --source SPIDER --points recipes/spider_midsagittal.csv --part held_out --out HELD
    python benchmarks/carry_over.py --recipe recipes/shipped.toml --data DATA --held HELD --out RUN [--only WORD]

Each row trains anew for the same number of steps, with one fold, and is judged on patients that no row has seen: T2
SPACE (points from masks) and mid-sagittal T2 turbo spin echo (points checked or set by eye). An interrupted call goes
on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from real_images import judge, table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.network import build_network
from lumbar.compute.accelerator import make_accelerator
from lumbar.files.write import write_csv, write_json
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.spider.write import FIRST_ID
from lumbar.study.study import open_data
from lumbar.training.data.make import make_stacks
from lumbar.training.job import train_member
from lumbar.training.journal import Journal
from lumbar.training.loop import checkpoint
from lumbar.training.run import prepare
from lumbar.training.setup import set_up
from lumbar.training.stages import as_trained

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


def share_cache(run: Path, cache: Path) -> None:
    """Rows that train on the same studies see the same images: they are read once."""
    cache.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "cache").exists():
        (run / "cache").symlink_to(cache.resolve())


def train(
    recipe: Path, data: Path, out: Path, off: Sequence[str], steps: int, more: Sequence[str] = ()
) -> tuple[DetectorSpec, nn.Module]:
    """The detector's spec and its network after about `steps` optimizer steps; skipped where it is there."""
    studies = len(pd.read_csv(data / "train.csv"))
    member = load_recipe(recipe, more).stage1.members[MEMBER]
    folds = load_recipe(recipe, more).folds.count
    epochs = max(1, round(steps * member.training.batch_size / (studies * (folds - 1) / folds)))
    once = f"stage1.members.{MEMBER}.draws={{}}"  # every sample once an epoch, whatever a row trains on
    settings = [*more, once, f"stage1.members.{MEMBER}.epochs={epochs}", *(f"{PLACE}{key}=0.0" for key in off)]
    chosen = load_recipe(recipe, settings)
    setup = set_up(out, chosen, open_data(data, "train"), make_accelerator(chosen.loop))
    prepare(setup)
    spec = chosen.stage1.members[MEMBER].spec
    make_stacks(setup, MEMBER, spec)
    journal = Journal(setup.folder.root, keeps=setup.main, tensorboard=False)
    train_member(setup, as_trained(MEMBER, chosen.stage1.members[MEMBER]), chosen.folds.train[0], journal)
    weights = setup.folder.member(MEMBER, chosen.folds.train[0]) / "best.safetensors"
    return spec, checkpoint.read_weights(build_network(spec), weights).eval()


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
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the recipe"
    )
    parser.add_argument("--only", metavar="WORD", help="rows whose name holds this")
    args = parser.parse_args()
    figures = {}
    for name, (kind, off) in ROWS.items():
        if args.only and args.only not in name:
            continue
        place = args.out / name.split(" (")[0].replace(" ", "_").replace(",", "")
        data = subset(args.data, args.out / f"data_{kind}", kind)
        share_cache(place, args.out / f"cache_{kind}")
        trained = train(args.recipe, data, place, off, args.steps, args.set)
        figures[name] = judge({"sagittal_t2": {"sagittal_t2": [trained]}}, args.held)
        for row in table(figures[name], "").rows:
            print(f"{name:<55}", *row, sep="  ", flush=True)
        write_json(figures, args.out / "carry_over.json")


if __name__ == "__main__":
    main()
