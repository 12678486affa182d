"""The loop: it learns, goes on after a kill as if nothing had happened, and two processes agree with one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lumbar.compute.accelerator import choose_precision, make_accelerator
from lumbar.compute.launch import asked_for
from lumbar.issues import InputError
from lumbar.recipe.settings import Loop, Training
from lumbar.training.data.packs import read_header
from lumbar.training.loop import checkpoint
from lumbar.training.loop.batches import Plan, validation
from lumbar.training.loop.learning_rate import learning_rate
from lumbar.training.loop.loop import Term
from tests.support.training_job import Points, Severities, run

SCRIPT = Path(__file__).parent / "support" / "training_job.py"


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision="no")


def _program(folder: Path, *options: str, launch: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launch, str(SCRIPT), str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _history(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def _figures(history: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[row["train_loss"], row["valid_severity"], row["valid_any"]] for row in history])


def test_the_loop_learns_and_keeps_the_best_epoch(tmp_path: Path, accelerator: Accelerator) -> None:
    history = run(tmp_path, accelerator)
    losses = [row["valid_loss"] for row in history]
    assert losses[-1] < 0.9 * losses[0]
    header = read_header(tmp_path / "best.safetensors")
    assert header is not None
    assert header["epoch"] == int(np.argmin(losses)) + 1


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, accelerator: Accelerator) -> None:
    """SIGKILL in the middle of an epoch; weights and figures end up those of an unbroken run, dropout included.

    With the optimizer that keeps most, and mixed samples; AdamW's state is tried by whole runs that are killed.
    """
    settings = {"optimizer": "radam_lookahead", "augment": {"mix": "mixup"}}
    whole = run(tmp_path / "whole", accelerator, ema_decay=0.9, dropout=0.2, **settings)
    words = ["optimizer=radam_lookahead", "mix=mixup"]
    process = _program(tmp_path / "cut", "ema=0.9", "dropout=0.2", "pause=0.005", *words)
    path, deadline = tmp_path / "cut" / "checkpoint.safetensors", time.monotonic() + 120
    while time.monotonic() < deadline:
        header = read_header(path) if path.exists() else None
        if header and header["progress"]["epoch"] >= 1 and header["progress"]["batch"] > 0:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    header = read_header(path)
    assert header is not None
    assert 1 <= header["progress"]["epoch"] < 4
    resumed = run(tmp_path / "cut", accelerator, ema_decay=0.9, dropout=0.2, **settings)
    assert np.allclose(_figures(resumed), _figures(whole), atol=1e-6)
    ends = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut")]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.allclose(value.float(), ends[1][name].float(), atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "accelerate with MPI"])
def test_two_processes_agree_with_one(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    """Train losses and validation figures agree to 1e-4: only the order of float32 sums differs. Samples are mixed.

    With torchrun a whole system is trained, see `test_training_again`.
    """
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu")
    if launcher == "accelerate with MPI":
        if shutil.which("mpirun") is None:
            pytest.skip("mpirun is not here")
        (tmp_path / "hosts").write_text("localhost slots=2\n", encoding="utf-8")
        for word in ("", "_CONFIRM"):
            monkeypatch.setenv(f"OMPI_ALLOW_RUN_AS_ROOT{word}", "1")
        line = "-m accelerate.commands.launch --cpu --num_processes 2 --mpirun_hostfile"
        launch = (*line.split(), str(tmp_path / "hosts"))
    more = {"optimizer": "radam_lookahead", "augment": {"mix": "mixup"}}
    words = ["accumulate=2", "mix=mixup", "optimizer=radam_lookahead"]
    two = _history(_program(tmp_path / "two", *words, launch=launch))
    assert {row.pop("processes") for row in two} == {2}
    one = run(tmp_path / "one", accelerator, accumulate=2, **more)
    assert np.abs(_figures(one) - _figures(two)).max() < 1e-4


def test_a_row_that_was_not_written_before_a_kill_is_reported_by_the_next_call(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    def killed(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, accelerator, report=killed)
    rows: list[dict[str, Any]] = []
    assert run(tmp_path, accelerator, report=rows.append) == rows
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path, accelerator)
    header = read_header(tmp_path / "checkpoint.safetensors")
    state = checkpoint.State(tmp_path, "other", torch.nn.Linear(1, 1), None, None, None)
    fresh = {"epoch": 0}
    state.restore(fresh)
    assert header is not None
    assert header["fingerprint"] == "same"
    assert fresh == {"epoch": 0}


def test_accumulated_batches_step_less_often(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path, accelerator, accumulate=3, epochs=1)
    steps = [v for k, v in load_file(tmp_path / "checkpoint.safetensors").items() if k.endswith("/step")]
    assert {float(step) for step in steps} == {2.0}  # 6 batches


@pytest.mark.slow
def test_gradients_of_one_step_are_the_mean_over_its_batches_even_where_they_are_fewer(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    """6 batches: as one step, whether a step wants 6 or 100 of them; AdamW's first moments are a tenth of the mean."""
    means = []
    for many in (6, 100):
        run(tmp_path / str(many), accelerator, accumulate=many, epochs=1, clip_norm=0.0)
        means.append(_moments(tmp_path / str(many)))
    assert torch.equal(*means)
    single = []
    for batch in range(6):  # each batch's sixth of it
        folder = tmp_path / f"batch{batch}"
        run(folder, accelerator, accumulate=6, epochs=1, clip_norm=0.0, only=batch)
        single.append(_moments(folder))
    assert torch.allclose(means[0], torch.stack(single).sum(dim=0), atol=1e-7)
    assert means[0].abs().max() > 1e-3


def test_gradients_are_clipped_to_the_norm(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path / "free", accelerator, accumulate=6, epochs=1, clip_norm=0.0)
    run(tmp_path / "clipped", accelerator, accumulate=6, epochs=1, clip_norm=0.01)
    free, clipped = _moments(tmp_path / "free"), _moments(tmp_path / "clipped")
    assert free.norm() > 0.1 * 0.02
    assert clipped.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert torch.allclose(clipped / clipped.norm(), free / free.norm(), atol=1e-5)


def _moments(folder: Path) -> torch.Tensor:
    """All first moments that AdamW holds, one after another."""
    stored = load_file(folder / "checkpoint.safetensors")
    return torch.cat([stored[name].flatten() for name in sorted(stored) if name.endswith("/exp_avg")])


@pytest.mark.slow
def test_mixed_precision_computes_in_bf16_and_keeps_float32_weights(tmp_path: Path, accelerator: Accelerator) -> None:
    half = _history(_program(tmp_path / "half", "precision=bf16"))
    whole = run(tmp_path / "whole", accelerator)
    apart = np.abs(_figures(half) - _figures(whole))
    assert 1e-5 < apart.max() < 0.05
    assert {value.dtype for value in load_file(tmp_path / "half" / "best.safetensors").values()} == {torch.float32}


def test_the_moving_average_lags_behind_the_network(tmp_path: Path, accelerator: Accelerator) -> None:
    run(tmp_path, accelerator, ema_decay=0.99, epochs=1)
    tensors = load_file(tmp_path / "checkpoint.safetensors")
    best = load_file(tmp_path / "best.safetensors")
    assert torch.equal(best["0.weight"], tensors["average/0.weight"])
    assert not torch.equal(tensors["average/0.weight"], tensors["network/0.weight"])


def test_a_full_disk_is_one_sentence(tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: bytes, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumbar.files.write.write_bytes", full)
    with pytest.raises(InputError, match="free space"):
        run(tmp_path, accelerator, epochs=1)


def test_training_that_diverges_is_one_sentence_and_leaves_nothing_to_go_on_from(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    with pytest.raises(InputError, match=r"points fold 0: .* not finite after epoch 1.*learning_rate"):
        run(tmp_path, accelerator, learning_rate=3e37)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert len(run(tmp_path, accelerator)) == 4


class Overflows(Severities):
    """One batch whose loss is no number, as where fp16 overflows; its gradients are sound."""

    def terms(self, network: torch.nn.Module, batch: Any, *, train: bool) -> dict[str, Term]:
        found = dict(super().terms(network, batch, train=train))
        if train and self.seen == 2:
            found["severity"] = Term(found["severity"].total + float("nan"), found["severity"].weight)
        return found


def test_one_batch_that_overflows_ends_no_training(tmp_path: Path, accelerator: Accelerator) -> None:
    history = run(tmp_path, accelerator, objective=Overflows())
    assert [row["train_loss"] is None for row in history] == [True, False, False, False]
    assert json.loads(json.dumps(history, allow_nan=False)) == history
    losses = [row["valid_loss"] for row in history]
    assert losses[-1] < 0.9 * losses[0]


def test_a_launch_on_the_cpu_takes_no_number_type_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert choose_precision(Loop()) == "fp16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_precision(Loop()) == "no"
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        choose_precision(Loop(mixed_precision="fp16"))


def _plan(rank: int, world: int, *, together: bool = False, **training: Any) -> Plan:
    settings = Training(**{"batch_size": 20, "epochs": 3} | training)
    return Plan(Points(123, 0).studies, settings, 9, rank, world, together=together)


def test_processes_share_each_batch_of_one_order() -> None:
    whole, halves = _plan(0, 1).epoch(1), [_plan(rank, 2).epoch(1) for rank in (0, 1)]
    assert len(whole) == 6
    assert len({index for batch in whole for _, index in batch}) == 120
    for batch, left, right in zip(whole, *halves, strict=True):
        assert sorted(batch) == sorted(left + right)
    assert whole != _plan(0, 1).epoch(2)


def test_studies_stay_together_where_the_loss_asks_about_studies() -> None:
    plan = _plan(0, 2, together=True)
    for batch in plan.epoch(0):
        studies = [index // 5 for _, index in batch]
        assert all(studies.count(study) in (5, 3) for study in studies)


def test_learning_rates_follow_the_recipe() -> None:
    cosine = _plan(0, 1, learning_rate=1.0)
    assert learning_rate(cosine, 0, 0) == 1
    assert learning_rate(cosine, 2, 5) == pytest.approx(0.5 * (1 + np.cos(np.pi * 17 / 18)))
    step = _plan(0, 1, learning_rate=1.0, schedule="step", step_epochs=2, epochs=5)
    assert [round(learning_rate(step, epoch, 0), 6) for epoch in range(5)] == [1, 1, 0.1, 0.1, 0.01]
    warm = _plan(0, 1, learning_rate=1.0, warmup=0.5)
    assert learning_rate(warm, 0, 0) < learning_rate(warm, 0, 1) < learning_rate(warm, 1, 0) <= 1


def test_validation_sees_every_sample_once_and_studies_whole() -> None:
    studies = Points(57, 1).studies
    parts = [validation(studies, 8, rank, 2) for rank in (0, 1)]
    assert sorted(index for part in parts for batch in part for _, index in batch) == list(range(57))
    homes: dict[int, set[tuple[int, int]]] = {}
    for rank, part in enumerate(parts):
        for number, batch in enumerate(part):
            for _, index in batch:
                homes.setdefault(int(studies[index]), set()).add((rank, number))
    assert all(len(home) == 1 for home in homes.values())
    assert validation(studies[:0], 8) == []


def test_a_batch_too_small_to_share_is_refused() -> None:
    with pytest.raises(InputError, match="raise batch_size"):
        Plan(np.arange(3), Training(), 1, rank=0, world=2)
    with pytest.raises(InputError, match="a batch of 5 leaves less than one study to each of 2 processes"):
        _plan(0, 2, together=True, batch_size=6)
    assert Plan(np.arange(3), Training(), 1).batches == 1


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("python /usr/bin/accelerate launch --num_processes 2 --cpu train_utils.py train --out RUN", 2),
        ("python -m accelerate.commands.launch --cpu --num-processes=3 train_utils.py train --num_processes 9", 3),
        ("accelerate-launch --cpu train_utils.py", 1),
        ("accelerate launch --cpu --num_processes 4 --num_machines 2 train_utils.py", 1),
        ("bash -c true", 1),
    ],
)
def test_accelerates_command_line_says_how_many_processes(line: str, count: int) -> None:
    assert asked_for(line.split()) == count


def test_a_launch_that_starts_one_process_only_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where accelerate's command line cannot be read; accelerate itself says nothing."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("RANK", raising=False)
    make_accelerator(Loop(mixed_precision="no"))
    assert "torch.distributed.run" in capsys.readouterr().err
    monkeypatch.delenv("MASTER_PORT")
    make_accelerator(Loop(mixed_precision="no"))
    assert capsys.readouterr().err == ""
