"""Runs `predict` again and again in children of one process, so that torch is loaded once: the faults' tests kill them.

    python tests/support/fault_job.py DATA WEIGHTS WORK KILLS

Writes one JSON object: what each killed child left in its folder, and how a file size limit (a full disk, to the child)
ended. The last run in WORK/out is left to end well.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train_utils
from lumbar.bundle import bundle
from lumbar.kaggle import inputs
from lumbar.prediction import run_report, schedule
from lumbar.study import study

LOADED = (bundle, inputs, schedule, run_report, study)  # before the children are born


def child(act: Callable[[], int]) -> int:
    """Start `act` in a child and return its process id."""
    pid = os.fork()
    if pid == 0:
        os._exit(act())
    return pid


def predict(data: str, weights: str, out: Path) -> int:
    return train_utils.main(["predict", "--data", data, "--weights", weights, "--out", str(out), "--device", "cpu"])


def limited(data: str, weights: str, out: Path) -> int:
    """No file may grow beyond 2,000 bytes: not even one finished study can be kept."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    with (out.parent / "said").open("w") as said:
        os.dup2(said.fileno(), 2)
        return predict(data, weights, out)


def main(data: str, weights: str, work: Path, kills: int) -> None:
    started = time.monotonic()
    os.waitpid(child(lambda: predict(data, weights, work / "unbroken")), 0)
    seconds = time.monotonic() - started
    dealer = random.Random(3)
    left = []
    for _ in range(kills):
        pid = child(lambda: predict(data, weights, work / "out"))
        time.sleep(dealer.uniform(0.3, 1.05) * seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        there = [path for path in sorted((work / "out").glob("*")) if path.is_file()]  # finished studies stay, too
        left.append({path.name: path.read_text() for path in there})
        for path in there:
            if not path.name.startswith("."):
                path.unlink()  # so that each kill starts from nothing but what an earlier one left over
    _, status = os.waitpid(child(lambda: limited(data, weights, work / "limited")), 0)
    os.waitpid(child(lambda: predict(data, weights, work / "out")), 0)
    full = {"code": os.waitstatus_to_exitcode(status), "said": (work / "said").read_text()}
    print(json.dumps({"left": left, "full": full}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
