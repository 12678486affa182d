"""Mutated files, tables and bundles, read in processes of their own: nothing but a result, an Issue or one sentence.

    python tests/support/fuzz.py --mutations 20000 --seed 1

Limits, each of which ends the process that breaks it and is a finding: LIMIT_SECONDS a mutation, MEMORY of address
space for files and tables (BUNDLE_MEMORY for bundles, which need torch). Mutation i of a seed is the same in every run,
so that `--only I` repeats a finding. Starting points: phantom slices, small files in every syntax, enhanced files,
pydicom's own files, and the real study where `../shared/real` is there.
"""

import argparse
import json
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.fuzz_targets import ATTACKS

LIMIT_SECONDS = 20.0
MEMORY = 3 * 2**30
BUNDLE_MEMORY = 16 * 2**30  # torch reserves far more addresses than it uses; the peak that is really used is reported
KINDS = ("dicom", "table", "bundle")
#: Out of 20 mutations so many of each kind.
SHARES = {"dicom": 16, "table": 2, "bundle": 2}
#: A limit is waited for in steps of so many seconds: where this process stands still, the time does not count.
STEP_SECONDS = 0.1


def kind_of(index: int) -> str:
    place = index % sum(SHARES.values())
    return "dicom" if place < 16 else "table" if place < 18 else "bundle"


# -- processes --------------------------------------------------------------------------------------------------------


def work_off(kind: str, seed: int, indices: list[int]) -> None:
    """The worker: one JSON line a mutation on standard output."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        attack = ATTACKS[kind](Path(name))
        limit = BUNDLE_MEMORY if kind == "bundle" else MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(json.dumps({"ready": kind}), flush=True)
        for index in indices:
            try:
                outcome, what = attack(random.Random(f"{seed}/{index}")), ""
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001 - a panic of a decoder is no Exception, and is what is looked for
                outcome, what = "raised", traceback.format_exc(limit=-6)
            peak = peak_kb() >> 10
            print(json.dumps({"index": index, "outcome": outcome, "what": what, "peak_mb": peak}), flush=True)


def peak_kb() -> int:
    """The largest memory that this process has held; `ru_maxrss` would count what its parent held when it forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def lines_of(process: subprocess.Popen[str], seconds: float) -> Iterator[str | None]:
    """Lines of a process as they come; None where the next takes longer than `seconds`."""
    lines: queue.Queue[str] = queue.Queue()

    def pump() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=pump, daemon=True).start()
    wait = 600.0  # for imports and starting points
    while True:
        for _ in range(max(1, round(wait / STEP_SECONDS))):
            try:
                line = lines.get(timeout=STEP_SECONDS)
                break
            except queue.Empty:
                continue
        else:
            yield None
            return
        if not line:
            return
        wait = seconds
        yield line


def run_kind(kind: str, seed: int, indices: list[int]) -> tuple[Counter[str], list[dict[str, Any]], int]:
    """Outcomes, findings and peak memory (MB) of one kind; a worker that hangs or dies is replaced by a new one."""
    outcomes: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    peak, left = 0, list(indices)
    while left:
        command = [sys.executable, __file__, "--worker", kind, "--seed", str(seed)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(left))
            process.stdin.close()
            ended = "died"
            for line in lines_of(process, LIMIT_SECONDS):
                if line is None:
                    ended = f"hung for {LIMIT_SECONDS:g} s"
                    process.kill()
                    break
                told = json.loads(line)
                if "ready" in told:
                    continue
                outcomes[told["outcome"]] += 1
                peak = max(peak, told["peak_mb"])
                if told["outcome"] == "raised":
                    findings.append(told)
                left.remove(told["index"])
            process.wait()
        if left:
            outcomes[ended] += 1
            findings.append({"index": left.pop(0), "outcome": ended, "what": f"exit code {process.returncode}"})
    return outcomes, findings, peak


def fuzz(mutations: int, seed: int, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Outcomes by kind, every finding, peak memory and seconds."""
    report: dict[str, Any] = {"mutations": 0, "seed": seed, "kinds": {}, "findings": []}
    for kind in kinds:
        indices = [index for index in range(mutations) if kind_of(index) == kind]
        started = time.monotonic()
        outcomes, findings, peak = run_kind(kind, seed, indices)
        report["mutations"] += len(indices)
        seconds = round(time.monotonic() - started, 1)
        report["kinds"][kind] = {"outcomes": dict(outcomes), "peak_mb": peak, "seconds": seconds}
        report["findings"] += findings
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=20000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--only", type=int, metavar="I", help="repeat one mutation")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work_off(args.worker, args.seed, json.load(sys.stdin))
        return 0
    if args.only is not None:
        outcomes, findings, _ = run_kind(kind_of(args.only), args.seed, [args.only])
        print(dict(outcomes), *(finding["what"] for finding in findings), sep="\n")
        return bool(findings)
    report = fuzz(args.mutations, args.seed, tuple(args.kinds))
    print(json.dumps(report, indent=2))
    return bool(report["findings"])


if __name__ == "__main__":
    sys.exit(main())
