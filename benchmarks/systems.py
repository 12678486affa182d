"""Systems side by side: each recipe learns from the same phantoms and grades the same unseen ones.

    python benchmarks/systems.py --out DIR recipes/demo.toml recipes/small/*.toml
    python benchmarks/systems.py --out DIR recipes/small/third_place.toml --seeds 1 2 --hours 1

Phantoms are painted once (`--studies`, `--unseen`), each recipe and seed is trained by the ordinary command into a run
folder of its own, made a bundle and judged by `heldout.judge`. Everything is kept: an interrupted call goes on, a
finished recipe is not computed again, and DIR/systems.json holds all figures that there are. `--table` prints them and
computes nothing. A training that takes more than `--hours` (a system and seed) is stopped and goes on at the next call.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from heldout import judge, labelled_points

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.files.write import write_json
from lumbar.labels import CONDITION_GROUPS
from lumbar.study.study import open_data

ROOT = Path(__file__).resolve().parent.parent
#: The phantoms that train and those that judge: no study is in both.
SEEDS = {"learn": 6001, "unseen": 6002}
#: What is kept beside the scores: those around labelled keypoints, which no detector had to find.
AROUND = "around_labels"
PARTS = ("total", *CONDITION_GROUPS, "any_severe_spinal")


def command(*words: object, seconds: float | None = None) -> int:
    """Run a command of train_utils.py; its exit code, or 130 where it took longer and was interrupted."""
    process = subprocess.Popen([sys.executable, str(ROOT / "train_utils.py"), *map(str, words)])
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # ends as Ctrl-C does: the run is kept and can go on
        process.wait()
        return 130


def paint(out: Path, learn: int, unseen: int) -> None:
    """The two folders of phantoms, each once: `painted.json` says how many studies a finished folder holds."""
    noted = out / "painted.json"
    done = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    for name, studies in (("learn", learn), ("unseen", unseen)):
        if done.get(name) == studies:
            continue
        if command("phantom", "--studies", studies, "--seed", SEEDS[name], "--out", out / name, "--workers", 2):
            raise SystemExit(f"{out / name}: phantoms could not be painted; see above")
        done[name] = studies
        write_json(done, noted)


def learn_and_judge(recipe: Path, seed: int, out: Path, hours: float) -> dict[str, Any] | None:
    """Train, bundle, judge: figures, kept beside the run; None where the time was not enough."""
    run, kept = out / f"{recipe.stem}_{seed}", out / f"{recipe.stem}_{seed}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if AROUND not in found:
            write_json(found | _around_labels(load_bundle(run.with_suffix(".weights")), out), kept)
        return found
    begun = time.monotonic()
    words = ("--recipe", recipe, "--data", out / "learn", "--out", run, "--set", f"seed={seed}")
    code = command("train", *words, seconds=hours * 3600)
    spent = _spent(run, time.monotonic() - begun)
    if code == 130:
        return None
    if code or command("bundle", "--run", run, "--out", run.with_suffix(".weights")):
        raise SystemExit(f"{run}: training ended with exit code {code}; see above")
    bundle = load_bundle(run.with_suffix(".weights"))
    figures = judge(open_data(out / "unseen", "train"), bundle)
    found = {
        "recipe": recipe.stem,
        "seed": seed,
        "networks": len(bundle.manifest.members),
        "parameters": sum(_numbers(bundle, member.name) for member in bundle.manifest.members),
        "train_seconds": spent,
        **{
            key: figures[key]
            for key in ("studies", "scores", "standard_errors", "keypoints", "slices", "seconds_per_study")
        },
        **_around_labels(bundle, out),
    }
    write_json(found, kept)
    return found


def _around_labels(bundle: Bundle, out: Path) -> dict[str, Any]:
    """The same scores where graders look around labelled keypoints."""
    data = open_data(out / "unseen", "train")
    with labelled_points(data):
        figures = judge(data, bundle)
    return {AROUND: {key: figures[key] for key in ("scores", "standard_errors")}}


def _spent(run: Path, seconds: float) -> float:
    """Seconds that a run has trained, earlier calls included."""
    noted = run.with_suffix(".seconds")
    total = seconds + (float(noted.read_text()) if noted.is_file() else 0.0)
    noted.write_text(f"{total:.0f}")
    return total


def _numbers(bundle: Any, name: str) -> int:
    return sum(value.numel() for value in bundle.network(name, "cpu").parameters())


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line a recipe in Markdown: means over its seeds.

    Behind ± stands half of highest minus lowest; of the scores of one seed alone the standard error over studies.
    """
    lines = [
        "| recipe | seeds | " + " | ".join(part.replace("_", " ") for part in PARTS) + " | / prior | around labels | "
    ]
    lines[0] += "T2, mm | T1, mm | axial, mm | right slice | networks | parameters, M | s a study | training, min |"
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for name in dict.fromkeys(each["recipe"] for each in found):
        runs = [each for each in found if each["recipe"] == name]
        scores = [[run["scores"]["blend"][part] for run in runs] for part in PARTS]
        prior = [run["scores"]["blend"]["total"] / run["scores"]["weighted_prior"]["total"] for run in runs]
        errors = [runs[0]["standard_errors"]["blend"][part] if len(runs) == 1 else None for part in PARTS]
        told = [_spread(values, 3, error) for values, error in zip(scores, errors, strict=True)]
        cells = [name, str(len(runs)), *told, _spread(prior, 2)]
        around = [run[AROUND]["scores"]["blend"]["total"] for run in runs if AROUND in run]
        error = runs[0][AROUND]["standard_errors"]["blend"]["total"] if len(around) == 1 and AROUND in runs[0] else None
        cells.append(_spread(around, 3, error))
        for series in ("sagittal_t2", "sagittal_t1", "axial_t2"):
            cells.append(_spread([run["keypoints"][series]["all"]["median_mm"] for run in runs], 1))
        cells.append(_spread([run["slices"]["right"] for run in runs], 2))
        cells += [str(runs[0]["networks"]), f"{runs[0]['parameters'] / 1e6:.1f}"]
        cells += [_spread([run["seconds_per_study"] for run in runs], 2)]
        cells += [f"{np.mean([run['train_seconds'] for run in runs]) / 60:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float | None], digits: int, error: float | None = None) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    half = (max(known) - min(known)) / 2 if len(known) > 1 else error
    around = "" if half is None else f" ± {half:.{digits}f}"
    return f"{np.mean(known):.{digits}f}{around}"


def main() -> None:
    """Train and judge what is not yet there, and print the table of all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, metavar="RECIPE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for phantoms, runs and figures")
    parser.add_argument("--studies", type=int, default=200, metavar="N", help="phantoms that train (default: 200)")
    parser.add_argument("--unseen", type=int, default=100, metavar="N", help="phantoms that judge (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="S", help="of the networks (default: 1)")
    parser.add_argument("--hours", type=float, default=1.5, metavar="H", help="for a system and seed (default: 1.5)")
    parser.add_argument("--table", action="store_true", help="compute nothing")
    args = parser.parse_args()
    if not args.table:
        paint(args.out, args.studies, args.unseen)
        for seed in args.seeds:
            for recipe in args.recipes:
                if learn_and_judge(recipe, seed, args.out, args.hours) is None:
                    print(f"{recipe.stem}, seed {seed}: not done within {args.hours:g} h; the next call goes on")
    kept = sorted(path for path in args.out.glob("*_*.json") if path.stem.rpartition("_")[2].isdigit())
    found = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
    write_json(found, args.out / "systems.json")
    print(table(found))


if __name__ == "__main__":
    main()
