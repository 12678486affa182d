"""A sound study changed in ways whose meaning is known, and graded whole: what must follow of each, see `changes.py`.

    python tests/support/metamorphic.py --seed 1 --cases 200

Case i of a seed is the same in every run, so that `--only I` repeats a finding, and `--change NAME` makes one change
alone. Of every case: it ends within LIMIT_SECONDS, with exit code 0, 1 or 2 and no traceback; 25 rows a study, each of
three positive numbers that sum to 1; failure is one sentence of at most LONGEST characters, and no Issue is longer or
speaks of Python's exceptions.
"""

import argparse
import contextlib
import csv
import io
import json
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train_utils
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, mirrored
from tests.conftest import ROOT
from tests.support import changes_free, changes_identity, changes_same, changes_stored, changes_told
from tests.support.changes import CHANGES, Change, Kind, names
from tests.support.draft import anything_goes, sound
from tests.support.kept import networks_kept

#: They enter their changes when they are imported.
ROOMS = (changes_free, changes_identity, changes_same, changes_stored, changes_told)
LIMIT_SECONDS = 60.0
LONGEST = 330
#: What only who knows Python understands.
JARGON = re.compile(r"\b\w+(Error|Exception|Warning)\b|object has no attribute")
#: How far a probability may move where nothing that matters has changed.
SAME = 2e-3
#: How far it may move in the mirror, on average and at most: detectors find a mirrored patient a little different.
MIRROR_MEAN, MIRROR_MAX = 0.03, 0.3
#: How often a kind is drawn.
DRAWN: tuple[Kind, ...] = ("same", "same", "same", "told", "told", "told", "told", "free", "free", "mirrored")


class Overrun(BaseException):
    """A run took too long; no part of the project catches it."""


class Told(NamedTuple):
    """An Issue as the run report has it."""

    code: str
    detail: str


@dataclass
class Ended:
    """What one run of `predict` came to."""

    code: int = 0
    said: str = ""  # standard error
    fault: str = ""  # a traceback
    seconds: float = 0.0
    rows: dict[str, list[float]] = field(default_factory=dict)
    issues: list[Told] = field(default_factory=list)

    @property
    def probabilities(self) -> np.ndarray:
        """(5 conditions, 5 levels, 3) of study 1."""
        order = [f"1_{condition}_{level}" for condition in CONDITIONS for level in LEVELS]
        return np.array([self.rows[name] for name in order]).reshape(len(CONDITIONS), len(LEVELS), len(SEVERITIES))


@dataclass
class Case:
    """One case and its verdict; `flaws` is empty where all is as it must be."""

    name: str  # seed/index, or what a single change is called
    kind: Kind
    made: list[str]
    ended: Ended
    fresh: list[Told]  # Issues that the sound study does not have
    moved: float | None  # largest change of a probability
    flaws: list[str]

    def __str__(self) -> str:
        told = "\n".join(f"    {one.code}: {one.detail}" for one in self.fresh[:12]) or "    none"
        return (
            f"case {self.name} ({self.kind}): {' + '.join(self.made)}\n  wrong: {'; '.join(self.flaws) or 'nothing'}\n"
            f"  exit code {self.ended.code}, largest change {self.moved}, {self.ended.seconds:.1f} s\n"
            f"  new Issues ({len(self.fresh)}):\n{told}\n  said: {self.ended.said.strip()[-700:]}{self.ended.fault}"
        )


# -- running ----------------------------------------------------------------------------------------------------------


def run(root: Path, options: Sequence[str] = ()) -> Ended:
    """`predict` on a data folder, in this process, into a fresh folder of results."""
    words = ["predict", "--data", root / "data", "--weights", ROOT / "weights", "--out", root / "out", "--device=cpu"]
    ended, started = Ended(), time.monotonic()
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limit(LIMIT_SECONDS):
        try:
            ended.code = train_utils.main([*map(str, words), *options])
        except SystemExit as stop:
            ended.code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            ended.fault = traceback.format_exc(limit=-6)
    err.flush()
    ended.said = err.buffer.getvalue().decode("utf-8")
    ended.seconds = time.monotonic() - started
    if not ended.fault and ended.code in (0, 1) and (root / "out" / "submission.csv").is_file():
        _read_results(root / "out", ended)
    return ended


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Inside, Overrun is raised when the time is over; where there is no such clock, nothing is."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise Overrun(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _read_results(out: Path, ended: Ended) -> None:
    with (out / "submission.csv").open(encoding="utf-8", newline="") as stream:
        ended.rows = {row["row_id"]: [float(row[word]) for word in SEVERITIES] for row in csv.DictReader(stream)}
    report = json.loads((out / "run_report.json").read_text(encoding="utf-8"))
    ended.issues = [Told(one["code"], one["detail"]) for one in report["issues"]["list"]]


@cache
def sound_result() -> Ended:
    """The sound study's result."""
    with tempfile.TemporaryDirectory(prefix="sound") as name:
        sound(Path(name), random.Random(0))
        ended = run(Path(name))
    assert ended.code == 0, ended.said + ended.fault
    return ended


# -- cases ------------------------------------------------------------------------------------------------------------


def draw(dealer: random.Random) -> tuple[Kind, list[str]]:
    """A kind and the changes to be made, in their order: what leaves headers sound comes before what does not."""
    kind = dealer.choice(DRAWN)
    if kind == "same":
        first = dealer.choice(names("same"))
        others = [] if CHANGES[first].alone else dealer.sample(names("same", alone=False), dealer.randint(0, 2))
        return kind, [first, *(other for other in others if other != first)]
    beside = dealer.sample(names("same", alone=False), dealer.randint(0, 1))
    if kind == "mirrored":
        return kind, [dealer.choice(names("mirrored")), *beside]
    if kind == "told":
        return kind, [*beside, dealer.choice(names("told"))]
    others = [name for name in CHANGES if CHANGES[name].kind in ("same", "told") and not CHANGES[name].alone]
    return kind, [*dealer.sample(others, dealer.randint(0, 1)), *dealer.sample(names("free"), dealer.randint(1, 2))]


def run_case(seed: str, index: int) -> Case:
    """Case `index` of a seed."""
    dealer = random.Random(f"{seed}/{index}")
    kind, made = draw(dealer)
    return _run(f"{seed}/{index}", kind, made, dealer)


def run_change(name: str, seed: str = "1") -> Case:
    """One change and nothing else."""
    return _run(name, CHANGES[name].kind, [name], random.Random(f"{seed}/{name}"))


def _run(name: str, kind: Kind, made: list[str], dealer: random.Random) -> Case:
    before = sound_result()
    with tempfile.TemporaryDirectory(prefix="case") as folder:
        draft = sound(Path(folder), dealer)
        with anything_goes():
            for change in made:
                CHANGES[change].make(draft)
        ended = run(draft.root, draft.options)
    fresh = [one for one in ended.issues if one not in before.issues]
    there = set(before.rows) <= set(ended.rows)
    moved = float(np.abs(ended.probabilities - before.probabilities).max()) if there else None
    flaws = [*_broken(ended), *_unlike(kind, [CHANGES[one] for one in made], before, ended, fresh, moved)]
    return Case(name, kind, made, ended, fresh, moved, flaws)


# -- what must hold ---------------------------------------------------------------------------------------------------


def _broken(ended: Ended) -> Iterator[str]:
    """What is wrong whatever was changed."""
    if ended.fault or "Traceback" in ended.said:
        yield "a traceback"
    if ended.code not in (0, 1, 2):
        yield f"exit code {ended.code}"
    lines = [line for line in ended.said.splitlines() if line.strip()]
    if ended.code == 1 and not ended.fault and len(lines) != 1:
        yield f"{len(lines)} lines instead of one sentence"
    if ended.code in (1, 2) and lines and len(lines[-1]) > LONGEST:
        yield f"a sentence of {len(lines[-1])} characters"
    for text in (ended.said, *(one.detail for one in ended.issues)):
        if not ended.fault and (word := JARGON.search(text)):
            yield f"jargon: {word.group()}"
    for one in ended.issues:
        if len(one.detail) > LONGEST or not one.detail.isprintable():
            yield f"{one.code} of {len(one.detail)} characters: {one.detail[:60]!a}"
    if ended.code == 0 and (not ended.rows or len(ended.rows) % (len(CONDITIONS) * len(LEVELS))):
        yield f"{len(ended.rows)} rows"
    if any(abs(sum(row) - 1) > 1e-6 or min(row) <= 0 for row in ended.rows.values()):
        yield "rows that are no probabilities"


def _unlike(
    kind: Kind, made: list[Change], before: Ended, ended: Ended, fresh: list[Told], moved: float | None
) -> Iterator[str]:
    """What is not as the changes want it."""
    stays = moved is not None and moved <= SAME
    if kind == "same" and (ended.code != 0 or not stays):
        yield "the answer changed"
    if kind == "mirrored":
        yield from _not_mirrored(before, ended)
    for change in made if kind == "told" else ():
        if change.kind != "told":
            continue
        texts = [ended.said.lower()] if ended.code else [f"{one.code} {one.detail.lower()}" for one in fresh]
        named = any(cause in text for cause in change.causes for text in texts)
        if not named and not (change.or_same and stays):
            yield "the cause is not named"
        if change.keeps and not stays:
            yield "the answer changed, though the fault could be set aside"


def _not_mirrored(before: Ended, ended: Ended) -> Iterator[str]:
    if ended.code != 0:
        yield "the mirrored study is not graded"
        return
    swapped = [CONDITIONS.index(mirrored(condition)) for condition in CONDITIONS]
    change = np.abs(ended.probabilities - before.probabilities[swapped])
    if change.mean() > MIRROR_MEAN or change.max() > MIRROR_MAX:
        yield f"sides do not change places: off by {change.mean():.3f} on average, {change.max():.3f} at most"


# -- the command ------------------------------------------------------------------------------------------------------


def report(cases: Iterable[Case]) -> dict[str, Any]:
    """How many cases of each kind, and with each change, were as they must be, out of how many; those that were not."""
    counts: dict[str, Counter[str]] = {"kinds": Counter(), "changes": Counter()}
    right: dict[str, Counter[str]] = {"kinds": Counter(), "changes": Counter()}
    findings = []
    for case in cases:
        for table, keys in (("kinds", [case.kind]), ("changes", case.made)):
            counts[table].update(keys)
            right[table].update([] if case.flaws else keys)
        if case.flaws:
            findings.append(str(case))
    tables = {
        name: {key: f"{right[name][key]} of {counts[name][key]}" for key in sorted(counts[name])} for name in right
    }
    return {**tables, "findings": findings}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="1", metavar="S")
    parser.add_argument("--cases", type=int, default=200, metavar="N")
    parser.add_argument("--only", type=int, metavar="I", help="repeat one case")
    parser.add_argument("--change", choices=sorted(CHANGES), metavar="NAME", help="make one change alone")
    args = parser.parse_args()
    warnings.filterwarnings("error", category=RuntimeWarning, module="lumbar")  # as under pytest
    with networks_kept():
        if args.only is not None or args.change is not None:
            case = run_case(args.seed, args.only) if args.change is None else run_change(args.change, args.seed)
            print(case)
            return bool(case.flaws)
        found = report(run_case(args.seed, index) for index in range(args.cases))
    print(*found.pop("findings"), json.dumps(found, indent=2), sep="\n\n")
    return any(share.split()[0] != share.split()[-1] for share in found["kinds"].values())


if __name__ == "__main__":
    sys.exit(main())
