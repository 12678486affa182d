"""What was recorded of the seventh place on a real study (public domain), against what detectors and graders see of it.

What differs, and why: `smooth` as in `test_seventh_place.py`; `steps`: grey values are not cut to 256 steps; `fresh`:
the axial image is not brought to 720 px first, crops are cut from the slices as they are; `order`: axial slices run
from the feet to the head, and the second author's sagittal ones to the patient's right. Of the second author's
one-stage networks, which `test_parity.py` compares, what is read and how maps pool is compared here; their losses of
points, which are others here, are in `ONE_STAGE`.
"""

import json
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
import torch

from lumbar import geometry
from lumbar.grading.networks.whole_slices import weighed
from lumbar.grading.regions import cut_region
from lumbar.keypoints.places import Known, stacks_for
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.region import RegionSpec
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study, open_data, read_study
from lumbar.training.loop import shared_losses
from tests.conftest import ROOT, SHARED
from tests.test_seventh_place import PARITY

REAL = SHARED / "real" / "cc0_study"
pytestmark = pytest.mark.skipif(
    not ((PARITY / "seventh").is_dir() and REAL.is_dir()), reason="needs ../shared/parity and ../shared/real"
)
#: A grey value of 256 either way, as a share of the range from -1 to 1, and one that is cut off.
STEP: Final = 2 * 2 / 255
ORDER: Final = {"instances"}  # of sagittal series they agree
STEPS: Final = {"uint8", "samples [::, 64::128, 64::128]", "normalised", "crops 3_128_128", "crops 5_128_128"}
SMOOTH: Final = {
    "v20_3d (32,384,384)",
    "v20_3d samples [::8, ::96, ::96]",
    "v2_3d (48,256,256)",
    "v2_3d (96,256,256)",
    "level input uint8",
    "crops 3_72_128",
    "crops 3_64_96",
}
FRESH: Final = {"720 -> centre 512 uint8"}
#: The second author's entries that are compared, those of pooling here or, `pooled`, in test_eighth_place.py.
COMPARED: Final = {
    **dict.fromkeys(
        ("6", "7"),
        {"instances in z order", "projection", "volume", "samples [::, 64::128, 64::128]"}
        | {"image320", "samples320 [::80, ::80, ::3]", "resize_params"},
    ),
    "nfn_heads": {"how", "xy", "z", "pooled (2,10,4)", "truth_grade", "grade_loss_unmatched"},
    "scs_heads": {"how", "xy", "grade", "truth_grade", "grade_loss"},
}
#: Those that are not, and why: nothing here looks at a picture with borders, and maps of a network that grades at once
#: learn by another loss, level by level.
ONE_STAGE: Final = {
    "resize_640x400_to_512": {"params (scale, x0, y0)", "shape", "nonzero rows", "nonzero columns"},
    "nfn_heads": {"truth_xy", "truth_z", "match_index", "match_valid", "zxy_loss", "divergence_loss"}
    | {"grade_loss_matched"},
    "scs_heads": {"level_mask_loss", "z_truth", "z_mask_loss"},
}


@cache
def recorded(author: str = "lhwcv") -> Any:
    return json.loads((PARITY / "seventh" / "study.json").read_text(encoding="utf-8"))[author]


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(open_data(REAL), 1001)


def detector(name: str, **fields: Any) -> DetectorSpec:
    spec = load_recipe(ROOT / "recipes" / "seventh_place.toml").stage1.members[name].spec
    assert isinstance(spec, DetectorSpec)
    return spec.model_copy(update=fields)


def seen(study: Study, spec: DetectorSpec) -> np.ndarray:
    """(T, S, S) what a detector of a whole series sees, as -1 … 1."""
    (stack,), _ = stacks_for(study, spec, Known())
    return stack.pixels[np.isfinite(stack.spans[spec.series_type].source)] * 2 - 1


def test_every_entry_is_compared() -> None:
    entries = {entry for own in recorded().values() for entry in own}
    assert entries == ORDER | STEPS | SMOOTH | FRESH
    for name, own in recorded("hengck").items():
        assert own.keys() == COMPARED.get(name, set()) | ONE_STAGE.get(name, set())
        assert not COMPARED.get(name, set()) & ONE_STAGE.get(name, set())


@pytest.mark.parametrize(("number", "kind"), [("6", "sagittal_t2"), ("7", "sagittal_t1"), ("8", "axial_t2")])
def test_slices_and_grey_values_are_those_recorded(study: Study, number: str, kind: Any) -> None:
    told = recorded()[number]
    series = study.series_by_id(int(number))
    assert series in study.series[kind]
    assert series is not None
    ordered = series.ordered("position")
    assert [item.instance for item in ordered][:: -1 if number == "8" else 1] == told["instances"]  # differs: order
    fields = {"image_size": 512, "in_chans": len(ordered), "beside": None, "slice_mm": None, "pad": False}
    name = {"6": "sagittal_3d", "7": "t1_3d_resnet34d", "8": "axial_3d"}[number]
    found = seen(study, detector(name, **fields))
    assert found.shape == tuple(told["uint8"]["shape"])
    for entry, scaled in (("uint8", (found + 1) * 127.5), ("normalised", found)):
        unit = 1.0 if entry == "uint8" else 1 / 127.5
        assert scaled.mean() == pytest.approx(told[entry]["mean"], abs=unit)  # differs: steps
        assert scaled.std() == pytest.approx(told[entry]["std"], abs=unit)
    samples = (found[:: -1 if number == "8" else 1, 64::128, 64::128] + 1) * 127.5
    assert np.abs(samples - told["samples [::, 64::128, 64::128]"]).max() <= 1.5


@pytest.mark.parametrize(
    ("name", "number", "entry"),
    [
        ("sagittal_3d", "6", "v2_3d (48,256,256)"),
        ("t1_3d_resnet34d", "7", "v20_3d (32,384,384)"),
        ("axial_3d", "8", "v2_3d (96,256,256)"),
    ],
)
def test_volumes_show_the_same_but_smoothly(study: Study, name: str, number: str, entry: str) -> None:
    told = recorded()[number][entry]
    found = seen(study, detector(name, beside=None))
    assert found.shape == tuple(told["shape"])
    assert found.mean() == pytest.approx(told["mean"], abs=0.01)
    assert found.std() == pytest.approx(told["std"], abs=0.02)


def test_the_level_networks_slices_are_three_millimetres_apart(study: Study) -> None:
    told = recorded()["8"]["level input uint8"]
    found = seen(study, detector("axial_levels", image_size=64))
    assert len(found) == told["depth"]
    middle = (found[:, 8:56, 8:56] + 1) * 127.5  # of 512 px the 384 in the middle
    assert middle.mean() == pytest.approx(told["mean"], abs=2)


@pytest.mark.parametrize("number", ["6", "7"])
@pytest.mark.parametrize("shape", ["3_128_128", "3_72_128", "3_64_96", "5_128_128"])
def test_crops_around_given_points_show_what_was_recorded(study: Study, number: str, shape: str) -> None:
    told = recorded()[number][f"crops {shape}"]
    count, height, width = map(int, shape.split("_"))
    kind: Any = {"6": "sagittal_t2", "7": "sagittal_t1"}[number]
    view: Any = {"6": "sagittal_t2", "7": "sagittal_t1_left"}[number]
    condition = CONDITIONS[0 if number == "6" else 1]
    series = study.series_by_id(int(number))
    assert series in study.series[kind]
    assert series is not None
    keypoints = {}
    for level, (x, y, z) in zip(LEVELS, told["keypoints"], strict=True):
        item = series.ordered("position")[z]
        mm = tuple(geometry.to_patient(item.affine, np.array([x, y], np.float64)).tolist())
        place = (float(x), float(y))
        keypoints[condition, level] = Keypoint(
            condition, level, series.series_id, item.instance, place, mm, 1.0, 0.0, 1.0
        )
    region = RegionSpec(
        around="point",
        box="share",
        extent=(height / 512, width / 512),
        intensity="percentile",
        scope="series",
        percentiles=(1.0, 99.5),
    )
    spec = GraderSpec(
        views=(view,),
        conditions=(condition,),
        image_size=128,
        slices=count,
        region=region,
        preprocessing={"box_origin": "corner", "window_end": "inside"},
    )
    cuts = [cut_region(study, view, level, keypoints, spec) for level in LEVELS]
    found = np.stack([cut.pixels for cut in cuts if cut is not None])
    assert found.shape == tuple(told["shape"])
    assert found.mean() == pytest.approx(told["mean"], abs=0.02)
    assert found.std() == pytest.approx(told["std"], abs=0.03)
    if (height, width) == (128, 128):  # others are stretched, differs: smooth
        samples = found[::2, 1, ::32, ::32]
        assert np.abs(samples - told["samples [::2,1,::32,::32]"]).max() <= STEP


# ---- the second author ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), [("6", "sagittal_3d"), ("7", "t1_3d_resnet34d")])
def test_the_second_authors_volumes_are_those_recorded(study: Study, number: str, name: str) -> None:
    told, series = recorded("hengck")[number], study.series_by_id(int(number))
    assert series is not None
    ordered = series.ordered("position")[::-1]  # differs: order
    assert [item.instance for item in ordered] == told["instances in z order"]
    normal = np.cross(*ordered[0].affine[:3, :2].T)
    corners = [geometry.to_patient(item.affine, np.zeros(2)) for item in ordered]
    np.testing.assert_allclose(corners @ normal / np.linalg.norm(normal), told["projection"], atol=1e-4)
    fields = {"in_chans": len(ordered), "beside": None, "slice_mm": None, "pad": False, "percentiles": (0.1, 99.9)}
    found = (seen(study, detector(name, image_size=512, **fields))[::-1] + 1) * 127.5
    assert found.shape == tuple(told["volume"]["shape"])
    assert found.mean() == pytest.approx(told["volume"]["mean"], abs=1)  # differs: steps
    assert found.std() == pytest.approx(told["volume"]["std"], abs=1)
    assert np.abs(found[:, 64::128, 64::128] - told["samples [::, 64::128, 64::128]"]).max() <= 1
    assert told["resize_params"][1][0] == 320 / 512
    small = (seen(study, detector(name, image_size=320, **fields))[::-1] + 1) * 127.5
    small = small.transpose(1, 2, 0)
    assert small.shape == tuple(told["image320"]["shape"])
    assert small.mean() == pytest.approx(told["image320"]["mean"], abs=6)  # differs: smooth, before the percentiles
    assert small.std() == pytest.approx(told["image320"]["std"], abs=2)
    assert np.abs(small[::80, ::80, ::3] - told["samples320 [::80, ::80, ::3]"]).max() <= 10


def columns_and_rows(*shape: int) -> torch.Tensor:
    """(1, 2 or 3, cells, 1): column, row and slice of every cell of a map, or of a volume (slices, rows, columns)."""
    return torch.from_numpy(np.stack(np.indices(shape)[::-1]).astype(np.float32)).flatten(1)[None, :, :, None]


def test_maps_of_the_one_stage_networks_pool_to_the_recorded_points_and_grades() -> None:
    told, drawn = recorded("hengck")["nfn_heads"], np.random.RandomState(7301)
    maps = [drawn.uniform(0, 1, (10, depth, 6, 7)).astype(np.float32) for depth in (3, 4)]
    for depth in (3, 4):
        drawn.standard_normal((4, depth, 6, 7))  # features: in test_eighth_place.py
    for number, own in enumerate(maps):
        scores = torch.from_numpy(12 * own).flatten(1)[None, :, :, None]
        (found,) = weighed(columns_and_rows(*own.shape[1:]), scores).numpy()
        np.testing.assert_allclose(found[:, :2], told["xy"][number], atol=1e-5)
        np.testing.assert_allclose(found[:, 2], told["z"][number], atol=1e-5)
    drawn.standard_normal((2, 10, 2))
    logits = torch.from_numpy(drawn.standard_normal((2, 10, 3)).astype(np.float32))
    loss, weight = shared_losses.severity_loss(logits, torch.tensor(told["truth_grade"]))
    assert float(loss / weight) == pytest.approx(told["grade_loss_unmatched"], rel=1e-5)


def test_maps_of_levels_weigh_maps_of_grades_as_recorded() -> None:
    told, drawn = recorded("hengck")["scs_heads"], np.random.RandomState(7302)
    where = torch.from_numpy(3 * drawn.standard_normal((2, 5, 30)).astype(np.float32))[..., None]
    grades = torch.from_numpy(drawn.standard_normal((2, 3, 5, 6)).astype(np.float32)).softmax(1)
    found = weighed(grades.flatten(2)[..., None], where)
    np.testing.assert_allclose(weighed(columns_and_rows(5, 6).expand(2, -1, -1, -1), where), told["xy"], atol=1e-5)
    np.testing.assert_allclose(found, told["grade"], atol=1e-5)
    loss, weight = shared_losses.severity_loss(found.log(), torch.tensor(told["truth_grade"]))
    assert float(loss / weight) == pytest.approx(told["grade_loss"], rel=1e-5)
