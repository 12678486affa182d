"""How far axial slices lie from the canal points, as planes behind the slices of a stack, whatever happens to it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumbar.dicom.identity import Identity
from lumbar.dicom.series import Series
from lumbar.keypoints.detect import detect
from lumbar.keypoints.distances import FAR, UNIT_MM, rows_of_levels
from lumbar.keypoints.mirror import mirror_stack
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.stacks import Stack
from lumbar.keypoints.turns import turned
from lumbar.labels import LEVELS
from lumbar.recipe.augment import Augment
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.settings import Training
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop.detector_objective import DetectorObjective
from lumbar.training.outcome.show import batch_of
from tests.support.scoliosis import Seer, bent_study
from tests.support.small_study import CANAL, axial, sagittal, small_study
from tests.support.small_study import turned as turned_series
from tests.test_chain import spec_of, whole

#: Nine slices of `small_study`, and three empty places behind them.
SPEC = whole("axial_t2", in_chans=12, pad=True, canal_distances=True)
HEIGHTS = np.array([-44.0, -40.0, -36.0, 12.0, 16.0, 20.0, 76.0, 80.0, 84.0])
POINTS = {
    ("spinal_canal_stenosis", level): Keypoint("spinal_canal_stenosis", level, 1, 1, (0, 0), tuple(mm), 1, 1, 1)
    for level, mm in CANAL.items()
}


def told(pixels: np.ndarray, spec: DetectorSpec = SPEC) -> np.ndarray:
    """(T, 5) mm that the planes of a stack (C, S, S) tell."""
    planes = np.asarray(pixels, np.float32)[spec.slices_seen :]
    rows = rows_of_levels(spec.image_size)
    assert (planes == planes[:, :, :1]).all()
    return planes[:, rows, 0] * UNIT_MM


def study_of(series: Series) -> Study:
    """The study in which the points lie, with that axial series."""
    return small_study(sagittal_t2=(sagittal(1),), axial_t2=(series,))


def one(study: Study, points: dict = POINTS) -> Stack:
    """The only stack of a study."""
    (stack,), issues = stacks_for(study, SPEC, Known(points))
    assert issues == []
    return stack


def expected() -> np.ndarray:
    """(9, 5) mm that each slice lies above the points, which are as many mm from the head as these slices are."""
    return HEIGHTS[:, None] - np.array([CANAL[level][2] for level in LEVELS])


def columns_reversed(pixels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image stored with its columns reversed, so that its normal points to the feet."""
    flipped = affine.copy()
    flipped[:3, 3] += affine[:3, 0] * (pixels.shape[1] - 1)
    flipped[:3, [0, 2]] *= -1
    return np.ascontiguousarray(pixels[:, ::-1]), flipped


@pytest.mark.parametrize("way", ["normals to the head", "normals to the feet"])
def test_planes_tell_how_far_above_each_canal_point_a_slice_lies(way: str) -> None:
    series = axial(3) if way == "normals to the head" else turned_series(axial(3), columns_reversed)
    stack = one(study_of(series))
    assert stack.pixels.shape == (24, SPEC.image_size, SPEC.image_size)
    np.testing.assert_allclose(told(stack.pixels)[:9], expected(), atol=1e-4)
    assert not stack.pixels[9:12].any()
    assert not stack.pixels[21:].any()
    plain = stacks_for(study_of(series), SPEC.model_copy(update={"canal_distances": False}), Known())
    np.testing.assert_array_equal(stack.pixels[:12], plain[0][0].pixels)


def test_slices_that_are_tilted_are_measured_along_their_own_normal() -> None:
    item = axial(3, [[16.0]]).slices[0]
    affine, tilt = item.affine.copy(), np.deg2rad(20)
    affine[:3, 1] = 1.5 * np.array([0, np.cos(tilt), np.sin(tilt)])
    affine[:3, 2] = [0, -np.sin(tilt), np.cos(tilt)]
    series = Series(3, "Axial T2", "axial", (replace(item, affine=affine),), (0,))
    down, back = CANAL["l3_l4"][2] - 16.0, CANAL["l3_l4"][1] + 40.0
    above = told(one(study_of(series)).pixels)[0, LEVELS.index("l3_l4")]
    assert above == pytest.approx(back * np.sin(tilt) - down * np.cos(tilt), abs=1e-3)


def test_a_level_without_a_canal_point_lies_far_below_all_slices_and_no_point_gives_no_stack() -> None:
    study, some = small_study(), {name: point for name, point in POINTS.items() if name[1] != "l4_l5"}
    found = told(one(study, some).pixels)
    assert (found[:9, LEVELS.index("l4_l5")] == FAR * UNIT_MM).all()
    kept = [level != "l4_l5" for level in LEVELS]
    np.testing.assert_allclose(found[:9, kept], expected()[:, kept], atol=1e-4)
    assert stacks_for(study, SPEC, Known()) == ([], [])


def test_points_in_another_frame_of_reference_tell_nothing() -> None:
    def framed(series: Series, name: str) -> Series:
        moved = tuple(replace(item, identity=Identity(frame_of_reference=name)) for item in series.slices)
        return replace(series, slices=moved)

    for name, count in (("here", 1), ("elsewhere", 0)):
        both = small_study(sagittal_t2=(framed(sagittal(1), "here"),), axial_t2=(framed(axial(3), name),))
        assert len(stacks_for(both, SPEC, Known(POINTS))[0]) == count


@pytest.mark.parametrize("size", [32, 33, 64, 101])
def test_every_level_has_rows_of_its_own_in_images_of_any_size(size: int) -> None:
    spec = SPEC.model_copy(update={"image_size": size})
    (stack,), _ = stacks_for(small_study(), spec, Known(POINTS))
    np.testing.assert_allclose(told(stack.pixels, spec)[:9], expected(), atol=1e-4)
    planes = stack.pixels[12:]
    np.testing.assert_array_equal(planes, planes[:, ::-1, ::-1])
    assert len(np.unique(planes[0])) == len(LEVELS)


@pytest.mark.parametrize("turn", ["mirror", "rows", "slices"])
def test_a_turned_stack_keeps_the_distances_of_its_slices(turn: str) -> None:
    stack = one(small_study()).pixels
    after = turned(torch.from_numpy(stack)[None], turn, SPEC, [9])[0].numpy()
    order = [*range(9)[::-1], *range(9, 12)] if turn == "slices" else list(range(12))
    np.testing.assert_array_equal(told(after), told(stack)[order])
    assert not np.array_equal(after[:12], stack[:12])


def test_the_mirrored_stack_has_the_same_distances() -> None:
    stack = one(small_study()).pixels
    after, _ = mirror_stack(stack, np.zeros((10, 2)), 63.0, SPEC)
    np.testing.assert_array_equal(told(after), told(stack))


def test_training_changes_slices_and_leaves_distances(tmp_path: Path) -> None:
    name = "left_subarticular_stenosis", "l3_l4"
    recess = Keypoint(*name, 3, 5, (50.0, 30.0), (9.0, 5.0, 16.0), 1, 1, 1)
    arrays = stack_arrays(small_study(), {**POINTS, name: recess}, SPEC)
    assert arrays["images"].shape == (1, 24, SPEC.image_size, SPEC.image_size)
    assert arrays["slices"][0, LEVELS.index("l3_l4")] == 4
    write_arrays(tmp_path / "7.safetensors", arrays)
    changes = Augment(noise=0.5, rotate_deg=30.0, flip_rows_p=1.0, reverse_p=1.0, channel_shuffle_p=0.0)
    training = Training(augment=changes, loss={"bce": 1.0})
    samples = StackSamples(tmp_path, [7], SPEC, training)
    batch = batch_of(samples, 1)
    images, truth = DetectorObjective(SPEC, training).mixed(batch, None)
    np.testing.assert_allclose(told(images[0].numpy())[:9], expected()[::-1], atol=0.1)  # stored in halves
    assert truth.there is not None
    assert truth.there.tolist() == [[True] * 9 + [False] * 3]
    assert truth.slices is not None
    assert truth.slices[0, LEVELS.index("l3_l4")] == 4
    assert images.std((2, 3))[0, :9].min() > 0
    plain, _ = DetectorObjective(SPEC, training).mixed(batch_of(samples, 1, augmented=False), None)
    assert not np.allclose(images[0, :9], plain[0, :9].flip(0), atol=0.1)


def test_a_detector_is_told_of_the_points_that_were_found_before_it() -> None:
    seen = []

    class Recording(Seer):
        def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
            seen.append(stacks.clone())
            return super().__call__(stacks)

    canal, finder = spec_of("sagittal_t2"), whole("axial_t2", in_chans=15, canal_distances=True)
    points, _ = detect(bent_study(), [(canal, Seer(canal)), (finder, Recording(finder))])
    ((stack,),) = seen
    heights = [mm[2] + step for mm in reversed(CANAL.values()) for step in (-4, 0, 4)]
    found = {point.level: point.mm[2] for point in points}
    wanted = np.array(heights)[:, None] - np.array([found[level] for level in LEVELS])
    np.testing.assert_allclose(told(stack.numpy(), finder), wanted, atol=1e-3)
