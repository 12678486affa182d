"""The seventh place's one-stage networks: maps over a whole volume, sides by name, slices that are not there."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumbar.bundle.network import build_network, noise
from lumbar.grading.grade import grade
from lumbar.grading.networks.whole_volume import odds_of
from lumbar.grading.regions import cut_regions
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, mirrored
from lumbar.metric import label_codes
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.loop.grader_objective import SeverityObjective
from tests.support.contract import WholeSeriesContract, fixed_weights
from tests.support.grader_kinds import CANAL, KINDS, small_grader
from tests.support.mirror import mirror_study
from tests.support.worlds import small_phantoms

FORAMINA = KINDS["a whole series as one volume"]
OF_SLICE: dict[str, Any] = {"maps": "slice", "decoder": [8, 8, 8], "features": 8}


def of_slice(**fields: Any) -> GraderSpec:
    """The canal's network, as small."""
    own = {"views": ("sagittal_t2",), "conditions": (CANAL,), "network_args": OF_SLICE}
    return FORAMINA.model_copy(update=own | fields)


class TestMapsOverAVolume(WholeSeriesContract):
    spec = FORAMINA
    golden = [-140.41638, 499.2404, 256.40073, -462.10095, 158.85741, -287.29468]


class TestMapsOverASlice(WholeSeriesContract):
    spec = of_slice()
    golden = [-5.64673, 5.54944, 0.0, -0.35496, -0.01047, -0.72511]


class TestMapsOfAConvNeXt(WholeSeriesContract):
    """Whose maps timm gives in another layout than a ResNet's, in a decoder of two blocks."""

    spec = FORAMINA.model_copy(
        update={
            "backbone": "convnext_atto",
            "backbone_args": {"depths": [1] * 4, "dims": [8, 8, 16, 16]},
            "network_args": {"decoder": [8, 8], "features": 8},
        }
    )
    golden = [0.06731, 0.15087, 0.23903, 0.2196, 0.23916, 0.21937]


@pytest.mark.parametrize("spec", [FORAMINA, of_slice()], ids=["volume", "slice"])
def test_a_maps_sigmoid_is_its_share_of_the_slices_that_are_there(spec: GraderSpec) -> None:
    network = fixed_weights(build_network(spec)).train()
    views, seen = noise(spec, 2)
    (view,) = views
    views[view][1, :, 12:] = 0.0
    with torch.inference_mode():
        shares = network(views, seen)["heatmaps"][view].sigmoid()
    assert shares.shape[:3] == (2, 18, len(LEVELS) * len(spec.conditions))
    torch.testing.assert_close(shares.sum((1, 3, 4)), torch.ones(shares.shape[0], shares.shape[2]), rtol=1e-4, atol=0)
    assert not shares[1, 12:].any()


def test_shares_near_none_and_all_stay_numbers() -> None:
    logs = torch.tensor([-1e4, -20.0, -0.5, -1e-9, 0.0], requires_grad=True)
    odds = odds_of(logs)
    torch.testing.assert_close(odds.sigmoid(), logs.exp(), rtol=1e-4, atol=2e-6)
    odds.sum().backward()
    assert logs.grad is not None
    assert logs.grad.isfinite().all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("volume") / "data", studies=1))


@pytest.fixture(scope="module")
def study(data: DataFolder) -> Study:
    return read_study(data, data.study_ids[0])


@pytest.mark.parametrize("spec", [FORAMINA, of_slice()], ids=["volume", "slice"])
def test_maps_learn_to_lie_on_their_labels(data: DataFolder, study: Study, spec: GraderSpec, tmp_path: Path) -> None:
    """On the label's slice and in its cell, within a cell either way; left ones on other slices than right ones."""
    spec, training = spec.model_copy(update={"image_size": 48}), Training(loss={"severity": 1.0, "heatmaps": 1.0})
    keypoints = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    arrays = region_arrays(study, {}, margin_spec(spec, 1.0), keypoints)
    write_arrays(tmp_path / f"{study.study_id}.safetensors", arrays)
    codes = dict(zip(*label_codes(data.labels), strict=True))
    samples = RegionSamples(tmp_path, [study.study_id], codes, spec, training)
    batch = torch.utils.data.default_collate([samples.sample(0, None)])
    objective = SeverityObjective(spec, training)
    torch.manual_seed(0)
    network = build_network(spec).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(20):
        terms = objective.terms(network, batch, train=True)
        optimizer.zero_grad()
        sum(term.total / term.weight for term in terms.values()).backward()
        optimizer.step()
    truth, (views, seen) = objective._truth(batch, train=True), objective.inputs(batch)
    assert truth.annotated is not None
    with torch.inference_mode():
        shares = network(views, seen)["heatmaps"][spec.views[0]][0].sigmoid()  # (T, levels · conditions, h, w)
    slices = truth.annotated[0].transpose(0, 1).flatten(1)
    assert (slices.sum(0) == 1).all()
    cells = [np.unravel_index(int(each.argmax()), each.shape) for each in shares.unbind(1)]
    told = [(int(own.argmax()), *xy.flip(0).tolist()) for own, xy in zip(slices.T, truth.points[0][0], strict=True)]
    size = np.array([1, *shares.shape[2:]])
    off = np.array(cells) + np.array([0, 0.5, 0.5]) - np.array(told) * size
    assert np.abs(off).max() <= 1
    assert len({place for place, _, _ in told}) > (1 if len(spec.conditions) == 2 else 0)


@pytest.mark.parametrize("spec", [FORAMINA, of_slice()], ids=["volume", "slice"])
def test_a_mirrored_study_swaps_sides(data: DataFolder, study: Study, spec: GraderSpec, tmp_path: Path) -> None:
    spec = spec.model_copy(update={"tta": ("mirror",)})
    network = fixed_weights(build_network(spec)).eval()
    mirror_study(data.image_folder / str(study.study_id), tmp_path / "train_images" / str(study.study_id))
    for table in data.root.glob("*.csv"):
        shutil.copy(table, tmp_path)
    twin = read_study(open_data(tmp_path), study.study_id)
    here, there = (grade(cut_regions(one, {}, spec), spec, network) for one in (study, twin))
    swapped = [CONDITIONS.index(mirrored(name)) for name in CONDITIONS]
    np.testing.assert_allclose(there[swapped], here, atol=1e-4)
    if len(spec.conditions) == 2:
        assert np.abs(here[1] - here[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network_args": {"maps": "level"}}, 'maps = \'level\' cannot be used; write "volume" or "slice"'),
        ({"network_args": {"decoder": [8] * 5}}, "gives maps of 5 strides and the decoder of whole_volume joins 6"),
        ({"network_args": OF_SLICE}, "maps = 'slice' looks for one slice; name one condition"),
        ({"views": ("sagittal_t1", "sagittal_t2")}, "sees one whole series"),
    ],
)
def test_what_it_cannot_be_is_told(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_network(FORAMINA.model_copy(update=fields))


def test_one_level_at_a_time_is_refused() -> None:
    with pytest.raises(InputError, match='set levels = "study"'):
        build_network(small_grader(views=["sagittal_t1"], conditions=[CANAL], network="whole_volume"))
