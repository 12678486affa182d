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

import train_utils
from lumbar import geometry
from lumbar.bundle.network import build_network, noise, try_out
from lumbar.compute.tensors import load_tensors
from lumbar.grading.grade import batched, grade, rows_of
from lumbar.grading.networks.whole_slices import weighed
from lumbar.grading.regions import Regions, cut_regions
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, mirrored
from lumbar.metric import label_codes
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.settings import Training
from lumbar.report.html import write
from lumbar.study.slices import find_slice
from lumbar.study.standardise import slice_frame
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import read_arrays, write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.shared_places import REACH_MM, shared_places
from lumbar.training.folder import RunFolder
from lumbar.training.loop.beginning import fitting
from lumbar.training.loop.checkpoint import read_weights
from lumbar.training.loop.grader_losses import gaussians, loss_of
from lumbar.training.loop.grader_objective import SeverityObjective
from tests.conftest import ROOT
from tests.support.contract import fixed_weights
from tests.support.grader_kinds import small_grader
from tests.support.mirror import mirror_coordinates, mirror_labels, mirror_study
from tests.support.small_recipe import one_of_a_kind
from tests.support.worlds import small_phantoms

RECORDED = Path(__file__).parents[2] / "shared" / "parity" / "seventh" / "study.json"
SWAPPED = [CONDITIONS.index(mirrored(name)) for name in CONDITIONS]
SMALL = ROOT / "recipes" / "small" / "eighth_place.toml"
SLICES = {"sagittal_t1": 20, "sagittal_t2": 20, "axial_middle": 32}


def whole(**fields: Any) -> GraderSpec:
    own: dict[str, Any] = {
        "views": list(SLICES),
        "conditions": list(CONDITIONS),
        "levels": "study",
        "network": "whole_slices",
        "network_args": {"features": 8},
        "region": {"box": "whole", "around": "series", "intensity": "percentile", "scope": "slice"},
        "regions": {view: {"slices": count} for view, count in SLICES.items()},
    }
    return small_grader(**own | fields)


ALONG = {"features": 8, "along": True, "hidden": 8}


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


def test_the_second_level_looks_at_the_order_of_slices_and_at_each_view() -> None:
    spec = whole(network_args=ALONG)
    network = fixed_weights(build_network(spec)).eval()
    try_out(network, spec, "second level")
    views, seen = noise(spec, 1)
    with torch.inference_mode():
        plain = network(views, seen)
        assert torch.allclose(network(network.told(views), seen), plain, atol=1e-6)
        for name, view in views.items():
            assert not torch.allclose(network(views | {name: view.flip(2)}, seen), plain, atol=1e-4)
            without = seen & torch.tensor([other != name for other in views])
            blank = network(views | {name: torch.zeros_like(view)}, without)
            assert torch.allclose(network(views, without), blank, atol=1e-5)  # what is not seen says nothing


# ---- places ---------------------------------------------------------------------------------------------------------
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


def test_arguments_of_the_second_level_need_it() -> None:
    with pytest.raises(InputError, match="set along = true"):
        build_network(whole(network_args={"hidden": 8}))


def test_every_parameter_learns_from_its_losses() -> None:
    for args in ({"features": 8}, ALONG):
        network = fixed_weights(build_network(whole(network_args=args))).train()
        found = network(*noise(whole(), 2))
        parts = [found["severity"], found["slice_scores"], *found["heatmaps"].values()]
        sum(nnf.mse_loss(each, torch.ones_like(each)) for each in parts).backward()
        idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        assert not idle


# ---- a first step without labels -------------------------------------------------------------------------------------
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


# ---- the second level -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["slices_along.begins_with="], "slices_along: second_level learns from what the member that it begins with"),
        (["slices_along.image_size=64"], "learns from 'slices_first', which must see the same"),
        (["slices_first.folds=[0]", "slices_along.folds=[0]"], "'slices_first', which trains one fold only"),
        (['slices_along.augment.mix="mixup"'], "second_level looks at answers, not at pictures"),
        (['slices_first.augment.mix="mixup"'], "mixed samples have no label for the loss 'heatmaps'"),
    ],
)
def test_what_a_second_level_cannot_be_is_told(changes: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe(SMALL, [f"stage2.members.{change}" for change in changes])


def test_a_detector_has_no_second_level() -> None:
    with pytest.raises(InputError, match="second_level learns from severities, and a detector has none"):
        load_recipe(SMALL, ["stage1.second_level=true"])


@pytest.mark.slow
def test_a_second_level_learns_from_what_is_said_of_studies_not_seen(tmp_path: Path) -> None:
    """Each study's table is what the network says whose fold held it out; then a person may look at its labels."""
    small_phantoms(tmp_path / "data", 4, 3)
    recipe = one_of_a_kind(SMALL, tmp_path)
    words = ["train", "--recipe", recipe, "--data", tmp_path / "data", "--out", tmp_path / "run"]
    assert train_utils.main([str(word) for word in words]) == 0
    folder, read = RunFolder(tmp_path / "run"), load_recipe(recipe)
    first, second = (read.stage2.members[name] for name in ("slices_first", "slices_along"))
    fold_of = folder.folds().set_index("study_id")["fold"]
    assert set(fold_of) == {0, 1}
    data = open_data(tmp_path / "data")
    for study, own in fold_of.items():
        regions = cut_regions(read_study(data, int(study)), {}, first.spec)
        views, _ = batched(rows_of(regions, first.spec), first.spec)
        said = {}
        for fold in (0, 1):
            network = build_network(first.spec).eval()
            read_weights(network, folder.member("slices_first", fold) / "best.safetensors")
            with torch.inference_mode():
                said[fold] = network.told(views)
        table, _ = read_arrays(folder.cache / "told" / "slices_first" / f"{study}.safetensors")
        for view in SLICES:
            apart = {fold: np.abs(table[view] - said[fold][view][0].numpy()).max() for fold in said}
            assert apart[own] < 0.1 < apart[1 - own]  # images of the cache have eight bits
    before, after = (
        load_tensors(folder.member(name, 0) / "best.safetensors") for name in ("slices_first", "slices_along")
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"along"}
    assert not second.spec.speaks_for
    rows = folder.root / "rows.csv"
    rows.write_text(f"row_id\n{fold_of.index[0]}_spinal_canal_stenosis_l3_l4\n")
    words = ["relabel", "--run", folder.root, "--rows", rows, "--out", tmp_path / "page.html"]
    assert train_utils.main([str(word) for word in words]) == 0
    assert "slices_along" in (tmp_path / "page.html").read_text(encoding="utf-8")
