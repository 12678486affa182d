"""Nothing by itself: backbones that learn, without labels, that a patient's T1 and T2 image show the same places.

The eighth place's first step (`correspondence`), in its manner, for `pfirrmann.py`: its network on whole slices, with
the grader's own backbone, on mid-sagittal pairs of those patients alone that it is told.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from discs import VIEWS
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.compute.accelerator import make_accelerator
from lumbar.compute.tensors import load_tensors
from lumbar.grading.networks.registry import build_grader
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Loop, Training
from lumbar.spider.write import FIRST_ID, MIDSAGITTAL
from lumbar.study.study import open_data, read_study
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_files import region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.loop.loop import Job, fit

TRAINING = Training(
    loss={"correspondence": 1.0},
    best_by="last",
    epochs=12,
    batch_size=8,
    learning_rate=2e-3,
    weight_decay=0.05,
    schedule="one_cycle",
    warmup=0.1,
    clip_norm=5.0,
    channels_last=True,
    augment=Augment(
        rotate_deg=12, shear_deg=6, sharpen_or_blur_p=0.2, channel_shuffle_p=0, zoom=0.4, shift=0.1, gamma=0.3,
        noise=0.1, shading=0.2, coarsen=0.3, stretch=0.1,
    ),
)  # fmt: skip


def pair_spec(backbone: str, args: Mapping[str, object]) -> GraderSpec:
    """The network of the step: one slice a series, whole."""
    return GraderSpec.model_validate(
        {
            "views": list(VIEWS),
            "conditions": ["spinal_canal_stenosis"],  # none is asked for
            "levels": "study",
            "network": "whole_slices",
            "network_args": {"features": 32, "stride": 4, "embedding": 32},
            "backbone": backbone,
            "backbone_args": args,
            "image_size": 192,
            "region": {"box": "whole", "around": "series", "slices": 1, "intensity": "percentile", "scope": "slice"},
        }
    )


def write_pairs(images: Path, folder: Path, spec: GraderSpec) -> list[int]:
    """The patients whose T1 and T2 image have one field of view; a file of both, with the places they share, each."""
    data, found = open_data(images, "train"), []
    for study_id in data.study_ids:
        study = read_study(data, study_id)
        if all(study.series.get(view) for view in VIEWS):
            found.append((study_id - FIRST_ID) // 1000)
            write_arrays(folder / f"{study_id}.safetensors", region_arrays(study, {}, spec))
    return found


def learn(pairs: Path, patients: Sequence[int], spec: GraderSpec, out: Path, seed: int) -> dict[int, dict[str, Tensor]]:
    """The backbones of each view after the step on these patients' pairs; goes on where it stopped."""
    studies = [FIRST_ID + patient * 1000 + MIDSAGITTAL for patient in patients]
    nothing = np.zeros((len(CONDITIONS), len(LEVELS)), np.int64)  # samples want labels, which no loss looks at
    samples = RegionSamples(pairs, studies, dict.fromkeys(studies, nothing), spec, TRAINING)
    few = RegionSamples(pairs, studies[:2], dict.fromkeys(studies, nothing), spec, TRAINING)
    job = Job(
        member="positions in T1 and T2",
        fold=0,
        folder=out,
        fingerprint=" ".join([TRAINING.model_dump_json(), spec.model_dump_json(), str(seed), str(studies)]),
        network=functools.partial(build_grader, spec),
        objective=SeverityObjective(spec, TRAINING),
        train=samples,
        valid=few,
        training=TRAINING,
        loop=Loop(workers=0),
        seed=seed,
    )
    losses: list[float] = []
    fit(job, make_accelerator(Loop(workers=0)), lambda row: losses.append(row["train_loss"]))
    print(f"{out.name}: {len(studies)} pairs, loss {losses[0]:.2f} to {losses[-1]:.2f}", flush=True)
    state = load_tensors(out / "best.safetensors")
    names = [f"slices.{place}.backbone.maps." for place in range(len(VIEWS))]
    return {
        place: {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
        for place, name in enumerate(names)
    }
