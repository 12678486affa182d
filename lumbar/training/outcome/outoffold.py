"""Out-of-fold results: what a fold's networks find and grade on the studies that they had not seen."""

import functools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from lumbar.compute.processes import each
from lumbar.files.write import write_json, writing_into
from lumbar.grading.grade import grade
from lumbar.grading.networks.registry import build_grader
from lumbar.grading.regions import Regions, cut_regions, region_key
from lumbar.keypoints.detect import detect
from lumbar.keypoints.networks.registry import build_detector
from lumbar.recipe.member import DetectorSpec
from lumbar.recipe.recipe import Stage
from lumbar.study.keypoint import Keypoint
from lumbar.training.data import derived
from lumbar.training.data.packs import fingerprint
from lumbar.training.folder import seal_predictions, write_predictions
from lumbar.training.loop import checkpoint
from lumbar.training.outcome.blending import blend_run
from lumbar.training.run import Run


def trained_networks(run: Run, stage: Stage, fold: int) -> dict[str, tuple[Any, torch.nn.Module]]:
    """Networks of one stage and fold with their best weights, on the run's device: name to (spec, network)."""
    out = {}
    for name, member in stage.members.items():
        spec = member.spec
        network = build_detector(spec) if isinstance(spec, DetectorSpec) else build_grader(spec)
        checkpoint.read_weights(network, run.folder.member(name, fold) / "best.safetensors")
        out[name] = (spec, network.to(run.accelerator.device))
    return out


def find_keypoints(run: Run, fold: int) -> None:
    """Find the keypoints of a fold's held-out studies with its own detectors, and write them beside the labelled ones.

    Skipped where the file is there and was made by the same detectors from the same studies.
    """
    path, studies = run.folder.keypoint_file(fold), run.held_out(fold)
    results = [run.folder.result(name, fold) for name in run.recipe.stage1.members]
    words = fingerprint([found and found["fingerprint"] for found in results], [run.source(study) for study in studies])
    if run.folder.keypoint_fingerprint(fold) == words:
        return
    detectors: dict[Any, list[Any]] = {}
    for spec, network in trained_networks(run, run.recipe.stage1, fold).values():
        detectors.setdefault(spec.series_type, []).append((spec, network))
    found: dict[str, list[Any]] = {}
    labelled: dict[str, list[Any]] = {}

    def one(study_id: int) -> None:
        study = run.packs.study(study_id)
        points, _ = detect(study, detectors, run.accelerator.device)
        found[str(study_id)] = [asdict(point) for point in points]
        told = derived.label_keypoints(study, run.rows[study_id]) if study_id in run.rows else {}
        labelled[str(study_id)] = [asdict(point) for point in told.values()]

    each(one, studies, f"keypoints of fold {fold}", 1)
    with writing_into(path.parent):
        write_json({"fingerprint": words, "studies": found, "labels": labelled}, path)


def grade_held_out(run: Run) -> None:
    """Grade every held-out study with its fold's graders, as prediction would, and write the tables.

    Skipped where the tables were made from the same networks and keypoints.
    """
    folds = run.recipe.folds.train
    results = [run.folder.result(name, fold) for fold in folds for name in run.recipe.stage2.members]
    made_from = [run.folder.keypoint_fingerprint(fold) for fold in folds]
    words = fingerprint([found and found["fingerprint"] for found in results], made_from, run.recipe.blend.method)
    if run.folder.prediction_fingerprint() == words:
        return
    keypoints = run.folder.keypoints(run.recipe.folds.train)
    tables: dict[str, dict[int, np.ndarray]] = {name: {} for name in run.recipe.stage2.members}
    for fold in run.recipe.folds.train:
        graders = trained_networks(run, run.recipe.stage2, fold)
        one = functools.partial(_grade, run, graders, keypoints, tables)
        each(one, run.held_out(fold), f"grades of fold {fold}", 1)
    with writing_into(run.folder.root):
        write_predictions(run.folder, tables)
        blend_run(run.folder, tables, run.labels, run.recipe.blend, run.recipe.seed)
        seal_predictions(run.folder, words)


def _grade(
    run: Run,
    graders: Mapping[str, tuple[Any, torch.nn.Module]],
    keypoints: Mapping[int, list[Keypoint]],
    tables: Mapping[str, dict[int, np.ndarray]],
    study_id: int,
) -> None:
    study = run.packs.study(study_id)
    points = {(point.condition, point.level): point for point in keypoints[study_id]}
    cut: dict[str, Regions] = {}
    for name, (spec, network) in graders.items():
        key = region_key(spec)
        if key not in cut:
            cut[key] = cut_regions(study, points, spec)
        tables[name][study_id] = grade(cut[key], spec, network, run.accelerator.device)
