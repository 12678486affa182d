"""The first place's arithmetic: every entry of its recorded numbers against what our public functions reckon.

What differs, and why (`DIFFERS`; docs/systems/first_place.md says it at length):

- grey values: detectors see 0 to 1 by percentiles of the resized slices, graders -1 to 1; the same picture.
- pixels: images are resized by cubic interpolation without smoothing, the original's bilinearly with it.
- series: one series of a type is seen, not several of different contrast in turn, which doubles the depth.
- sides: the left foramen's usual slice is the mirror image of the right one's; of several finders those that name a
  slice beyond the series are left out of the median, which they would draw to one side.
- halves: midway between two slices the one nearer to the middle counts, not the even one.
- stretched: a place on a stack of 32 means the slice that it shows, where the original rounds place x n / 32.
- centre: a box lies around the middle of its pixel, not its corner (`box_origin`): up to one pixel.
- stacks: axial windows stay inside their stack of parallel slices; those of the next show another level. They run from
  the feet to the head, as everywhere here.
- border: beyond the image its border is repeated, where the original's crop is shorter and so stretched.
- both: the canal's axial crop lies between both recesses, where the original draws a side by lot and moves it inwards.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from lumbar import geometry
from lumbar.dicom.series import Series
from lumbar.ensemble.average import blend
from lumbar.grading.regions import Region, cut_region
from lumbar.keypoints.answers.reading import Reading
from lumbar.keypoints.candidates import Candidate, candidates, surest, within_series
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.spans import nearest_index
from lumbar.labels import LEVELS, Condition
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.study.keypoint import Keypoint, SlicePlace
from lumbar.study.levels import axial_slices, nearest_slice
from lumbar.study.standardise import grey_ends, resize, slice_values
from lumbar.study.study import Study, open_data, read_study
from lumbar.training.loop.shared_losses import severity_loss, slice_loss
from tests.conftest import ROOT
from tests.support.small_study import sagittal

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
CANAL: Final[Condition] = "spinal_canal_stenosis"
#: Our means of resized pictures against the original's, and single pixels of them.
MEAN, PIXEL = 6e-3, 0.02
#: Entries that agree, and those that differ with the reasons above.
AGREES: Final = {"projection", "coordinate_input_T2", "ensemble", "loss"}
DIFFERS: Final = {
    "depth_volume": "pixels, series",
    "depth_decode": "sides, halves",
    "severity_crops": "pixels, centre, stacks, border, both",
}
#: What only tells of others.
GIVEN: Final = {"note", "given_axial_points_normalised"}


@cache
def recorded(entry: str) -> Any:
    path = PARITY / "first" / "geometry.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the first place")
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if not entry else content[entry]


@pytest.fixture(scope="module")
def study(cc0_study: Path) -> Study:
    data = open_data(cc0_study)
    return read_study(data, data.study_ids[0])


@cache
def recipe() -> Any:
    return load_recipe(ROOT / "recipes" / "first_place.toml")


def detector(name: str) -> DetectorSpec:
    spec = recipe().stage1.members[name].spec
    assert isinstance(spec, DetectorSpec)
    return spec


def test_every_recorded_entry_is_compared() -> None:
    assert set(recorded("")) == AGREES | DIFFERS.keys() | GIVEN


@pytest.mark.parametrize(("name", "member"), [("series_6", "t2_slices"), ("series_7", "t1_slices")])
def test_a_volume_has_the_recorded_slices_and_grey_values(study: Study, name: str, member: str) -> None:
    told = recorded("depth_volume")[name]
    (stack,), _ = stacks_for(study, detector(member), Known())
    shown = [[stack.series.series_id, item.instance] for item in stack.window.slices if item is not None]
    assert shown == told["order_series_instance"]
    assert list(stack.pixels.shape) == told["shape"]
    assert stack.pixels.mean((1, 2)) == pytest.approx(told["mean_per_slice"], abs=MEAN)
    for key, value in told.items():
        if key.startswith("probe"):
            assert stack.pixels[tuple(json.loads(key.removeprefix("probe_")))] == pytest.approx(value, abs=PIXEL)
    slices = [slice_values(item, detector(member).preprocessing)[0] for item in stack.series.slices]
    low, high = grey_ends(np.stack([resize(image, 384) for image in slices]), "percentile", (1.0, 99.0))
    assert low == pytest.approx(told["quantiles_1_99"][0], abs=1)
    assert high == pytest.approx(told["quantiles_1_99"][1], rel=0.02)


def test_series_of_different_contrast_are_not_mixed(study: Study) -> None:
    told = recorded("depth_volume")["series_6_and_12"]["order_series_instance"]
    (stack,), _ = stacks_for(study, detector("t2_slices"), Known())
    assert len({number for number, _ in told}) == 2
    assert {item.instance for item in stack.window.slices if item is not None} == {place for _, place in told}
    assert stack.series.series_id == 6


def said(series: Series, spec: DetectorSpec, places: list[float]) -> list[Candidate]:
    """What fifteen finders say of every name on a series, joined, beyond its end put back."""
    (stack,), _ = stacks_for(Study(1, {spec.series_type: (series,)}), spec, Known())
    found = []
    for place in places:
        points = np.full((1, spec.num_classes, 3), np.nan)
        points[..., 2] = place
        untold = np.full(points.shape[:2], np.nan)
        found.append(candidates([stack], Reading(points, np.ones(points.shape[:2]), untold, untold), spec, Known()))
    return within_series(surest(Study(1, {spec.series_type: (series,)}), found, spec.join))[0]


def test_fifteen_finders_agree_on_their_median() -> None:
    told = recorded("depth_decode")
    spec, places = detector("t2_slices"), told["fifteen_predictions"]
    assert np.median(places) == told["median"]
    for count in (11, 40):
        each = said(sagittal(count=count), spec, places)[0]
        assert each.instance == sagittal(count=count).slices[told[f"index_in_{count}_slices"]].instance


def test_a_slice_beyond_the_series_gives_way_to_the_usual_one() -> None:
    told = recorded("depth_decode")["predicted_12.0_in_11_slices"]
    found = {
        each.name[0]: each for kind in ("t2", "t1") for each in said(sagittal(), detector(f"{kind}_slices"), [12.0])
    }
    numbers = [item.instance for item in sagittal().slices]
    assert numbers.index(found[CANAL].instance) == told["scs"]
    assert numbers.index(found["right_neural_foraminal_narrowing"].instance) == told["right"]
    left = numbers.index(found["left_neural_foraminal_narrowing"].instance)
    assert left == 10 - told["right"]  # differs: sides
    assert abs(left - told["left"]) == 1


def test_halves_go_to_the_slice_nearer_to_the_middle() -> None:
    told = recorded("depth_decode")["round_is_half_to_even"]
    differ = [float(place) for place, even in told.items() if nearest_index(float(place), 11) != even]
    assert differ == [2.5, 4.5]  # nearer to the middle of eleven are 3 and 5


def test_canal_points_lead_to_the_recorded_axial_slices(study: Study) -> None:
    spec = detector("axial_points")
    for told in recorded("projection").values():
        item = study.series["sagittal_t2"][0].slices[told["slice_index"]]
        assert item.instance == told["instance"]
        mm = geometry.to_patient(item.affine, np.array(told["pixel"], np.float64))
        assert mm == pytest.approx(told["world"], abs=1e-4)
        found, away = nearest_slice(axial_slices(study, spec.preprocessing), mm, spec.max_plane_distance_mm)
        assert found is not None
        assert found[1].instance == told["nearest_axial_instance"]
        assert away == pytest.approx(told["distance_mm"], abs=1e-4)


def test_points_are_sought_around_the_median_slice(study: Study) -> None:
    told = recorded("coordinate_input_T2")
    names = [(CANAL, level) for level in LEVELS]
    each = zip(names, recorded("projection").values(), strict=True)
    places = {name: SlicePlace(*name, 6, entry["instance"], 1.0) for name, entry in each}
    (stack,), _ = stacks_for(study, detector("t2_points"), Known(slices=places))
    order = [item.instance for item in stack.series.slices]
    middle = told["index"][0]
    assert [order.index(item.instance) for item in stack.window.slices if item] == [middle - 1, middle, middle + 1]
    assert list(stack.pixels.shape) == told["shape"]
    assert stack.pixels.mean((1, 2)) == pytest.approx(told["mean_per_channel"], abs=MEAN)


def crop(study: Study, name: str, told: Any, box_origin: str) -> tuple[Region, list[int]]:
    """The crop of that name as our region, and which slices of its series it shows, in the original's order."""
    of, _, level = (name.removesuffix("_point") if "edge" in name else name).rpartition("_")
    axial = "axial" in of
    series = study.series["axial_t2" if axial else "sagittal_t1" if "T1" in of else "sagittal_t2"][0]
    slices = sorted(series.slices, key=lambda item: -item.affine[2, 3]) if axial else list(series.slices)
    side = "right" if "right" in of else "left"
    view, condition, member = {
        "scs_sag": ("sagittal_t2", CANAL, "spinal_convnext"),
        "scs_axi": ("axial_middle", f"{side}_subarticular_stenosis", "spinal_convnext"),
        "nfn_sag": (f"sagittal_t1_{side}", f"{side}_neural_foraminal_narrowing", "foraminal_convnext"),
        "ss_axia": (f"axial_{side}", f"{side}_subarticular_stenosis", "subarticular_convnext"),
    }[of[:7]]
    spec = recipe().stage2.members[member].spec
    assert isinstance(spec, GraderSpec)
    changed = {"box_origin": box_origin, "side_order": "patient"}
    spec = spec.model_copy(
        update={"mirror_right": False, "preprocessing": spec.preprocessing.model_copy(update=changed)}
    )
    item = slices[told["slices"][2]]
    mm = geometry.to_patient(item.affine, np.array(told["point_px"], np.float64))
    where = next((each for each in LEVELS if each == level.replace("/", "_").lower()), LEVELS[0])
    x, y = (float(value) for value in told["point_px"])
    place = (float(mm[0]), float(mm[1]), float(mm[2]))
    point = Keypoint(condition, where, series.series_id, item.instance, (x, y), place, 1.0, 0.0, 1.0)  # type: ignore[arg-type]
    region = cut_region(study, view, where, {point.name: point}, spec)  # type: ignore[arg-type]
    assert region is not None
    number = {id(each): place for place, each in enumerate(slices)}
    return region, [number[id(each)] for each in region.slices if each is not None]


def test_crops_lie_where_the_original_cuts_them(study: Study) -> None:
    for name, told in recorded("severity_crops").items():
        for box_origin, most in (("corner", 0), ("centre", 1)):  # centre: differs by a pixel
            region, slices = crop(study, name, told, box_origin)
            box = region.boxes[len(region.boxes) // 2]
            assert box is not None
            top, bottom, left, right = told["box_top_bottom_left_right_in_512"]
            own = box[1], box[3], box[0], box[2]
            if "edge" in name:  # differs: beyond the border ours goes on
                assert (max(0, own[0]), max(0, own[2])) == (top, left)
            away = np.array(own) - (top, bottom, left, right)
            assert np.abs(away[[1, 3]] if "edge" in name else away).max() <= most
        assert list(region.pixels.shape) == told["out_shape"]
        if "axial" not in name:
            assert slices == told["slices"]
        else:  # differs: those of the point's own stack, from the feet to the head
            assert slices[2] == told["slices"][2]
            assert (np.diff(slices) <= 0).all()
        if "edge" not in name:
            same = [place for place, number in enumerate(slices) if number in told["slices"]]
            means = (region.pixels.mean((1, 2)) + 1) / 2
            for place in same:
                of = told["slices"].index(slices[place])
                assert means[place] == pytest.approx(told["mean_per_slice"][of], abs=MEAN), (name, place)


def test_members_are_averaged_as_probabilities() -> None:
    told = recorded("ensemble")
    logits = torch.tensor(told["logits_of_three_members"], dtype=torch.float64)
    each = logits.softmax(-1).numpy()[:, None, None]
    found, _ = blend(each, np.full((1, 1, 3), 1 / 3), "mean")
    assert found[0, 0] == pytest.approx(told["mean_of_softmax"], abs=1e-6)


def test_losses_are_those_of_the_adapted_training() -> None:
    """The recipe's weights: half the answer and half the mean of both views; the annotated slice once a view."""
    told, mean = recorded("loss"), lambda parts: float(parts[0] / parts[1])
    main, axial, sagittal_ = (
        torch.from_numpy(np.random.RandomState(seed).standard_normal((5, 3))) for seed in (96, 97, 98)
    )
    labels = torch.tensor([0, 2, 1, 0, 0])
    assert mean(severity_loss(main, labels)) == pytest.approx(told["main"], rel=1e-5)
    views = severity_loss(torch.stack([axial, sagittal_], 1), labels[:, None].expand(5, 2).contiguous())
    weights = recipe().stage2.members["spinal_convnext"].training.loss
    both = weights["severity"] * mean(severity_loss(main, labels)) + weights["views"] * mean(views)
    assert both == pytest.approx(told["with_two_auxiliary"], rel=1e-5)
    scores = torch.from_numpy(np.random.RandomState(99).standard_normal((5, 5)))
    marked = torch.nn.functional.one_hot(torch.tensor([2, 3, 1, 2, 2]), 5)
    assert mean(slice_loss(scores, marked)) == pytest.approx(told["slice_ce"], rel=1e-5)
