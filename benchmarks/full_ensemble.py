"""Time and memory of the full ninth-place ensemble on a study: 6 models × 5 folds, 75 networks, random weights.

    python benchmarks/full_ensemble.py --data DIR --work DIR

Writes the bundle `DIR/bundle` (4.7 GB in half precision) unless it is there. The weights follow the rule of the parity
fixtures, `--rule fill_weights.py` of those, with the fold in the tag; without it they are as torch initialises them.
"""

import argparse
import importlib.util
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar import kaggle, pipeline
from lumbar.bundle import Weights, build_network, load_bundle, save_bundle
from lumbar.files import write_json
from lumbar.study import open_data
from lumbar.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
Rule = Callable[[str, tuple[int, ...], str], np.ndarray]


def weights(recipe: Path, rule: Rule | None) -> Iterator[Weights]:
    """Every member of the recipe with every fold, one at a time."""
    read = load_recipe(recipe)
    for fold in read.folds.train:
        for name, member in {**read.stage1.members, **read.stage2.members}.items():
            tag = f"{name}_fold{fold}"
            torch.manual_seed(zlib.crc32(tag.encode()))
            state = build_network(member.spec).state_dict()
            if rule is not None:
                state = {key: torch.from_numpy(rule(key, tuple(value.shape), tag)) for key, value in state.items()}
            yield Weights(tag, member.spec, state, fold=fold)


def main() -> None:
    """Build the bundle if need be, grade the folder, print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where the bundle and results go")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "ninth_place_exact.toml", metavar="TOML")
    parser.add_argument("--rule", type=Path, metavar="PY", help="file with fill(key, shape, tag)")
    args = parser.parse_args()
    if not (args.work / "bundle" / "manifest.json").is_file():
        prior = np.full((5, 5, 3), 1 / 3)
        members = weights(args.recipe, _load_rule(args.rule))
        save_bundle(args.work / "bundle", members, prior=prior, blend="mean_logits", description="full ensemble")
    started = time.perf_counter()
    bundle, data = load_bundle(args.work / "bundle"), open_data(args.data)
    device, amp = kaggle.choose_device()
    predictor = pipeline.Predictor(bundle, device, amp)
    loaded = time.perf_counter() - started
    results = [predictor(pipeline.read_study(data, study)) for study in data.study_ids]
    pipeline.write_outputs(results, data, bundle, args.work)
    figures = {
        "members": len(bundle.manifest.members),
        "bundle_gb": sum(file.stat().st_size for file in bundle.folder.iterdir()) / 1e9,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds_to_verify_and_load": loaded,
        "seconds_per_study": [result.seconds for result in results],
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    write_json(figures, args.work / "figures.json")
    for name, value in figures.items():
        print(f"{name}: {value}")


def _load_rule(path: Path | None) -> Rule | None:
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location("rule", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file; give the parity fixtures' fill_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill


if __name__ == "__main__":
    main()
