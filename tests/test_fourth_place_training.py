"""What the fourth place's members are asked for in training, and what padding and every combination of turns mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lumbar import geometry
from lumbar.dicom.series import Series
from lumbar.grading.boxes import placed
from lumbar.grading.mirror import mirror_view
from lumbar.grading.regions import Regions, cut_region, cut_regions
from lumbar.grading.turns import turned
from lumbar.keypoints.stacks import make_stack
from lumbar.keypoints.steps import raw_answers
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe import chain
from lumbar.recipe.augment import Augment
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.detector_member import DetectorMember
from lumbar.recipe.grader_member import GraderMember
from lumbar.recipe.region import Region
from lumbar.recipe.settings import Training
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import Window
from lumbar.training.checks import losses as checks
from lumbar.training.data import augment
from lumbar.training.data.packs import write_arrays
from lumbar.training.data.stack_files import stack_arrays
from lumbar.training.data.stack_samples import StackSamples
from lumbar.training.loop import targets
from lumbar.training.loop.detector_losses import LOSSES, Truth
from lumbar.training.loop.shared_losses import severity_loss
from tests.support.grader_kinds import small_grader
from tests.support.small_study import axial, sagittal, small_study
from tests.test_grading_boxes import Spot

CPU = torch.device("cpu")
PADDED: dict[str, Any] = {"around": "level", "slices": 9, "pad": True, "intensity": "minmax", "scope": "series"}
RECESSES = DetectorSpec(
    series_type="axial_t2", place="found", network="unet", encoder="tu-resnet18", num_classes=2, in_chans=3,
    image_size=64, encoder_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    network_args={"severities": 2, "decoder_channels": [8] * 5},
)  # fmt: skip
FINDER = DetectorSpec(
    series_type="axial_t2", place="whole", points="series", answer="slices", decode="change", num_classes=10,
    in_chans=8, image_size=32, pad=True, tta=["mirror", "slices"], looks="every",
)  # fmt: skip


def padded_regions(series: Series) -> tuple[Any, Regions]:
    spec = small_grader(views=["sagittal_t2"], conditions=CONDITIONS[:1], region=PADDED)
    points = {(CONDITIONS[0], level): Spot((30.0, 20.0 + 8 * place)) for place, level in enumerate(LEVELS)}
    return spec, cut_regions(small_study(sagittal_t2=[series]), points, spec)


def test_a_short_series_is_followed_by_empty_slices_in_the_mirror_too() -> None:
    spec, regions = padded_regions(sagittal(1, 6))
    pixels = regions.tensors["sagittal_t2"]
    shown = pixels.max((2, 3)) > pixels.min((2, 3))
    assert shown.tolist() == [[True] * 6 + [False] * 3] * 5
    cut = regions.cuts["sagittal_t2", "l3_l4"]
    assert [item.instance for item in cut.slices if item is not None] == [1, 2, 3, 4, 5, 6]
    twin = turned(regions, ["mirror"], spec).tensors["sagittal_t2"]
    np.testing.assert_array_equal(twin[:, :6], pixels[:, 5::-1])
    assert not twin[:, 6:].any()
    np.testing.assert_array_equal(mirror_view(twin, "sagittal_t2", spec), pixels)
    _, longer = padded_regions(sagittal(1, 12))  # more than fit are brought to as many
    assert len({id(item) for item in longer.cuts["sagittal_t2", "l3_l4"].slices}) == 9


def test_no_noise_fills_empty_slices() -> None:
    stacks = torch.rand(2, 6, 40, 40)
    stacks[0, 4:], stacks[1, 3:] = 0, 0.25
    change = Augment(noise=1.0, shading=0.5, holes_p=1.0, distort=0.05, gamma=1.0)
    draws = [augment.draw(np.random.default_rng(seed), change, 6) for seed in range(2)]
    numbers = {key: torch.from_numpy(np.stack([draw[key] for draw in draws])) for key in draws[0]}
    found, _ = augment.apply(stacks, None, numbers, 32, lambda images: images, padded=True)
    assert (found.amax((2, 3)) > found.amin((2, 3))).tolist() == [[True] * 4 + [False] * 2, [True] * 3 + [False] * 3]


@pytest.mark.parametrize(("view", "turned_by"), [("axial_left", 0.0), ("axial_right", 0.0), ("axial_middle", 0.2)])
def test_crops_as_large_as_the_recesses_are_apart_stand_upright_beside_them(view: Any, turned_by: float) -> None:
    apart = 20 * np.array([np.cos(0.2), np.sin(0.2)])
    ends = {"right": (50.0, 60.0), "left": tuple((np.array([50.0, 60.0]) + apart).tolist())}
    points = {(f"{side}_subarticular_stenosis", "l3_l4"): Spot(place) for side, place in ends.items()}
    region = Region((32, 32), 5, (2.0, 2.0), box="pair")
    box = placed(small_study(), view, "l3_l4", Spot((0.0, 0.0)), points, region, (90, 90), np.eye(4))  # type: ignore[arg-type]
    assert box is not None
    assert box.size_mm == pytest.approx((40, 40))
    assert box.turn == pytest.approx(turned_by)


class Remembers(nn.Module):
    """Says of every slice the mean of its left and of its upper half, and its place, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        self.seen.append(stacks)
        one, other = stacks[..., :16].mean((2, 3)), stacks[..., :16, :].mean((2, 3))
        return torch.stack([one, other, one - other, one * 2, one * 0 + 1, one * other], 1).cumsum(-1)


def test_every_combination_of_turns_is_looked_at_so_that_the_mirrored_study_gets_the_same_answer() -> None:
    series = sagittal(1, 5)
    window = Window(series, (*series.slices, None, None, None), False)
    stack = make_stack(window, series.slices[2], FINDER)
    network = Remembers()
    found = raw_answers([stack], [(FINDER, network)], CPU)
    assert len(network.seen) == 4
    plain, *looks = (seen[0] for seen in network.seen)
    wanted = [plain.flip(-1), plain[[4, 3, 2, 1, 0, 5, 6, 7]], plain[[4, 3, 2, 1, 0, 5, 6, 7]].flip(-1)]
    for seen, other in zip(looks, wanted, strict=True):
        assert torch.equal(seen, other)
    assert np.isnan(found[0, :, 5:]).all()
    mirrored = make_stack(window, series.slices[2], FINDER)
    object.__setattr__(mirrored, "pixels", stack.pixels[..., ::-1].copy())
    np.testing.assert_allclose(raw_answers([mirrored], [(FINDER, Remembers())], CPU), found, rtol=1e-5)
    each = FINDER.model_copy(update={"looks": "each"})
    network = Remembers()
    raw_answers([stack], [(each, network)], CPU)
    assert len(network.seen) == 3


def test_recesses_are_asked_for_their_severities_by_name(tmp_path: Path) -> None:
    number, series = 7, axial(heights=((-44.0, -40.0, -36.0), (12.0, 16.0, 20.0), (76.0, 80.0, 84.0)))
    points = {}
    for level, item in zip(LEVELS[:3], series.slices[7::-3], strict=True):
        for condition, column in zip(CONDITIONS[3:], (54.0, 34.0), strict=True):
            mm = tuple(geometry.to_patient(item.affine, np.array([column, 40.0])).tolist())
            points[condition, level] = Keypoint(condition, level, 3, item.instance, (column, 40.0), mm, 1.0, 0.0, 1.0)
    arrays = stack_arrays(small_study(axial_t2=[series]), points, RECESSES)
    names = [(row // 5, row % 5) for row in arrays["rows"].ravel()]
    assert names == [(condition, level) for level in range(3) for condition in (3, 4)]
    write_arrays(tmp_path / f"{number}.safetensors", arrays)
    codes = {number: np.arange(25).reshape(5, 5) % 3}
    codes[number][3, 1] = -1
    training = Training(loss={"mse": 1.0, "severity": 1.0}, augment=Augment(mirror_p=1.0))
    samples = StackSamples(tmp_path, [number], RECESSES, training, codes)
    for level in range(3):
        own = samples.sample(level, None)["labels"]
        assert own.tolist() == [codes[number][3, level], codes[number][4, level]]
        assert samples.sample(level, np.random.default_rng(0))["labels"].tolist() == own[::-1].tolist()
    assert "labels" not in StackSamples(tmp_path, [number], RECESSES, Training(), codes).sample(0, None)


def test_the_loss_of_severities_is_the_graders_and_counts_in_training_alone() -> None:
    labels, said = torch.tensor([[0, 2], [-1, 1]]), torch.randn(2, 2, 3)
    truth = Truth(RECESSES, Training(), torch.zeros(2, 2, 2), labels=labels)
    for weights in ("1/2/4", "none"):
        asked = Truth(RECESSES, Training(class_weights=weights), truth.points, labels=labels)
        own = LOSSES["heatmaps"]["severity"]({"severity": said}, asked)
        assert own == severity_loss(said, labels, weighted=weights != "none")
    assert not list(checks.of_detector(RECESSES, Training(loss={"mse": 1.0, "severity": 1.0})))


@pytest.mark.parametrize("count", [0, 3])
def test_severities_that_a_network_does_not_give_are_refused(count: int) -> None:
    arguments = {**RECESSES.network_args, "severities": count} if count else {"decoder_channels": [8] * 5}
    spec = RECESSES.model_copy(update={"network_args": arguments})
    (sentence,) = checks.of_detector(spec, Training(loss={"mse": 1.0, "severity": 1.0}))
    assert sentence.startswith(f"loss 'severity' asks for those of its 2 maps, and unet gives {count or 'none'}")


def test_maps_without_a_label_are_not_asked_for_anything() -> None:
    points = torch.tensor([[[20.0, 30.0], [torch.nan, torch.nan]], [[torch.nan] * 2, [40.0, 10.0]]])
    answer = torch.rand(2, 2, 64, 64)
    spec, own = RECESSES, Training(unlabelled="unasked")
    total, count = LOSSES["heatmaps"]["mse"]({"answer": answer}, Truth(spec, own, points))
    wanted = targets.maps(spec, points)
    error = ((answer - wanted) ** 2).mean((2, 3))
    assert float(count) == 2
    assert float(total) == pytest.approx(float(error[0, 0] + error[1, 1]))
    total, count = LOSSES["heatmaps"]["mse"]({"answer": answer}, Truth(spec, Training(), points))
    assert (float(count), float(total)) == (4, pytest.approx(float(error.sum())))


def test_dice_of_mixed_maps_is_that_of_both_parts() -> None:
    own, other = torch.tensor([[[20.0, 30.0]] * 2]), torch.tensor([[[40.0, 10.0]] * 2])
    spec, said = RECESSES, {"answer": torch.rand(1, 2, 64, 64)}
    alone = [float(LOSSES["heatmaps"]["dice"](said, Truth(spec, Training(), points))[0]) for points in (own, other)]
    truth = Truth(spec, Training(), own, partner=Truth(spec, Training(), other), share=torch.tensor([0.3]))
    assert float(LOSSES["heatmaps"]["dice"](said, truth)[0]) == pytest.approx(0.3 * alone[0] + 0.7 * alone[1])


T1_FINDER = {"series_type": "sagittal_t1", "place": "whole", "points": "series", "answer": "slices", "num_classes": 10}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"series_type": "axial_t2"}, 'decode = "sides" takes the slices beside the middle'),
        ({"points": "stack", "place": "found", "num_classes": 5}, 'decode = "sides" takes'),
    ],
)
def test_sides_of_what_has_none_are_refused(fields: dict[str, Any], words: str) -> None:
    assert any(
        words in each for each in chain.faults({"one": DetectorSpec(**{**T1_FINDER, "decode": "sides", **fields})})
    )


def test_words_that_go_with_others_are_refused_alone() -> None:
    with pytest.raises(ValueError, match='looks = "every" combines turns, and tta names fewer than two'):
        DetectorSpec(series_type="sagittal_t2", looks="every", tta=["columns"])
    told = [*DetectorMember(spec=RECESSES, training=Training(loss={"bce": 1.0}, unlabelled="unasked")).faults()]
    assert told == ['unlabelled = "unasked" holds for the loss mse of heatmaps only; name it in loss, or leave it out']
    grader = small_grader(views=["sagittal_t2"], conditions=CONDITIONS[:1], region=PADDED)
    training = Training(unlabelled="unasked", loss={"severity": 1.0, "annotated_slice": 0.1})
    assert [sentence[:40] for sentence in GraderMember(spec=grader, training=training).faults()] == [
        "the loss 'annotated_slice' asks which sl",
        "unlabelled is of maps, and a grader has ",
    ]
    sides = DetectorSpec(**T1_FINDER, decode="sides")
    (sentence,) = DetectorMember(spec=sides, training=Training(loss={"bce": 1.0})).faults()
    assert sentence.startswith('decode = "sides" reads classes of slices, which learn by cross_entropy alone')


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ({"pad": True, "intensity": "minmax", "scope": "series"}, 'it needs around = "level"'),
        ({**PADDED, "scope": "crop"}, "pad = true needs grey values that empty slices do not change"),
        ({**PADDED, "intensity": "standard"}, "pad = true needs grey values that empty slices do not change"),
    ],
)
def test_padding_that_cannot_be_told_is_refused(region: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small_grader(views=["sagittal_t2"], conditions=CONDITIONS[:1], region=region)


def test_a_view_with_empty_slices_is_cut_once_as_others_are() -> None:
    spec, regions = padded_regions(sagittal(1, 6))
    points = {(CONDITIONS[0], level): Spot((30.0, 20.0)) for level in LEVELS}
    cut = cut_region(small_study(sagittal_t2=[sagittal(1, 6)]), "sagittal_t2", "l3_l4", points, spec)
    assert cut is not None
    assert (cut.filled, cut.pixels.shape) == (6, regions.tensors["sagittal_t2"].shape[1:])
