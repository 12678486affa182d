"""The memory that a training step takes of a GPU, for every kind of member of recipes, estimated without computing.

    python benchmarks/step_memory.py recipes/first_place.toml recipes/third_place.toml
    python benchmarks/step_memory.py --largest recipes/*_place.toml

As `train --plan` estimates it, for studies that lack nothing; no data is needed. `--largest`: a line a recipe, its
largest member. Where a T4 does not hold a batch, the keys with which it does stand beside.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.grading.tasks import task_of
from lumbar.labels import LEVELS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.training.outcome.step_memory import GPUS, memory_of, remedy, room, step_bytes
from lumbar.training.outcome.trial_steps import samples_at_once
from lumbar.training.stages import MemberStage, members_of

T4 = GPUS["T4"].gigabytes
#: What of a member's training its memory depends on, beside whether it mixes features.
COUNTED = {"batch_size", "accumulate", "optimizer", "ema_decay", "frozen", "second_level", "loss", "any_severe_weight"}


class Kind(NamedTuple):
    """Members that take the same memory."""

    name: str  # of the first
    spec: Any
    member: MemberStage
    samples_of: Callable[[int], int]  # of a batch
    half: bool
    bytes: int


def kinds(path: Path) -> list[Kind]:
    """One of each kind of member that learns, in the recipe's order."""
    recipe = load_recipe(path)
    found: dict[str, Kind] = {}
    for name, member in members_of(recipe).items():
        spec, training = recipe.members()[name].spec, member.training
        kind = f"{spec.model_dump_json()} {training.model_dump_json(include=COUNTED)} {training.augment.mix_on}"
        if not training.epochs or kind in found:
            continue
        of_a_study = 1
        if isinstance(spec, GraderSpec):
            of_a_study = len(task_of(spec).samples) * (1 if spec.levels != "one" else len(LEVELS))
        samples_of = partial(samples_at_once, np.repeat(np.arange(training.batch_size), of_a_study), member)
        half = recipe.loop.mixed_precision != "no"
        needed = step_bytes(spec, member, samples_of(training.batch_size), half=half)
        found[kind] = Kind(name, spec, member, samples_of, half, needed)
    return list(found.values())


def main() -> None:
    """A table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    parser.add_argument("--largest", action="store_true", help="only the largest member of each recipe")
    args = parser.parse_args()
    print("| recipe | member | batch_size | GB a step | for a T4 | kinds too large for it |\n|---|---|---|---|---|---|")
    for path in args.recipes:
        found = kinds(path)
        large = f"{sum(kind.bytes > room(T4) for kind in found)} of {len(found)}"
        for kind in [max(found, key=lambda kind: kind.bytes)] if args.largest else found:
            training, short = kind.member.training, ""
            if kind.bytes > room(T4):
                memory = memory_of(kind.spec, kind.member, kind.samples_of, half=kind.half)
                short = remedy(memory, training, T4)
            cells = f"{kind.name} | {training.batch_size} | {kind.bytes / 1e9:.3g} | {short} | {large}"
            print(f"| {path.stem} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
