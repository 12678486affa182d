"""Training that has to stop in time, as in a Kaggle session, goes on in the next one and ends as one training would."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import train_utils
from lumbar.training.deadline import Deadline, OutOfTimeError
from tests.support.tiny_recipe import DETECTORS, tiny_recipe
from tests.support.worlds import small_phantoms


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a recipe, and the run of it that nothing interrupted."""
    root = tmp_path_factory.mktemp("sessions")
    small_phantoms(root / "data", 4, 3)
    epochs = {"epochs": 3}
    text = tiny_recipe(
        {"t2": DETECTORS["t2"]}, {"spinal": {"task": "spinal"}}, stage1=epochs, stage2={**epochs, "keypoints": "labels"}
    )
    (root / "tiny.toml").write_text(text, encoding="utf-8")
    assert _train(root, root / "unbroken") == 0
    return root


def _train(root: Path, out: Path, *more: str) -> int:
    words = ["--recipe", root / "tiny.toml", "--data", root / "data", "--out", out, *more]
    return train_utils.main(["train", *map(str, words)])


def test_sessions_end_in_time_and_together_as_one_training(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each session the images have other times and the cache is gone, as on Kaggle."""
    told, cache = [], tmp_path / "cache"
    for session in itertools.count():
        for path in (world / "data").rglob("*.dcm"):
            os.utime(path, (1e9 + session, 1e9 + session))
        if session % 2:
            shutil.rmtree(cache, ignore_errors=True)
        run, hours = tmp_path / "run", f"{1.5 * 1.2**session / 3600:.6f}"
        assert _train(world, run, "--hours", hours, "--cache", str(cache)) == 0
        assert {path.name for path in cache.glob("*")} <= {"studies", "stacks", "regions"}
        assert not (run / "cache").exists()
        told.append(capsys.readouterr().err)
        if (run / "finished.json").is_file():
            break
        assert "the same command goes on from the last checkpoint" in told[-1]
        assert "of 4 networks are trained, next: " in told[-1]
        assert train_utils.main(["bundle", "--run", str(run), "--out", str(tmp_path / "weights")]) == 1
        # The clock decides where a session stops, on a busy machine even between the last network and the blend.
        refused = "has not ended" if "next: grading" in told[-1] else "not trained yet"
        refused = refused if (run / "recipe.json").is_file() else "recipe.json is missing"
        assert refused in capsys.readouterr().err
    assert len(told) > 1
    assert (cache / "regions").is_dir()
    assert "stopped before" not in told[-1]
    whole = world / "unbroken"
    weights = sorted(path.relative_to(whole) for path in whole.glob("members/*/*/best.safetensors"))
    assert len(weights) == 4
    for path in weights:
        one, other = load_file(whole / path), load_file(run / path)
        assert all(torch.equal(one[key], other[key]) for key in one), path
    table = "predictions/blend.csv"
    assert (whole / table).read_bytes() == (run / table).read_bytes()


def test_a_session_that_ends_before_grading_says_so(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(world / "unbroken", run)
    (run / "finished.json").unlink()
    assert _train(world, run, "--hours", "0.0000001") == 0
    assert "4 of 4 networks are trained, next: grading; the same command goes on" in capsys.readouterr().err
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(tmp_path / "weights")]) == 1
    assert "has not ended" in capsys.readouterr().err


def test_a_deadline_keeps_back_what_cannot_be_cut_short() -> None:
    free, accelerator = Deadline(), Accelerator(cpu=True)
    free.took(1e9)
    free.check()
    assert not free.up(accelerator)
    early = Deadline(1.0)
    assert early.reserve == pytest.approx(72)  # a fiftieth of the hour
    assert Deadline(100.0).reserve == pytest.approx(300)
    early.took(10)
    early.check()
    early.took(3000)
    assert early.up(accelerator)
    with pytest.raises(OutOfTimeError):
        early.check()
