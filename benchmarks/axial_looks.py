"""What of a phantom's look and of augmentation carries the axial detector over to real slices? An ablation, in mm.

    python benchmarks/axial_looks.py --axial SUDIRMAN --out DIR [--studies 160] [--epochs 5] [--seeds 1 2]

Phantoms of axial series alone are painted in several looks (`lumbar/phantom/surface_coil.py`), the same people each
time; the axial detector of `recipes/shipped.toml` learns from one of them, or with an augmentation taken away, and is
judged on real slices (see real_axial.py) and on unseen phantoms of the even and of the full look. The real slices
choose nothing. Everything is kept in DIR: an interrupted call goes on.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_axial import FAR_MM, SURE, look
from real_images import NEAR_MM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.network import build_network
from lumbar.compute.accelerator import make_accelerator
from lumbar.keypoints.detect import read_stacks
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.steps import Members
from lumbar.phantom.dataset import write_phantoms
from lumbar.phantom.surface_coil import PARTS, Part
from lumbar.recipe.recipe import Recipe, load_recipe
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.folder import RunFolder
from lumbar.training.journal import Journal
from lumbar.training.loop import checkpoint
from lumbar.training.run import prepare, train_detectors
from lumbar.training.setup import set_up

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "shipped.toml"
MEMBER, GRADER = "axial_t2", "subarticular_small"
#: People that train and that judge.
SEEDS = {"learn": 515, "unseen": 516}


@dataclass(frozen=True)
class Variant:
    """A look of the phantoms that train, and augmentation that differs from the recipe's."""

    parts: tuple[Part, ...]
    augment: Mapping[str, float] = field(default_factory=dict)


VARIANTS = {
    "even": Variant(()),
    "fall-off of the coil": Variant(("coil",)),
    "saturated front": Variant(("band",)),
    "grey sac, dark discs and bone": Variant(("tissue",)),
    "all three": Variant(PARTS),
    "all three, no shift, zoom or bands": Variant(PARTS, {"shift": 0.0, "zoom": 0.0, "bands": 0.0}),
    "all three, full resolution": Variant(PARTS, {"coarsen": 0.0}),
}


def paint(out: Path, people: str, parts: tuple[Part, ...], studies: int) -> Path:
    """A folder of axial phantoms in a look; painted once."""
    folder = out / f"{people}_{'_'.join(parts) or 'even'}"
    if not (folder / "train.csv").is_file():
        looks: dict[str, Any] = {"surface_coil": float(bool(parts)), "surface_parts": parts or PARTS}
        fixed: dict[str, Any] = {"axial_kind": "angled", "stack_slices": (3, 3), "matrices": (256,)}
        write_phantoms(
            folder, studies, SEEDS[people], first_id=1, workers=2, without_t1=True, without_t2=True, **looks, **fixed
        )
    return folder


def recipe_of(variant: Variant, epochs: int, seed: int) -> Recipe:
    """The shipped recipe's axial detector; of graders, which nobody trains here, the one that axial slices suit."""
    recipe = load_recipe(RECIPE)
    member = recipe.stage1.members[MEMBER]
    augment = member.training.augment.model_copy(update=dict(variant.augment))
    training = member.training.model_copy(update={"epochs": epochs, "augment": augment, "draws": {}})
    alone = {MEMBER: member.model_copy(update={"training": training})}
    stages = {
        "stage1": recipe.stage1.model_copy(update={"members": alone}),
        "stage2": recipe.stage2.model_copy(update={"members": {GRADER: recipe.stage2.members[GRADER]}}),
    }
    return recipe.model_copy(update={**stages, "seed": seed})


def trained(out: Path, data: Path, recipe: Recipe) -> Members:
    """The detector after training in a run folder of its own."""
    folder = RunFolder(out)
    member, fold = recipe.stage1.members[MEMBER], recipe.folds.train[0]
    weights = folder.member(MEMBER, fold) / "best.safetensors"
    if folder.result(MEMBER, fold) is None:
        setup = set_up(out, recipe, open_data(data, "train"), make_accelerator(recipe.loop))
        prepare(setup)
        train_detectors(setup, Journal(out, keeps=True, tensorboard=False))
    network = build_network(member.spec)
    checkpoint.read_weights(network, weights)
    return [(member.spec, network.eval())]


def on_phantoms(members: Members, folder: Path) -> np.ndarray:
    """Errors (n,) mm at the labelled slices."""
    data = open_data(folder, "train")
    assert data.coordinates is not None
    rows, errors = study_rows(data.coordinates), []
    for study_id in data.study_ids:
        study = read_study(data, study_id)
        labels = label_keypoints(study, rows[study_id])
        stacks, _ = stacks_for(study, members[0][0], Known(labels, labelled=True))
        reading = read_stacks(stacks, members, torch.device("cpu"), None)[0]
        for stack, points in zip(stacks, reading.points, strict=True):
            for (condition, level), label in labels.items():
                if level == stack.level and label.instance == stack.centre.instance:
                    at = 0 if condition.startswith("left") else 1
                    errors.append(np.linalg.norm(stack.to_slice(points[at, :2])[1] - np.asarray(label.mm)))
    return np.array(errors)


def line_of(members: Members, axial: Path, unseen: Mapping[str, Path]) -> str:
    """What a detector finds on real slices, and on unseen phantoms of each look."""
    found = look(members, axial)
    mm = np.array([mm for each in found for mm in each.mm.values()])
    sure = np.array([sure for each in found for sure in each.sure.values()])
    alone = np.array([mm for each in found for mm in each.alone.values()])
    far = mm > FAR_MM
    said = [
        f"each side by itself {(alone <= NEAR_MM).sum()} of {len(alone)} within {NEAR_MM:g} mm, "
        f"{(alone > FAR_MM).sum()} beyond {FAR_MM:g} mm",
        f"real slices median {np.median(mm):.1f} mm, {(mm <= NEAR_MM).sum()} of {len(mm)} within {NEAR_MM:g} mm, "
        f"{far.sum()} beyond {FAR_MM:g} mm, {(far & (sure > SURE)).sum()} of these surer than {SURE:g}",
    ]
    for kind, folder in unseen.items():
        own = on_phantoms(members, folder)
        said.append(f"phantoms ({kind}) {np.median(own):.1f} mm, {(own <= NEAR_MM).mean():.1%}")
    return "; ".join(said)


def main() -> None:
    """Print a line a variant and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axial", type=Path, required=True, metavar="DIR", help="images/ and points.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="keeps everything")
    parser.add_argument("--studies", type=int, default=160, metavar="N", help="phantoms that train (160)")
    parser.add_argument("--unseen", type=int, default=24, metavar="N", help="phantoms that judge (24)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="of training (5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="S", help="of training (1)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[*VARIANTS], metavar="WHAT", help="lines (all)")
    args = parser.parse_args()
    looks: dict[str, tuple[Part, ...]] = {"even": (), "all three": PARTS}
    unseen = {name: paint(args.out, "unseen", parts, args.unseen) for name, parts in looks.items()}
    for seed in args.seeds:
        for name in args.only:
            data = paint(args.out, "learn", VARIANTS[name].parts, args.studies)
            run = args.out / f"run_{[*VARIANTS].index(name)}_{seed}"
            members = trained(run, data, recipe_of(VARIANTS[name], args.epochs, seed))
            print(f"{name}, seed {seed}: {line_of(members, args.axial, unseen)}", flush=True)


if __name__ == "__main__":
    main()
