"""How much faster than the obvious way: every region reads its slices from disk again, member after member, slice by
slice through the networks, float32, as public notebooks of this competition do; same weights, same probabilities.

    python benchmarks/naive.py --data DIR --weights DIR [--studies N] [--engines fused half] [--json]

Prints seconds a study of the naive way and of each engine in the same run, the ratios, and how far probabilities move.
"""

import argparse
import json
import sys
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.compute import device as devices
from lumbar.compute.engine import Engine
from lumbar.dicom.series import Slice
from lumbar.grading.grade import speaks
from lumbar.grading.networks.gru import GruGrader
from lumbar.grading.regions import Points, Regions, cut_region
from lumbar.grading.tasks import task_of
from lumbar.keypoints.detect import detect
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.prediction import schedule
from lumbar.prediction.networks import Networks
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import OWN_VIEW, VIEWS
from lumbar.study.standardise import slice_values
from lumbar.study.study import DataFolder, Study, open_data, read_study

reads = 0


class Reread(Slice):
    """A slice that reads its file again whenever somebody wants its pixels."""

    @property
    def pixels(self) -> Any:  # type: ignore[override]
        global reads
        reads += 1
        return pydicom.dcmread(self.path).pixel_array

    @pixels.setter
    def pixels(self, value: Any) -> None:
        object.__setattr__(self, "_shape", value.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape  # type: ignore[attr-defined, no-any-return]


def rereading(study: Study) -> Study:
    """The study with its geometry in memory and its pixels on disk."""

    def one(item: Slice) -> Slice:
        return Reread(**{field.name: getattr(item, field.name) for field in fields(Slice)})

    groups = {
        kind: tuple(replace(series, slices=tuple(map(one, series.slices))) for series in group)
        for kind, group in study.series.items()
    }
    return replace(study, series=groups)


def slice_loop(network: nn.Module, views: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, 3) of views (B, V, T, S, S), by a `GruGrader` with a Python loop over views and slices."""
    if not isinstance(network, GruGrader):
        names: Any = network.views
        named = {name: views[:, None, place, :, None] for place, name in enumerate(names)}
        return network(named, torch.ones(len(views), 1, len(named), dtype=torch.bool))[:, 0]  # type: ignore[no-any-return]
    pooled = []
    for view, index in enumerate(network.encoder_of_view):
        encoder: Any = network.encoders[index]
        each = [encoder.backbone(views[:, view, place : place + 1]) for place in range(views.shape[2])]
        pooled.append(encoder.rnn(torch.stack(each, dim=1))[0].mean(dim=1))
    logits = network.head(torch.cat(pooled, dim=1))
    return logits.reshape(len(views), 3, network.num_conditions).transpose(1, 2)


def keypoints_of(study: Study, bundle: Bundle, networks: Networks) -> Points:
    """Stage 1: stack by stack through one detector after the other."""

    def each(name: str, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([networks[name](one[None]) for one in batch])

    detectors: dict[Any, list[Any]] = {}
    for name, spec in bundle.manifest.detectors.items():
        detectors.setdefault(spec.series_type, []).append((spec, partial(each, name)))
    found, _ = detect(study, detectors, networks.device)
    return {(point.condition, point.level): point for point in found}


def answers(study: Study, points: Points, spec: GraderSpec, network: nn.Module, device: torch.device) -> np.ndarray:
    """(5, 5, 3): one member's probabilities, its regions cut for it alone."""
    size = (len(LEVELS), spec.slices, spec.image_size, spec.image_size)
    tensors = {view: np.zeros(size, np.float32) for view in VIEWS}
    present = {view: np.zeros(len(LEVELS), bool) for view in VIEWS}
    values = partial(slice_values, preprocessing=spec.preprocessing)  # remembers nothing
    for view in {*task_of(spec).views, *(OWN_VIEW[name] for name in task_of(spec).conditions)}:
        for index, level in enumerate(LEVELS):
            region = cut_region(study, view, level, points, spec, values)
            if region is not None and region.filled:
                tensors[view][index], present[view][index] = region.pixels, True
    regions = Regions(tensors, present)
    probabilities = np.full((5, 5, 3), np.nan)
    for sample in task_of(spec).samples:
        views = torch.from_numpy(np.stack([tensors[view] for view in sample.views], axis=1))  # (5, V, T, S, S)
        with torch.inference_mode():
            rows = torch.softmax(slice_loop(network, views.to(device)).double(), dim=-1).cpu().numpy()
        for place, condition in enumerate(sample.conditions):
            for row in range(5):
                if speaks(regions, spec, sample, condition, row):
                    probabilities[CONDITIONS.index(condition), row] = rows[row, place]
    return probabilities


def naive(data: DataFolder, bundle: Bundle, study_ids: list[int], device: torch.device) -> tuple[np.ndarray, float]:
    """Members (N, M, 5, 5, 3) the obvious way, and seconds a study; loading networks is not counted."""
    names = [member.name for member in bundle.manifest.members]
    networks, loading = Networks(bundle, names, Engine("eager"), device), 0.0
    started = time.perf_counter()
    studies = [rereading(read_study(data, study_id)) for study_id in study_ids]
    points = [keypoints_of(study, bundle, networks) for study in studies]
    members = []
    for name, spec in bundle.manifest.graders.items():
        before = time.perf_counter()
        network = networks[name]
        loading += time.perf_counter() - before
        pairs = zip(studies, points, strict=True)
        members.append([answers(study, found, spec, network, device) for study, found in pairs])
    seconds = time.perf_counter() - started - loading
    return np.array(members).swapaxes(0, 1), seconds / len(study_ids)


def main() -> None:
    """Both ways over the same studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR")
    parser.add_argument("--studies", type=int, default=2, metavar="N", help="the first N (2)")
    parser.add_argument("--slow", type=int, metavar="N", help="of them the naive way (all); it costs the same for each")
    parser.add_argument("--engines", nargs="+", default=["fused", "half"], metavar="WORD")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data, bundle = open_data(args.data), load_bundle(args.weights)
    study_ids = list(data.study_ids[: args.studies])
    device, amp = devices.choose_device(say=lambda text: print(text, file=sys.stderr))
    slow_ids = study_ids[: args.slow]
    expected, slow = naive(data, bundle, slow_ids, device)
    figures: dict[str, Any] = {
        "studies": len(study_ids),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "reads_per_study": reads / len(slow_ids),
        "naive_seconds": slow,
    }
    for word in args.engines:
        predictor = Predictor(bundle, device, amp, word)
        started = time.perf_counter()
        results = list(schedule.grade_all(predictor, data, study_ids))
        seconds = (time.perf_counter() - started) / len(study_ids)
        moved = np.nanmax(np.abs(np.stack([result.members for result in results[: len(slow_ids)]]) - expected))
        figures[word] = {"seconds": seconds, "times_faster": slow / seconds, "probabilities_moved": float(moved)}
        print(f"{word}: {seconds:.3f} s a study, naive {slow:.3f} s", file=sys.stderr, flush=True)
        del predictor  # before the next one takes as much memory
    print(json.dumps(figures, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
