"""The third place's maps, temperatures, losses and targets against what was recorded in its `geometry.json`.

What differs on purpose, each asserted below:

* A point lies at its pixel's middle here; the original takes its corner, half a pixel away.
* Columns lie a column spacing apart here; the original takes that of rows for columns and the other way round.
* Losses are divided by what their rows count; the original divides soft labels by the number of rows, and slices by
  the number that are asked, all conditions together. Sums are the same, so that rows weigh alike within a batch.
* The radius that CornerNet's rule gives is a number of the recipe here (`sigma_px`), not computed anew.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lumbar import geometry
from lumbar.ensemble import by_hand
from lumbar.files.read import read_json
from lumbar.grading.grade import softmax
from lumbar.keypoints.answers.registry import answer_of
from lumbar.recipe.blend import Blend
from lumbar.recipe.detector import DetectorSpec
from lumbar.training.loop import shared_losses, targets
from lumbar.training.loop.detector_losses import binary_focal
from tests.conftest import shared_path


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    content = read_json(shared_path("parity/third/geometry.json"), "")
    assert isinstance(content, dict)
    return content


def test_heatmap_decode(told: dict[str, Any]) -> None:
    rng, (across, down) = np.random.RandomState(71), np.meshgrid(np.arange(190), np.arange(190))
    centres = ((95.3, 57.8), (94, 80.2), (93.5, 100), (95, 121.4), (102.2, 3))
    maps = np.stack(
        [np.exp(-((across - x) ** 2 + (down - y) ** 2) / 50) + 0.01 * rng.rand(190, 190) for x, y in centres]
    )
    spec = DetectorSpec(series_type="sagittal_t2", network="centernet", image_size=380, stride=2, decode="box")
    points = answer_of(spec).read(spec, maps[None].astype(np.float32)).points[0, :, :2]
    recorded = told["heatmap_decode"]
    shares = (points + 0.5) / spec.image_size
    np.testing.assert_allclose(shares, list(recorded["normalised"].values()), atol=1e-5)
    corners = shares * (384, 448)
    np.testing.assert_allclose(corners, list(recorded["pixels"].values()), atol=1e-3)
    affine = geometry.slice_affine([0.0, 0.0, 0.0], [0, 1, 0, 0, 0, -1], [0.7, 0.6])  # between rows, between columns
    worlds = [geometry.to_patient(affine, xy) for xy in corners]
    np.testing.assert_allclose(worlds, list(recorded["world"].values()), atol=1e-3)  # its spacings change places


def test_temperature(told: dict[str, Any]) -> None:
    recorded = told["temperature"]
    around = Blend(temperatures={"spinal": recorded["spinal"]["T"], "foraminal": recorded["side"]["T"]}, method="mean")
    logits = np.array(recorded["logits"])
    probabilities = np.zeros((1, 5, 2, 3))
    probabilities[:] = softmax(logits)[None, None]
    found = by_hand.before(around, probabilities)
    np.testing.assert_allclose(found[0, 0], recorded["spinal"]["p"], atol=1e-5)
    np.testing.assert_allclose(found[0, 1], recorded["side"]["p"], atol=1e-5)


def test_losses(told: dict[str, Any]) -> None:
    recorded, rng = told["losses"], np.random.RandomState
    logits = torch.tensor(rng(72).standard_normal((4, 5, 3, 1))[..., 0])
    soft = torch.tensor(rng(73).dirichlet([1, 1, 1], (4, 5, 1)))[:, :, 0]
    counts = torch.tensor([1, 0.25, 0.25, 0.25, 0.25])
    total, _ = shared_losses.distribution_loss(logits, soft * counts[:, None])
    overall = total / 4 / 5  # rows of a condition, conditions
    assert float(overall) == pytest.approx(recorded["overall"], rel=1e-5)
    said, labels = rng(74).standard_normal((4, 6, 5, 3)), torch.tensor(rng(75).randint(0, 3, (4, 6, 5)))
    asked = torch.tensor(rng(76).rand(4, 6, 5) > 0.5)
    wanted = shared_losses.distributions(labels) * asked[..., None] * counts[:, None]
    total, _ = shared_losses.distribution_loss(torch.tensor(said), wanted, weights=(0.327539, 1.550189, 4))
    of_slices = 0.5 * total / asked.sum()
    assert float(of_slices) == pytest.approx(recorded["slice"], rel=1e-5)
    level = torch.tensor(rng(77).standard_normal((4, 1, 5))), torch.tensor(rng(78).randint(0, 5, (4, 1)))
    total, count = shared_losses.level_loss(*level)
    assert float(0.1 * total / count) == pytest.approx(recorded["level"], rel=1e-5)
    every = float(overall + of_slices + 0.1 * total / count)
    assert every == pytest.approx(recorded["total"], rel=1e-5)
    total, _ = shared_losses.distribution_loss(logits[:, 0], soft[:, 0], far=2)
    assert float(total / 4) == pytest.approx(recorded["hierarchical_ce_of_condition_0"], rel=1e-5)
    assert float(binary_focal(logits, soft).mean()) == pytest.approx(recorded["binary_focal_mean"], rel=1e-5)


def corner_radius(side: float, overlap: float) -> float:
    """Law and Deng (2018): the radius within which a pair of corners gives a box of at least that overlap."""

    def root(a: float, b: float, c: float) -> float:
        return (b + math.sqrt(b * b - 4 * a * c)) / 2

    both = root(1, 2 * side, side * side * (1 - overlap) / (1 + overlap))
    inside = root(4, 4 * side, (1 - overlap) * side * side)
    outside = root(4 * overlap, -2 * overlap * 2 * side, (overlap - 1) * side * side)
    return min(both, inside, outside)


@pytest.mark.parametrize(("entry", "stride"), [("sagittal_stride2", 2), ("axial_stride4", 4)])
def test_gaussian_target(told: dict[str, Any], entry: str, stride: int) -> None:
    recorded = told["gaussian_target"][entry]
    radius = corner_radius(152 // stride, 0.7)
    assert radius == pytest.approx(recorded["radius_float"])
    sigma = (2 * int(radius) + 1) / 6
    centres, size = torch.tensor([recorded["centres_map_px"]], dtype=torch.float32), 380 // stride
    maps = targets.windows(centres + 0.4, size, sigma)  # the nearest pixel counts
    together = maps.amax(1)[0]
    assert int((together > 0).sum()) == recorded["nonzero"]
    assert float(together.sum()) == pytest.approx(recorded["sum"], rel=1e-5)
    x, y = recorded["centres_map_px"][0]
    assert float(together[y, x + 5]) == pytest.approx(recorded["at_centre_plus_5_x"], rel=1e-5)
