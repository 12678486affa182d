"""What a member begins with, what of it learns, by which optimizer, and which epoch is kept."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from lumbar.issues import InputError
from lumbar.recipe.augment import Augment
from lumbar.recipe.settings import Training
from lumbar.training.data.packs import read_header
from lumbar.training.loop.batches import Plan
from lumbar.training.loop.beginning import begin_with, freeze, rest
from lumbar.training.loop.checkpoint import write_weights
from lumbar.training.loop.learning_rate import learning_rate
from lumbar.training.loop.loop import Term
from lumbar.training.loop.optimizer import make_optimizer
from lumbar.training.loop.untrained import keep
from tests.support.training_job import Points, Severities, points_job, points_network, run


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision="no")


def _plan(**training: Any) -> Plan:
    return Plan(Points(123, 0).studies, Training(**{"batch_size": 20, "epochs": 3, "learning_rate": 1.0} | training), 9)


def _rates(**training: Any) -> list[float]:
    plan = _plan(**training)
    return [learning_rate(plan, epoch, batch) for epoch in range(3) for batch in range(plan.batches)]


def test_rates_end_where_the_recipe_says() -> None:
    linear = _rates(schedule="linear")
    assert linear[0] == 1
    assert np.allclose(np.diff(linear), -1 / 18)
    assert _rates(schedule="linear", floor=0.1)[-1] == pytest.approx(0.1 + 0.9 / 18)
    cosine = _rates(schedule="cosine", floor=0.01)
    assert cosine[0] == 1
    assert 0.01 < cosine[-1] < 0.02
    assert _rates(schedule="linear", warmup=0.2)[0] < 0.3


def test_one_cycle_is_torchs_but_for_its_end() -> None:
    """torch peaks at the step 0.3 x 18 - 1 = 4.4, ours at 5.4, as it rises in the share 0.3 of all steps."""
    rates = _rates(schedule="one_cycle")
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1, abs=0.02)
    assert int(np.argmax(rates)) in (5, 6)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert _rates(schedule="one_cycle", floor=0.2)[-1] == pytest.approx(0.2)
    assert int(np.argmax(_rates(schedule="one_cycle", warmup=0.1))) == 2


def _frozen_run(folder: Path, accelerator: Accelerator, **training: Any) -> dict[str, torch.Tensor]:
    run(folder, accelerator, epochs=1, **training)
    return load_file(folder / "best.safetensors")


def test_frozen_parameters_do_not_move(tmp_path: Path, accelerator: Accelerator) -> None:
    """With decay and momentum, too: the loop's network is Linear (0), Tanh, Dropout, Linear (3)."""
    start = _frozen_run(tmp_path / "still", accelerator, frozen=["0"], weight_decay=0.5)
    other = _frozen_run(tmp_path / "moved", accelerator, frozen=["3"], weight_decay=0.5)
    again = _frozen_run(tmp_path / "again", accelerator, frozen=["0.weight"], learning_rate=0.5)
    assert torch.equal(start["0.weight"], again["0.weight"])
    assert not torch.equal(start["0.bias"], again["0.bias"])
    assert not torch.equal(start["0.weight"], other["0.weight"])
    assert not torch.equal(start["3.weight"], other["3.weight"])


def test_frozen_norms_keep_their_numbers(tmp_path: Path) -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()
    freeze(network, ["0"])
    rest(network, ["0"])
    network(torch.randn(8, 3) + 5)
    assert network[0].running_mean.abs().max() == 0
    assert network[1].running_mean.abs().max() > 0


@pytest.mark.parametrize(
    ("prefixes", "words"),
    [
        (["head"], r"frozen names 'head', and the network has no such parameter; name one of its parts: 0, 3"),
        (["0", "3"], "the whole network"),
    ],
)
def test_frozen_prefixes_that_mean_nothing_are_refused(prefixes: list[str], words: str) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Tanh(), nn.Linear(2, 2))
    with pytest.raises(InputError, match=words):
        freeze(network, prefixes)


def test_a_member_begins_with_what_fits_and_with_fresh_heads(tmp_path: Path) -> None:
    def network(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, outputs))

    other = network(3)
    write_weights(other, tmp_path / "other.safetensors", "any", 1)
    wider = network(5)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    after = begin_with(wider, tmp_path / "other.safetensors", ["1"]).state_dict()
    assert torch.equal(after["0.weight"], other.state_dict()["0.weight"])
    for name in ("1.weight", "2.weight", "2.bias"):
        assert torch.equal(after[name], before[name])
    with pytest.raises(InputError, match="none of these weights fits"):
        begin_with(nn.Linear(3, 3), tmp_path / "other.safetensors", [])


def test_norms_and_biases_decay_unless_the_recipe_says_no() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    weights = [value for value in network.parameters() if value.ndim > 1]
    (one,) = make_optimizer(network, Training(weight_decay=0.1)).param_groups
    assert one["weight_decay"] == 0.1
    groups = make_optimizer(network, Training(weight_decay=0.1, decay_norms=False)).param_groups
    decayed = [value for group in groups if group["weight_decay"] for value in group["params"]]
    assert [id(value) for value in decayed] == [id(value) for value in weights]
    assert sum(len(group["params"]) for group in groups) == 4


def test_lookahead_steps_halfway_back_every_fifth_time() -> None:
    """From the tenth step on there is a place to look back to: the one of the fifth."""
    value = nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(
        nn.ParameterList([value]), Training(optimizer="radam_lookahead", learning_rate=0.1, weight_decay=0.0)
    )
    path = []
    for _ in range(10):
        value.grad = torch.tensor([1.0])
        optimizer.step()
        path.append(value.item())
    steps = np.diff([1.0, *path])
    assert (steps[:9] < 0).all()
    assert steps[9] > 0
    assert path[9] == pytest.approx((path[4] + path[8] + steps[8]) / 2, abs=0.02)


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "radam_lookahead", "decay_norms": False, "augment": Augment(mix="mixup")},
        {"frozen": ["0"], "best_by": "last", "schedule": "one_cycle"},
    ],
)
def test_training_that_stops_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, accelerator: Accelerator, training: dict[str, Any]
) -> None:
    """Stopped in an epoch's middle, three steps after the optimizer looked back; weights and moments are the same."""

    class Stops(Severities):
        def terms(self, network: nn.Module, batch: Any, *, train: bool) -> dict[str, Term]:
            if train and self.seen == 9:
                raise KeyboardInterrupt
            return super().terms(network, batch, train=train)

    run(tmp_path / "whole", accelerator, epochs=3, **training)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", accelerator, epochs=3, objective=Stops(), **training)
    assert len(run(tmp_path / "cut", accelerator, epochs=3, **training)) == 3
    for name in ("checkpoint.safetensors", "best.safetensors"):
        whole, cut = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(value, cut[key]) for key, value in whole.items())


class Scores(Severities):
    """Validation whose score is best in the epoch whose loss is worst."""

    def terms(self, network: nn.Module, batch: Any, *, train: bool) -> dict[str, Term]:
        found = dict(super().terms(network, batch, train=train))
        if not train:
            away = found["severity"]
            found["score_spinal"] = Term(-away.total, away.weight, 0.0)
            found["error_mm"] = Term(-away.total, away.weight, 0.0)
        return found


@pytest.mark.parametrize(("by", "chosen"), [("loss", np.argmin), ("score", np.argmax), ("error_mm", np.argmax)])
def test_the_best_epoch_is_the_best_by_the_chosen_figure(
    tmp_path: Path, accelerator: Accelerator, by: str, chosen: Any
) -> None:
    history = run(tmp_path, accelerator, objective=Scores(), best_by=by, epochs=3)
    header = read_header(tmp_path / "best.safetensors")
    assert header is not None
    figures = [row["valid_severity" if by != "loss" else "valid_loss"] for row in history]
    assert header["epoch"] == int(chosen(figures)) + 1
    assert ("valid_score" in history[0]) == (by == "score")
    assert history[0]["valid_loss"] > 0


def test_a_member_that_learns_nothing_keeps_the_weights_it_begins_with(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    learnt = run(tmp_path / "first", accelerator, epochs=2)[-1]
    weights = tmp_path / "first" / "best.safetensors"
    rows: list[dict[str, Any]] = []
    network = functools.partial(begin_with, points_network(), weights, ())
    job = points_job(tmp_path / "second", network, Training(epochs=0, begins_with="first", batch_size=20))
    progress = keep(job, accelerator, rows.append)
    assert rows == progress.history
    assert rows[0]["valid_loss"] == pytest.approx(learnt["valid_loss"])
    begun, own = load_file(weights), load_file(tmp_path / "second" / "best.safetensors")
    assert all(torch.equal(value, own[key]) for key, value in begun.items())


def test_the_last_epoch_is_kept_where_the_recipe_says_so(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path, accelerator, best_by="last", epochs=3, learning_rate=1.0)
    whole = load_file(tmp_path / "checkpoint.safetensors")
    assert torch.equal(load_file(tmp_path / "best.safetensors")["0.weight"], whole["network/0.weight"])
