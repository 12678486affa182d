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
from lumbar.bundle.network import build_network
from lumbar.dicom.series import Slice
from lumbar.grading.grade import grade
from lumbar.grading.mirror import mirror_view
from lumbar.grading.regions import cut_regions
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.keypoints.mirror import mirror_stack
from lumbar.keypoints.stacks import sagittal_stacks
from lumbar.labels import (
    CONDITIONS,
    KEYPOINT_SERIES,
    LABEL_COLUMNS,
    LEVELS,
    SERIES_DESCRIPTIONS,
    condition_title,
    level_title,
    row_ids,
)
from lumbar.labels import mirrored as other_side
from lumbar.metric import label_codes
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.recipe.views import MIRROR_VIEW
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import Name, label_keypoints, sized, study_rows, trusted
from lumbar.training.data.packs import Packs, load_study, read_arrays, read_header, write_arrays
from lumbar.training.data.region_files import make_regions, margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.slice_shift import draw, shares_of
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop.losses import EMPTY
from tests.support.contract import fixed_weights
from tests.support.grader_kinds import KINDS, small_grader
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
            for level in np.flatnonzero(other.present[view])[: len(other.tensors[view])]:  # whole series have one
                found = mirror_view(own.tensors[source][level], view, spec)
                assert np.abs(found - other.tensors[view][level]).mean() < 0.05, (view, level)
                changed += np.abs(own.tensors[view][level] - other.tensors[view][level]).mean()
    assert changed > 0.1  # the phantom is not symmetrical


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_a_mirrored_study_gets_the_answers_of_the_other_side(
    data: DataFolder, mirrored: DataFolder, spec: GraderSpec
) -> None:
    """Of members that answer both sides from one sample, where they look at the mirrored study as well."""
    both = spec if len(task_of(spec).samples) > 1 else spec.model_copy(update={"tta": ("mirror",)})
    network = fixed_weights(build_network(both)).eval()
    ours, theirs = (grade(cut_regions(*_one(folder), both), both, network) for folder in (data, mirrored))
    turned = theirs[[CONDITIONS.index(other_side(name)) for name in CONDITIONS]]
    assert np.array_equal(np.isnan(ours), np.isnan(turned))
    assert np.isfinite(ours).any()
    assert np.nanmax(np.abs(ours - turned)) < 0.05 * max(1.0, float(np.nanmax(np.abs(ours))))


def _samples(data: DataFolder, folder: Path, task: str, **training: object) -> RegionSamples:
    spec = grader_spec(task)
    assert data.labels is not None
    studies, codes = label_codes(data.labels)
    for number, study in enumerate(data.study_ids):
        arrays = region_arrays(*_one(data, number), margin_spec(spec, 1.5))
        write_arrays(folder / f"{study}.safetensors", arrays)
    known = {int(study): code for study, code in zip(studies, codes, strict=True)}
    return RegionSamples(folder, data.study_ids, known, spec, Training(**training))


@pytest.mark.parametrize(
    ("task", "always"),
    [
        *[(task, Augment(mirror_p=1.0)) for task in ("spinal", "foraminal", "subarticular", "global")],
        ("foraminal", Augment(reverse_p=1.0)),  # sagittal slices from the other end
        ("subarticular", Augment(flip_columns_p=1.0)),  # axial pictures, left to right
    ],
)
def test_samples_of_the_mirrored_study_are_what_mirroring_gives(
    data: DataFolder, mirrored: DataFolder, tmp_path: Path, task: str, always: Augment
) -> None:
    """Labels and views of a mirrored sample are those of the mirrored study's sample with the same place."""
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


def test_reversed_axial_slices_and_turned_rows_keep_their_sides(data: DataFolder, tmp_path: Path) -> None:
    turned = Augment(reverse_p=1.0, flip_rows_p=1.0, channel_shuffle_p=0, rotate_deg=0, shear_deg=0)
    samples = _samples(data, tmp_path, "subarticular", augment=turned)
    for place in range(4):
        got, plain = samples.sample(place, np.random.default_rng(0)), samples.sample(place, None)
        assert got["labels"].tolist() == plain["labels"].tolist()
        assert np.array_equal(got["views"], plain["views"][:, ::-1])
        assert got["matrix"][0].tolist() == [[1, 0], [0, -1]]


def test_a_detectors_reversed_slices_swap_sides_by_name(data: DataFolder, mirrored: DataFolder, tmp_path: Path) -> None:
    """T2 slices from the other end are the mirrored study's; axial ones keep sides, pictures and points."""
    for spec, folder in ((T2, mirrored), (AXIAL, data)):
        for number, study in enumerate(data.study_ids):
            arrays = stack_arrays(*_one(data, number), spec)
            write_arrays(tmp_path / spec.series_type / f"{study}.safetensors", arrays)
        training = Training(augment=Augment(reverse_p=1.0, channel_shuffle_p=0))
        samples = StackSamples(tmp_path / spec.series_type, data.study_ids, spec, training)
        got, wanted = samples.sample(0, np.random.default_rng(1)), stack_arrays(*_one(folder), spec)
        image = wanted["images"][0][::-1] if spec is AXIAL else wanted["images"][0]
        assert np.abs(got["image"].astype(np.float32) - image.astype(np.float32)).mean() < 0.01
        assert np.nanmax(np.abs(got["points"] - wanted["points"][0])) < 0.02


def test_soft_labels_fill_what_is_missing_and_stay_out_of_validation(data: DataFolder, tmp_path: Path) -> None:
    plain = _samples(data, tmp_path / "files", "global")
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


def test_soft_labels_change_sides_in_the_mirror(data: DataFolder, tmp_path: Path) -> None:
    plain = _samples(data, tmp_path / "files", "foraminal", augment=Augment(mirror_p=1.0))
    rows = [row for each in data.study_ids for row in row_ids(each)]
    left = ["left_neural" in row for row in rows]
    table = pd.DataFrame({"row_id": rows, "normal_mild": np.where(left, 0.9, 0.1), "moderate": 0.0})
    table.assign(severe=1 - table["normal_mild"]).to_csv(tmp_path / "soft.csv", index=False)
    soft = SoftLabels(tmp_path / "soft.csv", data.study_ids, 1.0)
    samples = RegionSamples(plain.folder, data.study_ids, plain.codes, plain.spec, plain.training, soft)
    for place, (_, _, side, _) in enumerate(samples.rows.tolist()):
        own, seen = 0.9 if side == 0 else 0.1, samples.sample(place, np.random.default_rng(0))["soft"]
        assert samples.sample(place, None)["soft"][0, 0] == pytest.approx(own)
        assert seen[0, 0] == pytest.approx(1 - own)


def test_shifted_windows_are_the_windows_beside(data: DataFolder, tmp_path: Path) -> None:
    """Of a file two slices longer at either end: never shifted in validation, and as far as drawn in training."""
    spec, study = grader_spec("spinal"), data.study_ids[0]
    arrays = region_arrays(*_one(data), margin_spec(spec, 1.5, 2))
    write_arrays(tmp_path / f"{study}.safetensors", arrays)
    assert arrays["sagittal_t2"].shape[1] == spec.slices + 4
    assert data.labels is not None
    studies, found = label_codes(data.labels)
    codes = {int(each): code for each, code in zip(studies, found, strict=True)}
    shares = {"sagittal_t2": (0.0, 0.0, 1.0), "axial_t2": (1.0,)}
    samples = RegionSamples(tmp_path, [study], codes, spec, Training(slice_shift=(0.5, 0.25, 0.25)), None, shares)
    narrow = region_arrays(*_one(data), margin_spec(spec, 1.5))
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
    _, told = _one(data)
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
    _, told = _one(data)
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
