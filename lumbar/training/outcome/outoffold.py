"""Out-of-fold results: what a fold's networks find and grade on the studies that they had not seen."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lumbar.bundle.likeness import write_likenesses
from lumbar.bundle.network import build_network
from lumbar.compute.processes import each
from lumbar.files.write import write_json, writing_into
from lumbar.grading import likeness
from lumbar.grading.grade import averaged, grade, softmax
from lumbar.grading.likeness import Features
from lumbar.grading.regions import cut_all_regions, region_key
from lumbar.keypoints.detect import detect
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES
from lumbar.recipe import sets
from lumbar.recipe.recipe import Recipe
from lumbar.recipe.stage import Stage
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study
from lumbar.training.data.labelled import label_keypoints
from lumbar.training.data.packs import fingerprint
from lumbar.training.folder import seal_predictions, write_logits, write_predictions
from lumbar.training.loop import checkpoint
from lumbar.training.outcome.blending import blend_run
from lumbar.training.setup import Setup


def speaking(recipe: Recipe, stage: Stage[Any], fold: int) -> dict[str, Any]:
    """The members of a stage that answer for a fold's held-out studies: bundled, and trained on the others."""
    return {name: member for name, member in stage.bundled().items() if fold in recipe.folds_of(name)}


def trained_networks(setup: Setup, stage: Stage[Any], fold: int) -> dict[str, tuple[Any, torch.nn.Module]]:
    """Networks of one stage that answer for a fold, with their best weights, on the run's device: (spec, network)."""
    out = {}
    for name, member in speaking(setup.recipe, stage, fold).items():
        spec = member.spec
        network = build_network(spec)
        checkpoint.read_weights(network, setup.folder.member(name, fold) / "best.safetensors")
        out[name] = (spec, network.to(setup.accelerator.device))
    return out


def find_keypoints(setup: Setup, fold: int) -> None:
    """Find the keypoints of a fold's held-out studies with its own detectors, and write them beside the labelled ones.

    Skipped where the file is there and was made by the same detectors from the same studies.
    """
    path, studies = setup.folder.keypoint_file(fold), setup.held_out(fold)
    results = [setup.folder.result(name, fold) for name in speaking(setup.recipe, setup.recipe.stage1, fold)]
    sources = [setup.source(study) for study in studies]
    named = setup.recipe.stage1.sets
    made_from = fingerprint([found and found["fingerprint"] for found in results], sources, *([named] if named else []))
    if setup.folder.keypoint_fingerprint(fold) == made_from:
        return
    networks = trained_networks(setup, setup.recipe.stage1, fold)  # in the recipe's order
    by_set = sets.of(named, {name: spec for name, (spec, _) in networks.items()})
    detectors = [[networks[name] for name in own] for own in by_set]
    found: list[dict[str, list[Any]]] = [{} for _ in detectors]
    labelled: dict[str, list[Any]] = {}

    def one(study_id: int) -> None:
        study = setup.packs.study(study_id)
        for own, place in zip(detectors, found, strict=True):
            points, _ = detect(study, own, setup.accelerator.device)
            place[str(study_id)] = [point.as_dict() for point in points]
        told = label_keypoints(study, setup.rows[study_id]) if study_id in setup.rows else {}
        labelled[str(study_id)] = [point.as_dict() for point in told.values()]

    each(one, studies, f"keypoints of fold {fold}", 1, setup.deadline.check)
    with writing_into(path.parent):
        others = {"other_sets": found[1:]} if found[1:] else {}
        write_json({"fingerprint": made_from, "studies": found[0], "labels": labelled, **others}, path)


def grade_held_out(setup: Setup) -> None:
    """Grade every held-out study with its fold's graders, as prediction would, and write the tables; and what the
    regions of these studies look like to each.

    Skipped where the tables were made from the same networks and keypoints.
    """
    folds = setup.recipe.folds.train
    graded = [(name, fold) for fold in folds for name in speaking(setup.recipe, setup.recipe.stage2, fold)]
    results = [setup.folder.result(name, fold) for name, fold in graded]
    points = [setup.folder.keypoint_fingerprint(fold) for fold in folds]
    blend = setup.recipe.blend.model_dump(mode="json")
    method = blend if len(blend) > 1 else setup.recipe.blend.method
    made_from = fingerprint([found and found["fingerprint"] for found in results], points, method)
    if setup.folder.prediction_fingerprint() == made_from:
        return
    keypoints = setup.folder.keypoints_by_set(setup.recipe.folds.train)
    silent = np.full((len(CONDITIONS), len(LEVELS), len(SEVERITIES)), np.nan)  # of folds that a member does not train
    names = setup.recipe.stage2.bundled()
    logits = {name: dict.fromkeys(setup.in_trained_folds(), silent) for name in names}
    for fold in setup.recipe.folds.train:
        graders = trained_networks(setup, setup.recipe.stage2, fold)
        described: dict[str, list[Features]] = {name: [] for name in graders}
        exchanged: dict[str, list[Features]] = {name: [] for name in graders}
        one = functools.partial(_grade, setup, graders, keypoints, logits, described, exchanged)
        each(one, setup.held_out(fold), f"grades of fold {fold}", 1, setup.deadline.check)
        with writing_into(setup.folder.root):
            for name, (spec, _) in graders.items():
                known = likeness.learn(described[name], spec, exchanged[name])
                write_likenesses(known, setup.folder.likeness_file(name, fold))
    tables = {name: {study: softmax(said) for study, said in table.items()} for name, table in logits.items()}
    with writing_into(setup.folder.root):
        write_predictions(setup.folder, tables)
        write_logits(setup.folder, logits)
        blend_run(setup.folder, tables, setup.labels, setup.recipe.blend, setup.recipe.seed)
        seal_predictions(setup.folder, made_from)


def _grade(
    setup: Setup,
    graders: Mapping[str, tuple[Any, torch.nn.Module]],
    keypoints: Sequence[Mapping[int, list[Keypoint]]],
    logits: Mapping[str, dict[int, np.ndarray]],
    described: Mapping[str, list[Features]],
    exchanged: Mapping[str, list[Features]],
    study_id: int,
) -> None:
    """A study's logits, and what backbones say of its regions, as they are and with T1 and T2 exchanged."""
    study, device = setup.packs.study(study_id), setup.accelerator.device
    around = {name: sets.around(setup.recipe.stage1.sets, spec) for name, (spec, _) in graders.items()}

    def answered(of: Study, asked: Collection[str]) -> Iterator[tuple[str, list[np.ndarray], Features]]:
        by_set = []
        for number, found in enumerate(keypoints):
            points = {(point.condition, point.level): point for point in found[study_id]}
            own = [graders[name][0] for name in asked if number in around[name]]
            by_set.append(cut_all_regions(of, points, own))
        for name in asked:
            spec, network = graders[name]
            features: Features = []
            regions = [by_set[number][region_key(spec)] for number in around[name]]
            yield name, [grade(one, spec, network, device, features=features) for one in regions], features

    learning = [name for name, (spec, _) in graders.items() if likeness.learns_from(spec, setup.codes[study_id])]
    for name, answers, features in answered(study, graders):
        if name in learning:
            described[name].append(features)
        logits[name][study_id] = averaged(answers)
    turned = [
        name
        for name in learning
        if len(exchanged[name]) < likeness.MOST_EXCHANGED and likeness.tells_weighting(graders[name][0])
    ]
    for name, _, features in answered(study.weightings_exchanged(), turned):
        exchanged[name].append(features)
