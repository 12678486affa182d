"""Augmentation: images and keypoints move together, and mirroring swaps sides."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lumbar.keypoints.answers.heatmaps import gaussian_heatmaps
from lumbar.recipe.augment import Augment
from lumbar.training.data import augment
from lumbar.training.data.flips import flips
from lumbar.training.loop.targets import heatmaps


def _batch(draws: list[augment.Draw]) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(np.stack([draw[key] for draw in draws])) for key in augment.KEYS}


def _blob(size: int, xy: np.ndarray, sigma: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(gaussian_heatmaps(xy[None], size, sigma))[None]  # (1, 1, S, S)


def _centroid(image: torch.Tensor) -> np.ndarray:
    weights = (image - image.min()).clamp_min(0) ** 4
    axis = torch.arange(image.shape[-1], dtype=torch.float32)
    return np.array([float((weights.sum(0) * axis).sum()), float((weights.sum(1) * axis).sum())]) / float(weights.sum())


@pytest.mark.parametrize("seed", range(8))
def test_keypoints_stay_on_what_they_marked(seed: int) -> None:
    """A wrong sign or order in the warp would part the blob from its keypoint."""
    settings = Augment(rotate_deg=15, shear_deg=15, zoom=0.2, shift=0.05, sharpen_or_blur_p=0, channel_shuffle_p=0)
    point = np.array([70.0, 40.0])
    numbers = _batch([augment.draw(np.random.default_rng(seed), settings, 1)])
    images, points = augment.apply(_blob(96, point), torch.tensor(point[None, None], dtype=torch.float32), numbers, 96)
    assert points is not None
    assert np.abs(_centroid(images[0, 0]) - points[0, 0].numpy()).max() < 0.2
    assert np.abs(points[0, 0].numpy() - point).max() > 0.5  # it did move


def test_the_warp_is_torchvisions_affine() -> None:
    image, point = torch.rand(1, 1, 64, 64), torch.tensor([[[20.0, 35.0]]])
    angle = np.deg2rad(10.0)
    matrix = torch.tensor([[[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]], dtype=torch.float32)
    ours = augment.Warp(matrix, torch.zeros(1, 2), 64)
    moved, points = ours(tv_tensors.Image(image), tv_tensors.KeyPoints(point, canvas_size=(64, 64)))
    theirs = v2.functional.affine(image, 10.0, [0, 0], 1.0, [0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR)
    assert (moved - theirs)[..., 16:48, 16:48].abs().max() < 1e-4
    spot = tv_tensors.KeyPoints(point[0], canvas_size=(64, 64))
    spot = v2.functional.affine(spot, 10.0, [0, 0], 1.0, [0.0, 0.0])
    assert (points[0] - spot).abs().max() < 1.0  # theirs rounds pixel centres


OFF = Augment(rotate_deg=0, shear_deg=0, sharpen_or_blur_p=0, channel_shuffle_p=0)


def no_change(slices: int) -> augment.Draw:
    """The draw that leaves a stack as it is."""
    return augment.draw(np.random.default_rng(0), OFF, slices)


def test_no_change_leaves_pixels_and_points_alone() -> None:
    images, point = torch.randn(2, 3, 32, 32), torch.rand(2, 4, 2) * 32
    numbers = _batch([no_change(3)] * 2)
    out, points = augment.apply(images, point, numbers, 32)
    assert torch.allclose(out, augment.standardise(images), atol=1e-5)
    assert torch.allclose(points, point, atol=1e-4)


def test_the_middle_of_a_margin_is_what_validation_sees() -> None:
    images = torch.randn(1, 2, 48, 48)
    out, _ = augment.apply(images, None, _batch([no_change(2)]), 32)
    assert torch.allclose(out, augment.crop_middle(images, 32), atol=1e-5)


def test_missing_keypoints_stay_missing() -> None:
    point = torch.tensor([[[np.nan, np.nan], [5.0, 5.0]]], dtype=torch.float32)
    numbers = _batch([augment.draw(np.random.default_rng(0), Augment(), 1)])
    _, points = augment.apply(torch.randn(1, 1, 16, 16), point, numbers, 16)
    assert torch.isnan(points[0, 0]).all()
    assert torch.isfinite(points[0, 1]).all()


def test_draws_depend_on_their_generator_only() -> None:
    one, two = (augment.draw(np.random.default_rng([1, 2]), Augment(noise=1, shading=1), 5) for _ in range(2))
    other = augment.draw(np.random.default_rng([1, 3]), Augment(noise=1, shading=1), 5)
    assert all(np.array_equal(one[key], two[key]) for key in augment.KEYS)
    assert not np.array_equal(one["matrix"], other["matrix"])


def test_slices_are_shuffled_only_where_asked() -> None:
    always = Augment(channel_shuffle_p=1)
    kept = [augment.draw(np.random.default_rng(k), always, 5, shuffle=False)["order"].tolist() for k in range(5)]
    mixed = [augment.draw(np.random.default_rng(k), always, 5)["order"].tolist() for k in range(5)]
    assert all(order == [0, 1, 2, 3, 4] for order in kept)
    assert any(order != [0, 1, 2, 3, 4] for order in mixed)
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in mixed)


@pytest.mark.parametrize("field", ["gamma", "noise", "shading", "coarsen"])
def test_intensity_options_change_pixels_and_keep_them_standardised(field: str) -> None:
    settings = OFF.model_copy(update={field: 0.6})
    images = torch.rand(4, 2, 32, 32)
    numbers = _batch([augment.draw(np.random.default_rng(k), settings, 2) for k in range(4)])
    out, _ = augment.apply(images, None, numbers, 32)
    assert (out - augment.standardise(images)).abs().max() > 0.05
    assert out.mean((1, 2, 3)).abs().max() < 1e-4
    assert (out.std((1, 2, 3), correction=0) - 1).abs().max() < 1e-3


def test_sharpening_and_blur_change_detail_in_opposite_ways() -> None:
    images = torch.rand(1, 1, 64, 64)
    settings = OFF.model_copy(update={"sharpen_or_blur_p": 1.0})
    detail = set()
    for seed in range(20):
        draw = augment.draw(np.random.default_rng(seed), settings, 1)
        assert draw["kernel"].sum() == pytest.approx(1, abs=1e-5)
        changed = augment.Filter(_batch([draw]))(tv_tensors.Image(images))
        detail.add(bool(changed.diff(dim=-1).std() > images.diff(dim=-1).std()))
    assert detail == {True, False}


def test_target_maps_are_those_that_detection_is_tested_with() -> None:
    points = torch.tensor([[[10.3, 20.7], [np.nan, np.nan], [70.0, 3.0]]], dtype=torch.float32)
    ours = heatmaps(points, 64, 4.0)[0].numpy()
    assert np.abs(ours - gaussian_heatmaps(points[0].numpy(), 64, 4.0)).max() < 1e-5
    assert ours[1].max() == 0  # missing
    assert ours[2].max() == 0  # outside


@pytest.mark.parametrize("seed", range(6))
def test_keypoints_stay_on_what_they_marked_in_bent_pictures(seed: int) -> None:
    """A field read at the wrong place, or with the wrong sign, would part the blob from its keypoint."""
    settings = OFF.model_copy(update={"distort": 0.05, "zoom": 0.2, "rotate_deg": 20.0})
    point, rng = np.array([60.0, 40.0]), np.random.default_rng(seed)
    drawn = augment.draw(rng, settings, 1)
    while not drawn["bend"].any():
        drawn = augment.draw(rng, settings, 1)
    straight = drawn | {"bend": np.zeros_like(drawn["bend"])}
    places = []
    for each in (drawn, straight):
        spots = torch.tensor(np.array([[point, [np.nan, np.nan]]]), dtype=torch.float32)
        images, points = augment.apply(_blob(96, point), spots, _batch([each]), 96)
        assert points is not None
        assert np.abs(_centroid(images[0, 0]) - points[0, 0].numpy()).max() < 0.25
        assert torch.isnan(points[0, 1]).all()
        places.append(points[0, 0].numpy())
    assert np.abs(places[0] - places[1]).max() > 0.3  # the field did move it


def test_turned_pictures_turn_their_keypoints() -> None:
    image, point = torch.randn(1, 1, 32, 32), torch.tensor([[[4.0, 9.0]]])
    for columns, rows in ((True, False), (False, True), (True, True)):
        numbers = _batch([augment.draw(np.random.default_rng(0), OFF, 1, columns=columns, rows=rows)])
        turned, points = augment.apply(image, point, numbers, 32)
        axes = [axis for axis, turns in ((-1, columns), (-2, rows)) if turns]
        assert torch.allclose(turned, augment.standardise(image.flip(axes)), atol=1e-4)
        assert points is not None
        assert points.flatten().tolist() == pytest.approx([27 if columns else 4, 22 if rows else 9], abs=1e-4)


def test_holes_are_as_many_and_as_large_as_asked() -> None:
    settings = OFF.model_copy(update={"holes_p": 0.5, "holes": 2, "hole_size": 0.4})
    image = torch.rand(1, 1, 40, 40) + 1
    shares = []
    for seed in range(60):
        numbers = _batch([augment.draw(np.random.default_rng(seed), settings, 1)])
        out, _ = augment.apply(image, None, numbers, 40)
        shares.append(float((out == out.min()).float().mean()))
    dark = [share for share in shares if share > 1 / 1600]
    assert 15 < len(dark) < 45
    assert 0.4**2 < max(dark) <= 2 * 0.4**2  # two of them
    assert min(dark) < 0.1


def test_turns_are_as_often_as_asked_and_sides_swap_only_where_the_picture_is_the_mirrored_studys() -> None:
    def share(name: str, *, sagittal: bool, axial: bool, **settings: float) -> float:
        chosen = Augment(**settings)
        found = [flips(np.random.default_rng(seed), chosen, sagittal=sagittal, axial=axial) for seed in range(400)]
        return float(np.mean([getattr(each, name) for each in found]))

    sagittal, axial = {"sagittal": True, "axial": False}, {"sagittal": False, "axial": True}
    assert share("mirrored", **sagittal, reverse_p=1.0) == 1
    assert share("mirrored", **axial, reverse_p=1.0) == 0
    assert share("backwards", **axial, reverse_p=1.0) == 1
    assert share("backwards", **sagittal, reverse_p=1.0) == 0
    assert share("mirrored", **axial, flip_columns_p=1.0) == 1
    assert share("mirrored", **sagittal, flip_columns_p=1.0) == 0
    assert share("columns", **sagittal, flip_columns_p=1.0) == 1
    for planes in (sagittal, axial):
        assert share("rows", **planes, flip_rows_p=1.0) == 1
        assert share("mirrored", **planes, flip_rows_p=1.0) == 0
    both = flips(np.random.default_rng(0), Augment(front_back_p=1.0, flip_rows_p=1.0), sagittal=True, axial=True)
    assert not both.mirrored
    assert both.turned(axial=False) == {"columns": True, "rows": True}
    assert both.turned(axial=True) == {"columns": False, "rows": False}  # twice is not at all
    assert share("mirrored", **sagittal, mirror_p=1.0, reverse_p=1.0) == 0  # twice is not at all
    assert 0.4 < share("mirrored", sagittal=True, axial=True, reverse_p=0.5, flip_columns_p=0.5) < 0.6
