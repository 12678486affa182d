"""The fifth place's arithmetic: every entry of its recorded numbers against what our public functions reckon.

What differs, and why (`DIFFERS`; docs/systems/fifth_place.md says it at length):

- ends: at the ends of a series the point's own slice shows it wholly, where the original overwrites it by halves.
- edges: near an image's edge a target is the Gaussian that it is elsewhere, which the original's filter mirrors there.
- border: beyond the image its border is repeated, where one team stretches the crop and the other moves its box inside.
- unlabelled: places without a label count nothing, neither in a mean nor for any severe level of a study.
- whole pixels: a box of cutmix may end between pixels, so that its size is up to a pixel another.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from lumbar.grading.regions import Region, cut_region
from lumbar.keypoints.answers import heatmaps
from lumbar.keypoints.answers.reading import Reading
from lumbar.keypoints.candidates import candidates
from lumbar.keypoints.places import Known, stacks_for
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, Level
from lumbar.recipe.augment import Augment
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.settings import Training
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import find_slice
from lumbar.study.standardise import between, grey_ends, resize, slice_values
from lumbar.study.study import Study, open_data, read_study
from lumbar.training.loop import mix, shared_losses, targets
from lumbar.training.loop.detector_losses import LOSSES, Truth
from tests.conftest import ROOT
from tests.support.small_study import sagittal, small_study

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
CANAL: Final = CONDITIONS[0]
LEVEL: Final[Level] = "l3_l4"
#: Entries that agree, and those that differ with the reasons above.
AGREES: Final = {"decode", "eight_bit_cc0_series6_file6"}
DIFFERS: Final = {
    "targets": "ends, edges",
    "crops_siwoo": "border",
    "crops_ahmed": "border",
    "loss": "unlabelled",
    "cutmix_boxes": "whole pixels",
}


@cache
def recorded(entry: str) -> Any:
    path = PARITY / "fifth" / "arithmetic.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the fifth place")
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if not entry else content[entry]


def detector(**fields: Any) -> DetectorSpec:
    whole = {"series_type": "sagittal_t2", "network": "pointer", "depth": True, "place": "whole", "pad": True}
    return DetectorSpec(**{**whole, "image_size": 64, "in_chans": 12, **fields})


def test_every_recorded_entry_is_compared() -> None:
    assert set(recorded("")) == AGREES | DIFFERS.keys()


def test_points_and_those_of_the_slices_beside_are_read_as_recorded() -> None:
    told = recorded("decode")
    grid = np.arange(64.0)
    volume = np.random.RandomState(541).random_sample((1, 2, 12, 64, 64)).astype(np.float32) * 0.5
    for z in range(12):
        one = np.exp(-((grid[None] - 20 - z) ** 2 + (grid[:, None] - 40 + z) ** 2) / 18)
        other = np.exp(-((grid[None] - 50) ** 2 + (grid[:, None] - 10) ** 2) / 18)
        volume[0, 0, z] += 2 * one * 0.5 ** abs(z - 5)
        volume[0, 1, z] += 2 * other * 0.5**z
    reading = heatmaps.read(detector(num_classes=2, preprocessing={"keypoints": "keep"}), volume)
    assert reading.points[0, :, ::-1].tolist() == told["points_zyx"]
    assert reading.trail is not None
    for name, row in enumerate(told["dynamic_z_y9_x9"]):
        z, rows, columns = row[0], row[1:10][2:-2], row[10:][2:-2]  # of nine windows the middle five serve
        for at, offset in enumerate(heatmaps.TRAIL):
            x, y, place = reading.trail[0, name, at]
            if z + offset < 0:
                assert np.isnan([x, y, place]).all()
            else:
                assert (x, y, place) == (columns[offset + 2], rows[offset + 2], z + offset)


def test_a_slice_that_hardly_shows_the_point_tells_no_place() -> None:
    maps = np.zeros((1, 1, 12, 64, 64), np.float32)
    maps[0, 0, 5, 20, 30], maps[0, 0, 4, 21, 31], maps[0, 0, 6, 22, 32] = 0.8, 0.09, 0.11
    trail = heatmaps.read(detector(num_classes=1), maps).trail
    assert trail is not None
    assert np.isnan(trail[0, 0, [0, 1, 3]]).all()
    assert trail[0, 0, 2].tolist() == [32, 22, 6]


@pytest.mark.parametrize("number", range(4))
def test_targets_are_as_recorded_away_from_ends_and_edges(number: int) -> None:
    told = recorded("targets")
    case = told["cases"][number]
    z, y, x = case["point_zyx"]
    spec = detector(num_classes=1, in_chans=10, sigma_px=float(told["sigma"]))
    (volume,) = targets.maps(spec, torch.tensor([[[float(x), float(y)]]]), torch.tensor([[float(z)]]))[0]
    peaks = volume.amax((1, 2)).numpy()
    own = np.maximum(0.5 ** np.abs(np.arange(10.0) - z), 0) * (np.abs(np.arange(10) - z) <= 2)
    np.testing.assert_allclose(peaks, own, atol=1e-6)
    if z in (0, 9):  # differs: ends
        assert case["maximum_per_slice"][z] == 0.125
    else:
        np.testing.assert_allclose(peaks, case["maximum_per_slice"], atol=1e-6)
    row = volume[z, y, ::4].numpy() * case["maximum_per_slice"][z]
    if 16 < x < 48 and 16 < y < 48:
        np.testing.assert_allclose(row, case["row"], atol=2e-3)
        assert volume.sum((1, 2)).numpy() == pytest.approx(case["sum_per_slice"], rel=2e-3)
    else:  # differs: edges
        assert np.abs(row - case["row"]).max() > 2e-3


def test_grey_values_are_the_recorded_ones_before_they_are_cut_to_bytes(cc0_study: Path) -> None:
    told = recorded("eight_bit_cc0_series6_file6")
    data = open_data(cc0_study)
    spec = load_recipe(ROOT / "recipes" / "fifth_place.toml").stage1.members["s_t2"].spec
    found = find_slice(read_study(data, data.study_ids[0]), 6, told["file"])
    assert found is not None
    image = slice_values(found[1], spec.preprocessing)[0]
    assert list(image.shape) == told["shape"]
    two = grey_ends(image, spec.intensity, spec.percentiles)
    assert two == pytest.approx(told["percentiles_1_99"], abs=0.5)
    grey = between(image, two) * 255
    assert np.floor(grey).mean() == pytest.approx(told["mean"], abs=0.1)
    assert np.abs(np.floor(grey[256, ::16]) - told["row256_stride16"]).max() <= 1


def crop(point: tuple[int, int, int]) -> tuple[Region, list[int], np.ndarray]:
    """The crop around a point (z, y, x) of a volume of 256 px, its slices, and the volume of 512 px."""
    volume = np.random.RandomState(542).random_sample((14, 512, 512)).astype(np.float32)
    series = sagittal(count=14, shape=(512, 512), px=0.5)
    study = small_study(sagittal_t2=(series,))
    item, (_, y, x) = series.slices[point[0]], point
    mm = item.affine[:3, :2] @ (2.0 * np.array([x, y])) + item.affine[:3, 3]
    spot = Keypoint(CANAL, LEVEL, 1, item.instance, (2.0 * x, 2.0 * y), tuple(mm.tolist()), 1.0, 0.0, 1.0)  # type: ignore[arg-type]
    share = {"around": "point", "box": "share", "extent": [0.125, 0.125], "intensity": "minmax"}
    spec = GraderSpec(views=["sagittal_t2"], conditions=[CANAL], region=share, image_size=64, slices=5)
    number = {id(each): place for place, each in enumerate(series.slices)}

    def values(each: Any) -> tuple[np.ndarray, np.ndarray]:
        return volume[number[id(each)]], each.affine

    region = cut_region(study, "sagittal_t2", LEVEL, {spot.name: spot}, spec, values)
    assert region is not None
    return region, [number[id(each)] for each in region.slices if each is not None], volume


@pytest.mark.parametrize("number", range(3))
def test_crops_lie_where_the_first_team_cuts_them(number: int) -> None:
    case = recorded("crops_siwoo")["cases"][number]
    region, slices, volume = crop(tuple(case["point_zyx_of_256"]))  # type: ignore[arg-type]
    z0, y0, x0, z1, y1, x1 = case["box_z0y0x0z1y1x1"]
    box = region.boxes[2]
    assert box is not None
    own = [max(0, box[1]), max(0, box[0]), min(512, box[3]), min(512, box[2])]
    assert own == [y0, x0, y1, x1]
    there = [place for place in range(z0, z1) if place < 14]
    if case["cut_shape"] == [5, 64, 64]:
        assert slices == there
        low, high = volume[slices, y0:y1, x0:x1].min(), volume[slices, y0:y1, x0:x1].max()
        pixels = (region.pixels + 1) / 2 * (high - low) + low
        assert pixels.mean() == pytest.approx(case["mean"], abs=1e-4)
        assert pixels.std() == pytest.approx(case["std"], abs=1e-4)
        assert pixels[2, 32, ::8] == pytest.approx(case["slice2_row32_stride8"], abs=1e-4)
    else:  # differs: border
        assert [*dict.fromkeys(slices)] == there
        assert slices.count(there[0]) + slices.count(there[-1]) > 2 or region.padded


@pytest.mark.parametrize("number", range(3))
def test_crops_lie_where_the_second_team_cuts_them(number: int) -> None:
    case = recorded("crops_ahmed")["cases"][number]
    region, slices, _ = crop(tuple(case["point_zyx_of_256"]))  # type: ignore[arg-type]
    assert slices == case["slices"]
    box = region.boxes[2]
    assert box is not None
    if min(box[:2]) >= 0 and max(box[2:]) <= 512:
        assert [*box] == [case["columns"][0], case["rows"][0], case["columns"][1], case["rows"][1]]
    else:  # differs: border; theirs is moved inside, and as large
        assert region.padded
        assert [box[2] - box[0], box[3] - box[1]] == [64, 64]
        for (start, end), low, high in zip((case["columns"], case["rows"]), box[:2], box[2:], strict=True):
            assert (start, end) == (low, high) or low < 0 or high > 512


def test_every_slice_may_be_cut_around_the_point_that_it_shows() -> None:
    """From maps to the pixels of the region: the detector's answer on each slice moves the box there."""
    paint = lambda mm: 100 + 10 * mm[..., 1] + mm[..., 2]  # noqa: E731
    study = small_study(sagittal_t2=(sagittal(count=9, shape=(96, 96), px=2.0, paint=paint),))
    spec = detector(num_classes=5, image_size=96, in_chans=9)
    (stack,), _ = stacks_for(study, spec, Known())
    points, untold = np.full((1, 5, 3), np.nan), np.full((1, 5), 0.5)
    trail = np.full((1, 5, len(heatmaps.TRAIL), 3), np.nan)
    points[0, 2] = 40, 50, 4
    trail[0, 2, 0], trail[0, 2, 2] = (30, 44, 2), (43, 52, 5)
    reading = Reading(points, untold, untold, untold, trail=trail)
    found = next(each for each in candidates([stack], reading, spec, Known()) if each.name == (CANAL, LEVEL))
    point = found.keypoint()
    assert point.trail == ((3, 30.0, 44.0), (6, 43.0, 52.0))
    share = {"around": "point", "extent": [42.0, 42.0]}
    boxes = {}
    for follow in (False, True):
        region = {**share, "follow": follow}
        grader = GraderSpec(views=["sagittal_t2"], conditions=[CANAL], region=region, image_size=32, slices=5)
        cut = cut_region(study, "sagittal_t2", LEVEL, {point.name: point}, grader)
        assert cut is not None
        boxes[follow] = np.array(cut.boxes)[:, :2] - np.array(cut.boxes)[2, :2]
    assert not boxes[False].any()
    assert boxes[True].tolist() == [[-10, -6], [0, 0], [0, 0], [3, 2], [0, 0]]


def of_groups(logits: torch.Tensor, labels: torch.Tensor, *, weighted: bool) -> list[tuple[float, float]]:
    """Sum and weight of our loss a group of conditions; 25 places in label order."""
    found = []
    for names in CONDITION_GROUPS.values():
        places = [5 * CONDITIONS.index(name) + level for name in names for level in range(5)]
        total, weight = shared_losses.severity_loss(
            logits[:, places], labels[:, places].contiguous(), weighted=weighted
        )
        found.append((float(total), float(weight)))
    return found


def test_losses_are_the_recorded_ones_where_every_place_has_a_label() -> None:
    told = recorded("loss")
    logits = torch.from_numpy(np.random.RandomState(544).standard_normal((6, 25, 3)).astype(np.float32))
    labels = torch.tensor(told["labels"])
    labels = torch.where(labels < 0, shared_losses.EMPTY, labels)
    studies = torch.arange(6).repeat_interleave(5)
    weighted = [total / weight for total, weight in of_groups(logits, labels, weighted=True)]
    assert np.mean(weighted) == pytest.approx(told["loss"]["step1_ahmed"], rel=1e-5)
    places = [6 * 5, 6 * 10, 6 * 10]  # theirs, unlabelled ones among them
    plain = of_groups(logits, labels, weighted=False)
    over_all = [total / count for (total, _), count in zip(plain, places, strict=True)]
    assert np.mean(over_all) == pytest.approx(told["loss"]["step1_siwoo"], rel=1e-5)
    assert np.mean([total / weight for total, weight in plain]) > told["loss"]["step1_siwoo"]  # differs: unlabelled
    canal, truth = logits[:, :5].flatten(0, 1), labels[:, :5].flatten()
    total, weight = shared_losses.any_severe_loss(canal, truth, studies)
    assert (sum(weighted) + float(total / weight)) / 4 != pytest.approx(told["loss"]["step2_both"], rel=1e-4)
    # theirs: an unlabelled level may hold the largest probability, and counts as one that is not severe
    largest = canal.softmax(-1)[:, 2].view(6, 5).amax(1)
    rows = torch.tensor([[1.0, 2, 4]])[0][truth.clamp_min(0)].where(truth >= 0, 0).view(6, 5).amax(1)
    severe = (truth.view(6, 5) == 2).any(1).float()
    each = torch.nn.functional.binary_cross_entropy(largest, severe, reduction="none")
    theirs = float((each * rows).sum() / rows.sum())
    assert (sum(weighted) + theirs) / 4 == pytest.approx(told["loss"]["step2_both"], rel=1e-5)


class _Drawn:
    """A generator whose numbers are given."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def random(self, count: int) -> np.ndarray:
        assert count == len(self.numbers)
        return self.numbers


def test_boxes_of_cutmix_are_the_recorded_ones_within_a_pixel() -> None:
    np.random.seed(545)  # noqa: NPY002 (the record's own)
    for share, *told in recorded("cutmix_boxes")["lam_y1_y2_x1_x2"]:
        middle = np.array([np.random.randint(128), np.random.randint(128)])  # noqa: NPY002
        box = mix.draw_box(_Drawn(middle / 128), share, Augment(mix="cutmix"))  # type: ignore[arg-type]
        top, left, bottom, right = box * 128
        assert np.abs(np.array([top, bottom, left, right]) - told).max() <= 1
        kept = 1 - float(mix.inside(torch.from_numpy(box)[None], 128, 128).float().mean())
        assert kept == pytest.approx(1 - (told[1] - told[0]) * (told[3] - told[2]) / 128**2, abs=0.02)


def test_one_box_is_cut_from_all_crops_and_slices_of_a_study() -> None:
    box = {mix.SHARE: torch.tensor([0.5]), mix.BOX: torch.tensor([[0.25, 0.0, 0.75, 0.5]])}
    mixed, kept = mix.images(torch.zeros(1, 5, 5, 1, 8, 8), torch.ones(1, 5, 5, 1, 8, 8), box)
    assert float(kept) == 0.75
    assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
    assert mixed[0, 0, 0, 0, 2:6, :4].all()


def test_maps_are_asked_for_names_of_the_study_on_slices_that_are_there() -> None:
    """The mean over pairs of name and slice, of the maps and of the slices' scores alike."""
    spec = detector(num_classes=3, in_chans=4, image_size=32)
    torch.manual_seed(0)
    logits, scores = torch.randn(2, 3, 4, 32, 32), torch.randn(2, 3, 4)
    points = torch.tensor([[[9.0, 9], [torch.nan, torch.nan], [torch.nan, torch.nan]]]).expand(2, 3, 2)
    slices = torch.tensor([[1.0, torch.nan, torch.nan]]).expand(2, 3)
    told = torch.tensor([[1, 1, 0]]).expand(2, 3)  # the second is labelled on another series, the third nowhere
    there = torch.tensor([[True, True, True, False], [True, True, False, False]])
    truth = Truth(spec, Training(), points, slices, told, there)
    outputs = {"answer": logits.sigmoid(), "logits": logits, "slice_scores": scores}
    total, weight = LOSSES["heatmaps"]["bce"](outputs, truth)
    wanted, along = targets.maps(spec, points, slices), targets.along_slices(slices, 4)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    pairs = [(b, name, at) for b, count in enumerate((3, 2)) for name in (0, 1) for at in range(count)]
    each = [entropy(logits[pair], wanted[pair]) + entropy(scores[pair], along[pair]) for pair in pairs]
    assert float(weight) == len(pairs) == 10
    assert float(total) == pytest.approx(float(sum(each)), rel=1e-5)


@pytest.mark.parametrize("name", ["fifth_place", "small/fifth_place"])
def test_the_fifth_place_small_and_large_has_the_same_parts(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml")
    assert len(recipe.stage1.sets) == 2
    detectors = [member.spec for member in recipe.stage1.members.values()]
    assert {(spec.network, spec.depth, spec.placed, spec.shows) for spec in detectors} == {
        ("pointer", True, "whole", "series")
    }
    pointers = {(spec.series_type, spec.network_args.get("pointer", "lstm")) for spec in detectors}
    assert pointers == {
        ("sagittal_t2", "lstm"),
        ("sagittal_t1", "lstm"),
        ("axial_t2", "lstm"),
        ("axial_t2", "transformer"),
    }
    graders = recipe.stage2.bundled()
    assert {member.spec.network_args.get("sequence", "features") for member in graders.values()} == {
        "features",
        "skip",
        "slices",
    }
    for member in graders.values():
        training = member.training
        assert training.fresh == ("heads",)
        assert "encoders" in training.frozen
        assert {*training.loss} == {"severity", "any_severe"}
        before = recipe.stage2.members[training.begins_with]
        assert not before.training.bundled
        assert "any_severe" not in before.losses
        assert (training.augment.mix, training.augment.mix_p, training.augment.mix_alpha) == ("cutmix", 1, 4)
    assert {spec.levels for spec in (member.spec for member in graders.values())} == {"all"}


def test_a_whole_series_is_read_slice_by_slice_in_greys_of_its_own() -> None:
    """Longer ones brought to so many slices, shorter ones followed by empty ones."""
    spec = load_recipe(ROOT / "recipes" / "fifth_place.toml").stage1.members["s_t2"].spec
    for count in (11, 40):
        study = Study(1, {"sagittal_t2": (sagittal(count=count),)})
        (stack,), _ = stacks_for(study, spec, Known())
        assert stack.pixels.shape == (32, 256, 256)
        there = stack.pixels.any((1, 2))
        assert there.tolist() == [place < count for place in range(32)]
        assert stack.pixels[there].min((1, 2)).tolist() == [0] * int(there.sum())
        assert stack.pixels[there].max((1, 2)).tolist() == [1] * int(there.sum())
    item = sagittal(count=11).slices[3]
    (stack,), _ = stacks_for(Study(1, {"sagittal_t2": (sagittal(count=11),)}), spec, Known())
    image = resize(slice_values(item, spec.preprocessing)[0], 256)
    np.testing.assert_allclose(stack.pixels[3], between(image, grey_ends(image, "percentile", (1.0, 99.0))))
