"""Does what is trained here learn to grade real MRI? SPIDER's discs: Pfirrmann grade (1 to 5) and disc narrowing.

    python benchmarks/pfirrmann.py --spider SPIDER --weights weights --out RUN [--seeds 3] [--starts random phantoms]

The stage-2 network (a CNN and a GRU a view) and the training loop are those of the graders; only the head is another:
four cumulative logits for the grade, one for narrowing and for each other sign. Every disc of a mid-sagittal image pair
(T2, and T1 where both have one field of view) is seen in a region at the bundle's own canal keypoints, turned along the
spine (`discs.py`). Patients never straddle a fold. Each seed is run with up to four members, whose backbones begin with
random weights, with what the bundle's graders learnt on phantoms, with what they learn without labels from T1 and T2
of the fold's training patients (`alike.py`), and (an EfficientNet-lite0) with ImageNet weights; they are blended, as
members are. Each start is held against the first of them, patient by patient. Interrupted runs go on.

    python benchmarks/pfirrmann.py … --starts random correspondence --labelled 33 --epochs 30 --seeds 1

SPIDER: van der Graaf et al., Scientific Data 2024, CC BY 4.0.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alike import learn, pair_spec, write_pairs
from disc_figures import FOLDS, GRADES, figures, gains
from discs import SIDE_PX, SIGNS, VIEWS, Discs, kept_discs
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.compute.accelerator import make_accelerator
from lumbar.files.write import write_json
from lumbar.grading.networks.registry import build_grader
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Loop, Training
from lumbar.training.data import augment
from lumbar.training.loop import checkpoint
from lumbar.training.loop.batches import Batch
from lumbar.training.loop.loop import Job, Term, fit
from lumbar.training.pretrained.parts import fill
from lumbar.training.pretrained.sources import Sources

#: The views of a bundle's graders whose backbones see `VIEWS`.
OF_BUNDLE = ("sagittal_t2", "sagittal_t1_left")
STARTS = ("random", "phantoms", "correspondence", "ImageNet")
SIDES_SEEN = (74, 80, 86)  # px of the regions that a disc is judged by, all scaled to `SIDE_PX`
TRAINING = Training(
    epochs=40,
    batch_size=32,
    learning_rate=2e-3,
    weight_decay=0.05,
    warmup=0.05,
    clip_norm=5.0,
    ema_decay=0.99,
    channels_last=True,
    augment=Augment(
        rotate_deg=12, shear_deg=6, sharpen_or_blur_p=0.2, channel_shuffle_p=0, zoom=0.12, shift=0.06, gamma=0.15,
        noise=0.1, shading=0.1, coarsen=0.3, stretch=0.1,
    ),
)  # fmt: skip


#: ImageNet weights are there already: fewer and smaller steps.
FINE_TUNING = TRAINING.model_copy(update={"epochs": 10, "learning_rate": 5e-4, "ema_decay": 0.97})


@dataclass(frozen=True)
class Start:
    """A network and what its backbones begin with: `backbones` by view, ImageNet weights, or nothing.

    `learnt`: backbones that learn first, from patients that may be trained on, in a folder, by a seed.
    """

    spec: GraderSpec
    backbones: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    learnt: Callable[[Sequence[int], Path, int], Mapping[int, Mapping[str, Tensor]]] | None = None
    pretrained: bool = False
    training: Training = TRAINING
    half: bool = True  # whether it may be computed in half precision


class Samples:
    """Some of the discs, as the loop wants them."""

    def __init__(self, discs: Discs, rows: np.ndarray) -> None:
        self.discs, self.rows = discs, rows

    @property
    def studies(self) -> np.ndarray:
        """(N,) patient of each disc."""
        return self.discs.patient[self.rows]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """`views` (2, 1, S, S), `seen` (2,), `grade`, `signs` (7,), and the draws where `rng` is given."""
        row, discs = self.rows[index], self.discs
        out = {
            "views": discs.views[row],
            "seen": discs.seen[row],
            "grade": np.int64(discs.grade[row]),
            "signs": discs.signs[row].astype(np.float32),
        }
        if rng is None:
            return out
        if rng.random() < 0.5:  # a disc upside down is as worn
            out["views"] = out["views"][..., ::-1, :].copy()
        draws = [augment.draw(rng, TRAINING.augment, 1) for _ in out["views"]]
        return out | {key: np.stack([draw[key] for draw in draws]) for key in augment.KEYS}


class DiscNetwork(nn.Module):
    """A grader of two views whose head answers numbers: grade above 1, 2, 3, 4, and every sign."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.grader = build_grader(start.spec)
        if start.pretrained:
            fill(self.grader, Sources().find)
        for place, state in start.backbones.items():
            self.grader.get_submodule(f"encoders.{place}.backbone").load_state_dict(state)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * start.spec.rnn_hidden, GRADES - 1 + len(SIGNS)))

    def forward(self, views: Tensor) -> Tensor:
        """(B, 2, 1, S, S) → (B, 4 + 7) logits."""
        names: Any = self.grader.views
        named = {name: views[:, None, place, :, None] for place, name in enumerate(names)}
        return self.head(self.grader.features(named).flatten(1))  # type: ignore[operator]


class DiscObjective:
    """Binary cross entropy of the cumulative grades and of the signs."""

    def __init__(self, *, half: bool) -> None:
        self.half = half

    def inputs(self, batch: Batch) -> Tensor:
        """Views as the network gets them."""
        views = batch["views"].float()
        if "matrix" in batch:
            numbers = {name: batch[name].flatten(0, 1) for name in augment.KEYS}
            views = augment.apply(views.flatten(0, 1), None, numbers, SIDE_PX)[0].view(
                *views.shape[:3], SIDE_PX, SIDE_PX
            )
        else:
            views = augment.crop_middle(views, SIDE_PX)
        return views * batch["seen"][:, :, None, None, None]

    def terms(self, network: nn.Module, batch: Batch, *, train: bool) -> Mapping[str, Term]:
        """Terms `grade` and `signs`."""
        views = self.inputs(batch)
        with nullcontext() if self.half else torch.autocast(views.device.type, enabled=False):
            logits = network(views).float()
        above = batch["grade"][:, None] > torch.arange(1, GRADES, device=logits.device)
        loss = nn.functional.binary_cross_entropy_with_logits
        grade = loss(logits[:, : GRADES - 1], above.float(), reduction="sum") / (GRADES - 1)
        signs = loss(logits[:, GRADES - 1 :], batch["signs"], reduction="sum") / len(SIGNS)
        count = torch.tensor(float(len(logits)), device=logits.device)
        return {"grade": Term(grade, count), "signs": Term(signs, count, 0.5)}


def starts(bundle: Bundle, images: Path) -> dict[str, Start]:
    """Random weights; the backbones of the first graders of sagittal T2 and of T1; backbones that learn from pairs of
    `images`, which are written beside; ImageNet's."""
    states: dict[int, dict[str, Tensor]] = {}
    for place, view in enumerate(OF_BUNDLE):
        for name, own in bundle.manifest.graders.items():
            network = bundle.network(name, torch.device("cpu"))
            if view in (names := tuple(network.views)):  # type: ignore[arg-type]
                state = network.get_submodule(f"encoders.{names.index(view)}.backbone").state_dict()
                states[place] = {key: each.float() if each.is_floating_point() else each for key, each in state.items()}
                spec = own
                break
        else:
            raise InputError(f"{bundle.folder}: no grader sees {view}; give the bundle that is shipped")
    spec = spec.model_copy(update={"task": None, "views": VIEWS, "conditions": CONDITIONS[:1]})
    efficient = spec.model_copy(update={"backbone": "tf_efficientnet_lite0", "backbone_args": {}})
    alike = Start(spec, learnt=functools.partial(learnt_alike, images, spec))
    # CPUs are slower with its depthwise convolutions in bf16 than in float32.
    fine_tuned = Start(efficient, pretrained=True, training=FINE_TUNING, half=False)
    return dict(zip(STARTS, (Start(spec), Start(spec, states), alike, fine_tuned), strict=True))


def learnt_alike(
    images: Path, spec: GraderSpec, patients: Sequence[int], out: Path, seed: int
) -> Mapping[int, Mapping[str, Tensor]]:
    """Backbones that learnt from the T1 and T2 images of these patients alone, as far as they have both."""
    pairs, own = images.with_name("pairs"), pair_spec(spec.backbone, spec.backbone_args)
    there = write_pairs(images, pairs, own)
    return learn(pairs, [patient for patient in there if patient in set(patients)], own, out, seed)


def cross_validate(
    discs: Discs, kind: str, start: Start, out: Path, seed: int, labelled: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4 + 7) probabilities of every disc by the fold that has not seen its patient, and that fold (N,).

    No disc that is judged has a say in anything. The epoch is chosen on a tenth of the training patients that are
    trained on as well, so that it is one of the last: there are too few patients to set some aside. `labelled`: so many
    training patients (None: all) have grades; without grades all of them may be learnt from.
    """
    accelerator = make_accelerator(Loop(workers=0))
    said = np.zeros((len(discs.grade), GRADES - 1 + len(SIGNS)), np.float32)
    folds = np.zeros(len(discs.grade), int)
    outer = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (others, held_out) in enumerate(outer.split(discs.grade, groups=discs.patient)):
        patients = np.unique(discs.patient[others])
        if labelled is not None:
            few = np.random.default_rng([seed, fold]).permutation(patients)[:labelled]
            others = others[np.isin(discs.patient[others], few)]
        inner = GroupKFold(10, shuffle=True, random_state=seed).split(others, groups=discs.patient[others])
        choose = next(inner)[1]
        folds[held_out] = fold
        folder = out / f"{kind}_seed{seed}_fold{fold}"
        own = start
        if start.learnt is not None:
            first = folder.with_name(f"{folder.name}_first")
            own = replace(start, backbones=start.learnt(patients.tolist(), first, 1000 * seed + fold))
        words = (start.training.model_dump_json(), start.spec.model_dump_json(), seed, fold, kind, len(others))
        job = Job(
            member=f"discs from {kind} weights, seed {seed}",
            fold=fold,
            folder=folder,
            fingerprint=" ".join(map(str, words)),
            network=functools.partial(DiscNetwork, own),
            objective=DiscObjective(half=start.half),
            train=Samples(discs, others),
            valid=Samples(discs, others[choose]),
            training=start.training,
            loop=Loop(workers=0),
            seed=1000 * seed + fold,
        )
        fit(job, accelerator, lambda row: None)
        network = checkpoint.read_weights(job.network(), job.folder / "best.safetensors")
        said[held_out] = judge(network, Samples(discs, held_out))
    return said, folds


@torch.inference_mode()
def judge(network: nn.Module, samples: Samples) -> np.ndarray:
    """(n, 4 + 7): probability of a grade above 1, 2, 3, 4, and of every sign; mean over sizes and mirror images."""
    network.eval()
    views, seen = (torch.from_numpy(part[samples.rows]) for part in (samples.discs.views, samples.discs.seen))
    said = []
    for side in SIDES_SEEN:
        middle = augment.crop_middle(views, side).flatten(0, 1)
        scaled = nn.functional.interpolate(middle, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
        seen_views = scaled.view(*views.shape[:3], SIDE_PX, SIDE_PX) * seen[:, :, None, None, None]
        said += [torch.sigmoid(network(seen_views)), torch.sigmoid(network(seen_views.flip(-2)))]
    return torch.stack(said).mean(dim=0).numpy()


def main() -> None:
    """Print a line a seed and start, their means and spreads, and what each start gains over the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spider", type=Path, required=True, metavar="DIR", help="SPIDER's folder")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder; goes on where it stopped")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many (3)")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, metavar="WORD", help=", ".join(STARTS))
    parser.add_argument("--epochs", type=int, metavar="N", help="of every start (40; 10 from ImageNet's)")
    parser.add_argument("--labelled", type=int, metavar="N", help="training patients of a fold that have grades (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    bundle = load_bundle(args.weights)
    images = args.out / "images"
    discs = kept_discs(args.out / f"discs_{bundle.identity[:12]}.npz", args.spider, images, bundle)
    patients, with_t1 = len(np.unique(discs.patient)), discs.seen[:, 1].mean()
    print(f"{discs.judged.sum()} discs of {patients} patients, {with_t1:.0%} with T1")
    print(f"{(~discs.judged).sum()} more, above L1/L2, only train")
    begun = {kind: start for kind, start in starts(bundle, images).items() if kind in args.starts}
    if args.epochs:
        begun = {
            kind: replace(start, training=start.training.model_copy(update={"epochs": args.epochs}))
            for kind, start in begun.items()
        }
    summary = measure(discs, begun, args.out, args.seeds, args.labelled)
    if args.json:
        write_json(summary, args.json)


def measure(discs: Discs, begun: Mapping[str, Start], out: Path, seeds: int, labelled: int | None) -> dict[str, Any]:
    """All figures, printed as they come: a row a seed and start, means and spreads, gains over the first start."""
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in (*begun, "blend")}
    every: dict[str, list[np.ndarray]] = {kind: [] for kind in begun}
    fold_of: list[np.ndarray] = []
    for seed in range(seeds):
        for kind, start in begun.items():
            said, folds = cross_validate(discs, kind, start, out, seed, labelled)
            every[kind].append(said)
        fold_of.append(folds)  # the same for all
        answers = [own[-1] for own in every.values()]
        for kind, said in zip(rows, (*answers, np.mean(answers, axis=0)), strict=True):
            rows[kind].append(figures(discs, said, folds))
            told = "  ".join(f"{name} {value:.3f}" for name, value in rows[kind][-1].items())
            print(f"{kind:<15} seed {seed}  {told}", flush=True)
    summary: dict[str, Any] = {"discs": int(discs.judged.sum()), "seeds": seeds, "runs": rows}
    for kind, found in rows.items():
        for name in found[0]:
            values = np.array([row[name] for row in found])
            summary[f"{kind}_{name}"] = [float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0]
            print(f"{kind:<15} {name}: mean {values.mean():.3f}, standard deviation {summary[f'{kind}_{name}'][1]:.3f}")
    first, *others = begun
    for kind in others:
        summary[f"{kind}_gains"] = gains(discs, every[kind], every[first], fold_of)
        for name, (mean, low, high) in summary[f"{kind}_gains"].items():
            print(f"{kind} over {first}, {name}: {mean:+.3f}, 95 % {low:+.3f} to {high:+.3f} over patients")
    return summary


if __name__ == "__main__":
    main()
