"""How fast each network of a recipe runs on a CPU, engine by engine, and how many slices at a time suit its backbone.

    python benchmarks/engines.py [--recipe FILE] [--engines eager fused] [--members NAME ...] [--threads 1]
    python benchmarks/engines.py --slices 5 8 10 12 16 25 50 [--members NAME ...]

Random weights, the batch of one study: seconds of the best of some calls, in rounds over the engines, beside how far
probabilities (of a detector: heatmaps) move. With `--slices`, milliseconds a slice of a backbone by slices at a time.
On one thread, seconds of the processor count, so that a busy machine disturbs less.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.bundle.network import build_network, example, noise, samples_of_a_study
from lumbar.compute.compiled import CompiledRunner
from lumbar.compute.engine import Runner, choose_engine, make_runner
from lumbar.compute.forward import Inputs, asked
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "ninth_place_exact.toml"
CPU = torch.device("cpu")


def now() -> float:
    """Seconds: of the processor on one thread, else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def of_a_study(spec: DetectorSpec | GraderSpec) -> Inputs:
    """Noise like the batch that a member sees of one study."""
    return noise(spec, samples_of_a_study(spec))


def ready(spec: DetectorSpec | GraderSpec, word: str) -> Runner | CompiledRunner:
    """The network with the same random weights, for an engine."""
    torch.manual_seed(0)
    network = build_network(spec).eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    runner = make_runner(network, choose_engine(word, CPU), example(spec))
    if isinstance(runner, CompiledRunner):
        runner.fill(state, word)
    return runner


def best(runner: Runner | CompiledRunner, batch: Inputs, amp: torch.dtype | None) -> tuple[float, torch.Tensor]:
    """Seconds of one call, and its answer."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=amp, enabled=amp is not None):
        started = now()
        answer: torch.Tensor = asked(runner.network, batch)
        return now() - started, answer.float()


def by_engine(names: dict[str, DetectorSpec | GraderSpec], words: list[str], rounds: int) -> None:
    """A line a network: seconds by engine, in brackets how much faster than the first, and the largest change."""
    print(f"| network | {' | '.join(words)} | moved at most |")
    print("|---" * (len(words) + 2) + "|")
    for name, spec in names.items():
        runners = {word: ready(spec, word) for word in words}
        batch = of_a_study(spec)
        seconds: dict[str, list[float]] = {word: [] for word in words}
        answers = {}
        for _ in range(rounds):
            for word, runner in runners.items():
                spent, answer = best(runner, batch, choose_engine(word, CPU).amp)
                seconds[word].append(spent)
                answers[word] = answer.softmax(-1) if isinstance(spec, GraderSpec) else answer
        first = min(seconds[words[0]])
        cells = [f"{min(seconds[word]):.3f} ({first / min(seconds[word]):.2f})" for word in words]
        moved = max(float((answers[word] - answers[words[0]]).abs().max()) for word in words)
        print(f"| {name} | {' | '.join(cells)} | {moved:.0e} |", flush=True)


def by_slices(names: dict[str, DetectorSpec | GraderSpec], words: list[str], sizes: list[int], rounds: int) -> None:
    """A line a backbone and engine: milliseconds a slice by slices at a time."""
    print(f"| backbone | engine | {' | '.join(map(str, sizes))} |")
    print("|---" * (len(sizes) + 2) + "|")
    for spec in {s.backbone: s for s in names.values() if isinstance(s, GraderSpec)}.values():
        for word in words:
            backbone = ready(spec, word).network.get_submodule("encoders.0.backbone")
            amp, images = choose_engine(word, CPU).amp, torch.randn(max(sizes), 1, spec.image_size, spec.image_size)
            cells = dict.fromkeys(sizes, float("inf"))
            for _ in range(rounds):
                for size in sizes:
                    with torch.inference_mode(), torch.autocast("cpu", dtype=amp, enabled=amp is not None):
                        started = now()
                        parts = [backbone(part) for part in images.split(size) if len(part) == size]
                        spent = (now() - started) / len(parts) / size
                    cells[size] = min(cells[size], spent)
            print(f"| {spec.backbone} | {word} | {' | '.join(f'{1000 * s:.1f}' for s in cells.values())} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE")
    parser.add_argument("--members", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--engines", nargs="+", default=["eager", "fused"], metavar="WORD")
    parser.add_argument("--slices", nargs="+", type=int, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    members = load_recipe(args.recipe).members()
    names = {name: member.spec for name, member in members.items() if not args.members or name in args.members}
    if args.slices:
        by_slices(names, args.engines, args.slices, args.rounds)
    else:
        by_engine(names, args.engines, args.rounds)


if __name__ == "__main__":
    main()
