"""A run: every stage and fold of a recipe, in order, each step skipped when its result is there and its inputs are the same.

A run folder holds
    recipe.json               the resolved recipe
    labels.csv, folds.csv     the labels it used, and which study is in which fold
    cache/                    studies, stacks and regions (may be deleted: it is made again)
    members/<name>/fold<k>/   checkpoint while it trains, best.safetensors and result.json when done
    keypoints/fold<k>.json    what the fold's detectors found on its held-out studies
    predictions/<name>.csv    out-of-fold probabilities of each grader, blend.csv of all
    metrics.jsonl             a line an epoch
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from lumbar import ensemble, submission
from lumbar.files import write_csv, write_json
from lumbar.grading.grade import grade
from lumbar.grading.network import build_grader
from lumbar.grading.regions import cut_regions, region_key
from lumbar.issues import InputError
from lumbar.keypoints.detect import detect
from lumbar.keypoints.keypoint import Keypoint
from lumbar.keypoints.network import build_detector
from lumbar.labels import LABEL_COLUMNS, row_ids
from lumbar.member import DetectorSpec, GraderSpec
from lumbar.metric import label_codes, weighted_prior
from lumbar.study import DataFolder, open_data
from lumbar.training import checkpoint, derive
from lumbar.training.cache import Packs, fingerprint, read_header
from lumbar.training.checks import check_data
from lumbar.training.data import RegionSamples, StackSamples
from lumbar.training.folds import make_folds
from lumbar.training.loop import Job, fit
from lumbar.training.machine import make_accelerator
from lumbar.training.objectives import HeatmapObjective, SeverityObjective
from lumbar.training.processes import each
from lumbar.training.recipe import Member, Recipe, load_recipe


def train(recipe_path: Path, data_folder: Path, out: Path, overrides: Sequence[str] = ()) -> Path:
    """Train every stage and fold of a recipe into the run folder `out`, going on where an earlier call stopped.

    Under `accelerate launch` every process calls it; the first one reads, caches and writes. Raises InputError with all
    faults of the data before anything is trained.
    """
    recipe = load_recipe(recipe_path, overrides)
    accelerator = make_accelerator(recipe.loop)
    run = Run(Path(out), recipe, open_checked(data_folder), accelerator)
    run.prepare()
    run.stage1()
    run.stage2()
    accelerator.wait_for_everyone()
    return Path(out)


def open_checked(folder: Path) -> DataFolder:
    """A data folder with labels and keypoints whose tables hold together; InputError lists all faults."""
    data = open_data(Path(folder), "train")
    check_data(data)
    return data


class Run:
    """One run: its folder, recipe and data, and the steps in order."""

    def __init__(self, out: Path, recipe: Recipe, data: DataFolder, accelerator: Accelerator) -> None:
        self.out, self.recipe, self.data, self.accelerator = out, recipe, data, accelerator
        assert data.labels is not None and data.coordinates is not None
        self.labels = data.labels
        self.study_ids = sorted(set(data.study_ids) & set(int(study) for study in data.labels.index))
        self.packs = Packs(out / "cache" / "studies", data)
        self.rows = derive.study_rows(data.coordinates)
        found, codes = label_codes(self.labels)
        self.codes = {int(study): code for study, code in zip(found, codes, strict=True)}
        self.folds = make_folds(self.labels, self.study_ids, recipe.folds)

    # ---- steps ----

    def prepare(self) -> None:
        """Store the recipe, labels and folds; read the studies that are not cached yet."""
        if self.accelerator.is_main_process:
            write_json(self.recipe.model_dump(mode="json"), self.out / "recipe.json")
            table = self.labels.loc[self.study_ids, list(LABEL_COLUMNS)].rename_axis("study_id").reset_index()
            write_csv(table, self.out / "labels.csv")
            write_csv(self.folds, self.out / "folds.csv")
            self.packs.ensure(self.study_ids, self._each)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            self.packs.know(self.study_ids)

    def stage1(self) -> None:
        """Train the detectors of every fold and find the keypoints of its held-out studies."""
        members = self.recipe.stage1.members
        for name, member in members.items():
            self._stacks(name, member.spec)
        for fold in self.recipe.folds.train:
            for name, member in members.items():
                self._train(name, member, fold)
            self._keypoints(fold)

    def stage2(self) -> None:
        """Train the graders of every fold and grade its held-out studies."""
        if self.recipe.stage2.keypoints == "labels":
            self._regions("labels", self.study_ids)
        held_out = [study for fold in self.recipe.folds.train for study in self.held_out(fold)]
        self._regions("found", held_out)
        for fold in self.recipe.folds.train:
            for name, member in self.recipe.stage2.members.items():
                self._train(name, member, fold)
        if self.accelerator.is_main_process:
            self._predict()

    # ---- what a step depends on ----

    def held_out(self, fold: int) -> list[int]:
        """Studies of a fold: not trained on, used to choose the epoch and for out-of-fold results."""
        return [int(study) for study in self.folds.loc[self.folds["fold"] == fold, "study_id"]]

    def trained_on(self, fold: int) -> list[int]:
        """Studies that train a fold."""
        studies = self.study_ids
        if self.recipe.stage2.keypoints == "out_of_fold":
            studies = [s for other in self.recipe.folds.train for s in self.held_out(other)]
        return [study for study in (studies or self.study_ids) if study not in set(self.held_out(fold))]

    def _source(self, study: int) -> str:
        """Fingerprint of a study's images, keypoints and labels."""
        rows = self.rows.get(study)
        table = [] if rows is None else rows.astype(str).to_numpy().tolist()
        return fingerprint(self.packs.sources[study], table, self.codes[study].tolist())

    def _stack_folder(self, name: str) -> Path:
        return self.out / "cache" / "stacks" / name

    def _region_folder(self, spec: GraderSpec, kind: str) -> Path:
        key = fingerprint(region_key(derive.margin_spec(spec, self.recipe.loop.region_margin)))
        return self.out / "cache" / "regions" / f"{key[:12]}_{kind}"

    def _fold_folder(self, name: str, fold: int) -> Path:
        return self.out / "members" / name / f"fold{fold}"

    # ---- derived files ----

    def _each(self, function: Callable[[int], None], items: Sequence[int], title: str) -> None:
        each(function, items, title, self.recipe.loop.read_processes)

    def _stacks(self, name: str, spec: Any) -> None:
        """Cache the stacks of a detector."""
        make = functools.partial(derive.make_stacks, self.packs, self.rows, spec)
        self._derive(self._stack_folder(name), self.study_ids, make, lambda study: [spec.model_dump(mode="json")], name)

    def _regions(self, kind: str, study_ids: Sequence[int]) -> None:
        """Cache the regions around labelled or found keypoints for every kind of input."""
        found = self.found_keypoints() if kind == "found" else {}
        for spec in {region_key(m.spec): m.spec for m in self.recipe.stage2.members.values()}.values():  # type: ignore[arg-type]
            assert isinstance(spec, GraderSpec)
            wide = derive.margin_spec(spec, self.recipe.loop.region_margin)
            make = functools.partial(derive.make_regions, self.packs, self.rows, found if kind == "found" else None, wide)
            parts = lambda study, wide=wide: [region_key(wide), [asdict(p) for p in found.get(study, [])]]  # noqa: E731
            self._derive(self._region_folder(spec, kind), study_ids, make, parts, f"regions {kind}")

    def _derive(
        self, folder: Path, study_ids: Sequence[int], make: Callable[..., None], parts: Callable[[int], list[Any]], title: str
    ) -> None:
        if self.accelerator.is_main_process:
            wanted = {study: fingerprint(self._source(study), *parts(study)) for study in study_ids}
            stale = [s for s in study_ids if (read_header(folder / f"{s}.safetensors") or {}).get("source") != wanted[s]]
            self._each(functools.partial(make, folder, wanted), stale, title)
        self.accelerator.wait_for_everyone()

    def samples_to_show(self, name: str, member: Member) -> Any:
        """The training samples of a member around labelled keypoints, for pictures."""
        spec, training = member.spec, member.training
        if isinstance(spec, DetectorSpec):
            self._stacks(name, spec)
            return StackSamples(self._stack_folder(name), self.study_ids, spec, training)
        self._regions("labels", self.study_ids)
        return RegionSamples(self._region_folder(spec, "labels"), self.study_ids, self.codes, spec, training)

    # ---- training ----

    def _train(self, name: str, member: Member, fold: int) -> None:
        """Train one member on one fold, unless its result is there."""
        job = self._job(name, member, fold)
        result = read_result(job.folder)
        if result is not None and result["fingerprint"] == job.fingerprint:
            return
        if not len(job.train.studies) or not len(job.valid.studies):
            raise InputError(f"{name} fold {fold}: no labelled sample to train or to validate on; add studies")
        progress = fit(job, self.accelerator, self._report)
        if self.accelerator.is_main_process:
            best = progress.history[progress.best_epoch - 1]
            saw = f"{len(self.trained_on(fold) if isinstance(member.spec, GraderSpec) else self._detector_studies(fold))} studies of {self.data.root.name}"
            write_json({"fingerprint": job.fingerprint, "saw": saw, "best": best, "history": progress.history}, job.folder / "result.json")
            (job.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def _detector_studies(self, fold: int) -> list[int]:
        held_out = set(self.held_out(fold))
        return [study for study in self.study_ids if study not in held_out]

    def _job(self, name: str, member: Member, fold: int) -> Job:
        spec, training = member.spec, member.training
        seed = int(fingerprint(self.recipe.seed, name, fold)[:8], 16)
        held_out = self.held_out(fold)
        torch.manual_seed(seed)
        if isinstance(spec, DetectorSpec):
            studies, network = self._detector_studies(fold), build_detector(spec, training.pretrained)
            train_set: Any = StackSamples(self._stack_folder(name), studies, spec, training)
            valid_set: Any = StackSamples(self._stack_folder(name), held_out, spec, training)
            objective: Any = HeatmapObjective(spec, training)
        else:
            studies, network = self.trained_on(fold), build_grader(spec, training.pretrained)
            kind = "labels" if self.recipe.stage2.keypoints == "labels" else "found"
            train_set = RegionSamples(self._region_folder(spec, kind), studies, self.codes, spec, training)
            valid_set = RegionSamples(self._region_folder(spec, "found"), held_out, self.codes, spec, training)
            objective = SeverityObjective(spec, training)
        inputs = [self._inputs(data) for data in (train_set, valid_set)]
        words = fingerprint(seed, spec.model_dump(mode="json"), training.model_dump(mode="json"), inputs)
        keep = bool(training.any_severe_weight) and isinstance(spec, GraderSpec)
        folder = self._fold_folder(name, fold)
        return Job(name, fold, folder, words, network, objective, train_set, valid_set, training, self.recipe.loop, seed, keep)

    def _inputs(self, samples: Any) -> list[Any]:
        """What a data set was made of: the source fingerprint of each of its files."""
        studies = sorted(set(samples.studies.tolist()))
        return [(study, (read_header(samples.folder / f"{study}.safetensors") or {}).get("source")) for study in studies]

    def _report(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    # ---- out-of-fold results ----

    def networks(self, stage: str, fold: int) -> dict[str, tuple[Any, Any]]:
        """Trained networks of one stage and fold on this process's device: name to (spec, network)."""
        members = (self.recipe.stage1 if stage == "stage1" else self.recipe.stage2).members
        out = {}
        for name, member in members.items():
            build = build_detector if isinstance(member.spec, DetectorSpec) else build_grader
            path = self._fold_folder(name, fold) / "best.safetensors"
            network = checkpoint.read_weights(build(member.spec), path)  # type: ignore[operator]
            out[name] = (member.spec, network.to(self.accelerator.device))
        return out

    def _keypoints(self, fold: int) -> None:
        """Find the keypoints of a fold's held-out studies with its own detectors."""
        if not self.accelerator.is_main_process:
            return
        path = self.out / "keypoints" / f"fold{fold}.json"
        results = [read_result(self._fold_folder(name, fold)) for name in self.recipe.stage1.members]
        words = fingerprint([r and r["fingerprint"] for r in results], [self._source(s) for s in self.held_out(fold)])
        if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["fingerprint"] == words:
            return
        detectors: dict[Any, list[Any]] = {}
        for spec, network in self.networks("stage1", fold).values():
            detectors.setdefault(spec.series_type, []).append((spec, network))
        found: dict[str, Any] = {}

        def one(study_id: int) -> None:
            points, _ = detect(self.packs.study(study_id), detectors, self.accelerator.device)
            found[str(study_id)] = [asdict(point) for point in points]

        each(one, self.held_out(fold), f"keypoints of fold {fold}", 1)
        write_json({"fingerprint": words, "studies": found}, path)

    def found_keypoints(self) -> dict[int, list[Keypoint]]:
        """Out-of-fold keypoints of every study of the trained folds."""
        return read_keypoints(self.out, self.recipe)

    def _predict(self) -> None:
        """Grade every held-out study with its fold's graders, as `predict` would, and write the tables."""
        keypoints = self.found_keypoints()
        tables: dict[str, dict[int, np.ndarray]] = {name: {} for name in self.recipe.stage2.members}
        for fold in self.recipe.folds.train:
            graders = self.networks("stage2", fold)

            def one(study_id: int, graders: Any = graders) -> None:
                study, cut = self.packs.study(study_id), {}
                points = {(point.condition, point.level): point for point in keypoints[study_id]}
                for name, (spec, network) in graders.items():
                    key = region_key(spec)
                    cut[key] = cut[key] if key in cut else cut_regions(study, points, spec)
                    tables[name][study_id] = grade(cut[key], spec, network, self.accelerator.device)

            each(one, self.held_out(fold), f"grades of fold {fold}", 1)
        write_predictions(self.out, tables, weighted_prior(self.labels, 0.5), self.recipe.blend.method)


def read_result(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a member's fold; None where it is not done."""
    path = folder / "result.json"
    if not path.is_file() or not (folder / "best.safetensors").is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def read_keypoints(out: Path, recipe: Recipe) -> dict[int, list[Keypoint]]:
    """Out-of-fold keypoints by study of a run folder."""
    found: dict[int, list[Keypoint]] = {}
    for fold in recipe.folds.train:
        stored = json.loads((out / "keypoints" / f"fold{fold}.json").read_text(encoding="utf-8"))
        for study, points in stored["studies"].items():
            found[int(study)] = [Keypoint(**{**p, "xy_px": tuple(p["xy_px"]), "mm": tuple(p["mm"])}) for p in points]
    return found


def write_predictions(out: Path, tables: dict[str, dict[int, np.ndarray]], prior: np.ndarray, method: Any) -> None:
    """`predictions/<name>.csv` a grader (rows where it spoke) and `blend.csv`, in the submission's layout."""
    studies = sorted({study for table in tables.values() for study in table})
    for name, table in tables.items():
        rows = np.concatenate([table[study].reshape(-1, 3) for study in studies])
        names = [row for study in studies for row in row_ids(study)]
        frame = pd.DataFrame({"row_id": names, "normal_mild": rows[:, 0], "moderate": rows[:, 1], "severe": rows[:, 2]})
        write_csv(frame.dropna(), out / "predictions" / f"{name}.csv")
    blended = [ensemble.blend(np.stack([t[study] for t in tables.values()]), prior, method)[0] for study in studies]
    write_csv(submission.to_rows(studies, np.stack(blended)), out / "predictions" / "blend.csv")
