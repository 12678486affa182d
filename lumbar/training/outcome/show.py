"""Pictures of what the networks really get in training: stage 1 with targets, stage 2 with labels."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from lumbar.compute.accelerator import make_accelerator
from lumbar.drawing import charts, style
from lumbar.files.write import check_apart, check_replaceable, replacing, writing_into
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.keypoints.answers.heatmaps import gaussian_heatmaps
from lumbar.labels import SEVERITIES
from lumbar.recipe.recipe import load_recipe
from lumbar.training.checks.tables import open_checked
from lumbar.training.data.make import make_packs
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.folder import RunFolder
from lumbar.training.loop import mix
from lumbar.training.loop.detector_objective import DetectorObjective
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.loop.loop import Batch
from lumbar.training.setup import Setup, set_up
from lumbar.training.stages import members_of

SAMPLES = 6  # a picture
STUDIES = 12  # read for it
KEYPOINTS = {"labels": "labelled", "found": "out-of-fold"}


def show_batches(
    recipe_path: Path, data_folder: Path, out: Path, overrides: Sequence[str] = (), trained: Path | None = None
) -> list[Path]:
    """Write one picture a member into `out`: a training batch after augmentation, as the network gets it.

    Stage 1: each sample's middle slice with its targets, then as it was. Stage 2: each view's middle slice, labels
    above; where the recipe grades around out-of-fold keypoints, around those of the run `trained`, else around the
    labelled ones. Nothing is trained. Raises InputError as training would, and where
    a picture of such a name is none of ours.
    """
    recipe = load_recipe(Path(recipe_path), overrides)
    kind = "found" if trained is not None and recipe.stage2.keypoints != "labels" else "labels"
    check_apart(out, Path(data_folder) / "train_images")
    data = open_checked(Path(data_folder), recipe)
    paths = {name: Path(out) / f"{name}.png" for name in recipe.members()}
    with writing_into(out):
        for path in paths.values():
            check_replaceable(path, charts.drawn_here)
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        setup = set_up(Path(scratch), recipe, data, make_accelerator(recipe.loop), split=False)
        if trained is not None:
            setup = _with_keypoints(RunFolder(trained), setup)
        setup = setup.limited_to(setup.study_ids[:STUDIES])
        make_packs(setup)
        for name, member in members_of(recipe).items():
            samples = member.shown(setup, kind)
            if not len(samples.studies):
                raise InputError(
                    f"{data_folder}: none of the first {STUDIES} studies has a labelled sample for {name}; give a "
                    "folder that has some"
                )
            figure = _stacks(samples) if isinstance(samples, StackSamples) else _regions(samples, kind)
            with writing_into(out), replacing(paths[name], charts.drawn_here) as temporary:
                figure.savefig(temporary, dpi=80, bbox_inches="tight", metadata=charts.MARK)
            written.append(paths[name])
    return written


def _with_keypoints(trained: RunFolder, setup: Setup) -> Setup:
    """The setup with the keypoints that another run found, and with the studies that these are of."""
    found = trained.keypoints(setup.recipe.folds.train)
    shutil.copytree(trained.root / "keypoints", setup.folder.root / "keypoints")
    studies = [study for study in setup.study_ids if study in found]
    if not studies:
        raise InputError(f"{trained.root}: its keypoints are of none of these studies; give the run of this data")
    return setup.limited_to(studies)


def batch_of(samples: StackSamples | RegionSamples, count: int, seed: int = 0, *, augmented: bool = True) -> Batch:
    """A batch of samples spread over the data set, with draws and partners to mix with where `augmented`."""
    chosen, settings = np.linspace(0, len(samples.studies) - 1, count).astype(int).tolist(), samples.training.augment
    rows = [samples.sample(i, np.random.default_rng([seed, i]) if augmented else None) for i in chosen]
    if augmented and settings.mix != "none" and settings.mix_on == "images":
        many = len(samples.studies)
        rows = [
            mix.with_partner(row, samples.sample, many, (seed, 0, i), settings)
            for row, i in zip(rows, chosen, strict=True)
        ]
    return torch.utils.data.default_collate(rows)


def _stacks(samples: StackSamples) -> Any:
    spec = samples.spec
    objective = DetectorObjective(spec, samples.training)
    figure = Figure(figsize=(3 * SAMPLES, 6.4))
    axes = figure.subplots(2, SAMPLES, squeeze=False)
    for row, augmented in enumerate((True, False)):
        batch = batch_of(samples, SAMPLES, augmented=augmented)
        images, truth = objective.mixed(batch, mix.partner_of(batch))
        points = truth.points if truth.partner is None else torch.cat([truth.points, truth.partner.points], 1)
        for column in range(SAMPLES):
            axis, targets = axes[row, column], points[column].numpy()
            axis.imshow(images[column, spec.in_chans // 2], cmap="gray", vmin=-1.5, vmax=3)
            maps = gaussian_heatmaps(targets, spec.image_size, spec.sigma_px)
            axis.contour(maps.max(0), levels=[0.5], colors=style.COLOURS[4], linewidths=0.8)
            for number, (x, y) in enumerate(targets):
                if np.isfinite(x):
                    text = str(number % len(truth.points[column]))
                    axis.text(x + 4, y, text, color=style.COLOURS[5], size=style.NOTE_SIZE, clip_on=True)
            axis.axis("off")
    figure.suptitle("as trained on (top), as it is (bottom); contours: targets at half height, numbers: their maps")
    return figure


def _regions(samples: RegionSamples, kind: str) -> Any:
    objective = SeverityObjective(samples.spec, samples.training)
    batch = batch_of(samples, SAMPLES)
    views, _, shares = objective.mixed(batch, mix.partner_of(batch))
    names = task_of(samples.spec).samples[0].views
    labels = batch["labels"].unflatten(-1, (1, -1)) if batch["labels"].ndim == 2 else batch["labels"]  # (B, L, C)
    figure = Figure(figsize=(2.4 * SAMPLES, 2.7 * len(names)))
    axes = figure.subplots(len(names), SAMPLES, squeeze=False)
    for column in range(SAMPLES):
        words = [SEVERITIES[code] if code >= 0 else "empty" for code in labels[column, 0].tolist()]
        if shares[column] < 1:
            words.append(f"{shares[column]:.0%} of it, the rest a partner")
        axes[0, column].set_title(f"{int(batch['study'][column])}\n" + "\n".join(words), size=style.NOTE_SIZE)
        for row, name in enumerate(names):
            axis = axes[row, column]
            slices = views[name][column, 0]  # (T, C, H, W)
            black, white = (-2, 3) if samples.spec.region_of(name).intensity == "standard" else (-1, 1)
            axis.imshow(slices[len(slices) // 2][-1 if len(slices[0]) == 1 else 1], cmap="gray", vmin=black, vmax=white)
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(name if len(words) > 1 else name.replace("_left", " side"), size=style.NOTE_SIZE)
    figure.suptitle(f"around {KEYPOINTS[kind]} keypoints", size=style.TITLE_SIZE, y=0)
    return figure
