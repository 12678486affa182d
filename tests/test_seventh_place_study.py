"""What was recorded of the seventh place on a real study (public domain), against what detectors and graders see of it.

What differs, and why: `smooth` as in `test_seventh_place.py`; `steps`: grey values are not cut to 256 steps; `fresh`:
the axial image is not brought to 720 px first, crops are cut from the slices as they are; `order`: axial slices run
from the feet to the head. The one-stage networks are not here.
"""

import json
from functools import cache
from typing import Any, Final

import numpy as np
import pytest

from lumbar import geometry
from lumbar.grading.regions import cut_region
from lumbar.keypoints.places import Known, stacks_for
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.region import RegionSpec
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study, open_data, read_study
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


@cache
def recorded() -> Any:
    return json.loads((PARITY / "seventh" / "study.json").read_text(encoding="utf-8"))["lhwcv"]


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
