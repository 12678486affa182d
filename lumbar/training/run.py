"""A run: every stage and fold of a recipe, in order; each step is skipped where its result is there and its inputs are
the same (see `folder` for what a run holds, `cache` for fingerprints)."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from lumbar.compute.accelerator import make_accelerator
from lumbar.compute.processes import each
from lumbar.ensemble.suspects import read_left_out, without
from lumbar.files.write import check_apart, check_writable, sha256, write_csv, write_json, write_text, writing_into
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.regions import region_key
from lumbar.issues import InputError, printable
from lumbar.keypoints.networks.registry import build_detector
from lumbar.labels import LABEL_COLUMNS
from lumbar.metric import label_codes
from lumbar.recipe.member import DetectorSpec, GraderSpec
from lumbar.recipe.recipe import Member, Recipe, load_recipe
from lumbar.recipe.settings import Training
from lumbar.study.study import DataFolder
from lumbar.training.checks.disk import check_space, needed_bytes
from lumbar.training.checks.issues import tell_issues
from lumbar.training.checks.recipe import check_samples
from lumbar.training.checks.tables import open_checked
from lumbar.training.data import derived
from lumbar.training.data.packs import Packs, fingerprint, read_header
from lumbar.training.data.samples import RegionSamples, StackSamples, drawn
from lumbar.training.folder import RunFolder
from lumbar.training.folds import make_folds
from lumbar.training.loop.loop import Job, fit
from lumbar.training.loop.objectives import HeatmapObjective, SeverityObjective
from lumbar.training.loop.tensorboard import Board
from lumbar.training.outcome.outoffold import find_keypoints, grade_held_out


def train(recipe_path: Path, data_folder: Path, out: Path, overrides: Sequence[str] = ()) -> Path:
    """Train every stage and fold of a recipe into the run folder `out`, going on where an earlier call stopped.

    Under `accelerate launch` every process calls it; the first one reads, caches and writes. Raises InputError with all
    faults of the data before anything is trained, and where `out` lies among the images or holds something else.
    """
    recipe = load_recipe(Path(recipe_path), overrides)
    check_apart(out, Path(data_folder) / "train_images")
    with writing_into(out):
        RunFolder(Path(out)).check_free()
    data = open_checked(Path(data_folder), recipe)
    check_writable(out)
    run = Run(Path(out), recipe, data, make_accelerator(recipe.loop))
    run.prepare()
    run.stage1()
    run.stage2()
    run.finish()
    return Path(out)


class Run:
    """One run: its folder, recipe and data, and the steps in order."""

    def __init__(self, out: Path, recipe: Recipe, data: DataFolder, accelerator: Accelerator) -> None:
        assert data.labels is not None
        assert data.coordinates is not None
        self.folder, self.recipe, self.data, self.accelerator = RunFolder(out), recipe, data, accelerator
        self.main = bool(accelerator.is_main_process)
        self.labels = data.labels
        self.study_ids = sorted(set(data.study_ids) & {int(study) for study in data.labels.index})
        self.packs = Packs(self.folder.cache / "studies", data)
        self.rows = derived.study_rows(data.coordinates)
        found, codes = label_codes(self.labels)
        self.codes = {int(study): code for study, code in zip(found, codes, strict=True)}
        left_out = read_left_out(recipe.leave_out) if recipe.leave_out else set()
        self.training_codes = without(self.codes, left_out)
        kept = self.folder.kept_folds(self.study_ids, recipe.folds)
        self.folds = make_folds(self.labels, self.study_ids, recipe.folds) if kept is None else kept
        accelerator.wait_for_everyone()  # nobody writes before everybody has read
        self.board: Board | None = None

    # ---- steps ----

    def prepare(self) -> None:
        """Store the recipe, labels and folds; read the studies that are not cached yet."""
        if self.main:
            check_space(self.folder.root, needed_bytes(self.data, self.study_ids, self.recipe, self.folder.root))
            table = self.labels.loc[self.study_ids, list(LABEL_COLUMNS)].rename_axis("study_id").reset_index()
            with writing_into(self.folder.root):
                write_json(self.recipe.model_dump(mode="json"), self.folder.root / "recipe.json")
                write_csv(table, self.folder.root / "labels.csv")
                write_csv(self.folds, self.folder.root / "folds.csv")
                if self.recipe.loop.tensorboard:
                    self.board = Board(self.folder.root / "tensorboard")
            self.packs.ensure(self.study_ids, self._each)
            tell_issues(self.packs, self.rows, self.study_ids, self.folder.root / "issues.json")
        self.accelerator.wait_for_everyone()
        if not self.main:
            self.packs.know(self.study_ids)

    def stage1(self) -> None:
        """Train the detectors of every fold and find the keypoints of its held-out studies."""
        for name, member in self.recipe.stage1.members.items():
            self.stacks(name, member.spec)
        check_samples(self)
        for fold in self.recipe.folds.train:
            for name, member in self.recipe.stage1.members.items():
                self.train_member(name, member, fold)
            if self.main:
                find_keypoints(self, fold)
        self.accelerator.wait_for_everyone()

    def stage2(self) -> None:
        """Train the graders of every fold and grade its held-out studies."""
        if self.recipe.stage2.keypoints == "labels":
            self.regions("labels", self.study_ids)
        self.regions("found", self._trained_folds())
        for fold in self.recipe.folds.train:
            for name, member in self.recipe.stage2.members.items():
                self.train_member(name, member, fold)
        if self.main:
            grade_held_out(self)

    def finish(self) -> None:
        """Say that all results are there."""
        if self.main:
            with writing_into(self.folder.root):
                self.folder.finish()
        self.accelerator.wait_for_everyone()

    # ---- which studies ----

    def held_out(self, fold: int) -> list[int]:
        """Studies of a fold: not trained on, used to choose the epoch and for out-of-fold results."""
        return [int(study) for study in self.folds.loc[self.folds["fold"] == fold, "study_id"]]

    def trained_on(self, fold: int, spec: DetectorSpec | GraderSpec) -> list[int]:
        """Studies that train a fold: all others; a grader on out-of-fold keypoints takes those that have them."""
        needs_found = isinstance(spec, GraderSpec) and self.recipe.stage2.keypoints == "out_of_fold"
        held_out = set(self.held_out(fold))
        return [study for study in (self._trained_folds() if needs_found else self.study_ids) if study not in held_out]

    def _trained_folds(self) -> list[int]:
        return [study for fold in self.recipe.folds.train for study in self.held_out(fold)]

    # ---- files made from studies ----

    def stack_folder(self, name: str) -> Path:
        """Where a detector's stacks lie."""
        return self.folder.cache / "stacks" / name

    def region_folder(self, spec: GraderSpec, kind: str) -> Path:
        """Where regions of one kind of input lie; `kind` of keypoints: labels or found."""
        key = fingerprint(region_key(derived.margin_spec(spec, self.recipe.loop.region_margin)))
        return self.folder.cache / "regions" / f"{key[:12]}_{kind}"

    def stacks(self, name: str, spec: Any) -> None:
        """Cache the stacks of a detector."""
        make = functools.partial(derived.make_stacks, self.packs, self.rows, spec)
        self._derive(self.stack_folder(name), self.study_ids, make, lambda study: [spec.model_dump(mode="json")], name)

    def regions(self, kind: str, study_ids: Sequence[int]) -> None:
        """Cache the regions around labelled or found keypoints, once for every kind of input."""
        found = self.folder.keypoints(self.recipe.folds.train) if kind == "found" else {}
        specs = [m.spec for m in self.recipe.stage2.members.values() if isinstance(m.spec, GraderSpec)]
        for spec in {region_key(spec): spec for spec in specs}.values():
            wide = derived.margin_spec(spec, self.recipe.loop.region_margin)
            make = functools.partial(
                derived.make_regions, self.packs, self.rows, found if kind == "found" else None, wide
            )

            def parts(study: int, wide: GraderSpec = wide) -> list[Any]:
                return [region_key(wide), [asdict(point) for point in found.get(study, [])]]

            self._derive(self.region_folder(spec, kind), study_ids, make, parts, f"regions {kind}")

    def _each(self, function: Callable[[int], None], items: Sequence[int], title: str) -> None:
        each(function, items, title, self.recipe.loop.read_processes)

    def _derive(
        self, folder: Path, study_ids: Sequence[int], make: Any, parts: Callable[[int], list[Any]], title: str
    ) -> None:
        if self.main:
            wanted = {study: fingerprint(self.source(study), *parts(study)) for study in study_ids}
            self._each(
                functools.partial(make, folder, wanted),
                [study for study in study_ids if _source_of(folder, study) != wanted[study]],
                title,
            )
        self.accelerator.wait_for_everyone()

    def source(self, study: int) -> str:
        """Fingerprint of a study's images, keypoints and labels."""
        rows = self.rows.get(study)
        table = [] if rows is None else rows.astype(str).to_numpy().tolist()
        return fingerprint(self.packs.sources[study], table, self.codes[study].tolist())

    # ---- training ----

    def train_member(self, name: str, member: Member, fold: int) -> None:
        """Train one member on one fold, unless its result is there."""
        job = self.job(name, member, fold)
        result = self.folder.result(name, fold)
        if result is not None and result["fingerprint"] == job.fingerprint:
            return
        if not len(job.train.studies) or not len(job.valid.studies):
            raise InputError(f"{name} fold {fold}: no labelled sample to train or to validate on; add studies")
        progress = fit(job, self.accelerator, self._report)
        if self.main:
            saw = f"{len(self.trained_on(fold, member.spec))} studies of {printable(self.data.root.resolve().name)}"
            best = progress.history[progress.best_epoch - 1]
            found = {"fingerprint": job.fingerprint, "saw": saw, "best": best, "history": progress.history}
            with writing_into(job.folder):
                write_json(found, job.folder / "result.json")
            (job.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def job(self, name: str, member: Member, fold: int) -> Job:
        """What the loop needs to train one member on one fold."""
        spec, training = member.spec, member.training
        seed = int(fingerprint(self.recipe.seed, name, fold)[:8], 16)
        studies, held_out = self.trained_on(fold, spec), self.held_out(fold)
        keep_studies = False
        train_set: StackSamples | RegionSamples
        valid_set: StackSamples | RegionSamples
        objective: HeatmapObjective | SeverityObjective
        if isinstance(spec, DetectorSpec):
            network: Callable[[], nn.Module] = functools.partial(build_detector, spec, training.pretrained)
            train_set = StackSamples(self.stack_folder(name), studies, spec, training)
            valid_set = StackSamples(self.stack_folder(name), held_out, spec, training)
            objective = HeatmapObjective(spec, training)
        else:
            network = functools.partial(build_grader, spec, training.pretrained)
            kind = "labels" if self.recipe.stage2.keypoints == "labels" else "found"
            train_set = RegionSamples(self.region_folder(spec, kind), studies, self.training_codes, spec, training)
            valid_set = RegionSamples(self.region_folder(spec, "found"), held_out, self.codes, spec, training)
            objective = SeverityObjective(spec, training)
            keep_studies = objective.asks_any_severe
        inputs: list[Any] = [_inputs(data) for data in (train_set, valid_set)]
        if draws := self.draws(training):
            train_set.rows = drawn(train_set.rows, draws)
            inputs.append(sorted(draws.items()))
        if isinstance(spec, GraderSpec) and (gone := _left_out(self.codes, self.training_codes, studies)):
            inputs.append(gone)
        if isinstance(training.pretrained, str):
            inputs.append(sha256(Path(training.pretrained)))
        words = fingerprint(seed, spec.model_dump(mode="json"), training.model_dump(mode="json"), inputs)
        place, loop = self.folder.member(name, fold), self.recipe.loop
        return Job(
            name, fold, place, words, network, objective, train_set, valid_set, training, loop, seed, keep_studies
        )

    def draws(self, training: Training) -> dict[int, int]:
        """How often an epoch takes the samples of each study whose source the recipe names."""
        return {study: training.draws[kind] for study, kind in self.data.sources.items() if kind in training.draws}

    def _report(self, row: dict[str, Any]) -> None:
        path, line = self.folder.root / "metrics.jsonl", json.dumps(row) + "\n"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        if not self.main or line in lines:
            return
        with writing_into(path.parent):
            write_text("".join([*lines, line]), path)
        if self.board is not None:
            self.board.add(row)


def _left_out(codes: Mapping[int, np.ndarray], kept: Mapping[int, np.ndarray], studies: list[int]) -> list[Any]:
    """Places of the labels of these studies that are not trained on."""
    return [
        (study, np.flatnonzero(codes[study] != kept[study]).tolist())
        for study in studies
        if kept[study] is not codes[study]
    ]


def _source_of(folder: Path, study: int) -> str | None:
    return (read_header(folder / f"{study}.safetensors") or {}).get("source")


def _inputs(samples: StackSamples | RegionSamples) -> list[Any]:
    """What a data set was made of: the source fingerprint of each of its files."""
    return [(study, _source_of(samples.folder, study)) for study in sorted(set(samples.studies.tolist()))]
