"""The eighth place's heatmaps: their targets lie where labels lie, through every change of a sample."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumbar import geometry
from lumbar.grading.regions import cut_regions
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.metric import label_codes
from lumbar.recipe.augment import Augment
from lumbar.recipe.settings import Training
from lumbar.study.slices import find_slice
from lumbar.study.standardise import slice_frame
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.loop.grader_losses import gaussians, loss_of
from lumbar.training.loop.grader_objective import SeverityObjective
from tests.support.mirror import mirror_coordinates, mirror_labels, mirror_study
from tests.support.whole_slices import SLICES, whole
from tests.support.worlds import small_phantoms


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("eighth") / "data", studies=1))


@pytest.fixture(scope="module")
def study(data: DataFolder) -> Study:
    return read_study(data, data.study_ids[0])


def labelled(
    data: DataFolder, study: Study, folder: Path, **training: Any
) -> tuple[SeverityObjective, dict[str, torch.Tensor], RegionSamples]:
    """A study's sample with the loss of heatmaps asked for."""
    spec, own = whole(), Training(loss={"severity": 1.0, "slice_scores": 1.0, "heatmaps": 1.0}, **training)
    keypoints = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    arrays = region_arrays(study, {}, margin_spec(spec, 1.5), keypoints)
    write_arrays(folder / f"{study.study_id}.safetensors", arrays)
    codes = dict(zip(*label_codes(data.labels), strict=True))
    samples = RegionSamples(folder, [study.study_id], codes, spec, own)
    rng = np.random.default_rng(3) if training else None
    return SeverityObjective(spec, own), torch.utils.data.default_collate([samples.sample(0, rng)]), samples


def test_targets_lie_where_labels_lie_on_their_slices(data: DataFolder, study: Study, tmp_path: Path) -> None:
    objective, batch, _ = labelled(data, study, tmp_path)
    truth = objective._truth(batch, train=True)
    assert truth.annotated is not None
    points = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    slices = cut_regions(study, {}, whole()).cuts
    told = 0
    for view, own, shown in zip(SLICES, truth.points, truth.annotated[0].split(list(SLICES.values()), 1), strict=True):
        for (condition, level), point in points.items():
            place = LEVELS.index(level), CONDITIONS.index(condition)
            marked = shown[place[0], :, place[1]]
            there = [item for item, yes in zip(slices[view, level].slices, marked, strict=True) if yes]
            shares = own[0].unflatten(0, (5, 5))[place]
            if not there:
                assert shares.isnan().all()
                continue
            told += 1
            found = find_slice(study, point.series_id, point.instance)
            assert found is not None
            assert there == [found[1]]
            frame, shape = slice_frame(found[1], whole().preprocessing)
            wanted = (geometry.to_pixel(frame, point.mm)[:2] + 0.5) / shape[::-1]
            np.testing.assert_allclose(shares, wanted, atol=1e-4)
    assert told == len(points)


def test_heatmaps_learn_where_the_labels_are(data: DataFolder, study: Study, tmp_path: Path) -> None:
    """The loss is least for maps that are high at the labels' cells, on their slices alone."""
    objective, batch, _ = labelled(data, study, tmp_path)
    truth = objective._truth(batch, train=True)
    shown = truth.annotated[0].split(list(SLICES.values()), 1)
    right = {}
    for view, points, own in zip(SLICES, truth.points, shown, strict=True):
        near = gaussians(points, (8, 8))[:, None] * own.transpose(0, 1).flatten(1)[None, :, :, None, None]
        right[view] = torch.where(near == 1, 8.0, -8.0)
    best = loss_of("heatmaps", right, truth)
    assert float(best[1]) == 25
    assert float(best[0] / best[1]) < 0.05
    for wrong in ("nowhere", "other slices", "other places"):
        maps = {
            "nowhere": {view: torch.full_like(each, -8.0) for view, each in right.items()},
            "other slices": {view: each.roll(1, 1) for view, each in right.items()},
            "other places": {view: each.roll(3, 4) for view, each in right.items()},
        }[wrong]
        assert float(loss_of("heatmaps", maps, truth)[0]) > 50 * float(best[0]), wrong


def test_a_sample_in_the_mirror_is_the_mirrored_study_with_its_targets(
    data: DataFolder, study: Study, tmp_path: Path
) -> None:
    """Pictures, slices' order, labels and the places of heatmaps; sides by name."""
    source, twin = data.image_folder / str(study.study_id), tmp_path / "data"
    mirror_study(source, twin / "train_images" / str(study.study_id))
    for table in data.root.glob("*.csv"):
        shutil.copy(table, twin)
    other = replace(
        open_data(twin), coordinates=mirror_coordinates(data.coordinates, source), labels=mirror_labels(data.labels)
    )
    none = {"rotate_deg": 0, "shear_deg": 0, "sharpen_or_blur_p": 0, "channel_shuffle_p": 0}
    turned, flat = (Augment(mirror_p=share, **none) for share in (1.0, 0.0))
    own, mine, _ = labelled(data, study, tmp_path / "a", augment=turned)
    _, theirs, _ = labelled(other, read_study(other, study.study_id), tmp_path / "b", augment=flat)
    assert torch.equal(mine["labels"], theirs["labels"])
    assert torch.equal(mine["annotated"].flatten(2).sum(), theirs["annotated"].flatten(2).sum())
    for (view, here), there in zip(own.inputs(mine)[0].items(), own.inputs(theirs)[0].values(), strict=True):
        stacks = [each[:, :, each[0, 0].flatten(1).amax(-1) > each[0, 0].flatten(1).amin(-1)] for each in (here, there)]
        np.testing.assert_allclose(*stacks, atol=0.02, err_msg=view)  # empty slices stand before instead of behind
    for here, there in zip(own._points(mine), own._points(theirs), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-3)
        assert here.isfinite().any()


def test_empty_slices_stay_empty_whatever_changes_a_sample(data: DataFolder, study: Study, tmp_path: Path) -> None:
    rough = Augment(noise=0.5, shading=0.5, holes_p=1.0, bands=0.2, channel_shuffle_p=1.0)
    objective, batch, _ = labelled(data, study, tmp_path, augment=rough)
    views, _ = objective.inputs(batch)
    counts = {view: int((each[0, 0, :, 0].flatten(1).std(1) > 0).sum()) for view, each in views.items()}
    assert counts["sagittal_t2"] == len(study.series["sagittal_t2"][0]) < SLICES["sagittal_t2"]
    assert counts["sagittal_t1"] == len(study.series["sagittal_t1"][0])
