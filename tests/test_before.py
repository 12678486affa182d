"""What an earlier version wrote is read, and gone on with: a bundle gives its numbers, a run is finished from where it
was stopped (see `tests/before/README.md`)."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_utils

BEFORE = Path(__file__).parent / "before"
#: When the studies' files were written, as the stopped run saw them.
WRITTEN = 1_700_000_000


@pytest.fixture
def one_thread() -> object:
    """Torch on one thread, as the run was begun."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_bundle_of_before_gives_its_numbers(root: Path, tmp_path: Path) -> None:
    words = ["--data", root / "sample_data", "--weights", BEFORE / "bundle", "--out", tmp_path]
    assert train_utils.main(["predict", *map(str, words), "--engine", "eager", "--device", "cpu"]) == 0
    found, wanted = (pd.read_csv(folder / "submission.csv") for folder in (tmp_path, BEFORE))
    assert found["row_id"].tolist() == wanted["row_id"].tolist()
    assert np.abs(found.iloc[:, 1:].to_numpy() - wanted.iloc[:, 1:].to_numpy()).max() <= 1e-3


def test_a_run_begun_before_goes_on(root: Path, tmp_path: Path, one_thread: object) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(root / "sample_data", data)
    for path in data.rglob("*"):
        os.utime(path, (WRITTEN, WRITTEN))
    shutil.copytree(BEFORE / "run", run)
    done = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    epochs = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(done) == len(epochs) == 8
    words = ["--recipe", BEFORE / "tiny.toml", "--data", data, "--out", run]
    assert train_utils.main(["train", *map(str, words)]) == 0
    assert all(path.read_bytes() == content for path, content in done.items())  # nothing was trained anew
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [json.dumps(row) for row in rows[:8]] == epochs
    names = {"t1", "t2", "axial", "whole", *(f"{task}_split" for task in ("spinal", "foraminal", "subarticular"))}
    assert sorted((row["member"], row["fold"]) for row in rows) == sorted((name, k) for name in names for k in (0, 1))
    assert train_utils.main(["bundle", "--run", str(run), "--out", str(tmp_path / "bundle")]) == 0
