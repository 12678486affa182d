"""The jobs of docs/cluster.md as they stand: three shards as processes, two killed and started again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import train_utils
from lumbar.prediction.finished import FINISHED
from tests.conftest import ROOT
from tests.support.worlds import small_phantoms, tiny_bundle

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SHARDS = 3
#: Those that are killed, one of Slurm's and one of Kubernetes': in the middle of something, or before anything.
KILLED = (0, 1)


def slurm_script() -> str:
    """The first script of the page that asks Slurm for an array."""
    return next(block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) if "--array" in block)


def container() -> dict[str, Any]:
    """The container of the page's Kubernetes job."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    job = yaml.safe_load(text)["spec"]
    assert job["completionMode"] == "Indexed"
    (found,) = job["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in found["env"]}
    assert given["SHARDS"] == str(job["completions"])
    assert {given[name] for name in ("DATA", "WEIGHTS", "OUT")} == {one["mountPath"] for one in found["volumeMounts"]}
    return dict(found)


def commands() -> list[tuple[list[str], dict[str, str]]]:
    """For each shard what its node runs, and with which variables: half of them by Slurm, half by Kubernetes."""
    by_slurm = ["bash", "-c", slurm_script()]
    by_kubernetes = [*container()["command"], *container()["args"]]
    return [
        (by_slurm, {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(SHARDS)})
        if number % 2
        else (by_kubernetes, {"JOB_COMPLETION_INDEX": str(number - 1), "SHARDS": str(SHARDS)})
        for number in range(1, SHARDS + 1)
    ]


@pytest.mark.slow
def test_shards_that_are_killed_and_started_again_leave_the_rows_of_one_run(tmp_path: Path) -> None:
    data = small_phantoms(tmp_path / "data", 6, 5)
    weights, out, whole = tiny_bundle(tmp_path / "weights").folder, tmp_path / "out", tmp_path / "whole"
    words = ["predict", "-q", "--data", str(data), "--weights", str(weights), "--on-error", "prior"]
    assert train_utils.main([*words, "--out", str(whole)]) == 0
    places = {"DATA": str(data), "WEIGHTS": str(weights), "OUT": str(out), "OMP_NUM_THREADS": "1"}
    places["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def start(shard: int) -> subprocess.Popen[bytes]:
        command, own = commands()[shard]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **places, **own})

    running = {shard: start(shard) for shard in range(SHARDS)}
    until = time.monotonic() + 240
    while not list((out / FINISHED).glob("*.safetensors")) and time.monotonic() < until:
        time.sleep(0.01)
    for shard in KILLED:
        running[shard].send_signal(signal.SIGKILL)
    codes = {shard: process.wait(300) for shard, process in running.items()}
    assert {code for shard, code in codes.items() if shard not in KILLED} == {0}
    killed = [shard for shard in KILLED if codes[shard] == -signal.SIGKILL]
    assert killed, "all were done before they could be killed"
    assert not (out / "submission.csv").exists()
    assert {process.wait(300) for process in [start(shard) for shard in killed]} == {0}
    assert train_utils.main([*words, "--out", str(out)]) == 0
    for name in ("submission.csv", "keypoints.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    left = [path.name for path in (out / FINISHED).glob("*")]  # what a killed one was just writing
    assert all(name.startswith(".") and name.endswith(".tmp.safetensors") for name in left), left
