"""How near prediction comes to what its networks and its files cost at least.

    python benchmarks/inference.py --data DIR --weights DIR [--studies N] [--engine WORD] [--json]

In one run: seconds a study from file to probabilities; floor A, decoding each file once; floor B, the forward passes of
the same batches on tensors in memory, at the batch size that suits each network best (on a CPU also: on one core each).
Efficiency is max(A, B) / seconds on an accelerator, where reading overlaps computing. On a CPU both share the cores:
with C cores nothing can be faster than A / C + B, and that by seconds is given, beside the two others. Loading the
networks comes before. The rest is given by place.

    python benchmarks/inference.py --data DIR --recipes recipes/demo.toml recipes/small/*.toml [--studies N]

A line a recipe, of a bundle with random weights (keypoints lie anywhere, at like cost), in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lumbar.grading.grade
import lumbar.keypoints.detect
import lumbar.prediction.predictor
import lumbar.study.study
from lumbar.bundle.bundle import load_bundle
from lumbar.compute import device as devices
from lumbar.compute.compiled import Part
from lumbar.compute.forward import Inputs, asked, mapped, moved, tensors
from lumbar.compute.thread_pool import Lanes
from lumbar.prediction import schedule
from lumbar.prediction.predictor import Predictor
from lumbar.study.study import DataFolder, open_data

#: Seconds a sample are taken at these shares of a study's samples, the last being two studies together.
SHARES = (0.5, 1.0, 2.0)
#: What a batch is: its network, and the shapes of its tensors.
Kind = tuple[str, tuple[tuple[int, ...], ...]]


def timed(spent: dict[str, float], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, its seconds noted under a name."""

    @wraps(call)
    def measured(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - started

    return measured


def end_to_end(predictor: Predictor, data: DataFolder, study_ids: list[int], most_lanes: int | None = None) -> float:
    """Seconds a study."""
    started = time.perf_counter()
    for _ in schedule.grade_all(predictor, data, study_ids, most_lanes=most_lanes):
        pass
    return (time.perf_counter() - started) / len(study_ids)


def by_place(
    predictor: Predictor, data: DataFolder, study_ids: list[int], most_lanes: int | None = None
) -> tuple[float, dict[str, float]]:
    """Seconds a study, and of them by place; by this process alone."""
    spent: dict[str, float] = defaultdict(float)
    places = [
        (lumbar.study.study, "read_study", "reading"),
        (lumbar.keypoints.detect, "detect", "stage 1"),
        (lumbar.prediction.predictor, "cut_all_regions", "regions"),
        (lumbar.grading.grade, "grade", "stage 2"),
    ]
    with ExitStack() as stack:
        for module, name, place in places:
            call = getattr(module, name)
            stack.callback(setattr, module, name, call)
            setattr(module, name, timed(spent, place, call))
        seconds = end_to_end(predictor, data, study_ids, most_lanes)
    for place in ("stage 1", "regions", "stage 2"):  # side by side
        spent[place] /= most_lanes or predictor.lanes
    return seconds, {place: value / len(study_ids) for place, value in spent.items()}


def measured(
    predictor: Predictor, data: DataFolder, study_ids: list[int]
) -> tuple[float, dict[str, float], "Recorder"]:
    """Seconds a study as everybody runs it, seconds by place, and what went through the networks.

    Where processes of one core each share the studies, places are those of one such process, its seconds divided by
    their number.
    """
    recorder, cores = Recorder(predictor), torch.get_num_threads()
    if not predictor.alone:
        with recorder:
            return *by_place(predictor, data, study_ids), recorder
    seconds, lanes = end_to_end(predictor, data, study_ids), predictor.lanes
    torch.set_num_threads(1)
    with recorder:
        _, spent = by_place(predictor, data, study_ids, most_lanes=1)
    torch.set_num_threads(cores)
    return seconds, {place: value / lanes for place, value in spent.items()}, recorder


def floor_a(data: DataFolder, study_ids: list[int]) -> float:
    """Seconds a study to decode each file once and nothing else."""
    files = [file for study in study_ids for file in (data.image_folder / str(study)).rglob("*.dcm")]
    started = time.perf_counter()
    for file in files:
        _ = pydicom.dcmread(file).pixel_array
    return (time.perf_counter() - started) / len(study_ids)


class Recorder:
    """Counts the batches that go through networks, and keeps one of each kind."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.counts: dict[Kind, int] = defaultdict(int)
        self.kept: dict[Kind, tuple[torch.nn.Module, Inputs]] = {}

    def __enter__(self) -> "Recorder":
        runners = self.predictor.networks.runners()
        self.hooks = [runner.network.register_forward_pre_hook(self._note) for runner in runners]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _note(self, network: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        batch: Inputs = inputs[0] if isinstance(inputs[0], torch.Tensor) else (inputs[0], inputs[1])
        kind = self.predictor.networks.kind_of(network), tuple(tuple(value.shape) for value in tensors(batch))
        self.counts[kind] += 1
        if kind not in self.kept:
            self.kept[kind] = network, mapped(torch.clone, batch)

    def floor(self, studies: int) -> dict[str, float]:
        """Seconds a study of the forward passes alone, by stage; folds of one network are taken to cost the same."""
        seconds = {"stage 1": 0.0, "stage 2": 0.0}
        for kind, (network, batch) in self.kept.items():
            stage = "stage 1" if isinstance(batch, torch.Tensor) else "stage 2"
            seconds[stage] += self.counts[kind] * best(network, batch, self.predictor) / studies
        return seconds


def best(network: torch.nn.Module, batch: Inputs, predictor: Predictor) -> float:
    """Seconds for the batch, at the batch size at which a sample takes least."""
    a_sample: list[float] = []
    amp, device = predictor.engine.amp, predictor.device
    batch = moved(batch, device)
    samples = len(tensors(batch)[0])
    for compiled in compiled_parts(network):
        compiled.load(compiled.file, compiled.word)  # else it keeps to as many cores as there were at its first call

    def call(part: Inputs, _: int = 0) -> None:
        with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            asked(network, part)
        if device.type == "cuda":
            torch.cuda.synchronize()

    # OpenVINO takes every batch sample by sample, and prepares itself at each thread's first call.
    for share in (1.0,) if compiled_parts(network) else SHARES:
        count = max(1, round(share * samples))
        part = mapped(partial(_as_many, count), batch)
        call(mapped(lambda value: value[:1], part))
        a_sample += [seconds / count for seconds in times_of(partial(call, part))]
    with Lanes(predictor.lanes) as lanes:
        if lanes.count > 1:
            lanes.each(partial(call, mapped(lambda value: value[:1], batch)), range(lanes.count))
            side_by_side = partial(lanes.each, partial(call, batch), range(lanes.count))
            a_sample += [seconds / samples / lanes.count for seconds in times_of(side_by_side)]
    for compiled in compiled_parts(network):
        compiled.release()
    return min(a_sample) * samples


def _as_many(count: int, values: torch.Tensor) -> torch.Tensor:
    """So many samples, up to twice as many as there are."""
    return torch.cat([values, values])[:count]


def compiled_parts(network: torch.nn.Module) -> list[Part]:
    """What OpenVINO computes of a network."""
    return [part for part in network.modules() if isinstance(part, Part)]


def times_of(call: Callable[[], Any], rounds: int = 4, enough: float = 2.0) -> list[float]:
    """Seconds that each of some calls takes; what takes long hardly varies, so that `enough` seconds end it."""
    seconds: list[float] = []
    while len(seconds) < rounds and sum(seconds) < enough:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, metavar="DIR", help="bundle folder")
    what.add_argument("--recipes", type=Path, nargs="+", metavar="FILE", help="a line each, weights at random")
    parser.add_argument("--studies", type=int, default=4, metavar="N", help="the first N (4)")
    parser.add_argument("--engine", default="auto", metavar="WORD")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.recipes:
        lines(args.data, args.recipes, args.studies, args.engine)
        return
    figures = measure(args.data, args.weights, args.studies, args.engine)
    print(json.dumps(figures, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


def lines(folder: Path, recipes: Sequence[Path], studies: int, engine: str) -> None:
    """Print a table with the figures of each recipe, measured in a process of its own, which alone tells its memory."""
    print("| recipe | networks | seconds a study | floor A | floor B | (A + B) / seconds | memory, GB | to load, s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as made:
            bundle = Path(made) / "bundle"
            tool = [sys.executable, str(Path(__file__).resolve().parents[1] / "train_utils.py"), "bundle", "--random"]
            subprocess.run(
                [*tool, "--recipe", str(recipe), "--out", str(bundle)], check=True, stdout=subprocess.DEVNULL
            )
            own = [sys.executable, __file__, "--data", str(folder), "--weights", str(bundle), "--engine", engine]
            said = subprocess.run(
                [*own, "--studies", str(studies), "--json"], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        figures = json.loads(said)
        share = figures["(A + B) / seconds"]
        seconds = [figures[key] for key in ("seconds_per_study", "floor_a_decoding", "floor_b_forward")]
        row = [recipe.name, str(len(manifest["members"]))]
        row += [*(f"{each:.3f}" for each in seconds), f"{share:.2f}", f"{max(figures['peak_memory_gb']):.1f}"]
        print("|", " | ".join([*row, f"{figures['seconds_to_load']:.1f}"]), "|", flush=True)


def measure(folder: Path, weights: Path, studies: int, engine: str) -> dict[str, Any]:
    """All figures of a run over the first `studies` of a data folder."""
    started = time.perf_counter()
    data, bundle = open_data(folder), load_bundle(weights)
    device, amp = devices.choose_device(say=lambda text: print(text, file=sys.stderr))
    predictor = Predictor(bundle, device, amp, engine)
    loaded = time.perf_counter() - started
    study_ids = list(data.study_ids[:studies])
    # On a CPU large ensembles would take minutes, beside which warming up is nothing, and where OpenVINO computes,
    # nobody copies.
    if device.type != "cpu" or not (predictor.networks.swaps or predictor.engine.compiled):
        end_to_end(predictor, data, study_ids[:2])
    seconds, spent, recorder = measured(predictor, data, study_ids)
    forward = recorder.floor(len(study_ids))
    a, cores = floor_a(data, study_ids), torch.get_num_threads()
    return {
        "studies": len(study_ids),
        "files_per_study": _files(data, study_ids),
        "device": str(device),
        "engine": str(predictor.engine),
        "threads": cores,
        "seconds_to_load": loaded,
        "seconds_per_study": seconds,
        **efficiency(seconds, a, sum(forward.values()), overlap=device.type != "cpu", cores=cores),
        "beyond_the_floors": {
            "reading": spent["reading"] - (a / cores if predictor.alone else a),
            "stage 1": spent["stage 1"] - forward["stage 1"],
            "regions": spent["regions"],
            "stage 2": spent["stage 2"] - forward["stage 2"],
        },
        "peak_memory_gb": [_peak_gb(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)],
    }


def efficiency(seconds: float, a: float, b: float, *, overlap: bool, cores: int) -> dict[str, Any]:
    """Both floors, seconds a study, beside the time that it took."""
    return {
        "floor_a_decoding": a,
        "floor_b_forward": b,
        "efficiency": (max(a, b) if overlap else a / cores + b) / seconds,
        "efficiency_is": "max(A, B) / seconds" if overlap else f"(A / {cores} cores + B) / seconds",
        "max(A, B) / seconds": max(a, b) / seconds,
        "(A + B) / seconds": (a + b) / seconds,
    }


def _peak_gb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1e6


def _files(data: DataFolder, study_ids: list[int]) -> float:
    return float(np.mean([len(list((data.image_folder / str(one)).rglob("*.dcm"))) for one in study_ids]))


if __name__ == "__main__":
    main()
