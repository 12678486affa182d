"""Losses: empty labels teach nothing, weights are the competition's, sums divide once."""

import numpy as np
import pandas as pd
import pytest
import torch

from lumbar import metric
from lumbar.grading.networks.registry import build_grader
from lumbar.labels import LABEL_COLUMNS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.training.loop import shared_losses
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.loop.targets import heatmaps
from tests.support.worlds import grader_spec


def _heatmap_loss(
    predicted: torch.Tensor, points: torch.Tensor, sigma: float, weight: float = 1.0, *, at_any: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return shared_losses.heatmap_loss(predicted, heatmaps(points, predicted.shape[-1], sigma), weight, at_any=at_any)


def test_a_heatmap_loss_of_one_is_plain_mse_over_all_maps() -> None:
    predicted, points = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 2) * 16
    points[0, 1] = torch.nan
    total, weight = _heatmap_loss(predicted, points, 2.0)
    expected = ((predicted - heatmaps(points, 16, 2.0)) ** 2).mean()
    assert float(total / weight) == pytest.approx(float(expected), rel=1e-5)


def test_a_missing_keypoint_asks_for_an_empty_map() -> None:
    points = torch.full((1, 1, 2), torch.nan)
    assert float(_heatmap_loss(torch.zeros(1, 1, 8, 8), points, 2.0, 50.0)[0]) == 0
    assert float(_heatmap_loss(torch.ones(1, 1, 8, 8), points, 2.0, 50.0)[0]) == pytest.approx(1)


def test_the_peak_weight_counts_errors_at_the_peak() -> None:
    points, nothing = torch.tensor([[[4.0, 4.0]]]), torch.zeros(1, 1, 9, 9)
    plain = float(_heatmap_loss(nothing, points, 1.0)[0])
    assert float(_heatmap_loss(nothing, points, 1.0, 10.0)[0]) > 5 * plain


def test_a_peak_at_another_maps_point_costs_as_much_as_a_miss_where_the_recipe_says_so() -> None:
    points = torch.tensor([[[4.0, 4.0], [11.0, 11.0]]])
    target = heatmaps(points, 16, 1.0)
    missed, confused = target.clone(), target.clone()
    missed[0, 0] = 0
    confused[0, 0] += target[0, 1]
    loss = [float(_heatmap_loss(maps, points, 1.0, 10.0)[0]) for maps in (missed, confused)]
    assert loss[0] > 5 * loss[1]
    loss = [float(_heatmap_loss(maps, points, 1.0, 10.0, at_any=True)[0]) for maps in (missed, confused)]
    assert loss[0] == pytest.approx(loss[1])
    assert float(_heatmap_loss(target, points, 1.0, 10.0, at_any=True)[0]) == 0


def test_an_error_of_two_severities_counts_as_often_as_the_recipe_says() -> None:
    logits = torch.tensor([[5.0, 0, 0], [0, 0, 5], [5, 0, 0], [0, 5, 0]])
    wanted = shared_losses.distributions(torch.tensor([2, 0, 1, -1]))
    plain, weight = shared_losses.distribution_loss(logits, wanted)
    rows = [float(shared_losses.distribution_loss(*pair)[0]) for pair in zip(logits, wanted, strict=True)]
    far, same = shared_losses.distribution_loss(logits, wanted, far=3.0)
    assert float(far) == pytest.approx(3 * rows[0] + 3 * rows[1] + rows[2])
    assert (float(same), float(plain)) == (float(weight), pytest.approx(sum(rows)))
    shares = torch.tensor([[0.0, 0.25, 0.25]])  # half of what is known is so far off
    once, more = (float(shared_losses.distribution_loss(logits[:1], shares, far=far)[0]) for far in (1.0, 3.0))
    assert more == pytest.approx(2 * once)


def test_severe_rows_are_asked_to_be_sure_on_average() -> None:
    logits = torch.tensor([[0.0, 0, 9], [9, 0, 0], [9, 0, 0]], requires_grad=True)
    total, count = shared_losses.severe_loss(logits, torch.tensor([1.0, 1, 0]))
    assert float(count) == 2
    assert float(total.detach()) == pytest.approx(-2 * np.log(0.5), abs=1e-3)
    total.backward()
    assert logits.grad is not None
    assert not logits.grad[2].any()
    assert shared_losses.severe_loss(logits.detach(), torch.zeros(3))[0] == 0


def test_conditions_count_as_the_recipe_says() -> None:
    spec = grader_spec("global")
    network = build_grader(spec).eval()
    generator = torch.Generator().manual_seed(0)
    batch = {
        "views": torch.rand(4, 5, 3, 32, 32, generator=generator),
        "seen": torch.ones(4, 5, dtype=torch.bool),
        "labels": torch.randint(0, 3, (4, 5), generator=generator),
        "study": torch.zeros(4, dtype=torch.int64),
        "level": torch.arange(4)[:, None],
    }

    def term(**weights: float) -> tuple[float, float]:
        objective = SeverityObjective(spec, Training(condition_weights=weights))  # type: ignore[arg-type]
        found = objective.terms(network, batch, train=False)["severity"]
        return float(found.total.detach()), float(found.weight)

    names = objective_conditions(spec)
    alone = [term(**{other: 1.0 if other == name else 1e-9 for other in names}) for name in names]
    halves = term(**dict.fromkeys(names[1:], 0.5))
    for part in (0, 1):
        assert term()[part] == pytest.approx(sum(one[part] for one in alone), rel=1e-4)
        assert halves[part] == pytest.approx(alone[0][part] + 0.5 * sum(one[part] for one in alone[1:]), rel=1e-4)


def objective_conditions(spec: GraderSpec) -> tuple[str, ...]:
    return SeverityObjective(spec, Training()).conditions


def test_empty_labels_give_no_loss_and_no_gradient() -> None:
    logits = torch.randn(4, 2, 3, requires_grad=True)
    labels = torch.tensor([[0, -1], [-1, -1], [2, 1], [-1, 0]])
    total, weight = shared_losses.severity_loss(logits, labels)
    (total / weight).backward()
    assert float(weight) == 1 + 4 + 2 + 1
    assert bool((logits.grad[labels == -1] == 0).all())
    assert bool((logits.grad[labels != -1] != 0).any(-1).all())


def test_only_empty_labels_give_zero_not_nan() -> None:
    logits = torch.randn(2, 1, 3, requires_grad=True)
    labels = torch.full((2, 1), -1)
    for total, weight in (
        shared_losses.severity_loss(logits, labels),
        shared_losses.any_severe_loss(logits[:, 0], labels[:, 0], labels[:, 0]),
    ):
        assert float(weight) == 0
        assert float(total.detach()) == 0 or torch.isfinite(total)


def test_training_losses_are_the_official_score() -> None:
    """The sums of both losses over a table are the score's spinal and any-severe terms."""
    rng = np.random.default_rng(3)
    studies = np.arange(40)
    words = np.array(["Normal/Mild", "Moderate", "Severe", None], dtype=object)
    table = pd.DataFrame(words[rng.integers(0, 4, (40, 25))], index=studies, columns=list(LABEL_COLUMNS))
    _, codes = metric.label_codes(table)
    logits = rng.normal(size=(40, 5, 5, 3))
    probabilities = torch.softmax(torch.tensor(logits), -1).numpy()
    expected = metric.score_arrays(codes, probabilities)
    canal = torch.tensor(logits[:, 0].reshape(-1, 3), dtype=torch.float32)
    labels, groups = torch.tensor(codes[:, 0].reshape(-1)), torch.tensor(np.repeat(studies, 5))
    total, weight = shared_losses.severity_loss(canal, labels)
    assert float(total / weight) == pytest.approx(expected.spinal, rel=1e-5)
    total, weight = shared_losses.any_severe_loss(canal, labels, groups)
    assert float(total / weight) == pytest.approx(expected.any_severe_spinal, rel=1e-5)


def test_each_slice_is_asked_for_its_regions_labels_in_training_only() -> None:
    spec = GraderSpec(
        task="foraminal", network="mil", backbone_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, image_size=32
    )
    objective = SeverityObjective(spec, Training(auxiliary_weight=0.3))
    torch.manual_seed(0)
    network = build_grader(spec)
    labels = torch.tensor([[0], [2], [shared_losses.EMPTY]])
    batch = {"views": torch.randn(3, 1, 4, 32, 32), "seen": torch.ones(3, 1), "labels": labels}
    terms = objective.terms(network, batch, train=True)
    assert terms["slices"].factor == 0.3
    assert float(terms["slices"].weight) == 4 * (1 + 4)  # four slices of a mild and of a severe region; none unlabelled
    assert float(terms["slices"].total) > 0
    assert set(objective.terms(network.eval(), batch, train=False)) == {"severity"}


def test_every_layer_gets_a_gradient_even_where_no_slice_is_asked() -> None:
    """Several processes wait for one of each."""
    spec = GraderSpec(
        task="foraminal", network="mil", backbone_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, image_size=32
    )
    network = build_grader(spec)
    batch = {"views": torch.randn(2, 1, 4, 32, 32), "seen": torch.ones(2, 1), "labels": torch.tensor([[0], [2]])}
    terms = SeverityObjective(spec, Training()).terms(network, batch, train=True)
    assert set(terms) == {"severity"}
    terms["severity"].total.backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]
    assert float(network.slice_head.weight.grad.abs().sum()) == 0  # type: ignore[union-attr,operator]


class _Answers(torch.nn.Module):
    """Says what it is told to, in training by name."""

    def __init__(self, **outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, views: object, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.outputs


def test_views_are_asked_for_severities_and_levels_for_their_name() -> None:
    training = Training(loss={"severity": 1.0, "views": 0.5, "level": 0.2})
    objective = SeverityObjective(grader_spec("spinal"), training)
    logits = torch.randn(4, 1, 1, 3)
    level = torch.full((4, 1, 5), -9.0)
    for sample, place in enumerate([3, 0, 4, 4]):
        level[sample, 0, place] = 9.0
    network = _Answers(severity=logits, views=logits[:, :, None].expand(4, 1, 2, 1, 3), level=level)
    batch = {
        "views": torch.zeros(4, 2, 3, 32, 32),
        "seen": torch.ones(4, 2, dtype=torch.bool),
        "labels": torch.tensor([[0], [1], [2], [-1]]),
        "level": torch.tensor([3, 0, 4, 4]),
    }
    terms = objective.terms(network, batch, train=True)
    assert {name: term.factor for name, term in terms.items()} == {"severity": 1.0, "views": 0.5, "level": 0.2}
    assert (terms["views"].total / terms["views"].weight).item() == pytest.approx(
        (terms["severity"].total / terms["severity"].weight).item(), rel=1e-5
    )
    assert terms["level"].total.item() < 1e-5
    wrong = objective.terms(network, batch | {"level": torch.tensor([3, 0, 4, 1])}, train=True)
    assert wrong["level"].total.item() / wrong["level"].weight.item() == pytest.approx(18 / 4, rel=1e-3)
