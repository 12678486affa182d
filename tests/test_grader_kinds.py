"""Graders of every kind from a phantom's regions to answers: what is trained on is what is graded, sides by name."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lumbar.bundle.manifest import Manifest, Member
from lumbar.bundle.network import build_network, example, samples_of_a_study
from lumbar.compute.forward import asked, tensors
from lumbar.grading.grade import batched, grade, rows_of, softmax
from lumbar.grading.regions import Regions, cut_regions
from lumbar.grading.tasks import heard, task_of
from lumbar.labels import CONDITIONS, LEVELS, mirrored
from lumbar.metric import label_codes
from lumbar.prediction.budget import enough
from lumbar.recipe.augment import Augment
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.study.study import DataFolder, Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.region_files import margin_spec, region_arrays
from lumbar.training.data.region_samples import RegionSamples
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.outcome.show import batch_of
from tests.support.grader_kinds import CANAL, KINDS, LEFT_RECESS, RIGHT_RECESS, small_grader
from tests.support.mirror import mirror_coordinates, mirror_study
from tests.support.worlds import small_phantoms

EVERY = pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return open_data(small_phantoms(tmp_path_factory.mktemp("kinds") / "data", studies=1))


@pytest.fixture(scope="module")
def study(data: DataFolder) -> Study:
    return read_study(data, data.study_ids[0])


def regions_of(data: DataFolder, study: Study, spec: GraderSpec) -> Regions:
    assert data.coordinates is not None
    return cut_regions(study, label_keypoints(study, study_rows(data.coordinates)[study.study_id]), spec)


def samples_of(data: DataFolder, study: Study, spec: GraderSpec, folder: Path, **training: object) -> RegionSamples:
    assert data.coordinates is not None
    assert data.labels is not None
    keypoints = label_keypoints(study, study_rows(data.coordinates)[study.study_id])
    write_arrays(folder / f"{study.study_id}.safetensors", region_arrays(study, keypoints, margin_spec(spec, 1.5)))
    known, codes = label_codes(data.labels)
    labels = {int(one): code for one, code in zip(known, codes, strict=True)}
    return RegionSamples(folder, [study.study_id], labels, spec, Training(**training))


@EVERY
def test_the_middle_of_what_is_trained_on_is_what_is_graded(
    data: DataFolder, study: Study, spec: GraderSpec, tmp_path: Path
) -> None:
    """But for rounding of boxes and to eight bits."""
    regions, samples = regions_of(data, study, spec), samples_of(data, study, spec, tmp_path)
    objective = SeverityObjective(spec, Training())
    assert len(samples.rows)
    for place in range(0, len(samples.rows), 3):
        _, level, number, series = samples.rows[place]
        batch = torch.utils.data.default_collate([samples.sample(place, None)])
        trained, its_seen = objective.inputs(batch)
        part = (regions, *regions.others)[series]
        row = next(
            row
            for row in rows_of(part, spec.model_copy(update={"speaks_for": ()}))
            if row.sample is task_of(spec).samples[number] and level in (-1, *row.levels)
        )
        graded, seen = batched([row], spec)
        assert torch.equal(seen, its_seen)
        for name, view in graded.items():
            assert view.shape == trained[name].shape
            if view.any():
                assert np.corrcoef(view.flatten(), trained[name].flatten())[0, 1] > 0.9, name


@EVERY
def test_it_learns_from_changed_samples_and_answers_a_study(
    data: DataFolder, study: Study, spec: GraderSpec, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    augment = Augment(mirror_p=0.5, noise=0.2, gamma=0.3, zoom=0.1, shift=0.1)
    samples = samples_of(data, study, spec, tmp_path, augment=augment)
    network = build_network(spec)
    terms = SeverityObjective(spec, Training()).terms(network, batch_of(samples, 2), train=True)
    terms["severity"].total.backward()
    assert float(terms["severity"].weight) > 0
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())
    logits = grade(regions_of(data, study, spec), spec, network.eval())
    spoken = {name for name, row in zip(CONDITIONS, logits, strict=True) if np.isfinite(row).any()}
    heard = spec.speaks_for or task_of(spec).conditions
    assert spoken == set(heard)


@EVERY
def test_its_example_is_as_its_samples_are(data: DataFolder, study: Study, spec: GraderSpec) -> None:
    regions = regions_of(data, study, spec)
    rows = [row for part in (regions, *regions.others) for row in rows_of(part, spec)]
    assert 0 < len(rows) <= samples_of_a_study(spec)
    shapes = [[value.shape[1:] for value in tensors(one)] for one in (batched(rows, spec), example(spec))]
    assert shapes[0] == shapes[1]
    assert asked(build_network(spec).eval(), example(spec)).shape[:2] == (1, 5 if spec.levels != "one" else 1)


@pytest.mark.parametrize(
    "fields",
    [
        {
            "views": ["sagittal_t2_left", "axial_left"],
            "conditions": [LEFT_RECESS],
            "levels": "all",
            "region": {"half": True, "around": "level"},
            "network_args": {"hidden": 16, "fuse": "join"},
        },
        {
            "views": ["sagittal_t2", "sagittal_t1_left", "sagittal_t1_right", "axial_middle"],
            "conditions": list(CONDITIONS),
            "tta": ["mirror"],
            "network_args": {"hidden": 16, "gate": True},
        },
    ],
    ids=["a side and its twin", "both sides in one sample"],
)
def test_slices_as_channels_answer_a_mirrored_study_with_its_sides_exchanged(
    data: DataFolder, study: Study, fields: dict[str, Any], tmp_path: Path
) -> None:
    spec = small_grader(network="slice_channels", **fields)
    network = build_network(spec).eval()
    source, twin = data.image_folder / str(study.study_id), tmp_path / "data"
    mirror_study(source, twin / "train_images" / str(study.study_id))
    for table in data.root.glob("*.csv"):
        shutil.copy(table, twin)
    assert data.coordinates is not None
    mirrored_data = replace(open_data(twin), coordinates=mirror_coordinates(data.coordinates, source))
    here = grade(regions_of(data, study, spec), spec, network)
    there = grade(regions_of(mirrored_data, read_study(mirrored_data, study.study_id), spec), spec, network)
    swapped = [CONDITIONS.index(mirrored(name)) for name in CONDITIONS]
    np.testing.assert_allclose(there[swapped], here, atol=1e-4)
    assert np.nanmax(np.abs(here[3] - here[4])) > 1e-3


class Told(nn.Module):
    """Severe as a view's first pixels are: one number a condition."""

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        rows = next(iter(views.values()))[:, :, 0, 0]  # (B, L, H, W)
        values = torch.stack([rows[..., 0, 0], rows[..., 0, -1]], dim=-1)  # left picture, right picture
        return torch.stack([torch.zeros_like(values), torch.zeros_like(values), values], dim=-1)


def test_answers_to_the_mirrored_picture_are_turned_back_by_names() -> None:
    spec = small_grader(views=["axial_middle"], conditions=[LEFT_RECESS, RIGHT_RECESS], tta=["mirror"])
    picture = np.zeros((5, 3, 32, 32), np.float32)
    picture[:, :, 0, 0], picture[:, :, 0, -1] = 4.0, 1.0
    regions = Regions({"axial_middle": picture}, {"axial_middle": np.ones(5, bool)})
    found = grade(regions, spec, Told())
    left, right = (found[CONDITIONS.index(name)][:, 2] for name in (LEFT_RECESS, RIGHT_RECESS))
    # plain: left says 4, right 1; in the mirror left says 1 and is the right one: right 1, left 4
    assert left.tolist() == [4.0] * 5
    assert right.tolist() == [1.0] * 5


def test_turns_are_averaged_over_every_combination() -> None:
    spec = small_grader(views=["sagittal_t2"], conditions=[CANAL], tta=["columns", "rows"])
    assert samples_of_a_study(spec) == 4 * len(LEVELS)

    class Corner(nn.Module):
        def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
            value = views["sagittal_t2"][:, :, 0, 0, 0, 0]
            return torch.stack([value * 0, value * 0, value], dim=-1)[:, :, None]

    picture = np.zeros((5, 3, 32, 32), np.float32)
    for (row, column), value in {(0, 0): 1.0, (0, -1): 2.0, (-1, 0): 3.0, (-1, -1): 10.0}.items():
        picture[:, :, row, column] = value
    found = grade(Regions({"sagittal_t2": picture}, {"sagittal_t2": np.ones(5, bool)}), spec, Corner())
    assert found[0, :, 2].tolist() == [4.0] * 5
    assert np.isnan(softmax(found)[1:]).all()


def test_a_time_budget_counts_what_a_member_speaks_for() -> None:
    five, canal = KINDS["five levels at once"], small_grader(task="spinal")
    assert heard(five) == (CANAL,)
    assert heard(KINDS["a side from outside in"]) == task_of(KINDS["a side from outside in"]).conditions
    entries = [
        Member(name=name, spec=spec, file=f"{name}.safetensors", sha256="0" * 64)
        for name, spec in (("five", five), ("canal", canal), ("sides", small_grader(task="foraminal")))
    ]
    manifest = Manifest(members=entries, prior=[[[1 / 3] * 3] * 5] * 5)
    assert enough(manifest, ["five", "sides"])  # the canal's are left to one of two
    assert not enough(manifest, ["five", "canal"])  # it learns foramina, too, and does not speak for them


def test_every_sagittal_series_answers_and_their_answers_are_averaged(data: DataFolder, study: Study) -> None:
    spec = KINDS["every sagittal series"]
    regions = regions_of(data, study, spec)
    assert len(regions.others) == 1
    network = build_network(spec).eval()
    alone = [grade(Regions(part.tensors, part.present), spec, network) for part in (regions, *regions.others)]
    both = grade(regions, spec, network)
    assert np.nanmax(np.abs(both - np.mean(alone, axis=0))) < 1e-6
    assert np.nanmax(np.abs(alone[0] - alone[1])) > 1e-4
