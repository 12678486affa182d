"""What the second place brought: ends of discs, taught slices, sides mixed, rotations, severities asked apart."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from lumbar.grading.grade import as_shares
from lumbar.grading.regions import Regions
from lumbar.grading.turns import looks, turned
from lumbar.grading.windows import sagittal_slices
from lumbar.keypoints.answers.slices import rolling_place
from lumbar.keypoints.detect import detect
from lumbar.keypoints.networks.registry import build_detector
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.augment import Augment
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.recipe import check_recipe
from lumbar.recipe.settings import Training
from lumbar.study.study import open_data, read_study
from lumbar.training.checks.recipe import recipe_faults
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop import mix
from lumbar.training.loop.detector_losses import LOSSES, Truth
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.loop.shared_losses import EMPTY
from tests.support.grader_kinds import small_grader
from tests.support.small_study import CANAL, sagittal, small_study
from tests.support.tiny_recipe import BACKBONE
from tests.support.worlds import small_phantoms
from tests.test_grading_boxes import Spot
from tests.test_recipe_faults import SOUND

SIDES = CONDITIONS[1:3]


def detector(**fields: Any) -> DetectorSpec:
    small = {"series_type": "sagittal_t2", "encoder": "resnet18", "encoder_args": BACKBONE, "image_size": 64}
    return DetectorSpec(**{**small, "in_chans": 6, **fields})


def slices(**fields: Any) -> DetectorSpec:
    return detector(**{"network": "slice_scores", "answer": "slices", "place": "whole", "pad": True, **fields})


# ---- ends of discs -------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """Points that are the same on every stack."""

    def __init__(self, shares: np.ndarray) -> None:
        super().__init__()
        self.shares = torch.from_numpy(shares.astype(np.float32))

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        return self.shares.expand(len(stacks), -1, -1)


def test_the_front_end_of_a_disc_goes_with_its_canal_point() -> None:
    series = sagittal(1)
    study, size = small_study(sagittal_t2=(series,)), 64
    rows, columns = series.slices[0].shape
    back = np.array([[(mm[1] + 60) / 2 / columns, (100 - mm[2]) / 2 / rows] for mm in CANAL.values()])
    front = back - [0.2, 0.02]
    spec = detector(answer="points", ends=True, num_classes=10, in_chans=3, place="middle", network="frames")
    found, _ = detect(study, [(spec, Says(np.concatenate([back, front])))])
    assert len(found) == len(LEVELS)
    for point, (level, mm) in zip(found, CANAL.items(), strict=True):
        assert point.level == level
        assert point.front_mm is not None
        np.testing.assert_allclose(np.subtract(point.mm, mm)[1:], 0, atol=0.1)
        apart = np.subtract(point.front_mm, point.mm)
        np.testing.assert_allclose(apart, [0, -0.2 * columns * 2, 0.02 * rows * 2], atol=1e-3)
    later = detector(answer="points", in_chans=3, place="found", network="frames")
    seen = slices(num_classes=5)

    class Middle(nn.Module):
        def forward(self, stacks: torch.Tensor) -> torch.Tensor:
            return torch.eye(stacks.shape[1])[2].expand(len(stacks), len(LEVELS), -1)

    again, _ = detect(
        study, [(spec, Says(np.concatenate([back, front]))), (seen, Middle()), (later, Says(back + 0.01))]
    )
    assert all(point.front_mm is not None for point in again)
    assert again[0].mm != found[0].mm
    assert size == spec.image_size


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_phantoms(tmp_path_factory.mktemp("ends"), 1, 5)


def test_phantoms_tell_both_ends_and_detectors_learn_them(phantoms: Path) -> None:
    data = open_data(phantoms, "train")
    assert data.coordinates is not None
    (number,) = data.study_ids
    study = read_study(data, number)
    points = label_keypoints(study, study_rows(data.coordinates)[number])
    spec = detector(answer="points", ends=True, num_classes=10, in_chans=3, place="middle", network="frames")
    arrays = stack_arrays(study, points, spec)
    (target,), scale = arrays["points"], arrays["mm_per_px"][0]
    assert np.isfinite(target).all()
    long = np.linalg.norm((target[: len(LEVELS)] - target[len(LEVELS) :]) * scale, axis=1)
    assert ((long > 25) & (long < 60)).all()
    assert (target[: len(LEVELS), 0] > target[len(LEVELS) :, 0]).all()  # the back lies to the right
    told = [points[CONDITIONS[0], level].front_mm for level in LEVELS]
    apart = [np.linalg.norm(np.subtract(points[CONDITIONS[0], at].mm, mm)) for at, mm in zip(LEVELS, told, strict=True)]  # type: ignore[arg-type]
    np.testing.assert_allclose(apart, long, atol=1.5)


def recipe_with(stage1: Mapping[str, Any] = {}, stage2: Mapping[str, Any] = {}) -> dict[str, Any]:
    return {
        **SOUND,
        "stage1": {**SOUND["stage1"], "members": {**SOUND["stage1"]["members"], **stage1}},
        "stage2": {**SOUND["stage2"], "members": {**SOUND["stage2"]["members"], **stage2}},
    }


# ---- slices --------------------------------------------------------------------------------------------------------


def test_of_fewer_than_five_slices_the_highest_counts() -> None:
    shares = np.zeros((1, len(LEVELS), 4))
    shares[..., 2], shares[..., 0] = 0.6, 0.2
    place, sure = rolling_place(shares)
    assert set(place[0]) == {2.0}
    np.testing.assert_allclose(sure, 0.75)


def test_what_a_teacher_says_stands_in_place_of_labels_and_is_mirrored_with_the_stack(tmp_path: Path) -> None:
    spec = slices(series_type="sagittal_t1", points="series", num_classes=10, in_chans=4)
    images = np.zeros((1, 4, 64, 64), np.float16)
    images[0, :3] = np.random.default_rng(1).random((3, 64, 64))  # the last is padding
    arrays = {
        "images": images,
        "points": np.zeros((1, 10, 2), np.float32),
        "mm_per_px": np.ones((1, 2), np.float32),
        "flip": np.full(1, 63, np.float32),
        "slices": np.full((1, 10), 1, np.float32),
        "slice_mm": np.ones(1, np.float32),
        "told": np.ones((1, 10), np.uint8),
    }
    save_file(arrays, tmp_path / "5.safetensors")
    lessons = tmp_path / "lessons"
    lessons.mkdir()
    said = np.random.default_rng(2).random((1, 10, 4)).astype(np.float32)
    save_file({"lessons": said}, lessons / "5.safetensors")
    training = Training(loss={"bce": 1.0}, taught_by="first", augment=Augment(mirror_p=1.0))
    sample = StackSamples(tmp_path, [5], spec, training, lessons=lessons).sample(0, np.random.default_rng(0))
    left, right = said[0, :5], said[0, 5:]
    expected = np.concatenate([right, left])[:, [2, 1, 0, 3]]
    np.testing.assert_array_equal(sample["lesson"], expected)
    scores = torch.logit(torch.from_numpy(expected)[None], eps=1e-6)
    truth = Truth(spec, training, torch.zeros(1, 10, 2), torch.full((1, 10), 1.0))
    bce = LOSSES["slices"]["bce"]
    own, taught = (
        bce({"answer": scores}, each)[0] for each in (truth, replace(truth, lesson=torch.from_numpy(expected)[None]))
    )
    entropy = nn.functional.binary_cross_entropy(torch.from_numpy(expected), torch.from_numpy(expected)).item() * 10
    assert float(taught) == pytest.approx(entropy, rel=1e-4)
    assert float(own) > float(taught)
    silent = replace(truth, lesson=torch.full((1, 10, 4), torch.nan))
    assert float(bce({"answer": scores}, silent)[0]) == pytest.approx(float(own))


def test_distances_are_asked_of_slices_that_are_there() -> None:
    spec, training = slices(num_classes=5), Training(loss={"bce": 1.0})
    places = torch.full((1, 5), 1.0)
    there = torch.tensor([[True] * 4 + [False] * 2])
    truth = Truth(spec, training, torch.zeros(1, 5, 2), places, there=there)
    right = ((torch.arange(6.0) - 1) / 4).expand(1, 5, 6).clone()
    scores = torch.zeros(1, 5, 6)
    plain = LOSSES["slices"]["bce"]({"answer": scores}, truth)[0]
    right[..., 4:] = 9.0  # padding may say what it likes
    assert LOSSES["slices"]["bce"]({"answer": scores, "distances": right}, truth)[0] == pytest.approx(plain)
    assert LOSSES["slices"]["bce"]({"answer": scores, "distances": right + 1}, truth)[0] > plain + 1


def test_a_network_gives_distances_in_training_only() -> None:
    spec = slices(network_args={"along": "transformer", "heads": 2, "features": "gem", "distances": True})
    network = build_detector(spec)
    assert network.train()(torch.rand(2, 6, 64, 64))["distances"].shape == (2, 5, 6)
    assert network.eval()(torch.rand(2, 6, 64, 64)).shape == (2, 5, 6)


def test_slices_alone_know_nothing_of_those_farther_than_beside_them() -> None:
    network = build_detector(slices(network_args={"along": "alone"})).eval()
    stack = torch.rand(1, 6, 64, 64)
    other = stack.clone()
    other[:, 5] += 1
    with torch.inference_mode():
        away = (network(stack) - network(other)).abs().amax((0, 1))
    assert (away[:4] < 1e-5).all()
    assert (away[4:] > 1e-5).all()


@pytest.mark.parametrize(("towards", "instance"), [(0.0, 6), (0.5, 8), (1.0, 10)])
def test_slices_of_a_side_lie_between_canal_and_foramen(towards: float, instance: int) -> None:
    series = sagittal(1, 11, 4.0)

    class At(Spot):
        @property
        def mm(self) -> tuple[float, float, float]:
            return self.xy_px[0], 0.0, 0.0

    points = {(CONDITIONS[0], "l3_l4"): At((0.0, 0.0)), (CONDITIONS[1], "l3_l4"): At((16.0, 0.0))}
    region = {"around": "point", "towards_foramen": towards}
    spec = small_grader(views=["sagittal_t2_left"], conditions=[CONDITIONS[3]], slices=1, region=region)
    point = points[CONDITIONS[0], "l3_l4"]
    window = sagittal_slices(small_study(), series, "sagittal_t2_left", "l3_l4", point, points, spec)
    assert window is not None
    assert window.slices[0] is series.slices[instance - 1]
    lost = {name: each for name, each in points.items() if name[0] == CONDITIONS[0]}
    found = sagittal_slices(small_study(), series, "sagittal_t2_left", "l3_l4", point, lost, spec)
    assert (found is None) == (towards > 0)  # who does not know where the foramen lies says nothing


# ---- graders -------------------------------------------------------------------------------------------------------


def test_severities_asked_apart_become_probabilities_by_their_sum() -> None:
    spec = small_grader(views=["sagittal_t2"], conditions=CONDITIONS[:1], says="odds")
    said = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = said.sigmoid() / said.sigmoid().sum(-1, keepdim=True)
    torch.testing.assert_close(as_shares(said, spec).softmax(-1), expected)
    plain = spec.model_copy(update={"says": "shares"})
    assert as_shares(said, plain) is said


def test_nine_rotations_of_a_mirrored_study_are_the_mirrored_rotations() -> None:
    spec = small_grader(views=["axial_middle"], conditions=CONDITIONS[:1], tta=["rotations"])
    assert len(looks(spec)) == 9
    pixels = np.random.default_rng(4).random((5, spec.slices, 24, 24)).astype(np.float32)

    def seen(views: np.ndarray) -> list[np.ndarray]:
        regions = Regions({"axial_middle": views}, {"axial_middle": np.ones(5, bool)})
        return [turned(regions, look, spec).tensors["axial_middle"] for look in looks(spec)]

    here, there = seen(pixels), seen(pixels[..., ::-1])
    assert not any(np.allclose(here[0], look, atol=0.05) for look in here[1:])
    for look in here:
        assert min(np.abs(look - other[..., ::-1]).max() for other in there) < 1e-3
    both = small_grader(views=["axial_middle"], conditions=CONDITIONS[:1], tta=["mirror", "rotations"])
    assert len(looks(both)) == 18


class Plain(nn.Module):
    """A backbone that says what it sees, and a grader that says it of every slice."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Flatten()

    def forward(self, stack: torch.Tensor) -> torch.Tensor:  # (B, L, T, C, H, W)
        return self.backbone(stack.flatten(0, 2)).unflatten(0, stack.shape[:3]).mean(-1)


def test_features_of_one_half_are_the_partners() -> None:
    network, own, other = Plain(), torch.zeros(4, 1, 5, 1, 2, 2), torch.ones(4, 1, 5, 1, 2, 2)
    batch = {mix.SHARE: torch.tensor([1, 1, 1, 0.25]), mix.BOX: torch.zeros(4, 4), mix.SIDE: torch.tensor([0, 1, 2, 0])}
    with mix.mixed_features(network, batch, 5):
        seen = network(torch.cat([own, other]))[:4, 0]  # slices run from the patient's right to left
    assert seen.tolist() == [[0] * 5, [0, 0, 0, 1, 1], [1, 1, 0, 0, 0], [0.75] * 5]


@pytest.mark.parametrize("count", [6, 7])
def test_a_side_and_its_labels_are_the_partners(count: int) -> None:
    augment = Augment(mix="sides", mix_on="features", mix_p=0.3, mixup_p=0.3)
    drawn = [
        mix.with_partner({"x": np.zeros(1)}, lambda place, rng: {"x": np.ones(1)}, 9, (1, 1, index), augment)
        for index in range(400)
    ]
    kinds = np.bincount([int(each[mix.SIDE]) for each in drawn])
    assert (np.abs(kinds / 400 - [0.7, 0.15, 0.15]) < 0.06).all()
    shares = np.array([each[mix.SHARE] for each in drawn])
    assert (shares[[int(each[mix.SIDE]) > 0 for each in drawn]] == 1).all()
    assert 0.14 < (shares < 1).mean() < 0.28  # three in ten of the others
    left, right = mix.of_side(torch.tensor([1, 2]), count)
    assert left.sum() == right.sum() == count // 2
    assert left[-1]
    assert right[0]
    assert not (left & right).any()


def test_of_samples_mixed_by_sides_the_canal_is_not_asked() -> None:
    spec = small_grader(views=["sagittal_t1"], conditions=CONDITIONS, slices=4, image_size=16)
    training = Training(loss={"severity": 1.0}, augment=Augment(mix="sides", mix_on="features"))
    objective = SeverityObjective(spec, training)
    size = spec.region_of("sagittal_t1").size
    own, other = (torch.full((3, 1, 4, *size), value) for value in (1.0, 2.0))
    labels = torch.tensor([[0, 0, 0, 0, 0]] * 3), torch.tensor([[2, 2, 2, 2, EMPTY]] * 3)
    batch = {
        "views": own,
        "seen": torch.ones(3, 1, dtype=torch.bool),
        "labels": labels[0],
        "study": torch.arange(3),
        mix.SHARE: torch.ones(3),
        mix.BOX: torch.zeros(3, 4),
        mix.SIDE: torch.tensor([0, 1, 2]),
        "partner/views": other,
        "partner/seen": torch.ones(3, 1, dtype=torch.bool),
        "partner/labels": labels[1],
        "partner/study": torch.arange(3),
    }

    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Identity()

        def forward(self, views: Mapping[str, torch.Tensor], there: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(there), 1, len(CONDITIONS), 3, requires_grad=True)

    terms = objective.terms(Undecided(), batch, train=True)
    taken, unasked = objective._sides(batch)
    assert taken is not None
    assert unasked is not None
    assert taken.tolist() == [[False] * 5, [False, True, False, True, False], [False, False, True, False, True]]
    assert unasked.any(1).tolist() == [False, True, True]
    weight = 5 * 1 + (4 + 1 + 4 + 1) + (1 + 4 + 1 + 0)  # the partner's right recess has no label
    assert float(terms["severity"].weight) == weight


# ---- faults --------------------------------------------------------------------------------------------------------

ENDS = {"series_type": "sagittal_t2", "network": "frames", "answer": "points", "ends": True, "num_classes": 10}
LESSON = {"series_type": "sagittal_t2", "network": "slice_scores", "answer": "slices", "place": "whole"}


@pytest.mark.parametrize(
    ("stage1", "stage2", "words"),
    [
        (
            {"t2_ends": {**ENDS, "series_type": "sagittal_t1"}},
            {},
            "ends are those of discs on sagittal T2",
        ),
        ({}, {"one": {"region": {"box": "disc"}}}, "no detector of sagittal_t2 tells the front ones"),
        ({}, {"one": {"region": {"box": "union"}}}, "it is for axial views"),
        ({}, {"one": {"region": {"box": "whole", "across": "mm"}}}, "across gives the width a unit of its own"),
        ({}, {"one": {"region": {"point": "middle"}}}, "lies between the left and the right recess"),
        ({}, {"one": {"region": {"towards_foramen": 0.5}}}, "towards_foramen chooses slices of a side"),
        ({}, {"one": {"tta": ["rotations"], "region": {"box": "whole"}}}, "turns regions around a point"),
        ({}, {"one": {"says": "odds", "far_errors": 2.0}}, "far_errors and slice_class_weights hold for says"),
        ({}, {"one": {"taught_by": "t2"}}, "taught_by is for detectors of slices"),
        ({}, {"one": {"augment": {"mix": "sides"}}}, "takes the features of slices"),
        ({}, {"one": {"augment": {"mix": "mixup", "mixup_p": 0.5}}}, "augment.mixup_p mixes what mix leaves"),
        ({"new": {**LESSON, "taught_by": "x", "loss": {"bce": 1.0}}}, {}, "taught_by = 'x' is no detector that stands"),
        ({"new": {**LESSON, "taught_by": "t2", "loss": {"bce": 1.0}}}, {}, "must answer slices, learnt from labels"),
        ({"new": {**LESSON, "taught_by": "t2"}}, {}, "taught_by teaches scores of slices by bce alone"),
        (
            {"new": {**LESSON, "decode": "rolling", "num_classes": 3}},
            {},
            'decode = "rolling" needs names of all levels',
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    stage1: dict[str, Any], stage2: dict[str, Any], words: str, tmp_path: Path
) -> None:
    from lumbar.issues import InputError
    from lumbar.recipe.recipe import load_recipe
    from tests.support.tiny_recipe import toml

    grader = {"views": ["sagittal_t2"], "conditions": [CONDITIONS[0]]}
    own = {name: {**grader, **entry} for name, entry in stage2.items()}
    path = tmp_path / "recipe.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in recipe_with(stage1, own).items()))
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert words in "\n".join(getattr(caught.value, "faults", [str(caught.value)]))


def test_data_without_fronts_is_told(phantoms: Path, tmp_path: Path) -> None:
    from lumbar.recipe.recipe import load_recipe
    from tests.support.tiny_recipe import toml

    path = tmp_path / "recipe.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in recipe_with({"t2_ends": ENDS}).items()))
    recipe = load_recipe(path)
    assert (phantoms / "train_disc_fronts.csv").is_file()
    (told,) = [fault for fault in recipe_faults(recipe, tmp_path) if "fronts" in fault]
    assert told.startswith("t2_ends: ends = true learns where discs end in front")
    assert check_recipe(recipe.model_dump(), "again") == recipe
