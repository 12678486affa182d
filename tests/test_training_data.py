"""What the networks train on: caches that notice change, targets on the right anatomy, mirrors that swap sides."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from safetensors.numpy import save

from lumbar import geometry
from lumbar.dicom.series import Slice
from lumbar.grading.regions import cut_regions
from lumbar.issues import InputError
from lumbar.keypoints.stacks import sagittal_stacks
from lumbar.labels import (
    KEYPOINT_SERIES,
    LEVELS,
    SERIES_DESCRIPTIONS,
    condition_title,
    level_title,
    row_ids,
)
from lumbar.metric import label_codes
from lumbar.recipe.settings import Training
from lumbar.study.study import DataFolder, open_data, read_study
from lumbar.training.data.labelled import sized, study_rows, trusted
from lumbar.training.data.packs import Packs, load_study, read_arrays, read_header, write_arrays
from lumbar.training.data.region_files import make_regions, margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.slice_shift import draw, shares_of
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop.shared_losses import EMPTY
from tests.support.grader_kinds import small_grader
from tests.support.labelled import labelled, samples_of
from tests.support.worlds import detector_spec, grader_spec, small_phantoms

T2, T1, AXIAL = detector_spec("sagittal_t2", 5, 5), detector_spec("sagittal_t1", 3, 5), detector_spec("axial_t2", 3, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """Two small phantom studies, the second without T1."""
    root = small_phantoms(tmp_path_factory.mktemp("phantoms"), 2, 11, {1: {"without_t1": True}})
    return open_data(root, "train")


def test_a_pack_gives_the_study_back(data: DataFolder, tmp_path: Path) -> None:
    packs = Packs(tmp_path, data, tmp_path / "studies.json")
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


def _same(a: Slice, b: Slice) -> bool:
    names = [field.name for field in fields(Slice) if field.name not in ("pixels", "affine")]
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _here(function: Callable[[int], None], items: Sequence[int], title: str) -> None:
    for item in items:
        function(item)


def test_only_what_changed_is_read_again(data: DataFolder, tmp_path: Path) -> None:
    made: list[int] = []

    def each(function: Callable[[int], None], items: Sequence[int], title: str) -> None:
        made.extend(items)
        _here(function, items, title)

    first, second = data.study_ids
    Packs(tmp_path, data, tmp_path / "studies.json").ensure(data.study_ids, each)
    assert made == [first, second]
    Packs(tmp_path, data, tmp_path / "studies.json").ensure(data.study_ids, each)
    assert made == [first, second]
    packs = Packs(tmp_path, data, tmp_path / "studies.json")
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


def test_a_study_stays_itself_while_it_holds_the_same(data: DataFolder, tmp_path: Path) -> None:
    root, noted = tmp_path / "data", tmp_path / "studies.json"
    shutil.copytree(data.root, root)
    first, second = data.study_ids

    def sources() -> dict[int, str]:
        packs = Packs(tmp_path / "packs", open_data(root, "train"), noted)
        packs.ensure(data.study_ids, _here)
        assert {study: read_header(packs.path(study))["source"] for study in data.study_ids} == packs.sources
        return packs.sources

    before = sources()
    for path in root.rglob("*.dcm"):
        os.utime(path, (1e9, 1e9))
    shutil.rmtree(tmp_path / "packs")  # as the next session on Kaggle finds it
    assert sources() == before
    path = next((root / "train_images" / str(first)).rglob("*.dcm"))
    changed = pydicom.dcmread(path)
    changed.PixelData = bytes(changed.PixelData[::-1])
    changed.save_as(path)
    after = sources()
    assert after[first] != before[first]
    assert after[second] == before[second]
    noted.write_text('{"1": {}}')
    with pytest.raises(InputError, match=r"studies\.json: is not what a run writes there; delete it"):
        sources()


def test_arrays_are_written_as_the_library_writes_them(tmp_path: Path) -> None:
    kinds = ("bool", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8")
    arrays = {f"{place % 3}/{kind}": np.arange(place * 2).astype(kind) for place, kind in enumerate(kinds)}
    arrays |= {"2/é\n": np.arange(6.0).reshape(2, 3).T, "empty": np.zeros((0, 4), "i2")}
    write_arrays(tmp_path / "a.safetensors", arrays, source='é "quoted"', rows=[1.5, None])
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"lumbar": json.dumps({"source": 'é "quoted"', "rows": [1.5, None]})}
    assert (tmp_path / "a.safetensors").read_bytes() == save(plain, metadata)
    back, header = read_arrays(tmp_path / "a.safetensors")
    assert header == {"source": 'é "quoted"', "rows": [1.5, None]}
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())


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
    study, keypoints = labelled(data)
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
    study, keypoints = labelled(data)
    del keypoints["spinal_canal_stenosis", "l3_l4"]
    points = stack_arrays(study, keypoints, T2)["points"][0]
    assert np.isnan(points[2]).all()
    assert np.isfinite(np.delete(points, 2, 0)).all()


def test_axial_targets_know_left_from_right(data: DataFolder) -> None:
    """On the usual axial display the patient's left is on the right: map 0 (left) has the larger column."""
    points = stack_arrays(*labelled(data), AXIAL)["points"]
    both = np.isfinite(points).all((1, 2))
    assert both.any()
    assert (points[both, 0, 0] > points[both, 1, 0]).all()


def test_soft_labels_fill_what_is_missing_and_stay_out_of_validation(data: DataFolder, tmp_path: Path) -> None:
    plain = samples_of(data, tmp_path / "files", "global")
    study = data.study_ids[0]
    rows = [row for each in data.study_ids for row in row_ids(each)]
    table = pd.DataFrame({"row_id": rows, "normal_mild": 1.0, "moderate": 2.0, "severe": 5.0})  # any sum will do
    table.to_csv(tmp_path / "soft.csv", index=False)
    codes = {key: value.copy() for key, value in plain.codes.items()}
    codes[study][:, 0] = EMPTY

    def samples(share: float) -> RegionSamples:
        soft = SoftLabels(tmp_path / "soft.csv", data.study_ids, share)
        return RegionSamples(plain.folder, data.study_ids, codes, plain.spec, plain.training, soft)

    missing, halves = samples(0.0), samples(0.5)
    place = next(k for k, row in enumerate(missing.rows.tolist()) if row[:2] == [study, 0])
    without = RegionSamples(plain.folder, data.study_ids, codes, plain.spec, plain.training)
    assert [study, 0] not in without.rows[:, :2].tolist()
    assert missing.sample(place, None)["soft"] == pytest.approx(np.tile([0.125, 0.25, 0.625], (5, 1)))
    assert (missing.sample(place, None)["labels"] == EMPTY).all()
    told = next(k for k, row in enumerate(missing.rows.tolist()) if row[:2] == [study, 1])
    label = int(codes[study][0, 1])
    hard = np.eye(3)[label]
    assert missing.sample(told, None)["soft"][0] == pytest.approx(hard)
    assert halves.sample(told, None)["soft"][0] == pytest.approx((hard + np.array([0.125, 0.25, 0.625])) / 2)
    without_t1 = next(k for k, row in enumerate(halves.rows.tolist()) if row[0] == data.study_ids[1])
    assert (halves.sample(without_t1, None)["soft"][1:3] == 0).all()  # silent where it cannot see
    assert "soft" not in plain.sample(0, None)
    with pytest.raises(InputError, match="a row of none of the studies"):
        SoftLabels(tmp_path / "soft.csv", [1], 0.0)


def test_shifted_windows_are_the_windows_beside(data: DataFolder, tmp_path: Path) -> None:
    """Of a file two slices longer at either end: never shifted in validation, and as far as drawn in training."""
    spec, study = grader_spec("spinal"), data.study_ids[0]
    arrays = region_arrays(*labelled(data), margin_spec(spec, 1.5, 2))
    write_arrays(tmp_path / f"{study}.safetensors", arrays)
    assert arrays["sagittal_t2"].shape[1] == spec.slices + 4
    assert data.labels is not None
    studies, found = label_codes(data.labels)
    codes = {int(each): code for each, code in zip(studies, found, strict=True)}
    shares = {"sagittal_t2": (0.0, 0.0, 1.0), "axial_t2": (1.0,)}
    samples = RegionSamples(tmp_path, [study], codes, spec, Training(slice_shift=(0.5, 0.25, 0.25)), None, shares)
    narrow = region_arrays(*labelled(data), margin_spec(spec, 1.5))
    level = samples.rows[0][1]
    low, high = arrays["sagittal_t2/range"][level]
    whole = arrays["sagittal_t2"][level].astype(np.float32) * ((high - low) / 255) + low
    assert np.allclose(samples.sample(0, None)["views"][0], whole[2:-2])
    plain = narrow["sagittal_t2"][level].astype(np.float32).ravel()
    assert np.corrcoef(whole[2:-2].ravel(), plain)[0, 1] > 0.999  # the middle is the unshifted window
    seen = set()
    for seed in range(8):
        views = samples.sample(0, np.random.default_rng(seed))["views"]
        seen |= {at for at in range(5) if np.allclose(views[0], whole[at : at + spec.slices])}
        middle = samples.sample(0, None)["views"][1]
        assert np.allclose(views[1], middle)
    assert seen == {0, 4}


def test_shares_of_errors_count_either_way() -> None:
    assert shares_of([0, 0, 1, -1, 2, -7, 0, 0]) == (0.5, 0.25, 0.25)
    assert shares_of([]) == (1.0,)
    drawn = [draw(np.random.default_rng(seed), (0.5, 0.25, 0.25)) for seed in range(400)]
    assert np.bincount(np.abs(drawn)) / 400 == pytest.approx([0.5, 0.25, 0.25], abs=0.08)
    assert np.mean(drawn) == pytest.approx(0, abs=0.2)


def test_a_label_is_trusted_where_the_found_point_is_far_off_or_missing(data: DataFolder) -> None:
    _, told = labelled(data)
    labels = list(told.values())
    found = []
    for number, label in enumerate(labels[:-1]):
        off = np.array([8.0 if number == 2 else 0.0, 0, 4.0 if number % 2 == 0 else 6.0])
        mm = tuple((np.array(label.mm) + off).tolist())
        found.append(replace(label, mm=mm, confidence=0.5))
    kept = trusted(found, labels, 5.0)
    assert len(kept) == len(labels)
    for number, label in enumerate(labels[:-1]):
        point = next(each for each in kept if (each.condition, each.level) == (label.condition, label.level))
        far = number % 2 == 1 or (number == 2 and not KEYPOINT_SERIES[label.condition].startswith("sagittal"))
        assert point.confidence == (1.0 if far else 0.5), number
    assert labels[-1] in kept


def test_labelled_points_have_a_size_where_boxes_are_as_large_as_their_points(data: DataFolder, tmp_path: Path) -> None:
    _, told = labelled(data)
    large = sized(told)
    left, right = ((f"{side}_subarticular_stenosis", "l4_l5") for side in ("left", "right"))
    apart = float(np.linalg.norm(np.subtract(told[left].mm, told[right].mm)))
    assert large[left].size_mm == large[right].size_mm == pytest.approx((apart, apart))
    canal = [np.array(told["spinal_canal_stenosis", level].mm)[1:] for level in LEVELS]
    steps = np.linalg.norm(np.diff(canal, axis=0), axis=1)
    sides = [large["spinal_canal_stenosis", level].size_mm for level in LEVELS]
    means = [steps[0], *(steps[1:] + steps[:-1]) / 2, steps[-1]]
    assert sides == [pytest.approx((mean, mean)) for mean in means]
    assert sized({left: told[left]})[left].size_mm is None
    found = replace(told[left], slice_from="plane")
    assert sized(told | {left: found})[left] == found

    packs, (study_id, *_) = Packs(tmp_path / "packs", data, tmp_path / "studies.json"), data.study_ids
    packs.ensure([study_id], _here)
    own = small_grader(views=["sagittal_t2"], conditions=["spinal_canal_stenosis"], region={"box": "own"})
    assert data.coordinates is not None
    make_regions(packs, study_rows(data.coordinates), None, own, tmp_path, {study_id: "a"}, study_id)
    arrays, _ = read_arrays(tmp_path / f"{study_id}.safetensors")
    assert arrays["sagittal_t2/present"].all()


def test_nothing_is_trained_on_what_cannot_be_seen(data: DataFolder, tmp_path: Path) -> None:
    """Without T1, foraminal labels of the global task are empty, and the foraminal task has no sample of the study."""
    without = data.study_ids[1]
    samples = samples_of(data, tmp_path / "g", "global")
    for place in np.flatnonzero(samples.studies == without):
        assert samples.sample(int(place), None)["labels"][1:3].tolist() == [EMPTY, EMPTY]
    assert without not in samples_of(data, tmp_path / "f", "foraminal").studies


def test_the_margins_middle_is_the_region(data: DataFolder, tmp_path: Path) -> None:
    """Validation sees the region that prediction cuts, but for rounding of its box and to eight bits."""
    import torch

    from lumbar.training.data.augment import crop_middle

    samples = samples_of(data, tmp_path, "subarticular")
    spec = samples.spec
    exact = cut_regions(*labelled(data), spec).tensors
    for place in np.flatnonzero(samples.studies == data.study_ids[0])[:6]:
        _, level, number, _ = samples.rows[place]
        seen = crop_middle(torch.from_numpy(samples.sample(int(place), None)["views"]), spec.image_size)[0].numpy()
        view = ("axial_left", "axial_right")[number]
        assert np.corrcoef(seen.ravel(), exact[view][level].ravel())[0, 1] > 0.95


def test_stack_samples_are_named_by_their_draw(data: DataFolder, tmp_path: Path) -> None:
    for number, study in enumerate(data.study_ids):
        write_arrays(tmp_path / f"{study}.safetensors", stack_arrays(*labelled(data, number), T2))
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
