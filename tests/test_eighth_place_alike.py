"""The eighth place's first step, without labels: what two series show at one position in the patient."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lumbar import geometry
from lumbar.bundle.network import build_network, noise
from lumbar.grading.regions import Regions, cut_regions
from lumbar.issues import InputError
from lumbar.metric import label_codes
from lumbar.recipe.augment import Augment
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.settings import Training
from lumbar.study.standardise import slice_frame
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.shared_places import REACH_MM, shared_places
from lumbar.training.loop.beginning import fitting
from lumbar.training.loop.grader_losses import loss_of
from lumbar.training.loop.grader_objective import SeverityObjective
from tests.support.whole_slices import SLICES, SMALL, whole
from tests.support.worlds import small_phantoms


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("eighth") / "data", studies=1))


@pytest.fixture(scope="module")
def study(data: DataFolder) -> Study:
    return read_study(data, data.study_ids[0])


@pytest.fixture(scope="module")
def regions(study: Study) -> Regions:
    return cut_regions(study, {}, whole())


def test_a_patient_position_is_one_place_in_two_series(study: Study) -> None:
    """What lies on a pixel of one series lies on the same patient position in another, to half a pixel."""
    (one,), (other,) = study.series["sagittal_t2"], study.series["sagittal_t1"]
    for item in one.slices[:: len(one) // 3]:
        frame, (rows, columns) = slice_frame(item, whole().preprocessing)
        place = np.array([columns * 0.4, rows * 0.6])
        mm = geometry.to_patient(frame, place)
        nearest = min(other.slices, key=lambda each: abs(geometry.to_pixel(each.affine, mm)[2]))
        theirs, _ = slice_frame(nearest, whole().preprocessing)
        across = geometry.to_pixel(theirs, mm)
        back = geometry.to_pixel(frame, geometry.to_patient(theirs, across[:2]))
        assert np.abs(back[:2] - place).max() < 0.5


def test_shared_places_are_one_position_in_the_patient(study: Study, regions: Regions) -> None:
    """What is written for training: slice, column and row of each view lead back to the position."""
    spec = whole()
    cuts = {view: regions.cuts[view, "l1_l2"] for view in SLICES}
    mm, places = shared_places(study, cuts, spec)
    pairs = 0
    for view, cut in cuts.items():
        height, width = spec.region_of(view).size
        shown = np.isfinite(places[view]).all(1)
        for number in np.flatnonzero(shown)[::7]:
            at, column, row = places[view][number]
            frame, (rows, columns) = slice_frame(cut.slices[int(at)], spec.preprocessing)
            own = (np.array([column, row]) + 0.5) * (columns / width, rows / height) - 0.5
            across = geometry.to_pixel(frame, mm[number])
            assert np.abs(across[:2] - own).max() < 0.5
            assert np.linalg.norm(geometry.to_patient(frame, own) - mm[number]) <= REACH_MM + 0.01
        pairs += int(shown.sum())
    assert pairs > 1.5 * len(mm)  # most are seen on two series and more


def test_the_loss_is_least_where_embeddings_tell_positions(data: DataFolder, study: Study, tmp_path: Path) -> None:
    """Embeddings that are the position itself, through the mirror, warps and slices' order of training samples."""
    augment = Augment(mirror_p=0.5, zoom=0.1, shift=0.1, channel_shuffle_p=0.5, distort=0.02, shear_deg=5.0)
    spec, own = whole(), Training(loss={"correspondence": 1.0}, best_by="last", augment=augment)
    arrays = region_arrays(study, {}, margin_spec(spec, 1.5), {})
    write_arrays(tmp_path / f"{study.study_id}.safetensors", arrays)
    codes = dict(zip(*label_codes(data.labels), strict=True))
    samples, objective = RegionSamples(tmp_path, [study.study_id], codes, spec, own), SeverityObjective(spec, own)
    draw = np.random.default_rng(0).normal(0, 0.35, (3, 48)).astype(np.float32)
    for seed in range(4):
        batch = torch.utils.data.default_collate([samples.sample(0, np.random.default_rng(seed))])
        truth = objective._truth(batch, train=True)
        waves = {}
        for view, places in zip(SLICES, truth.shared, strict=True):
            maps = torch.zeros(1, SLICES[view], 48, 32, 32)
            for place, mm in zip(places[0], truth.mm[0], strict=True):
                if place.isfinite().all() and (place >= 0).all() and (place[1:] < 1).all():
                    column, row = (int(each * 32) for each in place[1:])
                    maps[0, int(place[0]), :, row, column] = torch.cos(torch.from_numpy(np.float32(mm) @ draw))
            waves[view] = maps
        total, count = loss_of("correspondence", waves, truth)
        assert float(count) > 200
        assert float(total / count) < 0.7
        wrong = {view: maps.roll(2, 1) for view, maps in waves.items()} | {"sagittal_t1": waves["sagittal_t1"]}
        assert float(loss_of("correspondence", wrong, truth)[0] / count) > 2.0


def test_embeddings_are_learnt_beside_and_what_fits_is_begun_with(tmp_path: Path) -> None:
    alike, first = (
        build_network(whole(network_args=args)) for args in ({"features": 8, "embedding": 8}, {"features": 8})
    )
    found = alike.train()(*noise(whole(), 1))
    assert {view: each.shape[1:3] for view, each in found["embedding"].items()} == {
        view: (count, 8) for view, count in SLICES.items()
    }
    keys = fitting(first.state_dict(), alike.state_dict(), ())
    assert set(keys) == set(first.state_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["points_alike.best_by=loss"], "loss names nothing that validation could tell the best epoch by"),
        (["points_alike.augment.mix=mixup"], "mixed samples have no label for the loss 'correspondence'"),
    ],
)
def test_what_a_step_without_labels_cannot_be_is_told(changes: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe(SMALL, [f"stage2.members.{change}" for change in changes])
