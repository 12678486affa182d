#!/usr/bin/env python3
"""Lumbar's utility script: the command line, and the names that a notebook imports from here.

    python train_utils.py --help

In a notebook (a Kaggle utility script or this file beside it):

    from train_utils import find_inputs, choose_device, open_data, load_bundle, predict, write_outputs

Results go to files or standard output, progress to standard error. Exit codes: 0 done, 1 failed with one clear
sentence, 2 bad usage. Research use only, not for clinical decisions.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumbar.issues import InputError

if TYPE_CHECKING:  # what a notebook imports from here; loaded on first use, so that --help does not wait for torch
    from lumbar.bundle import load_bundle
    from lumbar.kaggle import choose_device, find_inputs, is_competition_rerun
    from lumbar.metric import read_labels, score
    from lumbar.pictures import show_study
    from lumbar.pipeline import predict, write_outputs
    from lumbar.report import show_issues
    from lumbar.study import open_data

_HOME = {
    "find_inputs": "lumbar.kaggle",
    "choose_device": "lumbar.kaggle",
    "is_competition_rerun": "lumbar.kaggle",
    "open_data": "lumbar.study",
    "load_bundle": "lumbar.bundle",
    "predict": "lumbar.pipeline",
    "write_outputs": "lumbar.pipeline",
    "show_study": "lumbar.pictures",
    "show_issues": "lumbar.report",
    "read_labels": "lumbar.metric",
    "score": "lumbar.metric",
}
__all__ = [
    "choose_device",
    "find_inputs",
    "is_competition_rerun",
    "load_bundle",
    "open_data",
    "predict",
    "read_labels",
    "score",
    "show_issues",
    "show_study",
    "write_outputs",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def phantom(args: argparse.Namespace) -> int:
    """Write synthetic studies in the competition layout, with labels and coordinates."""
    from lumbar.phantom import write_phantoms

    write_phantoms(
        args.out, args.studies, args.seed, split=args.split, label_noise=args.label_noise, workers=args.workers
    )
    return 0


def train(args: argparse.Namespace) -> int:
    """Train every stage and fold of a recipe; resumes where it stopped."""
    from lumbar.training.run import train as train_recipe

    train_recipe(args.recipe, args.data, args.out, args.set)
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Out-of-fold score by condition and keypoint error in mm, printed and stored in the run."""
    from lumbar.training.evaluate import evaluate as evaluate_run

    print(evaluate_run(args.run))
    return 0


def bundle(args: argparse.Namespace) -> int:
    """Make a weights bundle from a run, or one with random weights from a recipe (for timing)."""
    from lumbar.training.bundling import make_bundle, make_random_bundle

    if args.random:
        make_random_bundle(args.recipe, args.out, args.seed)
    else:
        make_bundle(args.run, args.out)
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check every file of a bundle and say what each member is."""
    from lumbar.bundle import load_bundle

    checked = load_bundle(args.weights)
    for member in checked.manifest.members:
        checked.network(member.name, "cpu")
    print(checked.describe())
    return 0


def convert(args: argparse.Namespace) -> int:
    """Turn the original ninth-place checkpoints (.pt) into a bundle."""
    from lumbar.convert import convert_checkpoints

    convert_checkpoints(args.checkpoints, args.out, folds=args.folds, labels=args.labels)
    return 0


def predict_folder(args: argparse.Namespace) -> int:
    """Grade a data folder: submission.csv, keypoints.csv and run_report.json."""
    from lumbar import kaggle, pipeline, report, study
    from lumbar.bundle import load_bundle

    data, weights = study.open_data(args.data, args.split), load_bundle(args.weights)
    device, amp = kaggle.choose_device(None if args.device == "auto" else args.device, say=_to_stderr)
    results = list(pipeline.predict(data, weights, device=device, amp=amp, on_error=args.on_error))
    options = {"device": device, "autocast": amp, "on_error": args.on_error}
    print(pipeline.write_outputs(results, data, weights, args.out, options))
    if report.exceeded_share(results):
        share = f"{len(report.failed_studies(results))} of {len(results)}"
        raise InputError(
            f"{args.data}: {share} studies could not be graded and took the prior; everything is written all the same, "
            f"see study_failed in {args.out / 'run_report.json'}"
        )
    return 0


def score_table(args: argparse.Namespace) -> int:
    """The official score of a submission and its four parts."""
    from lumbar import metric

    result = metric.score(metric.read_labels(args.labels), metric.read_predictions(args.predictions))
    print(result.to_json() if args.json else result)
    return 0


def show_batches(args: argparse.Namespace) -> int:
    """Draw what the networks really get in training: stage 1 with targets, stage 2 with labels."""
    from lumbar.training.show import show_batches as draw

    draw(args.recipe, args.data, args.out, args.set)
    return 0


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _path(flag: str, text: str, *, required: bool = True) -> tuple[str, dict[str, Any]]:
    return flag, {"type": Path, "required": required, "metavar": flag.strip("-").upper(), "help": text}


_SET = ("--set", {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "override a value of the recipe"})
_JSON = ("--json", {"action": "store_true", "help": "print JSON"})
_DATA = _path("--data", "data folder in the competition layout, with labels")
_RECIPE = _path("--recipe", "TOML file: what to train")
_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], list[tuple[str, dict[str, Any]]]]] = {
    "phantom": (
        phantom,
        [
            ("--studies", {"type": int, "required": True, "metavar": "N", "help": "how many"}),
            ("--seed", {"type": int, "required": True, "metavar": "S", "help": "same seed, same studies"}),
            _path("--out", "data folder to write"),
            ("--split", {"choices": ("train", "test"), "default": "train", "help": "test: without labels"}),
            ("--label-noise", {"action": "store_true", "help": "disturb labels as human readers do"}),
            ("--workers", {"type": int, "default": 1, "metavar": "N", "help": "processes"}),
        ],
    ),
    "train": (train, [_RECIPE, _DATA, _path("--out", "run folder; an interrupted run in it goes on"), _SET]),
    "evaluate": (evaluate, [_path("--run", "run folder")]),
    "bundle": (
        bundle,
        [
            _path("--run", "run folder", required=False),
            ("--random", {"action": "store_true", "help": "random weights, with --recipe"}),
            _path("--recipe", "with --random: TOML file", required=False),
            ("--seed", {"type": int, "default": 0, "metavar": "S", "help": "with --random"}),
            _path("--out", "bundle folder to write"),
        ],
    ),
    "verify": (verify, [_path("--weights", "bundle folder")]),
    "convert": (
        convert,
        [
            _path("--checkpoints", "folder of .pt files"),
            _path("--out", "bundle folder to write"),
            _path("--folds", "TOML file that maps file names to folds, where the names do not say", required=False),
            _path("--labels", "train.csv for the weighted prior (without: uniform)", required=False),
        ],
    ),
    "predict": (
        predict_folder,
        [
            _path("--data", "data folder in the competition layout"),
            _path("--weights", "bundle folder"),
            _path("--out", "folder for the results"),
            ("--split", {"choices": ("train", "test"), "help": "which tables, where the folder holds both"}),
            ("--device", {"default": "auto", "help": "auto, cpu, cuda or cuda:N"}),
            (
                "--on-error",
                {
                    "choices": ("fail", "prior"),
                    "default": "fail",
                    "help": "a study that cannot be read: stop, or give it the weighted prior and go on",
                },
            ),
        ],
    ),
    "score": (score_table, [_path("--labels", "train.csv"), _path("--predictions", "submission.csv"), _JSON]),
    "show-batches": (show_batches, [_RECIPE, _DATA, _path("--out", "folder for the pictures"), _SET]),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_utils.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, arguments) in _COMMANDS.items():
        summary = (run.__doc__ or "").strip()
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run_command=run)
        for flag, options in arguments:
            command.add_argument(flag, **options)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "bundle" and (args.recipe if args.random else args.run) is None:
        parser.error("bundle needs --run, or --random with --recipe")
    try:
        return args.run_command(args)
    except InputError as error:
        print(f"{parser.prog} {args.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
