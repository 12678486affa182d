"""Answers of detectors on a study: which slice a label names, what changes sides in the mirror, today's numbers."""

from pathlib import Path

import numpy as np
import pytest

from lumbar.keypoints.mirror import mirror_slices, mirror_stack, mirrored_maps
from lumbar.keypoints.stacks import channel_names, sagittal_stacks
from lumbar.labels import LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.settings import Augment, Training
from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import read_arrays, write_arrays
from lumbar.training.data.stack_files import is_whole, stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from tests.support.worlds import small_phantoms

SIZE = 64


T1 = DetectorSpec(series_type="sagittal_t1", answer="slices", image_size=SIZE, in_chans=7)


T2 = DetectorSpec(series_type="sagittal_t2", answer="slices", image_size=SIZE, in_chans=9)


SMALL = {"encoder": "resnet18", "encoder_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}}


AXIAL = DetectorSpec(series_type="axial_t2", answer="slices", image_size=SIZE, in_chans=3, num_classes=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("phantoms"), 1, 11), "train")


def arrays_of(data: DataFolder, spec: DetectorSpec) -> dict[str, np.ndarray]:
    study = read_study(data, data.study_ids[0])
    assert data.coordinates is not None
    return stack_arrays(study, label_keypoints(study, study_rows(data.coordinates)[study.study_id]), spec)


@pytest.mark.parametrize("spec", [T1, T2, AXIAL], ids=lambda spec: spec.series_type)
def test_the_labels_own_slice_is_named(data: DataFolder, spec: DetectorSpec) -> None:
    """The pixels at the place are those of the label's slice: stacks of that slice alone say so."""
    study = read_study(data, data.study_ids[0])
    assert data.coordinates is not None
    found = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    arrays = arrays_of(data, spec)
    named = arrays["slices"][np.isfinite(arrays["slices"])]
    assert np.array_equal(named, named.round())
    if spec is AXIAL:
        assert (named == 1).mean() > 0.8  # the stack lies around the label's own slice
        return
    stacks = sagittal_stacks(study, spec, found)[0]
    for stack, places in zip(stacks, arrays["slices"], strict=True):
        for name, place in zip(channel_names(spec, stack.side, stack.level), places, strict=True):
            assert stack.window.slices[int(place)].instance == found[name].instance
    assert arrays["slice_mm"] == pytest.approx(study.series[spec.series_type][0].spacing_mm, rel=1e-3)


def test_the_mirror_turns_slices_with_the_stack(data: DataFolder) -> None:
    for spec in (
        T2,
        T1,
        T1.model_copy(update={"preprocessing": T1.preprocessing.model_copy(update={"side_order": "patient"})}),
    ):
        ours = arrays_of(data, spec)
        image = np.stack([np.full((SIZE, SIZE), place) for place in range(spec.in_chans)])
        turned, _ = mirror_stack(image, ours["points"][0], SIZE - 1.0, spec)
        moved = mirror_slices(ours["slices"][0], image, spec)
        for name, place in enumerate(moved):
            assert turned[int(place), 0, 0] == ours["slices"][0][mirrored_maps(spec)[name]]


def test_names_that_a_study_labels_change_sides_in_the_mirror(data: DataFolder, tmp_path: Path) -> None:
    """A name without a label is told apart from one whose label stands on another series."""
    study = read_study(data, data.study_ids[0])
    assert data.coordinates is not None
    found = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    left = {name: point for name, point in found.items() if not name[0].startswith("right")}
    fields = {"series_type": "sagittal_t1", "answer": "slices", "place": "whole", "points": "series", "num_classes": 10}
    spec = DetectorSpec(**fields, image_size=SIZE, in_chans=20, pad=True)
    arrays = stack_arrays(study, left, spec)
    assert arrays["told"].tolist() == [[1] * 5 + [0] * 5]
    write_arrays(tmp_path / f"{study.study_id}.safetensors", arrays)
    samples = StackSamples(tmp_path, [study.study_id], spec, Training(augment=Augment(mirror_p=1.0)))
    assert samples.sample(0, None)["told"].tolist() == [1] * 5 + [0] * 5
    sample = samples.sample(0, np.random.default_rng(0))
    assert sample["told"].tolist() == [0] * 5 + [1] * 5
    assert np.isfinite(sample["slices"]).tolist() == [False] * 5 + [True] * 5


def test_ten_names_change_sides_in_the_mirror() -> None:
    spec = DetectorSpec(series_type="sagittal_t1", num_classes=2 * len(LEVELS), place="whole", points="series")
    assert mirrored_maps(spec) == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert mirror_slices(np.arange(10.0), np.ones((spec.in_chans, 2, 2)), spec).tolist() == [
        -1,
        -2,
        -3,
        -4,
        -5,
        4,
        3,
        2,
        1,
        0,
    ]


def test_slices_keep_their_order_where_the_answer_names_them(data: DataFolder, tmp_path: Path) -> None:
    study = data.study_ids[0]
    write_arrays(tmp_path / f"{study}.safetensors", arrays_of(data, T1))
    shuffled = Training(augment=Augment(channel_shuffle_p=1.0, repeat_p=1.0, mirror_p=0.0))
    sample = StackSamples(tmp_path, [study], T1, shuffled).sample(0, np.random.default_rng(0))
    assert sample["order"].tolist() == list(range(7))
    assert sample["slices"].shape == (5,)
    plain = T1.model_copy(update={"answer": "heatmaps"})
    sample = StackSamples(tmp_path, [study], plain, shuffled).sample(0, np.random.default_rng(0))
    assert sample["order"].tolist() == [3] * 7
    assert "slices" not in sample


def test_a_file_of_before_lacks_the_slices(data: DataFolder, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = arrays_of(data, T1)
    write_arrays(path, arrays)
    assert is_whole(path)
    later = ("slices", "slice_mm", "told", "rows")
    write_arrays(path, {key: value for key, value in arrays.items() if key not in later})
    assert not is_whole(path)
    assert set(read_arrays(path)[0]) == {"images", "points", "mm_per_px", "flip"}
