"""What detectors say, of every kind: shapes, members joined, readings; and the numbers of the systems that said so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lumbar.keypoints.answers import heatmaps
from lumbar.keypoints.answers.registry import ANSWERS, answer_of
from lumbar.labels import LEVELS
from lumbar.recipe.answers import DECODES
from lumbar.recipe.detector import DetectorSpec

PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity"
SIZE = 64
SPECS = {
    "heatmaps": {},
    "heatmaps of stride 4": {"stride": 4},
    "heatmaps with slices": {"depth": True, "stride": 2},
    "points": {"answer": "points"},
    "points with slices": {"answer": "points", "depth": True},
    "slices": {"answer": "slices"},
    "slices by change": {"answer": "slices", "decode": "change", "in_chans": 12},
    "boxes": {"answer": "boxes", "stride": 4},
}


def spec_of(**fields: object) -> DetectorSpec:
    return DetectorSpec(**{"series_type": "sagittal_t2", "image_size": SIZE, "in_chans": 6, "sigma_px": 4.0, **fields})


def recorded(name: str, entry: str) -> dict[str, object]:
    path = PARITY / name
    if not path.is_file():
        pytest.skip(f"{path} is not here: recorded numbers of the other systems")
    return json.loads(path.read_text(encoding="utf-8"))[entry]


@pytest.mark.parametrize("name", SPECS)
def test_an_answer_of_every_kind_is_joined_and_read(name: str) -> None:
    spec = spec_of(**SPECS[name])
    answer, rng = answer_of(spec), np.random.default_rng(0)
    members = [rng.random((3, *answer.shape(spec)), np.float32) for _ in range(3)]
    members[1][0, 1] = np.nan  # one member says nothing of one name
    for raw in members:
        raw[2, 2] = np.nan  # nobody says anything of another
    for how in ("mean", "median"):
        joined = answer.join(members, how)
        tensors = answer.join([torch.from_numpy(raw) for raw in members], how)
        assert np.array_equal(joined, tensors.numpy(), equal_nan=True)
        assert joined.shape == members[0].shape
        assert np.isnan(joined[2, 2]).all()
        assert joined[0, 1] == pytest.approx((members[0][0, 1] + members[2][0, 1]) / 2)
    reading = answer.read(spec, joined)
    assert reading.points.shape == (3, spec.num_classes, 3)
    assert ((reading.confidence >= 0) & (reading.confidence <= 1)).all()
    gone = ~reading.found
    assert gone[2].all() if name == "slices by change" else gone[2, 2]
    assert not reading.confidence[gone].any()
    if name != "slices by change":
        assert np.count_nonzero(gone) == 1


def test_every_word_of_a_recipe_has_its_file() -> None:
    assert set(ANSWERS) == set(DECODES)
    for word, decodes in DECODES.items():
        for decode in decodes:
            own = {"series_type": "axial_t2", "num_classes": 2} if decode == "pair" else {}
            spec = spec_of(answer=word, decode=decode, depth=decode == "slice", **own)
            assert answer_of(spec).shape(spec)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"answer": "points", "decode": "sums"},
            "decode = 'sums' does not read points, which take one of place, slice",
        ),
        ({"answer": "slices", "decode": "box"}, "take one of maximum, expectation, change"),
        ({"answer": "points", "decode": "slice"}, "reads the slice of points; set depth = true"),
        ({"decode": "pair"}, 'reads left and right of an axial level together; it needs series_type = "axial_t2"'),
        ({"percentiles": (2.0, 98.0)}, 'percentiles hold for intensity = "percentile" only'),
        ({"intensity": "percentile", "percentiles": (5.0, 5.0)}, "must rise"),
        ({"answer": "slices", "depth": True}, "depth = true is for heatmaps and points"),
        ({"answer": "points", "stride": 2}, "stride = 2 is for heatmaps and boxes"),
        ({"stride": 5}, "does not divide image_size = 64"),
        ({"answer": "boxes", "target": "disc"}, "target = 'disc' is for heatmaps"),
        ({"answer": "slices", "decode": "change", "num_classes": 2}, "num_classes 5, or twice"),
        ({"depth": True, "in_chans": 256, "image_size": 1024, "num_classes": 10}, "in_chans = .* numbers"),
    ],
)
def test_answers_that_make_no_sense_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec_of(**fields)


def test_a_spec_of_before_is_written_as_before() -> None:
    assert not {"decode", "target", "stride", "depth", "answer"} & set(spec_of().model_dump())


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_maps_of_any_stride_name_the_same_pixel(stride: int) -> None:
    spec, point = spec_of(stride=stride), np.array([37.3, 21.6])
    maps = heatmaps.gaussian_heatmaps((point + 0.5) / stride - 0.5, spec.map_size, spec.sigma_px / stride)
    reading = heatmaps.read(spec, maps[None].astype(np.float32))
    assert reading.points[0, 0, :2] == pytest.approx(point, abs=0.1 * stride)
    assert np.isnan(reading.points[0, 0, 2])
    assert reading.spread_px[0, 0] == pytest.approx(4.0, rel=0.15)
    assert reading.confidence[0, 0] > 0.8


def test_a_map_with_slices_names_the_slice_of_its_peak() -> None:
    spec = spec_of(depth=True, preprocessing={"keypoints": "keep"})
    flat = heatmaps.gaussian_heatmaps(np.array([[10, 50], [40, 20]]), SIZE, 4.0)
    maps = flat[:, None] * np.array([0, 0.25, 0.5, 1, 0.5, 0.25], np.float32)[:, None, None]
    maps[1] = maps[1, ::-1]
    assert heatmaps.read(spec, maps[None]).points[0].tolist() == [[10, 50, 3], [40, 20, 2]]


def test_maps_read_as_before_are_todays_first_maxima() -> None:
    spec = spec_of(preprocessing={"keypoints": "keep"})
    maps = np.random.default_rng(1).random((2, 5, SIZE, SIZE), np.float32)
    xy, peak, spread = heatmaps.decode(maps)
    reading = heatmaps.read(spec, maps)
    assert np.array_equal(reading.points[..., :2], xy)
    assert np.array_equal(reading.peak, peak)
    assert np.array_equal(reading.spread_px, spread)
    assert np.array_equal(reading.confidence, heatmaps.confidence(peak, spread, 4.0))


def test_flat_maps_and_maps_without_numbers_are_left_out_unless_every_one_counts() -> None:
    good = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
    flat, broken = np.full_like(good, 3.0), np.full_like(good, np.inf)
    assert np.array_equal(heatmaps.join([good, flat, broken]), good)
    assert np.array_equal(heatmaps.join([good, flat, broken], every=True), (good + flat) / 2)
    assert np.isnan(heatmaps.join([flat])).all()


def test_points_are_shares_and_sure_where_they_lie_in_the_stack() -> None:
    spec = spec_of(answer="points", depth=True)
    reading = answer_of(spec).read(spec, np.array([[[0.25, 0.5, 0.5], [0.5, 0.5, 1.0], [1.2, 0.5, 0.0]]], np.float32))
    assert reading.points[0].tolist() == [[16, 32, 3], [32, 32, 5], [pytest.approx(76.8), 32, 0]]
    assert reading.confidence[0].tolist() == [1, 1, 0]


def test_of_points_with_depth_the_slice_alone_can_count() -> None:
    """The first place's: where the point lies in the picture is left to networks that see the slice."""
    spec = spec_of(answer="points", depth=True, decode="slice")
    reading = answer_of(spec).read(spec, np.array([[[0.25, 0.5, 0.5], [0.5, 0.5, 0.91]]], np.float32))
    assert reading.points[0, :, 2] == pytest.approx([3, 5])
    assert np.isnan(reading.points[..., :2]).all()
    assert reading.found.all()
    assert not spec.says_places


def test_slices_are_named_by_maximum_and_by_expectation() -> None:
    scores = np.log(np.array([[[0.1, 0.2, 0.5, 0.1, 0.05, 0.05], [1e-9, 1e-9, 1e-9, 0.5, 0.5, 1e-9]]], np.float32))
    maximum = spec_of(answer="slices")
    assert answer_of(maximum).read(maximum, scores).points[0, :, 2].tolist() == [2, 3]
    assert answer_of(maximum).read(maximum, scores).confidence[0] == pytest.approx([0.5, 0.5], abs=1e-6)
    expected = spec_of(answer="slices", decode="expectation")
    reading = answer_of(expected).read(expected, scores)
    assert reading.points[0, :, 2] == pytest.approx([1.95, 3.5], abs=1e-6)
    assert reading.confidence[0] == pytest.approx([0.7, 1.0], abs=1e-6)


def test_a_box_is_its_best_cell_moved_by_the_offset() -> None:
    spec = spec_of(answer="boxes", stride=4)
    raw = np.zeros((1, 5, 5, 16, 16), np.float32)
    raw[0, :, 0, 3, 7] = 0.9
    raw[0, :, 1:, 3, 7] = [0.25, -0.5, 20, 12]
    reading = answer_of(spec).read(spec, raw)
    assert reading.points[0, 0, :2].tolist() == [(7.25 + 0.5) * 4 - 0.5, (2.5 + 0.5) * 4 - 0.5]
    assert reading.size_px is not None
    assert reading.size_px[0, 0].tolist() == [20, 12]
    assert reading.confidence[0, 0] == pytest.approx(0.9)


def test_the_third_places_boxes_of_high_pixels_are_read() -> None:
    entry = recorded("third/geometry.json", "heatmap_decode")
    rng, side = np.random.RandomState(71), 190
    grid = np.arange(side, dtype=np.float64)
    maps = []
    for x, y in ((95.3, 57.8), (94, 80.2), (93.5, 100), (95, 121.4), (102.2, 3)):
        blob = np.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / 50)
        maps.append((blob + 0.01 * rng.rand(side, side)).astype(np.float32))
    spec = spec_of(image_size=380, stride=2, decode="box")
    found = (heatmaps.read(spec, np.stack(maps)[None]).points[0, :, :2] + 0.5) / 380
    assert found == pytest.approx(np.array(list(entry["normalised"].values())), abs=1e-6)


def test_the_third_places_targets_are_ours_of_that_width() -> None:
    entry = recorded("third/geometry.json", "gaussian_target")
    for name, stride, sigma in (("sagittal_stride2", 2, 41 / 6 * 2), ("axial_stride4", 4, 21 / 6 * 4)):
        spec = spec_of(image_size=380, stride=stride, sigma_px=sigma)
        (x, y), *_ = entry[name]["centres_map_px"]
        (own,) = heatmaps.gaussian_heatmaps(np.array([[x, y]]), spec.map_size, spec.sigma_px / stride)
        assert own[y, x + 5] == pytest.approx(entry[name]["at_centre_plus_5_x"], abs=1e-6)


def test_the_fourth_places_sums_are_read() -> None:
    entry = recorded("fourth/arithmetic.json", "decode_tattaka")
    grid = np.arange(64.0)

    def blob(x: float, y: float, two_variances: float) -> np.ndarray:
        return np.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / two_variances)

    peaks = ((30, 8, 3, 0.9), (29.4, 20.6, 4, 0.8), (27, 33, 3, 0.29), (26, 45, 5, 0.6), (28, 57, 2, 0.95))
    maps = np.stack([a * blob(x, y, 2 * s * s) + 0.01 for x, y, s, a in peaks])
    maps[3] += 0.5 * blob(50, 44, 18)
    reading = heatmaps.read(spec_of(decode="sums"), maps[None].astype(np.float32))
    truth = np.array(entry["keypoints_xy"])
    assert reading.found[0].tolist() == (truth[:, 0] >= 0).tolist() == [True, True, False, True, True]
    assert reading.points[0, reading.found[0], :2] / 64 == pytest.approx(truth[truth[:, 0] >= 0])
    assert reading.confidence[0, 2] == 0


def test_the_fourth_places_levels_lie_where_the_class_changes() -> None:
    entry = recorded("fourth/arithmetic.json", "axial_level_slices")
    spec = spec_of(series_type="axial_t2", num_classes=10, in_chans=12, answer="slices", decode="change")
    scores = np.log(np.maximum(np.array(entry["probabilities"]), 1e-30)).T[None].astype(np.float32)
    reading = answer_of(spec).read(spec, scores)
    kept = np.array(entry["kept"])
    assert reading.found[0].tolist() == [*kept, *kept]
    assert reading.points[0, : len(LEVELS), 2][kept].tolist() == np.array(entry["index"])[kept].tolist()
    assert np.array_equal(reading.points[0, :5], reading.points[0, 5:], equal_nan=True)


def test_the_fifth_places_volumes_are_read_at_their_first_maximum() -> None:
    entry = recorded("fifth/arithmetic.json", "decode")
    grid, volume = (
        np.arange(64.0),
        np.random.RandomState(541).random_sample((1, 2, 12, 64, 64)).astype(np.float32) * 0.5,
    )
    for z in range(12):
        one = np.exp(-((grid[None] - 20 - z) ** 2 + (grid[:, None] - 40 + z) ** 2) / 18)
        other = np.exp(-((grid[None] - 50) ** 2 + (grid[:, None] - 10) ** 2) / 18)
        volume[0, 0, z] += 2 * one * 0.5 ** abs(z - 5)
        volume[0, 1, z] += 2 * other * 0.5**z
    spec = spec_of(num_classes=2, in_chans=12, depth=True, preprocessing={"keypoints": "keep"})
    assert heatmaps.read(spec, volume).points[0, :, ::-1].tolist() == entry["points_zyx"]
