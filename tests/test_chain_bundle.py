"""From studies to keypoints through a bundle, and from a recipe to that bundle, with detectors that need each other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.manifest import MANIFEST
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.issues import InputError
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.training.folder import RunFolder
from lumbar.training.outcome.bundling import make_bundle
from lumbar.training.run import train
from tests.support.scoliosis import bent_study
from tests.support.tiny_recipe import tiny_recipe
from tests.support.worlds import grader_spec, small_phantoms

SMALL = {"image_size": 32, "encoder": "resnet18", "encoder_args": {"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]}}
SLICES = {
    **SMALL,
    "network": "slice_scores",
    "network_args": {"hidden": 4},
    "answer": "slices",
    "place": "whole",
    "points": "series",
    "in_chans": 8,
}
POINTS = {**SMALL, "network": "regressor", "answer": "points", "place": "found", "in_chans": 3}
SPECS = {
    "t2_slices": SLICES | {"series_type": "sagittal_t2", "join": "median", "tta": ["slices"], "pad": True},
    "t2_points": POINTS | {"series_type": "sagittal_t2", "tta": ["columns"]},
    "axial": POINTS | {"series_type": "axial_t2", "place": "plane", "num_classes": 2, "tta": ["mirror"]},
}


def made(folder: Path, specs: dict[str, DetectorSpec]) -> Bundle:
    """A bundle of two folds a detector, fold by fold as a run writes it, with random weights."""
    torch.manual_seed(3)
    members = [
        Weights(f"{name}_fold{fold}", spec, build_network(spec).state_dict(), fold=fold)
        for fold in (0, 1)
        for name, spec in specs.items()
    ]
    spinal = grader_spec("spinal")
    members.append(Weights("spinal", spinal, build_network(spinal).state_dict()))
    return save_bundle(folder, members, prior=np.full((5, 5, 3), 1 / 3))


def test_a_bundle_goes_from_studies_to_keypoints_step_by_step(tmp_path: Path) -> None:
    specs = {name: DetectorSpec.model_validate(each) for name, each in SPECS.items()}
    made(tmp_path / "bundle", specs)
    bundle = load_bundle(tmp_path / "bundle")
    assert [bundle.manifest.detectors[f"{name}_fold1"] for name in specs] == list(specs.values())
    points = Predictor(bundle, engine="eager")(bent_study()).keypoints
    assert {point.condition for point in points} >= {"spinal_canal_stenosis"}
    for point in points:
        assert np.isfinite([*point.mm, *point.xy_px, point.confidence]).all()
        assert point.slice_from == ("plane" if "subarticular" in point.condition else "found")


def test_a_bundle_whose_detectors_lack_each_other_is_refused(tmp_path: Path) -> None:
    """When it is made, and when it is loaded: before any network is built."""
    lonely = {"t2_points": DetectorSpec.model_validate(SPECS["t2_points"])}
    words = 't2_points_fold0: place = "found" looks around slices found before'
    with pytest.raises(InputError, match=f"bundle: no bundle can be made: {words}"):
        made(tmp_path / "bundle", lonely)
    made(tmp_path / "bundle", {name: DetectorSpec.model_validate(each) for name, each in SPECS.items()})
    path = tmp_path / "bundle" / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["members"] = [each for each in manifest["members"] if "t2_slices" not in each["name"]]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match=f"bundle: .*{words}"):
        load_bundle(tmp_path / "bundle")


def chained() -> str:
    """A recipe of detectors that name slices, say points there and in two series at once, and draw heatmaps."""
    t2 = {"series_type": "sagittal_t2"}
    points = {"network": "regressor", "answer": "points"}
    heatmaps = {"network": "unet", "encoder": "tu-resnet18", "network_args": {"decoder_channels": [8] * 5}}
    both = {"beside": "sagittal_t1", "place": "whole", "points": "series", "depth": True, "num_classes": 15}
    axial = {"series_type": "axial_t2", "num_classes": 2, "in_chans": 1, "levels_by": "segments", "tta": ["mirror"]}
    detectors = {
        "t2_slices": t2
        | {"network": "slice_scores", "answer": "slices", "place": "whole", "in_chans": 12, "pad": True},
        "t2_points": t2 | points | {"place": "found", "in_chans": 3},
        "both": t2 | points | both | {"in_chans": 8},
        "axial": axial | heatmaps,
    }
    common = {"encoder": "resnet18", "network_args": {}, "image_size": 32, "augment": {"mirror_p": 0.5}}
    return tiny_recipe(detectors, {"spinal": {"task": "spinal", "slices": 1}}, stage1=common)


@pytest.mark.slow
def test_a_recipe_of_a_chain_trains_fold_by_fold_and_becomes_a_bundle(tmp_path: Path) -> None:
    small_phantoms(tmp_path / "data", 4, 3)
    path = tmp_path / "chained.toml"
    path.write_text(chained())
    run = train(path, tmp_path / "data", tmp_path / "run")
    found = [point for points in RunFolder(run).keypoints((0, 1)).values() for point in points]
    froms = {point.condition: point.slice_from for point in found}
    assert (
        froms["spinal_canal_stenosis"] == froms["left_neural_foraminal_narrowing"] == "answer"
    )  # of `both`, the last to look
    bundle = make_bundle(run, tmp_path / "bundle")
    members = load_recipe(path).stage1.members
    assert list(bundle.manifest.detectors) == [f"{name}_fold{fold}" for fold in (0, 1) for name in members]
    assert Predictor(bundle, engine="eager")(bent_study()).keypoints
