"""Mixing: labels in the parts that pictures are mixed in, named by the sample alone, whatever batch or process."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lumbar.grading.networks.registry import build_grader
from lumbar.recipe.augment import Augment
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import TaskName
from lumbar.recipe.settings import Loop, Training
from lumbar.training.loop import mix, shared_losses
from lumbar.training.loop.batches import Plan, load
from lumbar.training.loop.detector_objective import DetectorObjective
from lumbar.training.loop.grader_objective import SeverityObjective
from lumbar.training.loop.targets import heatmaps
from tests.support.training_job import Points
from tests.support.worlds import grader_spec

MIXUP, CUTMIX = Augment(mix="mixup"), Augment(mix="cutmix", mix_alpha=4.0)


def _sample(value: float) -> dict[str, Any]:
    return {"picture": np.full((1, 8, 8), value, np.float32)}


def _mixed(augment: Augment, index: int, count: int = 50) -> dict[str, Any]:
    own = _sample(index)
    return mix.with_partner(own, lambda place, rng: _sample(place), count, (3, 1, index), augment)


def _batch(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.utils.data.default_collate(samples)
    return found


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX])
def test_labels_are_mixed_in_the_parts_of_the_pictures(augment: Augment) -> None:
    """The mean of a picture of ones and one of zeros is the share of the label, to a pixel."""
    batch = _batch([_mixed(augment, index) for index in range(30)])
    pictures, share = mix.images(torch.ones(30, 2, 8, 8), torch.zeros(30, 2, 8, 8), batch)
    assert torch.allclose(pictures.mean((1, 2, 3)), share, atol=1e-6)
    assert 0.2 < share.std() + share.mean() < 1.2
    assert len(share.unique()) > 10
    targets = mix.labels(*shared_losses.distributions(torch.tensor([[0], [2]])).unbind(), share[0])
    assert targets.flatten().tolist() == pytest.approx([share[0].item(), 0, 1 - share[0].item()])
    assert targets.sum().item() == pytest.approx(1)


def test_a_box_is_as_large_as_the_partners_share_and_cut_at_the_border() -> None:
    boxes = np.stack([mix.draw_box(np.random.default_rng(seed), 0.75, CUTMIX) for seed in range(200)])
    size = boxes[:, 2:] - boxes[:, :2]
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert size.max() == pytest.approx(0.5, abs=1e-6)
    assert (size.prod(1) < 0.2).any()  # some reach beyond the border
    row = mix.inside(torch.tensor([[0.0, 0.5, 0.5, 1.0]]), 4, 4)[0]
    assert row.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_unmixed_samples_are_their_own_partner_and_mixed_ones_as_many_as_asked() -> None:
    found = [_mixed(MIXUP.model_copy(update={"mix_p": 0.3}), index) for index in range(300)]
    alone = [sample[mix.SHARE] == 1 for sample in found]
    assert 0.6 < np.mean(alone) < 0.8
    for index, (sample, single) in enumerate(zip(found, alone, strict=True)):
        if single:
            assert (sample[f"{mix.PARTNER}picture"] == index).all()


def test_a_sample_is_mixed_alike_in_any_batch_and_any_number_of_processes() -> None:
    """Two processes load halves of each batch of a plan; sample by sample they are those of one process."""
    points, training = Points(60, 0), Training(batch_size=20, augment=MIXUP)

    def loaded(rank: int, world: int) -> dict[tuple[int, ...], torch.Tensor]:
        keys = Plan(points.studies, training, 9, rank, world).epoch(1)
        batches = load(points, 9, keys, Loop(workers=0), torch.device("cpu"), training.augment)
        rows = {}
        for batch, names in zip(batches, keys, strict=True):
            for place, name in enumerate(names):
                rows[name] = torch.cat([batch["x"][place], batch["partner/x"][place], batch[mix.SHARE][place, None]])
        return rows

    one, halves = loaded(0, 1), loaded(0, 2) | loaded(1, 2)
    assert one.keys() == halves.keys()
    assert all(torch.equal(row, halves[name]) for name, row in one.items())
    assert sum(float(row[-1]) < 1 for row in one.values()) > 50


def test_targets_of_one_label_give_the_loss_of_labels() -> None:
    logits, labels = torch.randn(40, 5, 3), torch.randint(-1, 3, (40, 5))
    for weighted in (True, False):
        hard = shared_losses.severity_loss(logits, labels, weighted=weighted)
        soft = shared_losses.distribution_loss(logits, shared_losses.distributions(labels), weighted=weighted)
        assert torch.allclose(torch.stack(hard), torch.stack(soft), rtol=1e-5)
    plain = shared_losses.severity_loss(logits, labels, weighted=False)
    assert float(plain[1]) == int((labels >= 0).sum())


class _Slices(nn.Module):
    """Mean over slices of what its backbone, a mean over pixels, gives: with linear parts mixing commutes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.backbone(views.flatten(0, 2)[:, None]).reshape(len(views), -1)  # (B, V · T)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_features_are_mixed_sample_by_sample_and_slice_by_slice(kind: str) -> None:
    augment = Augment(mix=kind, mix_on="features")
    batch = _batch([_mixed(augment, index) for index in range(16)])
    own, other = torch.ones(16, 2, 5, 4, 4), torch.zeros(16, 2, 5, 4, 4)
    network = _Slices()
    with mix.mixed_features(network, batch, 5):
        seen = mix.first_half(network(torch.cat([own, other])))
    share = mix.runs(batch, 5)[1]
    assert torch.allclose(seen.mean(1), share, atol=1e-6)
    assert torch.equal(seen[:, :5], seen[:, 5:])  # both views alike
    if kind == "cutmix":
        assert set(seen.unique().tolist()) == {0.0, 1.0}
        assert bool((seen[:, :5].diff(dim=1).abs().sum(1) <= 2).all())  # a run of neighbouring slices
    assert torch.equal(network(own), torch.ones(16, 10))  # and only within


@pytest.mark.parametrize("network", ["gru", "mil"])
@pytest.mark.parametrize("settings", [MIXUP, CUTMIX, Augment(mix="cutmix", mix_on="features")])
@pytest.mark.parametrize("task", ["foraminal", "global"])
def test_graders_learn_from_mixed_samples(network: str, settings: Augment, task: TaskName) -> None:
    """Where the partner is the sample itself, mixing changes no loss; another one does. Of five views, too, which an
    encoder sees together."""
    spec = grader_spec(task).model_copy(update={"network": network})
    objective = SeverityObjective(spec, Training(augment=settings, loss={"severity": 1.0, "slices": 0.5}))
    V, C = (1, 1) if task == "foraminal" else (5, 5)
    views, labels = torch.randn(4, V, 3, 32, 32), torch.tensor([[0], [1], [2], [0]]).repeat(1, C)
    plain = {"views": views, "seen": torch.ones(4, V, dtype=torch.bool), "labels": labels}
    torch.manual_seed(0)
    grader = build_grader(spec).train()
    for module in grader.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of the partners' half would differ
    drawn = {
        mix.SHARE: torch.full((4,), 0.5),
        mix.BOX: torch.tensor([[0.0, 0.0, 0.5, 1.0]] * 4) * (settings.mix == "cutmix"),
    }

    def terms(partner: dict[str, torch.Tensor]) -> dict[str, float]:
        named = {mix.PARTNER + name: value for name, value in partner.items()}
        found = objective.terms(grader, plain | named | drawn, train=True)
        return {name: term.total.item() / term.weight.item() for name, term in found.items()}

    whole = objective.terms(grader, plain, train=True)
    alike = terms(plain)
    assert alike == pytest.approx({name: t.total.item() / t.weight.item() for name, t in whole.items()}, abs=1e-5)
    turned = {name: value.roll(1, 0) for name, value in plain.items()}
    assert abs(terms(turned)["severity"] - alike["severity"]) > 1e-4
    loss = objective.terms(grader, plain | drawn | {mix.PARTNER + k: v for k, v in turned.items()}, train=True)
    sum(term.total for term in loss.values()).backward()  # type: ignore[union-attr]
    assert all(value.grad is not None for value in grader.parameters())


def test_mixed_studies_are_asked_for_the_any_severe_of_both() -> None:
    logits, labels = torch.randn(10, 3), torch.randint(-1, 3, (2, 10))
    studies, share = torch.arange(2).repeat_interleave(5), torch.tensor([0.25, 1.0]).repeat_interleave(5)
    told = [
        shared_losses.any_severe_loss(logits, each, studies, part)
        for each, part in zip(labels, (share, 1 - share), strict=True)
    ]
    mixed = sum(total for total, _ in told)
    alone = [shared_losses.any_severe_loss(logits[:5], each[:5], studies[:5])[0] for each in labels]
    rest = shared_losses.any_severe_loss(logits[5:], labels[0, 5:], studies[5:])[0]
    assert mixed.item() == pytest.approx((0.25 * alone[0] + 0.75 * alone[1] + rest).item(), rel=1e-5)


def test_a_detectors_mixed_pictures_are_asked_for_both_maps_in_their_parts() -> None:
    """A network that answers its picture, whose picture is the target map, has no error, whatever is mixed."""
    spec = DetectorSpec(series_type="sagittal_t2", image_size=32, in_chans=5, sigma_px=3.0)
    objective = DetectorObjective(spec, Training(augment=MIXUP))
    points = torch.rand(2, 4, 5, 2) * 32
    points[0, 0, 0] = torch.nan
    pictures = [heatmaps(each, 32, 3.0) for each in points]
    share = torch.tensor([1.0, 0.75, 0.5, 0.0])
    own, other = ({"image": image, "points": each} for image, each in zip(pictures, points, strict=True))
    batch = own | {mix.PARTNER + name: value for name, value in other.items()}
    drawn = {mix.SHARE: share, mix.BOX: torch.zeros(4, 4)}
    terms = objective.terms(nn.Identity(), batch | drawn, train=True)
    assert terms["heatmap"].total.item() == pytest.approx(0, abs=1e-10)
    wrong = objective.terms(nn.Identity(), batch | drawn | {mix.SHARE: share.flip(0)}, train=True)
    assert wrong["heatmap"].total.item() == pytest.approx(0, abs=1e-10)  # pictures are mixed by the same share
    turned = batch | drawn | {f"{mix.PARTNER}points": points[1].roll(1, 0)}
    assert objective.terms(nn.Identity(), turned, train=True)["heatmap"].total.item() > 1e-3
