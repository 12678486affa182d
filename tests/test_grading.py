"""Stage 2: who speaks for what, and who stays silent when something is missing."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from lumbar.bundle.convert.original import EXACT
from lumbar.grading.grade import Batches, grade, softmax, unanswered
from lumbar.grading.regions import Regions
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import VIEWS


class Sums(nn.Module):
    """Logits that tell which views a sample held: severity 0 gets the number of views that are not zero."""

    def __init__(self, conditions: int) -> None:
        super().__init__()
        self.conditions = conditions
        self.batches: list[tuple[int, ...]] = []

    def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        together = torch.stack(list(views.values()), dim=2)  # (B, L, V, T, C, H, W)
        self.batches.append(tuple(together.shape))
        filled = together.flatten(3).abs().amax(dim=3).gt(0)
        assert torch.equal(filled, seen)
        logits = torch.zeros(*seen.shape[:2], self.conditions, 3)
        logits[..., 0] = seen.sum(dim=2).float()[..., None]
        return logits


def regions_with(**absent: list[int]) -> Regions:
    """Regions of ones; levels (by number) are missing in the views given."""
    tensors = {view: np.ones((5, 3, 4, 4), np.float32) for view in VIEWS}
    present = {view: np.ones(5, bool) for view in VIEWS}
    for view, levels in absent.items():
        tensors[view][levels], present[view][levels] = 0, False
    return Regions(tensors, present)


def spoken(probabilities: np.ndarray) -> dict[str, list[int]]:
    """Levels (by number) with a distribution, by condition."""
    return {
        c: np.flatnonzero(np.isfinite(row).all(axis=-1)).tolist()
        for c, row in zip(CONDITIONS, probabilities, strict=True)
    }


def test_all_levels_and_sides_go_through_the_network_in_one_batch():
    network = Sums(1)
    probabilities = softmax(grade(regions_with(), GraderSpec(task="foraminal"), network))
    assert network.batches == [(10, 1, 1, 3, 1, 4, 4)]
    assert probabilities.shape == (5, 5, 3)
    assert probabilities.dtype == np.float64
    assert np.nansum(probabilities, axis=-1)[1:3] == pytest.approx(np.ones((2, 5)))


def test_a_split_member_speaks_for_its_own_conditions_only():
    probabilities = softmax(grade(regions_with(), GraderSpec(task="subarticular"), Sums(1)))
    every = list(range(5))
    assert list(spoken(probabilities).values()) == [[], [], [], every, every]


def test_left_and_right_answers_are_not_exchanged():
    class Sided(nn.Module):
        def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
            return views["sagittal_t1_left"][:, :, 0, :, 0, :3]

    regions = regions_with()
    for level in range(5):
        regions.tensors["sagittal_t1_left"][level, 0, 0, :3] = [level, 0, 0]
        regions.tensors["sagittal_t1_right"][level, 0, 0, :3] = [0, 0, level]
    probabilities = softmax(grade(regions, GraderSpec(task="foraminal"), Sided()))
    for level in range(1, 5):
        assert probabilities[1, level].argmax() == 0
        assert probabilities[2, level].argmax() == 2


def test_a_member_is_silent_where_a_conditions_own_view_is_missing():
    regions = regions_with(sagittal_t1_left=[0, 1], axial_right=[4])
    heard = spoken(grade(regions, GraderSpec(task="global"), Sums(5)))
    assert list(heard.values()) == [[0, 1, 2, 3, 4], [2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_the_spinal_member_needs_the_sagittal_view_and_can_do_without_the_axial_one():
    regions = regions_with(sagittal_t2=[0], axial_middle=[1])
    assert spoken(grade(regions, GraderSpec(task="spinal"), Sums(1)))["spinal_canal_stenosis"] == [1, 2, 3, 4]


def test_a_member_trained_with_views_left_out_speaks_as_long_as_it_sees_one():
    every = [0, 1, 2, 3, 4]
    regions = regions_with(sagittal_t2=every, sagittal_t1_left=[0], axial_left=[0])
    spec = GraderSpec(task="global", view_dropout=0.2)
    assert list(spoken(grade(regions, spec, Sums(5))).values()) == [every] * 5
    blind = regions_with(**{view: [2] for view in VIEWS})
    assert list(spoken(grade(blind, spec, Sums(5))).values()) == [[0, 1, 3, 4]] * 5


def test_the_original_grades_zeros_where_everything_is_missing():
    blind = regions_with(**{view: [0, 1, 2, 3, 4] for view in VIEWS})
    exact = GraderSpec(task="spinal", preprocessing=EXACT)
    assert spoken(grade(blind, exact, Sums(1)))["spinal_canal_stenosis"] == [0, 1, 2, 3, 4]


def test_a_member_that_sees_nothing_does_not_run():
    network = Sums(1)
    blind = regions_with(**{view: [0, 1, 2, 3, 4] for view in VIEWS})
    assert np.isnan(grade(blind, GraderSpec(task="spinal"), network)).all()
    assert network.batches == []


def test_missing_views_reach_the_network_as_zeros():
    regions = regions_with(axial_left=[3])
    probabilities = softmax(grade(regions, GraderSpec(task="global"), Sums(5)))
    full, lacking = torch.softmax(torch.tensor([5.0, 0, 0]), 0), torch.softmax(torch.tensor([4.0, 0, 0]), 0)
    assert probabilities[0, 0] == pytest.approx(full.numpy())
    assert probabilities[0, 3] == pytest.approx(lacking.numpy())


def test_levels_stand_in_their_order():
    assert LEVELS == ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")


def test_what_was_moved_to_a_device_serves_the_next_member_that_sees_the_same():
    regions, batches, seen = regions_with(sagittal_t2=[1]), Batches(), []
    tasks = ("spinal", "foraminal", "spinal", "global", "global")
    for task in tasks:
        spec, network = GraderSpec(task=task), Sums(5 if task == "global" else 1)
        network.register_forward_pre_hook(lambda _, inputs: seen.append(next(iter(inputs[0].values())).data_ptr()))
        found = grade(regions, spec, network, "cpu", None, batches)
        np.testing.assert_array_equal(found, grade(regions, spec, network))
    kept = seen[::2]  # every second call had nothing kept
    assert kept[0] == kept[2]
    assert kept[3] == kept[4]
    assert len(batches) == 3


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_member_whose_answer_is_no_number_is_silent_there_and_known_to_be(value: float):
    class Overflows(Sums):
        def forward(self, views: Mapping[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
            logits = super().forward(views, seen)
            logits[2] = value
            return logits

    regions, spec = regions_with(), GraderSpec(task="spinal")
    sound, wrong = grade(regions, spec, Sums(1)), grade(regions, spec, Overflows(1))
    assert spoken(softmax(wrong))["spinal_canal_stenosis"] == [0, 1, 3, 4]
    assert not unanswered(regions, spec, sound).any()
    assert np.argwhere(unanswered(regions, spec, wrong)).tolist() == [[0, 2]]
    blind = regions_with(sagittal_t2=[2])
    assert not unanswered(blind, spec, grade(blind, spec, Sums(1))).any()
