"""What the networks train on, seen in a mirror: stacks, regions, samples, soft labels and answers change sides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar.bundle.network import build_network
from lumbar.grading.grade import grade
from lumbar.grading.mirror import mirror_view
from lumbar.grading.regions import cut_regions
from lumbar.grading.tasks import task_of
from lumbar.keypoints.mirror import mirror_stack
from lumbar.labels import (
    CONDITIONS,
    LABEL_COLUMNS,
    row_ids,
)
from lumbar.labels import mirrored as other_side
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.recipe.views import MIRROR_VIEW
from lumbar.study.study import DataFolder, open_data
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop.shared_losses import EMPTY
from tests.support.contract import fixed_weights
from tests.support.grader_kinds import KINDS
from tests.support.labelled import labelled, samples_of
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


#: All slices of an axial series, with their distances from the canal points.
WHOLE = {"place": "whole", "points": "series", "answer": "slices", "pad": True, "canal_distances": True}
TOLD = detector_spec("axial_t2", 24, 10).model_copy(update=WHOLE)
EVERY = [detector_spec(spec.series_type, 1, 25) for spec in (T2, T1, AXIAL)]  # a map a condition and level


@pytest.mark.parametrize(
    "spec", [T2, T1, AXIAL, TOLD, *EVERY], ids=lambda spec: f"{spec.series_type}, {spec.num_classes} maps"
)
def test_a_mirrored_stack_is_the_mirrored_studys_stack(data: DataFolder, mirrored: DataFolder, spec: object) -> None:
    ours, theirs = (stack_arrays(*labelled(folder), spec) for folder in (data, mirrored))
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
    ours, theirs = (cut_regions(*labelled(folder), spec) for folder in (data, mirrored))
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
    ours, theirs = (grade(cut_regions(*labelled(folder), both), both, network) for folder in (data, mirrored))
    turned = theirs[[CONDITIONS.index(other_side(name)) for name in CONDITIONS]]
    assert np.array_equal(np.isnan(ours), np.isnan(turned))
    assert np.isfinite(ours).any()
    assert np.nanmax(np.abs(ours - turned)) < 0.05 * max(1.0, float(np.nanmax(np.abs(ours))))


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
    ours = samples_of(data, tmp_path / "a", task, augment=always)
    theirs = samples_of(mirrored, tmp_path / "b", task)
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
    samples = samples_of(data, tmp_path, "subarticular", augment=turned)
    for place in range(4):
        got, plain = samples.sample(place, np.random.default_rng(0)), samples.sample(place, None)
        assert got["labels"].tolist() == plain["labels"].tolist()
        assert np.array_equal(got["views"], plain["views"][:, ::-1])
        assert got["matrix"][0].tolist() == [[1, 0], [0, -1]]


def test_a_detectors_reversed_slices_swap_sides_by_name(data: DataFolder, mirrored: DataFolder, tmp_path: Path) -> None:
    """T2 slices from the other end are the mirrored study's; axial ones keep sides, pictures and points."""
    for spec, folder in ((T2, mirrored), (AXIAL, data)):
        for number, study in enumerate(data.study_ids):
            arrays = stack_arrays(*labelled(data, number), spec)
            write_arrays(tmp_path / spec.series_type / f"{study}.safetensors", arrays)
        training = Training(augment=Augment(reverse_p=1.0, channel_shuffle_p=0))
        samples = StackSamples(tmp_path / spec.series_type, data.study_ids, spec, training)
        got, wanted = samples.sample(0, np.random.default_rng(1)), stack_arrays(*labelled(folder), spec)
        image = wanted["images"][0][::-1] if spec is AXIAL else wanted["images"][0]
        assert np.abs(got["image"].astype(np.float32) - image.astype(np.float32)).mean() < 0.01
        assert np.nanmax(np.abs(got["points"] - wanted["points"][0])) < 0.02


def test_soft_labels_change_sides_in_the_mirror(data: DataFolder, tmp_path: Path) -> None:
    plain = samples_of(data, tmp_path / "files", "foraminal", augment=Augment(mirror_p=1.0))
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
