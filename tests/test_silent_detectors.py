"""Detectors that say nothing: no keypoint, no region and an Issue, never the corner of the image."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_keypoints import SIZE, Placed, by_name, canal_pixels, placed_detectors, spec_of
from torch import nn

from lumbar.bundle.bundle import Bundle
from lumbar.bundle.save import Weights, save_bundle
from lumbar.issues import Issue
from lumbar.keypoints.detect import detect
from lumbar.labels import LEVELS
from lumbar.prediction import schedule
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.report.pictures import show_study
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, open_data
from tests.support.small_study import CANAL, small_study
from tests.support.worlds import small_phantoms, tiny_weights
from train_utils import main

CANAL_NAME, FORAMEN, RECESS = "spinal_canal_stenosis", "left_neural_foraminal_narrowing", "left_subarticular_stenosis"


class Says(nn.Module):
    """A detector whose heatmaps are those of `Placed`, changed level by level (or by side)."""

    def __init__(self, xy_px: np.ndarray, change: Mapping[int, float | torch.Tensor] | float) -> None:
        super().__init__()
        self.maps = Placed(np.asarray(xy_px, np.float64), sigma=4.0).maps.clone()
        changes = change if isinstance(change, Mapping) else dict.fromkeys(range(len(self.maps)), change)
        for level, value in changes.items():
            self.maps[level] = value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps.expand(len(images), -1, -1, -1)


def holed(value: float) -> torch.Tensor:
    """A map of zeros with one pixel that is no number."""
    maps = torch.zeros(SIZE, SIZE)
    maps[9, 9] = value
    return maps


def ripple() -> torch.Tensor:
    """A flat map with the rounding errors of float32."""
    return 0.5 + 1e-6 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))


NOTHING = {
    "nan": float("nan"),
    "inf": float("inf"),
    "zeros": 0.0,
    "a constant": 0.7,
    "a negative constant": -3.0,
    "a large constant": 1e6,
    "a hole": holed(float("nan")),
    "an overflow": holed(float("-inf")),
    "rounding errors": ripple(),
}


def found(detectors: dict) -> tuple[dict[tuple[str, str], Keypoint], list[Issue]]:
    points, issues = detect(small_study(), detectors)
    assert all(np.isfinite([*point.xy_px, *point.mm, point.confidence, point.peak]).all() for point in points)
    return by_name(points), issues


def told(issues: list[Issue], code: str = "keypoint_missing") -> list[str]:
    return [issue.detail for issue in issues if issue.code == code]


@pytest.mark.parametrize("value", NOTHING.values(), ids=NOTHING.keys())
def test_a_canal_detector_that_says_nothing_has_no_keypoints(value: float | torch.Tensor) -> None:
    change = dict.fromkeys(range(5), value)
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    points, issues = found({"sagittal_t2": [(spec, Says(canal_pixels(), change))]})
    assert points == {}
    (text,) = told(issues)
    assert text.startswith("Spinal Canal Stenosis L1/L2, L2/L3, L3/L4, L4/L5, L5/S1: no keypoint, since the detector ")
    assert told(issues, "keypoint_low_confidence") == []


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_every_series_type_is_told_by_condition(value: float) -> None:
    detectors = placed_detectors()
    for name, places in (("sagittal_t1", canal_pixels()), ("axial_t2", np.array([[38, 33], [26, 33]]))):
        detectors[name] = [(detectors[name][0][0], Says(places, value))]
    points, issues = found(detectors)
    assert {condition for condition, _ in points} == {CANAL_NAME}
    assert len(points) == 5
    conditions = [text.partition(" L1/L2")[0] for text in told(issues)]
    assert conditions == [
        "Left Neural Foraminal Narrowing",
        "Right Neural Foraminal Narrowing",
        "Left Subarticular Stenosis",
        "Right Subarticular Stenosis",
    ]


def test_without_any_sagittal_point_the_axial_ones_are_told_as_missing() -> None:
    detectors = placed_detectors()
    for name in ("sagittal_t2", "sagittal_t1"):
        detectors[name] = [(detectors[name][0][0], Says(canal_pixels(), 0.0))]
    points, issues = found(detectors)
    assert points == {}
    assert told(issues)[-1] == (
        "Left Subarticular Stenosis and Right Subarticular Stenosis L1/L2, L2/L3, L3/L4, L4/L5, L5/S1: no keypoint, "
        "since no sagittal keypoint leads to an axial slice"
    )


@pytest.mark.parametrize("value", [float("nan"), 0.0, 0.7])
def test_a_silent_level_between_others_is_derived_from_them(value: float) -> None:
    detectors = placed_detectors(sagittal_t1=None, axial_t2=None)
    detectors["sagittal_t2"] = [(detectors["sagittal_t2"][0][0], Says(canal_pixels(), {2: value}))]
    points, issues = found(detectors)
    middle = points[CANAL_NAME, "l3_l4"]
    assert middle.repaired
    assert middle.mm == pytest.approx(CANAL["l3_l4"], abs=3.5)
    assert told(issues, "keypoint_repaired") == [
        "Spinal Canal Stenosis L3/L4: the detector says nothing, derived from its neighbours"
    ]
    assert told(issues) == []


def test_silent_foramina_are_not_taken_from_the_canal() -> None:
    """Canal points stand in for foramina that are found at impossible places, not for such as are not found."""
    detectors = placed_detectors(axial_t2=None)
    detectors["sagittal_t1"] = [
        (detectors["sagittal_t1"][0][0], Says(canal_pixels(), {0: 0.0, 1: 0.0, 2: 0.0, 4: 0.0}))
    ]
    points, issues = found(detectors)
    assert [level for condition, level in points if condition == FORAMEN] == ["l4_l5"]
    assert told(issues)[0].startswith("Left Neural Foraminal Narrowing L1/L2, L2/L3, L3/L4, L5/S1: no keypoint")


@pytest.mark.parametrize("side", [0, 1])
def test_a_silent_side_is_derived_from_the_other_one(side: int) -> None:
    detectors = placed_detectors(sagittal_t1=None)
    places = np.array([[38, 33], [26, 33]])
    detectors["axial_t2"] = [(detectors["axial_t2"][0][0], Says(places, {side: float("nan")}))]
    points, issues = found(detectors)
    sides = [RECESS, RECESS.replace("left", "right")]
    for level in ("l1_l2", "l3_l4", "l5_s1"):
        assert points[sides[side], level].repaired
        assert not points[sides[1 - side], level].repaired
        assert points[RECESS, level].mm[0] > 0 > points[sides[1], level].mm[0]
    assert all(
        text.endswith("the detector says nothing, derived from the other side")
        for text in told(issues, "keypoint_repaired")
    )
    assert told(issues) == []


@pytest.mark.parametrize("value", NOTHING.values(), ids=NOTHING.keys())
def test_a_fold_that_says_nothing_leaves_the_mean_to_the_others(value: float | torch.Tensor) -> None:
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    folds = [(spec, Placed(canal_pixels(), strength, 4.0)) for strength in (1.0, 0.8)]
    alone, _ = found({"sagittal_t2": folds})
    silent = (spec, Says(canal_pixels(), dict.fromkeys(range(5), value)))
    points, issues = found({"sagittal_t2": [folds[0], silent, folds[1]]})
    assert points == alone
    assert issues == []


def test_one_level_of_one_fold_that_says_nothing_leaves_its_other_levels_in_the_mean() -> None:
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    half = (spec, Says(canal_pixels(), {4: float("nan")}))
    points, _ = found({"sagittal_t2": [half, (spec, Placed(canal_pixels(), 0.5, 4.0))]})
    peaks = [points[CANAL_NAME, level].peak for level in LEVELS]
    assert peaks == pytest.approx([0.75] * 4 + [0.5], abs=0.03)


def test_a_faint_map_is_still_a_keypoint() -> None:
    spec = spec_of("sagittal_t2", sigma_px=4.0)
    points, issues = found({"sagittal_t2": [(spec, Placed(canal_pixels(), 0.06, 4.0))]})
    assert len(points) == 5
    [faint] = told(issues, "keypoint_low_confidence")
    assert "L3/L4 and 2 more: confidence 0.06" in faint
    assert told(issues) == []


def test_the_original_s_way_takes_the_first_pixel_of_a_flat_map_but_nothing_of_what_is_no_number() -> None:
    spec = spec_of("sagittal_t2", sigma_px=4.0, preprocessing=Preprocessing(keypoints="keep"))
    points, issues = found({"sagittal_t2": [(spec, Says(canal_pixels(), {0: 0.0, 1: float("nan")}))]})
    assert points[CANAL_NAME, "l1_l2"].xy_px == (0.0, 0.0)
    assert points[CANAL_NAME, "l1_l2"].confidence == 0
    assert [level for _, level in points] == ["l1_l2", "l3_l4", "l4_l5", "l5_s1"]
    assert told(issues)[0].startswith("Spinal Canal Stenosis L2/L3: no keypoint")


# ---- through the whole run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("data"), 1))


def silenced(folder: Path, *names: str, folds: int = 1) -> Bundle:
    """A bundle whose detectors of those names answer one number everywhere, whatever they see."""
    members = []
    for each in tiny_weights():
        if each.name in names:
            state = {key: value.clone() for key, value in each.state.items()}
            head = [key for key in state if key.startswith("segmentation_head")]
            assert len(head) == 2
            state[head[0]].zero_()
            state[head[1]].fill_(0.3)
            members.append(Weights(each.name, each.spec, state))
            if folds > 1:
                members.append(Weights(f"{each.name}_sound", each.spec, each.state))
        else:
            members.append(each)
    return save_bundle(folder, members, prior=np.full((5, 5, 3), [0.5, 0.3, 0.2]))


def test_a_run_with_a_silent_detector_rests_on_others_or_the_prior(data: DataFolder, tmp_path: Path) -> None:
    bundle = silenced(tmp_path / "bundle", "foramen")
    argv = ["--data", str(data.root), "--weights", str(bundle.folder), "--out", str(tmp_path / "out"), "--html"]
    assert main(["predict", "--device", "cpu", *argv]) == 0
    rows = pd.read_csv(tmp_path / "out" / "submission.csv").set_index("row_id")
    foraminal = rows[rows.index.str.contains("foraminal")]
    assert np.allclose(foraminal, [0.5, 0.3, 0.2])
    assert not np.allclose(rows[rows.index.str.contains("spinal")], [0.5, 0.3, 0.2])
    points = pd.read_csv(tmp_path / "out" / "keypoints.csv")
    assert not points["condition"].str.contains("Foraminal").any()
    assert not ((points["x"] == 0) & (points["y"] == 0)).any()
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert report["issues"]["counts"]["keypoint_missing"] == 2
    assert report["issues"]["counts"]["condition_ungraded"] >= 10
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_a_study_without_one_keypoint_is_the_prior_and_can_be_drawn(data: DataFolder, tmp_path: Path) -> None:
    bundle = silenced(tmp_path / "bundle", "canal", "foramen", "recess")
    (result,) = schedule.predict(data, bundle)
    assert result.keypoints == ()
    assert not result.graded.any()
    assert np.allclose(result.probabilities, bundle.manifest.prior)
    assert {issue.code for issue in result.issues} >= {"keypoint_missing", "condition_ungraded"}
    show_study(result, data).canvas.draw()


@pytest.mark.slow
def test_a_second_fold_of_a_silent_detector_speaks_for_it(data: DataFolder, tmp_path: Path) -> None:
    (alone,) = schedule.predict(data, silenced(tmp_path / "one"))
    (both,) = schedule.predict(data, silenced(tmp_path / "two", "canal", "foramen", "recess", folds=2))
    assert np.array_equal(alone.probabilities, both.probabilities)
    assert both.graded[:3].all()  # the canal and both sides' foramina
    assert both.keypoints == alone.keypoints


def test_a_grader_without_numbers_is_told_with_what_spoke_for_it(data: DataFolder, tmp_path: Path) -> None:
    """In float32 half precision is not to blame, and where no other member speaks none is named."""
    members = [each for each in tiny_weights() if each.name in ("canal", "foramen", "recess", "spinal", "foraminal")]
    for place, each in enumerate(members):
        if each.name == "foraminal":
            state = {key: value * 1e16 if value.ndim > 1 else value for key, value in each.state.items()}
            state |= {key: torch.zeros_like(value) for key, value in state.items() if "running_var" in key}
            members[place] = Weights(each.name, each.spec, state)
    bundle = save_bundle(tmp_path / "bundle", members, prior=np.full((5, 5, 3), 1 / 3))
    (result,) = schedule.predict(data, bundle)
    assert told(list(result.issues), "answer_not_finite") == [
        "foraminal gave no number for 10 of its answers (fused float32); the prior spoke for it"
    ]
    ungraded = [text for text in told(list(result.issues), "condition_ungraded") if "Foraminal" in text]
    assert len(ungraded) == 10
    assert all("no member gave an answer; the prior stands in" in text for text in ungraded)
