"""What the networks train on: caches that notice change, targets on the right anatomy, mirrors that swap sides."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar import geometry
from lumbar.grading.mirror import mirror_view
from lumbar.grading.regions import cut_regions
from lumbar.keypoints.mirror import mirror_stack
from lumbar.keypoints.stacks import sagittal_stacks
from lumbar.labels import LABEL_COLUMNS, SERIES_DESCRIPTIONS, condition_title, level_title
from lumbar.metric import label_codes
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.recipe.views import MIRROR_VIEW
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import Name, label_keypoints, study_rows
from lumbar.training.data.packs import Packs, load_study, read_arrays, read_header, write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop.losses import EMPTY
from tests.support.grader_kinds import KINDS
from tests.support.mirror import mirror_coordinates, mirror_labels, mirror_study
from tests.support.worlds import detector_spec, grader_spec, small_phantoms

T2, T1, AXIAL = detector_spec("sagittal_t2", 5, 5), detector_spec("sagittal_t1", 3, 5), detector_spec("axial_t2", 3, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """Two small phantom studies, the second without T1."""
    root = small_phantoms(tmp_path_factory.mktemp("phantoms"), 2, 11, {1: {"without_t1": True}})
    return open_data(root, "train")


@pytest.fixture(scope="module")
def mirrored(data: DataFolder, tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """The same studies seen in a mirror, with the labels that a reader would give them."""
    root = tmp_path_factory.mktemp("mirrored")
    for study in data.study_ids:
        mirror_study(data.image_folder / str(study), root / "train_images" / str(study))
    data.series.to_csv(root / "train_series_descriptions.csv", index=False)
    assert data.labels is not None
    assert data.coordinates is not None
    mirror_labels(data.labels[list(LABEL_COLUMNS)]).to_csv(root / "train.csv")
    parts = [
        mirror_coordinates(rows, data.image_folder / str(study)) for study, rows in data.coordinates.groupby("study_id")
    ]
    pd.concat(parts).to_csv(root / "train_label_coordinates.csv", index=False)
    return open_data(root, "train")


def _one(data: DataFolder, number: int = 0) -> tuple[Study, dict[Name, Keypoint]]:
    study = read_study(data, data.study_ids[number])
    assert data.coordinates is not None
    return study, label_keypoints(study, study_rows(data.coordinates)[study.study_id])


def test_a_pack_gives_the_study_back(data: DataFolder, tmp_path: Path) -> None:
    packs = Packs(tmp_path, data)
    packs.ensure(data.study_ids, _here)
    for number, study_id in enumerate(data.study_ids):
        fresh, packed = read_study(data, data.study_ids[number]), packs.study(study_id)
        assert packed.issues == fresh.issues
        assert packed.series.keys() == fresh.series.keys()
        for name, group in fresh.series.items():
            for one, other in zip(group, packed.series[name], strict=True):
                assert (one.series_id, one.plane, one.slabs) == (other.series_id, other.plane, other.slabs)
                for a, b in zip(one.slices, other.slices, strict=True):
                    assert a.pixels.dtype == b.pixels.dtype
                    assert np.array_equal(a.pixels, b.pixels)
                    assert np.array_equal(a.affine, b.affine)
                    assert replace(a, pixels=None, affine=None) == replace(b, pixels=None, affine=None) or _same(a, b)


def _same(a: object, b: object) -> bool:
    left, right = dict(vars(a)), dict(vars(b))
    return all(left[name] == right[name] for name in left if name not in ("pixels", "affine"))


def _here(function: Callable[[int], None], items: Sequence[int], title: str) -> None:
    for item in items:
        function(item)


def test_only_what_changed_is_read_again(data: DataFolder, tmp_path: Path) -> None:
    made: list[int] = []

    def each(function: Callable[[int], None], items: Sequence[int], title: str) -> None:
        made.extend(items)
        _here(function, items, title)

    first, second = data.study_ids
    Packs(tmp_path, data).ensure(data.study_ids, each)
    assert made == [first, second]
    Packs(tmp_path, data).ensure(data.study_ids, each)
    assert made == [first, second]
    packs = Packs(tmp_path, data)
    pack = packs.path(first)
    pack.write_bytes(pack.read_bytes()[:-10])  # as a full disk or a kill without atomic writing would leave it
    touched = next((data.image_folder / str(second)).rglob("*.dcm"))
    before = touched.stat()
    try:
        os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
        packs.ensure(data.study_ids, each)
    finally:
        os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert made == [first, second, first, second]
    assert load_study(pack).study_id == first


def test_a_damaged_derived_file_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"x": np.arange(4)}, source="s")
    assert read_header(path) == {"source": "s"}
    arrays, header = read_arrays(path)
    assert header == {"source": "s"}
    assert arrays["x"].tolist() == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:20])
    assert read_header(path) is None
    assert read_header(tmp_path / "none.safetensors") is None


@pytest.mark.parametrize("spec", [T2, T1, AXIAL], ids=lambda spec: spec.series_type)
def test_targets_lie_where_the_labels_do(data: DataFolder, spec: object) -> None:
    """Each target, taken back to the patient, is its label but for the slice it lies on."""
    study, keypoints = _one(data)
    arrays = stack_arrays(study, keypoints, spec)
    truth = np.array([point.mm for point in keypoints.values()])
    if spec.series_type == "axial_t2":
        assert len(arrays["images"]) >= 4
        return
    stacks, _ = sagittal_stacks(study, spec)
    assert len(arrays["images"]) == len(stacks)
    assert np.isfinite(arrays["points"]).all()
    for stack, points in zip(stacks, arrays["points"], strict=True):
        labels = geometry.to_pixel(stack.frame, truth)[:, :2]
        for place in geometry.to_pixel(stack.frame, stack.to_slice(points)[1])[:, :2]:
            assert np.linalg.norm(labels - place, axis=1).min() < 1e-3


def test_a_keypoint_that_is_not_in_the_table_is_missing_in_the_targets(data: DataFolder) -> None:
    study, keypoints = _one(data)
    del keypoints["spinal_canal_stenosis", "l3_l4"]
    points = stack_arrays(study, keypoints, T2)["points"][0]
    assert np.isnan(points[2]).all()
    assert np.isfinite(np.delete(points, 2, 0)).all()


def test_axial_targets_know_left_from_right(data: DataFolder) -> None:
    """On the usual axial display the patient's left is on the right: map 0 (left) has the larger column."""
    points = stack_arrays(*_one(data), AXIAL)["points"]
    both = np.isfinite(points).all((1, 2))
    assert both.any()
    assert (points[both, 0, 0] > points[both, 1, 0]).all()


EVERY = [detector_spec(spec.series_type, 1, 25) for spec in (T2, T1, AXIAL)]  # a map a condition and level


@pytest.mark.parametrize(
    "spec", [T2, T1, AXIAL, *EVERY], ids=lambda spec: f"{spec.series_type}, {spec.num_classes} maps"
)
def test_a_mirrored_stack_is_the_mirrored_studys_stack(data: DataFolder, mirrored: DataFolder, spec: object) -> None:
    ours, theirs = (stack_arrays(*_one(folder), spec) for folder in (data, mirrored))
    count = len(ours["images"])
    assert count == len(theirs["images"]) > 0
    order = range(count)[::-1] if spec.series_type == "sagittal_t1" else range(count)
    for number, other in enumerate(order):
        image, points = mirror_stack(
            ours["images"][number].astype(np.float32), ours["points"][number], float(ours["flip"][number]), spec
        )
        expected = theirs["images"][other].astype(np.float32)
        assert np.abs(image - expected).mean() < 0.01
        assert np.nanmax(np.abs(points - theirs["points"][other])) < 0.02
        if spec is not T1 and spec not in EVERY[:2]:
            assert np.abs(ours["images"][number] - expected).mean() > 0.05  # the phantom is not symmetrical


@pytest.mark.parametrize("spec", [grader_spec("global"), *KINDS.values()], ids=["a task", *KINDS])
def test_mirrored_regions_are_those_of_the_mirrored_study(
    data: DataFolder, mirrored: DataFolder, spec: GraderSpec
) -> None:
    ours, theirs = (cut_regions(*_one(folder), spec) for folder in (data, mirrored))
    changed = 0.0
    for own, other in zip((ours, *ours.others), (theirs, *theirs.others), strict=True):
        for view in other.tensors:
            source = MIRROR_VIEW[view]
            assert own.present[source].any()
            assert np.array_equal(own.present[source], other.present[view])
            for level in np.flatnonzero(other.present[view]):
                found = mirror_view(own.tensors[source][level], view, spec)
                assert np.abs(found - other.tensors[view][level]).mean() < 0.05, (view, level)
                changed += np.abs(own.tensors[view][level] - other.tensors[view][level]).mean()
    assert changed > 0.1  # the phantom is not symmetrical


def _samples(data: DataFolder, folder: Path, task: str, **training: object) -> RegionSamples:
    spec = grader_spec(task)
    assert data.labels is not None
    studies, codes = label_codes(data.labels)
    for number, study in enumerate(data.study_ids):
        arrays = region_arrays(*_one(data, number), margin_spec(spec, 1.5))
        write_arrays(folder / f"{study}.safetensors", arrays)
    known = {int(study): code for study, code in zip(studies, codes, strict=True)}
    return RegionSamples(folder, data.study_ids, known, spec, Training(**training))


@pytest.mark.parametrize("task", ["spinal", "foraminal", "subarticular", "global"])
def test_samples_of_the_mirrored_study_are_what_mirroring_gives(
    data: DataFolder, mirrored: DataFolder, tmp_path: Path, task: str
) -> None:
    """Labels and views of a mirrored sample are those of the mirrored study's sample with the same place."""
    always = Augment(mirror_p=1.0)
    ours = _samples(data, tmp_path / "a", task, augment=always)
    theirs = _samples(mirrored, tmp_path / "b", task)
    places = {tuple(row): place for place, row in enumerate(theirs.rows.tolist())}
    compared = 0
    for place, row in enumerate(ours.rows.tolist()):
        if tuple(row) not in places:
            continue
        got, expected = ours.sample(place, np.random.default_rng(place)), theirs.sample(places[tuple(row)], None)
        if (expected["labels"] == EMPTY).all():
            continue
        assert got["labels"].tolist() == expected["labels"].tolist()
        assert np.abs(got["views"] - expected["views"]).mean() < 0.06
        compared += 1
    assert compared >= 8


def test_nothing_is_trained_on_what_cannot_be_seen(data: DataFolder, tmp_path: Path) -> None:
    """Without T1, foraminal labels of the global task are empty, and the foraminal task has no sample of the study."""
    without = data.study_ids[1]
    samples = _samples(data, tmp_path / "g", "global")
    for place in np.flatnonzero(samples.studies == without):
        assert samples.sample(int(place), None)["labels"][1:3].tolist() == [EMPTY, EMPTY]
    assert without not in _samples(data, tmp_path / "f", "foraminal").studies


def test_the_margins_middle_is_the_region(data: DataFolder, tmp_path: Path) -> None:
    """Validation sees the region that prediction cuts, but for rounding of its box and to eight bits."""
    import torch

    from lumbar.training.data.augment import crop_middle

    samples = _samples(data, tmp_path, "subarticular")
    spec = samples.spec
    exact = cut_regions(*_one(data), spec).tensors
    for place in np.flatnonzero(samples.studies == data.study_ids[0])[:6]:
        _, level, number, _ = samples.rows[place]
        seen = crop_middle(torch.from_numpy(samples.sample(int(place), None)["views"]), spec.image_size)[0].numpy()
        view = ("axial_left", "axial_right")[number]
        assert np.corrcoef(seen.ravel(), exact[view][level].ravel())[0, 1] > 0.95


def test_stack_samples_are_named_by_their_draw(data: DataFolder, tmp_path: Path) -> None:
    for number, study in enumerate(data.study_ids):
        write_arrays(tmp_path / f"{study}.safetensors", stack_arrays(*_one(data, number), T2))
    samples = StackSamples(tmp_path, data.study_ids, T2, Training())
    assert samples.studies.tolist() == list(data.study_ids)
    one, two = (samples.sample(0, np.random.default_rng([1, 0])) for _ in range(2))
    assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)
    assert "matrix" not in samples.sample(0, None)


def test_label_words_reach_the_tables(data: DataFolder) -> None:
    """The names this file relies on are the competition's."""
    assert data.coordinates is not None
    raw = pd.read_csv(data.root / "train_label_coordinates.csv")
    assert set(raw["condition"]) <= {condition_title(name) for name in data.coordinates["condition"]}
    assert set(raw["level"]) <= {level_title(name) for name in data.coordinates["level"]}
    assert set(data.series["series_description"]) <= set(SERIES_DESCRIPTIONS)
    assert geometry.PLANE_AXIS["axial"] == 2
