"""What one member of each kind of a recipe costs: parameters, GFLOP and seconds a study, peak memory.

    python benchmarks/members.py recipes/third_place.toml recipes/first_place.toml [--engine fused] [--threads 2]

Kinds are members of one network, backbone and input; one of each is computed, with random weights, on noise of the
shape that a study gives it, each in a process of its own. GFLOP are torch's own count (a multiplication and an addition
are two) of all matrix products and convolutions; seconds are the best of some calls after a first one; peak memory is
the process's, less what it held before the network was built.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engines import of_a_study

from lumbar.arguments import ENGINES
from lumbar.bundle.network import build_network, example, samples_of_a_study
from lumbar.compute.engine import choose_engine, make_runner
from lumbar.compute.forward import asked
from lumbar.recipe.recipe import load_recipe
from lumbar.training.outcome.trial_steps import gflop_of

CPU = torch.device("cpu")
#: Seconds in which calls are repeated after the first.
LONG_ENOUGH = 2.0


def kinds(recipe: Path) -> dict[str, tuple[str, int]]:
    """For each kind the name of its first member and how many networks, folds counted, the recipe has of it."""
    read = load_recipe(recipe)
    found: dict[str, tuple[str, int]] = {}
    for name, member in read.members().items():
        spec = member.spec
        key = f"{spec.subject}: {spec.network} on {spec.backbone}, {spec.pixels}"
        key += ", distances" if getattr(spec, "canal_distances", False) else ""
        first, count = found.get(key, (name, 0))
        found[key] = (first, count + len(read.folds_of(name)))
    return found


def measure(recipe: Path, name: str, word: str) -> dict[str, float]:
    """The costs of one member of a recipe in this process."""
    spec = load_recipe(recipe).members()[name].spec
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    network = build_network(spec).eval()
    batch = of_a_study(spec)
    parameters = sum(value.numel() for value in network.parameters())
    engine = choose_engine(word, CPU)
    with torch.inference_mode(), torch.autocast("cpu", dtype=engine.amp, enabled=engine.amp is not None):
        runner = make_runner(network, engine, example(spec))
        asked(runner.network, batch)
        seconds: list[float] = []
        begun = time.perf_counter()
        while not seconds or time.perf_counter() - begun < LONG_ENOUGH:
            started = time.perf_counter()
            asked(runner.network, batch)
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "parameters": parameters,
        "gflop": gflop_of(spec) * samples_of_a_study(spec),
        "seconds": min(seconds),
        "peak_mb": peak / 1024,
    }


def main() -> None:
    """A table a recipe, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    parser.add_argument("--engine", default="fused", choices=ENGINES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--member", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.member:
        print(json.dumps(measure(args.recipes[0], args.member, args.engine)))
        return
    words = ["--engine", args.engine, "--threads", str(args.threads)]
    for recipe in args.recipes:
        print(f"\n{recipe.stem}: engine {args.engine}, {args.threads} threads, one study\n")
        print("| member | networks | parameters, M | GFLOP | seconds | peak memory, MB |\n|---|---|---|---|---|---|")
        for kind, (name, count) in kinds(recipe).items():
            call = [sys.executable, __file__, str(recipe), "--member", name, *words]
            found: dict[str, Any] = json.loads(subprocess.run(call, stdout=subprocess.PIPE, check=True).stdout)
            cells = f"{found['parameters'] / 1e6:.1f} | {found['gflop']:.3g} | {found['seconds']:.2f}"
            print(f"| {kind} | {count} | {cells} | {found['peak_mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
