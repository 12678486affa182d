"""What detectors of every answer are taught: targets, losses that fall, the label's own slice, the mirror."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from lumbar.issues import InputError
from lumbar.keypoints.answers.registry import answer_of
from lumbar.keypoints.networks.registry import build_detector
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.losses import OF_ANSWERS
from lumbar.recipe.settings import Training
from lumbar.training.loop import shared_losses, targets
from lumbar.training.loop.detector_losses import BESIDE, LOSSES, binary_focal
from lumbar.training.loop.detector_objective import DetectorObjective, check_maps
from tests.test_keypoints_answers import SPECS, recorded, spec_of

SIZE = 64


T1 = DetectorSpec(series_type="sagittal_t1", answer="slices", image_size=SIZE, in_chans=7)


T2 = DetectorSpec(series_type="sagittal_t2", answer="slices", image_size=SIZE, in_chans=9)


SMALL = {"encoder": "resnet18", "encoder_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}}


AXIAL = DetectorSpec(series_type="axial_t2", answer="slices", image_size=SIZE, in_chans=3, num_classes=2)


class Says(nn.Module):
    """A network that gives what it holds, whatever it sees."""

    def __init__(self, answer: torch.Tensor, **others: torch.Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)
        self.others = others

    def forward(self, stacks: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"answer": self.answer, **self.others}


def batch_of(spec: DetectorSpec, count: int = 2) -> dict[str, torch.Tensor]:
    points = torch.tensor([[30.0, 10.0 + 11 * level] for level in range(spec.num_classes)]).repeat(count, 1, 1)
    step = 2 if spec.in_chans > 2 * spec.num_classes else 1
    places = (1 + step * torch.arange(spec.num_classes)).flip(0).clamp(max=spec.in_chans - 1).float().repeat(count, 1)
    batch = {"image": torch.zeros(count, spec.in_chans, SIZE, SIZE), "points": points}
    batch["mm_per_px"] = torch.full((count, 2), 2.0)
    return batch | ({"slices": places, "slice_mm": torch.full((count,), 4.0)} if spec.names_slices else {})


def perfect(spec: DetectorSpec, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The raw answer of a perfect detector."""
    points, slices = batch["points"], batch.get("slices")
    if spec.answer == "heatmaps":
        return targets.maps(spec, points, slices)
    if spec.answer == "points":
        shares = points / SIZE
        return shares if slices is None else torch.cat([shares, slices[..., None] / spec.in_chans], -1)
    if spec.answer == "slices":
        if spec.decoded == "change":
            return 20 * nn.functional.one_hot(targets.passed_levels(slices, spec.in_chans).clamp(min=0), 6).mT.float()
        return torch.logit(targets.along_slices(slices, spec.in_chans), eps=1e-4)
    cells = targets.on_map(points, spec.stride)
    maps = torch.zeros(len(points), spec.num_classes, 5, spec.map_size, spec.map_size)
    maps[:, :, 0] = targets.heatmaps(cells.round(), spec.map_size, spec.sigma_px / spec.stride)
    maps[:, :, 1:3] = (cells - cells.round())[..., None, None]
    maps[:, :, 3:] = targets.sizes(points)[..., None, None, None]
    return maps


def cases() -> Iterator[tuple[str, str]]:
    for name, fields in SPECS.items():
        answer = str(fields.get("answer", "heatmaps"))
        for word in OF_ANSWERS[answer]:
            if ("change" not in name or word == "cross_entropy") and word not in BESIDE:
                yield name, word


@pytest.mark.parametrize(("name", "word"), list(cases()))
def test_a_perfect_answer_costs_little_and_errs_little(name: str, word: str) -> None:
    target = (
        {"target": "disc", "decode": "centroid"} if word == "dice" else {}
    )  # a Gaussian is never all that Dice wants
    spec = spec_of(**SPECS[name], **target, preprocessing={"keypoints": "keep"})
    batch, objective = batch_of(spec), DetectorObjective(spec, Training(loss={word: 0.5}))
    good = perfect(spec, batch)
    torch.manual_seed(0)
    bad = torch.rand_like(good)
    costs = []
    for answer in (good, bad):
        network = Says(answer)
        terms = objective.terms(network, batch, train=True)
        ((_, term),) = terms.items()
        assert term.factor == 0.5
        (term.total / term.weight).backward()
        assert bool(network.answer.grad.isfinite().all())
        costs.append(float(term.total.detach() / term.weight))
    assert costs[0] < 0.6 * costs[1]
    found = objective.terms(Says(good), batch, train=False)
    assert float(found["error_mm"].total / found["error_mm"].weight) < 2 * spec.stride
    assert found["error_mm"].factor == 0
    assert ("error_slices" in found) == spec.names_slices
    if spec.names_slices:
        assert float(found["error_slices"].total) < 0.1


def test_every_loss_that_a_recipe_may_name_is_there() -> None:
    assert {answer: set(words) for answer, words in OF_ANSWERS.items()} == {
        key: set(own) for key, own in LOSSES.items()
    }


def test_labels_that_are_missing_ask_for_nothing_but_an_empty_map() -> None:
    for name, word in cases():
        spec = spec_of(**SPECS[name])
        batch = batch_of(spec)
        batch["points"][:] = torch.nan
        if spec.names_slices:
            batch["slices"][:] = torch.nan
        answer = torch.full_like(perfect(spec, batch), 1e-6)
        network = Says(answer)
        ((_, term),) = DetectorObjective(spec, Training(loss={word: 1.0})).terms(network, batch, train=True).items()
        assert float(term.total.detach()) == pytest.approx(0, abs=0.1 if word == "dice" else 1e-3), (name, word)
        term.total.backward()
        assert bool(network.answer.grad.isfinite().all()), (name, word)


def test_the_neighbours_of_a_labels_slice_show_it_by_halves_and_the_slice_itself_at_the_ends_too() -> None:
    """The fifth place's targets without their fault: there the own slice of a border label is overwritten."""
    found = targets.along_slices(torch.tensor([[3.0, 0.0, 9.4, torch.nan]]), 10)[0]
    assert found[0].tolist() == [0, 0.25, 0.5, 1, 0.5, 0.25, 0, 0, 0, 0]
    assert found[1].tolist() == [1, 0.5, 0.25, 0, 0, 0, 0, 0, 0, 0]
    assert found[2].tolist() == [0, 0, 0, 0, 0, 0, 0, 0.25, 0.5, 1]
    assert not found[3].any()


def test_the_fifth_places_targets_are_ours_away_from_the_ends() -> None:
    entry = recorded("fifth/arithmetic.json", "targets")
    case = entry["cases"][0]
    z, y, x = case["point_zyx"]
    spec = spec_of(num_classes=1, in_chans=10, depth=True, sigma_px=float(entry["sigma"]))
    (volume,) = targets.maps(spec, torch.tensor([[[float(x), float(y)]]]), torch.tensor([[float(z)]]))[0]
    assert volume.amax((1, 2)).tolist() == pytest.approx(case["maximum_per_slice"], abs=1e-6)
    assert volume.sum((1, 2)).tolist() == pytest.approx(case["sum_per_slice"], rel=2e-3)
    assert volume[z, y, ::4].tolist() == pytest.approx(case["row"], abs=2e-3)


def test_a_slice_shows_the_nearest_level_within_two_slices() -> None:
    places = torch.tensor([[1.0, 4.0, torch.nan, 20.0, 30.0]])
    shown = targets.levels_shown(torch.cat([places, places], 1), 25)[0]
    assert [level.nonzero().flatten().tolist() for level in shown] == [
        [0, 1, 2],
        [3, 4, 5, 6],
        [],
        [18, 19, 20, 21, 22],
        [],
    ]


@pytest.mark.parametrize("word", OF_ANSWERS["slices"])
def test_levels_that_a_network_gives_beside_scores_of_slices_are_asked_for(word: str) -> None:
    spec = T2.model_copy(update={"in_chans": 11})
    batch, objective = batch_of(spec), DetectorObjective(spec, Training(loss={word: 1.0}))
    answer, shown = perfect(spec, batch), targets.levels_shown(batch["slices"], 11)

    def cost(**others: torch.Tensor) -> float:
        ((_, term),) = objective.terms(Says(answer, **others), batch, train=True).items()
        return float(term.total.detach() / term.weight.clamp_min(1))

    alone, right, wrong = cost(), cost(levels=20 * shown), cost(levels=20 * shown.flip(1))
    assert right == pytest.approx(alone, abs=1e-4)
    assert (wrong > alone + 1) == (word != "l1")
    batch["slices"][:] = torch.nan
    assert cost(levels=20 * shown) == 0


@pytest.mark.parametrize("word", OF_ANSWERS["slices"])
def test_every_part_of_a_network_of_levels_has_a_gradient_by_every_loss(word: str) -> None:
    args = {"hidden": 16, "inner": 16}
    network = build_detector(T2.model_copy(update={"network": "level_scores", "network_args": args, **SMALL}))
    batch = batch_of(T2) | {"image": torch.randn(2, 9, 32, 32)}
    ((_, term),) = DetectorObjective(T2, Training(loss={word: 1.0})).terms(network, batch, train=True).items()
    term.total.backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]


def test_levels_are_passed_on_the_way_down_whichever_way_the_slices_run() -> None:
    places = torch.tensor([[1.0, 3, 5, 7, 9]])
    down = targets.passed_levels(places, 11)[0].tolist()
    assert down == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert targets.passed_levels(10 - places, 11)[0].tolist() == down[::-1]
    assert targets.passed_levels(torch.cat([places, places], 1), 11)[0].tolist() == down
    places[0, 2] = torch.nan
    assert (targets.passed_levels(places, 11) == -1).all()


def test_sizes_are_the_distance_to_neighbours_and_of_a_pair_its_own() -> None:
    chain = torch.tensor([[[0.0, 0], [0, 10], [0, 30], [torch.nan, torch.nan], [0, 50]]])
    assert targets.sizes(chain)[0, :3].tolist() == [10, 15, 20]
    assert targets.sizes(chain)[0, 3:].isnan().all()
    assert targets.sizes(torch.tensor([[[0.0, 0], [3, 4]]]))[0].tolist() == [5, 5]


def test_a_disc_is_as_large_as_its_gaussian_at_half_height() -> None:
    points = torch.tensor([[[30.0, 31.0], [torch.nan, 3]]])
    gaussian = spec_of(num_classes=2)
    disc = targets.maps(gaussian.model_copy(update={"target": "disc"}), points)
    assert torch.equal(disc, (targets.maps(gaussian, points) >= 0.5).float())
    assert float(disc[0, 0].sum()) > 60


def test_a_window_is_one_on_the_nearest_pixel_and_ends_with_its_square() -> None:
    spec = spec_of(num_classes=3, sigma_px=3.5, target="window")  # a square of 21 pixels
    points = torch.tensor([[[30.4, 31.0], [0.2, 0.0], [torch.nan, 3]]])
    middle, corner, none = targets.maps(spec, points)[0]
    assert float(middle[31, 30]) == 1
    assert int((middle > 0).sum()) == 21 * 21
    assert int((corner > 0).sum()) == 11 * 11
    assert not none.any()
    gaussian = targets.maps(spec.model_copy(update={"target": "gaussian"}), points.round())[0, 0]
    assert torch.equal(middle[21:42, 20:41], gaussian[21:42, 20:41])


def test_the_focal_loss_is_the_usual_one() -> None:
    logits, wanted = torch.tensor([0.3, -1.0]), torch.tensor([1.0, 0.0])
    said = logits.sigmoid()
    by_hand = [0.25 * (1 - said[0]) ** 2 * -said[0].log(), 0.75 * said[1] ** 2 * -(1 - said[1]).log()]
    assert binary_focal(logits, wanted).tolist() == pytest.approx([float(one) for one in by_hand])


def test_maps_that_are_no_probabilities_are_refused_for_losses_of_them() -> None:
    spec, stack = spec_of(), torch.zeros(1, 6, SIZE, SIZE)
    focal = DetectorObjective(spec, Training(loss={"focal": 1.0}))
    with pytest.raises(InputError, match=r"'focal' needs maps from 0 to 1.* activation = \"sigmoid\""):
        check_maps(Says(torch.zeros(1, 5, SIZE, SIZE)), stack, focal)
    check_maps(Says(torch.full((1, 5, SIZE, SIZE), 0.5)), stack, focal)
    check_maps(Says(torch.zeros(1, 5, SIZE, SIZE), logits=torch.zeros(1)), stack, focal)
    check_maps(Says(torch.zeros(1, 5, SIZE, SIZE)), stack, DetectorObjective(spec, Training()))


def test_boxes_and_strides_err_by_less_than_a_cell() -> None:
    spec = spec_of(answer="boxes", stride=4)
    batch = batch_of(spec)
    reading = answer_of(spec).read(spec, perfect(spec, batch).numpy())
    assert reading.points[..., :2] == pytest.approx(batch["points"].numpy(), abs=1e-4)
    assert reading.size_px == pytest.approx(np.full((2, 5, 2), 11.0), abs=1e-4)


@pytest.mark.parametrize("word", ["mse", "bce"])
def test_mixed_samples_are_asked_for_both_targets_by_their_shares(word: str) -> None:
    spec = spec_of(depth=True, stride=2)
    one, other = batch_of(spec), batch_of(spec)
    other["points"] = other["points"] + 5
    other["slices"] = other["slices"] - 1
    share = torch.tensor([0.7, 1.0])
    drawn = {f"partner/{name}": value for name, value in other.items()}
    batch = one | drawn | {"mix/share": share, "mix/box": torch.zeros(2, 4)}
    own, theirs = (perfect(spec, each) for each in (one, other))
    mixed = torch.lerp(theirs, own, share.view(2, 1, 1, 1, 1))
    objective = DetectorObjective(spec, Training(loss={word: 1.0}))

    def cost(answer: torch.Tensor) -> float:
        ((_, term),) = objective.terms(Says(answer), batch, train=True).items()
        return float(term.total.detach())

    assert cost(mixed) < min(cost(own), cost(theirs))


@pytest.mark.parametrize("pointer", ["lstm", "transformer"])
@pytest.mark.parametrize("word", ["mse", "bce", "dice", "focal"])
def test_every_part_of_a_pointer_learns_by_every_loss(word: str, pointer: str) -> None:
    spec = spec_of(
        network="pointer",
        depth=True,
        encoder="tu-resnet18",
        encoder_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
        network_args={"decoder_channels": [8, 8, 8, 8, 8], "pointer_hidden": 8, "pointer": pointer},
        image_size=32,
    )
    network = build_detector(spec)
    batch = batch_of(spec) | {"image": torch.randn(2, 6, 32, 32), "points": torch.rand(2, 5, 2) * 32}
    ((_, term),) = DetectorObjective(spec, Training(loss={word: 1.0})).terms(network, batch, train=True).items()
    term.total.backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]


def test_todays_loss_is_todays() -> None:
    spec = spec_of()
    batch = batch_of(spec)
    predicted = torch.rand(2, 5, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    terms = DetectorObjective(spec, Training(heatmap_weight=20.0)).terms(Says(predicted), batch, train=True)
    assert set(terms) == {"heatmap"}
    total, weight = shared_losses.heatmap_loss(predicted, targets.heatmaps(batch["points"], SIZE, spec.sigma_px), 20.0)
    assert float(terms["heatmap"].total) == float(total)
    assert float(terms["heatmap"].weight) == float(weight)
