"""The eighth place, of which no code is public: what any rebuild must satisfy, from pooling to the mirrored study."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from lumbar.bundle.network import build_network, noise
from lumbar.grading.grade import batched, grade, rows_of
from lumbar.grading.networks.whole_slices import weighed
from lumbar.grading.regions import Regions, cut_regions
from lumbar.labels import CONDITIONS, LEVELS, mirrored
from lumbar.report.html import write
from lumbar.study.study import DataFolder, Study, open_data, read_study
from tests.support.contract import fixed_weights
from tests.support.mirror import mirror_study
from tests.support.whole_slices import ALONG, SLICES, whole
from tests.support.worlds import small_phantoms

RECORDED = Path(__file__).parents[2] / "shared" / "parity" / "seventh" / "study.json"
SWAPPED = [CONDITIONS.index(mirrored(name)) for name in CONDITIONS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("eighth") / "data", studies=1))


@pytest.fixture(scope="module")
def study(data: DataFolder) -> Study:
    return read_study(data, data.study_ids[0])


@pytest.fixture(scope="module")
def regions(study: Study) -> Regions:
    return cut_regions(study, {}, whole())


# ---- identities of the pooling --------------------------------------------------------------------------------------
def test_a_map_that_is_one_cell_takes_the_features_of_that_cell() -> None:
    maps, scores = torch.randn(2, 6, 5, 7), torch.full((2, 3, 5, 7), -1e4)
    scores[:, 0, 4, 2], scores[:, 1, 0, 6], scores[:, 2, 3, 0] = 0.0, 0.0, 0.0
    found = weighed(maps, scores)
    for place, (row, column) in enumerate(((4, 2), (0, 6), (3, 0))):
        assert torch.equal(found[:, place], maps[:, :, row, column])


def test_a_map_without_peak_takes_the_mean() -> None:
    maps = torch.randn(2, 6, 5, 7)
    assert torch.allclose(weighed(maps, torch.full((2, 3, 5, 7), 1.7)), maps.mean((2, 3))[:, None], atol=1e-6)


@pytest.mark.skipif(not RECORDED.is_file(), reason="recorded numbers are not here")
def test_a_one_stage_network_of_the_seventh_place_pools_alike() -> None:
    """Its maps lie over a whole volume: the same sum over more cells."""
    known = json.loads(RECORDED.read_text())["hengck"]["nfn_heads"]
    drawn = np.random.RandomState(7301)
    maps = [drawn.uniform(0, 1, (10, depth, 6, 7)).astype(np.float32) for depth in (3, 4)]
    features = [drawn.standard_normal((4, depth, 6, 7)).astype(np.float32) for depth in (3, 4)]
    for number, (own, found) in enumerate(zip(features, maps, strict=True)):
        scores, cells = (torch.from_numpy(each).flatten(1)[None, :, :, None] for each in (12 * found, own))
        np.testing.assert_allclose(weighed(cells, scores)[0], known["pooled (2,10,4)"][number], atol=1e-5)


# ---- slices ---------------------------------------------------------------------------------------------------------
def test_slices_in_another_order_give_the_same_answers_in_that_order() -> None:
    network = fixed_weights(build_network(whole())).eval()
    views, seen = noise(whole(), 2)
    order = torch.randperm(SLICES["sagittal_t2"])
    with torch.inference_mode():
        told = network.told(views)["sagittal_t2"]
        again = network.told(views | {"sagittal_t2": views["sagittal_t2"][:, :, order]})["sagittal_t2"]
        assert torch.allclose(again, told[:, :, order], atol=1e-4)
        answers = [network(each, seen) for each in (views, views | {"sagittal_t2": views["sagittal_t2"][:, :, order]})]
    assert torch.allclose(*answers, atol=1e-4)  # the first level does not know the order


@pytest.mark.parametrize("before", [False, True], ids=["behind", "before"])
@pytest.mark.parametrize("args", [{"features": 8}, ALONG], ids=["first level", "second level"])
def test_black_slices_at_an_end_change_no_answer(args: dict[str, Any], before: bool) -> None:
    spec = whole(network_args=args)
    network = fixed_weights(build_network(spec)).eval()
    views, seen = noise(spec, 2)
    more = {}
    for name, view in views.items():
        black = torch.zeros_like(view[:, :, :4])
        more[name] = torch.cat([black, view] if before else [view, black], dim=2)
    with torch.inference_mode():
        assert torch.allclose(network(more, seen), network(views, seen), atol=1e-5)


#: The stated backbone, whose maps timm gives under other names and in another layout than a ResNet's, as small.
CONVNEXT: dict[str, Any] = {"backbone": "convnext_atto", "backbone_args": {"depths": [1] * 4, "dims": [8, 8, 16, 16]}}


@pytest.mark.parametrize("fields", [{}, CONVNEXT], ids=["ResNet", "ConvNeXt"])
def test_every_parameter_learns_from_its_losses(fields: dict[str, Any]) -> None:
    for args in ({"features": 8}, ALONG):
        network = fixed_weights(build_network(whole(network_args=args, **fields))).train()
        found = network(*noise(whole(), 2))
        parts = [found["severity"], found["slice_scores"], *found["heatmaps"].values()]
        sum(nnf.mse_loss(each, torch.ones_like(each)) for each in parts).backward()
        idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        assert not idle


def test_a_mirrored_study_swaps_sides(data: DataFolder, study: Study, tmp_path: Path) -> None:
    spec = whole(tta=["mirror"], network_args=ALONG)
    network = fixed_weights(build_network(spec)).eval()
    mirror_study(data.image_folder / str(study.study_id), tmp_path / "train_images" / str(study.study_id))
    for table in data.root.glob("*.csv"):
        shutil.copy(table, tmp_path)
    twin = read_study(open_data(tmp_path), study.study_id)
    here, there = (grade(cut_regions(one, {}, spec), spec, network) for one in (study, twin))
    np.testing.assert_allclose(there[SWAPPED], here, atol=1e-4)
    assert np.abs(here[3] - here[4]).max() > 1e-3


def test_empty_slices_follow_a_short_series_and_long_ones_are_thinned(study: Study, regions: Regions) -> None:
    count = len(study.series["sagittal_t2"][0])
    assert count < SLICES["sagittal_t2"]
    there = regions.tensors["sagittal_t2"][0].std((1, 2)) > 0
    assert there.tolist() == [True] * count + [False] * (SLICES["sagittal_t2"] - count)
    short = whole(regions={"sagittal_t2": {"slices": 4}, "axial_middle": {"slices": 3}})
    cuts = cut_regions(study, {}, short).cuts
    picked = [study.series["sagittal_t2"][0].slices.index(item) for item in cuts["sagittal_t2", "l1_l2"].slices]
    assert picked[0] == 0
    assert picked[-1] == count - 1
    assert len({cuts["sagittal_t2", level].slices for level in LEVELS}) == 1


def test_a_study_without_a_series_is_answered_from_the_others(study: Study) -> None:
    lost = replace(study, series={kind: own for kind, own in study.series.items() if kind != "axial_t2"})
    found = cut_regions(lost, {}, whole())
    assert not found.present["axial_middle"].any()
    (row,) = rows_of(found, whole())
    _, seen = batched([row], whole())
    assert seen.tolist() == [[[True, True, False]]]
    network = fixed_weights(build_network(whole())).eval()
    assert np.isfinite(grade(found, whole(), network)).all()
    nothing = cut_regions(replace(study, series={}), {}, whole())
    assert np.isnan(grade(nothing, whole(), network)).all()


def test_a_report_shows_whole_series_once_as_slices(study: Study) -> None:
    result: Any = SimpleNamespace(keypoints=[])
    assert write._seen(study, result, [("whole", whole(), build_network(whole()))], "cpu") == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"levels": "one"}, 'levels = "study" and around = "series" need each other'),
        ({"region": {"box": "whole", "around": "level"}}, 'levels = "study" and around = "series" need each other'),
        ({"region": {"around": "series"}}, 'set box = "whole"'),
        ({"views": ["sagittal_t1_left"], "conditions": [CONDITIONS[1]], "regions": {}}, "name views without a side"),
        ({"regions": {"sagittal_t2": {"neighbours": True}}}, "takes the slices as they are"),
    ],
)
def test_what_whole_series_cannot_be_is_told(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        whole(**fields)
