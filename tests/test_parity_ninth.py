"""The original ninth-place system, number for number, on one real study with rule-made weights.

Recorded results stand in ../shared/parity (its README gives the rules); files, boxes and argmax must agree exactly,
tensors and probabilities to 1e-4. Everything runs through `recipes/ninth_place_exact.toml`.
"""

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED

from lumbar import geometry
from lumbar.bundle.convert.original import ORIGINALS, own_keys
from lumbar.bundle.network import blueprint, unfilled
from lumbar.ensemble.average import blend
from lumbar.grading.grade import grade, rows_of, softmax
from lumbar.grading.regions import Regions, cut_region, cut_regions
from lumbar.keypoints.answers.heatmaps import decode
from lumbar.keypoints.stacks import Stack, axial_stacks, sagittal_stacks
from lumbar.keypoints.steps import raw_answers
from lumbar.labels import CONDITIONS, LEVELS, SIDES, Condition, Level, row_ids
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.views import View
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import middle_slice
from lumbar.study.standardise import crop, resize
from lumbar.study.study import Study, open_data, read_study
from tests.support.chosen import few_of_each

TOLERANCE = 1e-4
PARITY, REAL = SHARED / "parity", SHARED / "real" / "cc0_study"
pytestmark = [
    pytest.mark.skipif(not PARITY.is_dir(), reason="needs the recorded results in ../shared/parity"),
    pytest.mark.skipif(not REAL.is_dir(), reason="needs the real study in ../shared/real/cc0_study"),
]
RECIPE = ROOT / "recipes" / "ninth_place_exact.toml"
SPECS = {name: member.spec for name, member in load_recipe(RECIPE).members().items()}
DETECTORS = {"sagittal_t2": "sagt2", "sagittal_t1": "sagt1", "axial_t2": "axi"}  # the fixtures' names
GRADERS = [name for name, spec in SPECS.items() if isinstance(spec, GraderSpec)]
VIEWS: dict[str, View] = {
    "sagt2": "sagittal_t2",
    "sagt1_left": "sagittal_t1_left",
    "sagt1_right": "sagittal_t1_right",
    "axi_left": "axial_left",
    "axi_right": "axial_right",
    "axi_mid": "axial_middle",
}


@cache
def recorded(name: str) -> Any:
    path = PARITY / name
    return json.loads(path.read_text()) if path.suffix == ".json" else np.load(path)


@cache
def study() -> Study:
    return read_study(open_data(REAL), 1001)


@cache
def fill() -> Callable[[str, tuple[int, ...], str], np.ndarray]:
    spec = importlib.util.spec_from_file_location("fill_weights", PARITY / "fill_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill


def recorded_name(name: str) -> str:
    """A member's name in `models.json`."""
    if name in DETECTORS:
        return f"coord_{DETECTORS[name]}"
    return name.replace("swin_tiny", "swin_tiny_patch4_window7_224")


def network(name: str) -> torch.nn.Module:
    """A member with rule-made weights."""
    keys = recorded("models.json")["models"][recorded_name(name)]["keys"]
    own = own_keys(name)
    assert {key: list(shape) for key, (_, shape) in own.items()} == keys
    built = unfilled(blueprint(SPECS[name], name), SPECS[name], "cpu")
    tag = recorded_name(name)
    built.load_state_dict(
        {own[key][0]: torch.from_numpy(np.asarray(fill()(key, shape, tag))) for key, shape in keys.items()}
    )
    return built.eval()


def points() -> dict[tuple[Condition, Level], Keypoint]:
    """The coordinates that the recorded results were made with."""
    given, projection = recorded("preprocessing.json")["coordinates"], recorded("preprocessing.json")["projection"]
    found = {}

    def add(condition: Condition, level: Level, series_id: int, instance: int, xy_px: list[float]) -> None:
        item = next(one for one in study().series_by_id(series_id).slices if one.instance == instance)
        mm = geometry.to_patient(item.affine, xy_px)
        found[condition, level] = Keypoint(condition, level, series_id, instance, tuple(xy_px), tuple(mm), 1, 10, 1)

    for level in LEVELS:
        add("spinal_canal_stenosis", level, 6, 6, given["sagt2"][level])
        for side in SIDES:
            add(f"{side}_neural_foraminal_narrowing", level, 7, 6, given["sagt1"][side][level])
            axial = projection["levels"][level]
            add(
                f"{side}_subarticular_stenosis",
                level,
                int(axial["chosen_series"]),
                axial["chosen_instance"],
                given["axial"][side][level],
            )
    return found


@cache
def regions(image_size: int) -> Regions:
    spec = next(s for s in SPECS.values() if isinstance(s, GraderSpec) and s.image_size == image_size)
    return cut_regions(study(), points(), spec)


def canal() -> dict[Level, np.ndarray]:
    return {level: np.asarray(points()["spinal_canal_stenosis", level].mm) for level in LEVELS}


@cache
def stacks(series_type: str) -> list[Stack]:
    spec = SPECS[series_type]
    found, issues = (
        axial_stacks(study(), canal(), spec) if series_type == "axial_t2" else sagittal_stacks(study(), spec)
    )
    assert issues == []
    return found


def close(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Arrays agree number by number (`pytest.approx` takes seconds for a region)."""
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, equal_nan=False)


def file_names(slices: Any) -> list[str]:
    return [item.path.name for item in slices if item is not None]


def test_the_exact_recipe_holds_the_fifteen_networks_of_the_original():
    """But for the tags of the weights that training begins with: the original's own take their place."""
    graders = {name: spec for name, spec in SPECS.items() if spec.stage == "grading"}
    plain = {name: spec.model_copy(update={"backbone": untagged(spec.backbone)}) for name, spec in graders.items()}
    assert dict(ORIGINALS) == SPECS | plain


def untagged(name: str) -> str:
    return name.partition(".")[0]


def test_the_exact_recipe_differs_from_the_sound_one_in_preprocessing_and_blend_only():
    sound, exact = load_recipe(ROOT / "recipes" / "ninth_place.toml"), load_recipe(RECIPE)
    assert exact.blend.method == "mean_logits"
    plain = {name: (m.spec.model_dump(exclude={"preprocessing"}), m.training) for name, m in sound.members().items()}
    assert {
        name: (m.spec.model_dump(exclude={"preprocessing"}), m.training) for name, m in exact.members().items()
    } == plain
    assert (exact.folds, exact.loop, exact.seed) == (sound.folds, sound.loop, sound.seed)


@pytest.mark.parametrize("series_id", [6, 7, 8, 12])
def test_slices_stand_in_the_original_order(series_id):
    expected = recorded("preprocessing.json")["series"][str(series_id)]
    names = expected["natural_order"][::-1] if expected["reversed"] else expected["natural_order"]
    series = study().series_by_id(series_id)
    assert file_names(series.ordered("file")) == names
    assert series.spacing_tag == expected["spacing_between_slices"]


def test_sagittal_points_project_to_the_original_axial_slices():
    expected = recorded("preprocessing.json")["projection"]
    preprocessing = SPECS["axial_t2"].preprocessing
    middle = middle_slice(study().series_by_id(6), preprocessing)
    assert middle.path.name == expected["mid_sagittal_file"]
    axial = {item.path.name: item for item in study().series_by_id(8).slices}
    for level in LEVELS:
        at = expected["levels"][level]
        assert canal()[level] == pytest.approx(at["world_xyz_mm"], abs=1e-6)
        for name, distance in at["distance_mm"].items():
            assert geometry.plane_distances(axial[name].affine, canal()[level])[0] == pytest.approx(distance, abs=1e-6)
        stack = next(one for one in stacks("axial_t2") if one.level == level)
        assert (stack.series.series_id, stack.centre.instance) == (int(at["chosen_series"]), at["chosen_instance"])


def test_points_far_from_every_axial_slice_get_none():
    middle = middle_slice(study().series_by_id(6), SPECS["axial_t2"].preprocessing)
    rows, columns = middle.shape
    for extra in recorded("preprocessing.json")["projection"]["extra"]:
        assert extra["result"] == [None, None]
        mm = geometry.to_patient(middle.affine, (extra["x_norm"] * columns, extra["y_norm"] * rows))
        found, issues = axial_stacks(study(), {"l3_l4": mm}, SPECS["axial_t2"])
        assert found == []
        assert [issue.code for issue in issues] == ["no_axial_slice"]


@pytest.mark.parametrize("series_type", DETECTORS)
def test_detector_inputs_are_the_original_stacks(series_type):
    expected = recorded(f"stage1/input_{DETECTORS[series_type]}_stride8.npy")
    pixels = np.stack([stack.pixels for stack in stacks(series_type)])
    close(pixels[:, :, ::8, ::8], expected)
    for stack in stacks(series_type):
        name = "_".join(filter(None, (DETECTORS[series_type], stack.side, stack.level)))
        at = recorded("preprocessing.json")["stage1"][name]
        assert file_names(stack.window.slices) == at["selected_files"]
        statistics = {"mean": stack.pixels.mean(), "std": stack.pixels.std(), "min": stack.pixels.min()}
        assert statistics == pytest.approx({key: at["normalised"][key] for key in statistics}, abs=TOLERANCE)
        assert stack.pixels.max() == pytest.approx(at["normalised"]["max"], abs=TOLERANCE)


@pytest.mark.parametrize("series_type", few_of_each(DETECTORS, lambda name: name.startswith("sag"), 1))
def test_detectors_give_the_original_heatmaps_and_points(series_type):
    name = DETECTORS[series_type]
    spec = SPECS[series_type]
    assert isinstance(spec, DetectorSpec)
    maps = raw_answers(stacks(series_type), [(spec, network(series_type))], torch.device("cpu"))
    close(maps[:, :, ::8, ::8], recorded(f"stage1/heatmap_{name}_stride8.npy"))
    expected = recorded("stage1/heatmaps.json")[f"coord_{name}"]["maps"]
    xy_px, peak, _ = decode(maps)
    for at in expected:
        place = at["row"], at["channel"]
        assert xy_px[place].tolist() == at["argmax_rc"][::-1]
        assert peak[place] == pytest.approx(at["max"], abs=TOLERANCE)
        stack = stacks(series_type)[at["row"]]
        stored, _ = stack.to_slice(xy_px[place])
        rows, columns = stack.centre.shape
        assert stored == pytest.approx([at["x_norm"] * columns, at["y_norm"] * rows], abs=1e-9)


@pytest.mark.parametrize("image_size", [128, 224])
@pytest.mark.parametrize("kind", few_of_each(VIEWS, lambda view: view.split("_")[0], 2))
def test_regions_are_the_original_crops(kind, image_size):
    expected = recorded("crops/" + (f"{kind}_128.npy" if image_size == 128 else f"{kind}_224_stride4.npy"))
    stride = 1 if image_size == 128 else 4
    found = regions(image_size)
    close(found.tensors[VIEWS[kind]][:, :, ::stride, ::stride], expected)
    for level in LEVELS:
        at = recorded("preprocessing.json")["roi"][f"{kind}|{level}|{image_size}"]
        region = found.cuts[VIEWS[kind], level]
        assert region.series_id == int(at["series"])
        assert file_names(region.slices) == at["read_files"]
        assert region.filled == at["filled_slices"]
        box = tuple(at["box"][corner] for corner in ("x1", "y1", "x2", "y2"))
        assert {one for one in region.boxes if one is not None} == {box}
        assert region.pixels.max() == pytest.approx(at["normalised"]["max"], abs=TOLERANCE)
        assert region.pixels.mean() == pytest.approx(at["normalised"]["mean"], abs=TOLERANCE)


#: What each recorded boundary case asks for: view, slices, offset of T1.
EDGES: dict[str, tuple[View, int, float]] = {
    "oob_left": ("sagittal_t2", 5, 0.0),
    "oob_exact_left": ("sagittal_t2", 5, 0.0),
    "inside_exact_left": ("sagittal_t2", 5, 0.0),
    "oob_right": ("sagittal_t2", 5, 0.0),
    "inside_right": ("sagittal_t2", 5, 0.0),
    "axial_first_instance": ("axial_left", 5, 0.0),
    "axial_last_instance": ("axial_left", 5, 0.0),
    "nan_coord": ("sagittal_t2", 5, 0.0),
    "no_series": ("sagittal_t2", 5, 0.0),
    "t1_far_left": ("sagittal_t1_left", 5, 60.0),
    "wide_roi_window_gt_n": ("sagittal_t2", 13, 0.0),
}


@pytest.mark.parametrize("case", EDGES)
def test_regions_at_borders_and_ends_are_what_the_original_makes_of_them(case):
    at = recorded("preprocessing.json")["roi"][f"EDGE|{case}"]
    view, slices, offset = EDGES[case]
    spec = ORIGINALS["global_resnet18"].model_copy(update={"slices": slices, "t1_offsets_mm": (offset,) * 5})
    asked = study() if at["series"] != "None" else Study(1001, {}, ())
    series_id = int(at["series"]) if at["series"] != "None" else 6
    instance = int(at["instance_number"]) if view == "axial_left" else 6
    item = next(one for one in study().series_by_id(series_id).slices if one.instance == instance)
    xy_px = [np.nan if at["x_norm"] is None else at["x_norm"] * item.shape[1], at["y_norm"] * item.shape[0]]
    condition = {
        "sagittal_t2": "spinal_canal_stenosis",
        "sagittal_t1_left": "left_neural_foraminal_narrowing",
        "axial_left": "left_subarticular_stenosis",
    }[view]
    mm = geometry.to_patient(item.affine, xy_px)
    point = Keypoint(condition, "l3_l4", series_id, instance, tuple(xy_px), tuple(mm), 1, 10, 1)
    region = cut_region(asked, view, "l3_l4", {(condition, "l3_l4"): point}, spec)
    if at["filled_slices"] == 0:
        assert region is None or (region.filled == 0 and not region.pixels.any())
        return
    assert file_names(region.slices) == at["read_files"]
    assert region.filled == at["filled_slices"]
    assert region.boxes[0] == tuple(at["box"][corner] for corner in ("x1", "y1", "x2", "y2"))
    found = {"mean": region.pixels.mean(), "std": region.pixels.std(), "min": region.pixels.min()}
    assert found == pytest.approx({key: at["normalised"][key] for key in found}, abs=TOLERANCE)
    assert region.pixels.max() == pytest.approx(at["normalised"]["max"], abs=TOLERANCE)


def test_resizing_agrees_with_the_recorded_samples():
    for case in recorded("stage1/resize_cases.json"):
        item = next(s for s in study().series_by_id(int(case["series"])).slices if s.path.name == case["file"])
        part, _ = crop(item.pixels.astype(np.float32), (case["x1"], case["y1"], case["x2"], case["y2"]))
        resized = resize(part, case["res"])
        close(resized[::16, ::16], case["out_stride16"], 0.01)  # values up to 1800
        assert resized.mean() == pytest.approx(case["mean"], rel=1e-5)


def levels_of(name: str) -> list[int]:
    """The levels that a grader is asked about: of large ones, which take seconds a level, the first and the last."""
    return [*range(len(LEVELS))] if name.endswith("resnet18") else [0, len(LEVELS) - 1]


@cache
def graded(name: str) -> tuple[np.ndarray, np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Probabilities (5, 5, 3), logits (rows, C, 3) and the features of the first row by encoder."""
    spec, built = SPECS[name], network(name)
    batches: list[dict[tuple[str, str], np.ndarray]] = []  # a machine short of memory gets the rows in several
    running: dict[tuple[str, str], np.ndarray] = {}

    def keep(encoder: str, layer: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            running[encoder, layer] = (output[0] if isinstance(output, tuple) else output).numpy().copy()

        return hook

    for index, encoder in enumerate(built.encoders):
        encoder.backbone.register_forward_hook(keep(str(index), "backbone"))
        encoder.rnn.register_forward_hook(keep(str(index), "gru"))
        encoder.register_forward_hook(keep(str(index), "pooled"))
    built.register_forward_hook(keep("", "logits"))
    built.register_forward_hook(lambda *_: batches.append(dict(running)))  # not reached where memory ran out
    wanted = [row for row in rows_of(regions(spec.image_size), spec) if row.levels[0] in levels_of(name)]
    with mock.patch("lumbar.grading.grade.rows_of", return_value=wanted):
        probabilities = softmax(grade(regions(spec.image_size), spec, built))
    seen = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    features = {
        str(index): {
            "backbone": seen[str(index), "backbone"][: spec.slices],
            "gru": seen[str(index), "gru"][0],
            "pooled": seen[str(index), "pooled"][0],
        }
        for index in range(len(built.encoders))
    }
    return probabilities, seen["", "logits"][:, 0], features


#: The smallest of each kind of network by default; the rest in the long run.
DEAR = [name for name in GRADERS if name not in ("foraminal_resnet18", "global_resnet18")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in DEAR else ()) for name in GRADERS]
)
def test_graders_give_the_original_features_logits_and_probabilities(name):
    probabilities, logits, features = graded(name)
    task = name.partition("_")[0]
    encoders = {
        "spinal": ("model_sagt2", "model_axi"),
        "global": ("model_sagt2", "model_sagt1", "model_axi"),
    }.get(task, ("model",))
    for index, encoder in enumerate(encoders):
        expected = recorded(f"outputs/inter_{recorded_name(name)}_{encoder}.npz")
        for layer in ("backbone", "gru", "pooled"):
            close(features[str(index)][layer], expected[layer])
    at, levels = recorded("outputs/outputs.json")[recorded_name(name)], levels_of(name)
    rows = [place for place, row in enumerate(at.get("rows", ())) if LEVELS.index(row[0]) in levels]
    if "logits" in at:
        expected = np.array(at["logits"])[rows]
        expected = expected.reshape(len(expected), 3, -1).transpose(0, 2, 1)
        close(logits, expected)
    if "softmax" in at:
        by_row = [
            probabilities[CONDITIONS.index(c), LEVELS.index(row[0])]
            for row in (at["rows"][place] for place in rows)
            for c in asked(task, row)
        ]
        close(by_row, np.array(at["softmax"])[rows])
    if "softmax_level_class_cond" in at:
        close(probabilities.transpose(1, 2, 0)[levels], np.array(at["softmax_level_class_cond"])[levels])


def asked(task: str, row: list[str]) -> list[Condition]:
    """The conditions of a recorded row such as ["l1_l2", "left"]."""
    words = {"spinal": "spinal", "foraminal": "foraminal", "subarticular": "subarticular"}[task]
    side = row[1] if len(row) > 1 else ""
    return [condition for condition in CONDITIONS if words in condition and condition.startswith(side)]


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("split_resnet18", ["spinal_resnet18", "foraminal_resnet18", "subarticular_resnet18"]),
        ("global_resnet18", ["global_resnet18"]),
        pytest.param("ensemble_6", GRADERS, marks=pytest.mark.slow),
    ],
)
def test_ensembles_give_the_original_tables(table, names):
    at = recorded("outputs/outputs.json")[table]
    members = np.stack([graded(name)[0] for name in names])
    blended, spoken = blend(members, np.full((5, 5, 3), 1 / 3), "mean_logits")
    assert spoken.all()
    expected = dict(zip(at["row_ids"], at["prob"], strict=True))
    levels = set.intersection(*(set(levels_of(name)) for name in names))
    for place, (row, probabilities) in enumerate(zip(row_ids(1001), blended.reshape(25, 3), strict=True)):
        if place % len(LEVELS) in levels:
            assert probabilities == pytest.approx(expected[row], abs=TOLERANCE), row
