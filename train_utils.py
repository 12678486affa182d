#!/usr/bin/env python3
"""Lumbar's utility script: the command line, and the names that a notebook imports from here.

    python train_utils.py --help

In a notebook (a Kaggle utility script or this file beside it):

    from train_utils import find_inputs, choose_device, open_folder, load_bundle, predict, write_outputs

Results go to files or standard output, progress to standard error. Exit codes: 0 done, 1 failed with one clear
sentence, 2 bad usage, 130 stopped by Ctrl-C (129 by SIGHUP, 143 by SIGTERM). Research use only, not for clinical
decisions.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from lumbar import __version__
    from lumbar.issues import InputError
    from lumbar.terminal import ending, stopping, voice
except ModuleNotFoundError:  # pushed to Kaggle as a utility script: the package lies in an attached dataset
    for depth in range(1, 5):
        sys.path += [str(found.parents[1]) for found in Path("/kaggle/input").glob("*/" * depth + "lumbar/labels.py")]
    from lumbar import __version__
    from lumbar.issues import InputError
    from lumbar.terminal import ending, stopping, voice

if TYPE_CHECKING:  # what a notebook imports from here; loaded on first use, so that --help does not wait for torch
    from lumbar.bundle.bundle import load_bundle
    from lumbar.compute.device import choose_device
    from lumbar.kaggle.inputs import find_inputs, is_competition_rerun
    from lumbar.metric import read_labels, score
    from lumbar.prediction.job import predict_all
    from lumbar.prediction.outputs import write_outputs
    from lumbar.prediction.run_report import describe_rows, show_issues
    from lumbar.prediction.schedule import predict
    from lumbar.report.pictures import show_study
    from lumbar.study.folder import open_folder
    from lumbar.study.study import open_data

_HOME = {
    "find_inputs": "lumbar.kaggle.inputs",
    "choose_device": "lumbar.compute.device",
    "is_competition_rerun": "lumbar.kaggle.inputs",
    "open_data": "lumbar.study.study",
    "open_folder": "lumbar.study.folder",
    "load_bundle": "lumbar.bundle.bundle",
    "predict": "lumbar.prediction.schedule",
    "predict_all": "lumbar.prediction.job",
    "write_outputs": "lumbar.prediction.outputs",
    "show_study": "lumbar.report.pictures",
    "describe_rows": "lumbar.prediction.run_report",
    "show_issues": "lumbar.prediction.run_report",
    "read_labels": "lumbar.metric",
    "score": "lumbar.metric",
}
__all__ = [
    "choose_device",
    "describe_rows",
    "find_inputs",
    "is_competition_rerun",
    "load_bundle",
    "open_data",
    "open_folder",
    "predict",
    "predict_all",
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
    from lumbar.phantom.dataset import write_phantoms
    from lumbar.terminal.progress import bar

    options = {name: getattr(args, name) for name in ("split", "label_noise", "vertebrae", "workers")}
    options["surface_coil"] = args.surface_coil / 100
    with bar("painting phantoms", args.studies) as shown:
        write_phantoms(args.out, args.studies, args.seed, progress=lambda done, total: shown.update(), **options)
    return 0


def spider(args: argparse.Namespace) -> int:
    """Add SPIDER's real slices with keypoints to a data folder, for training or held out."""
    from lumbar.spider.write import write_spider

    studies = write_spider(args.source, args.out, args.part, args.points, args.grades, args.foramina)
    voice.tell(f"{args.out}: {len(studies)} studies of SPIDER (CC BY 4.0)")
    return 0


def train(args: argparse.Namespace) -> int:
    """Train every stage and fold of a recipe; resumes where it stopped."""
    from lumbar.compute.launch import start_all_processes

    if args.plan is not None:
        from lumbar.training.outcome.forecast import forecast

        voice.show(forecast(args.recipe, args.data, args.out, args.set, args.plan or None, args.cache).text())
        return 0
    start_all_processes()
    from lumbar.training.run import train as train_recipe

    given = {"pretrained": args.pretrained, "hours": args.hours, "cache": args.cache}
    train_recipe(args.recipe, args.data, args.out, args.set, **given)
    return 0


def clean_up(args: argparse.Namespace) -> int:
    """Train, leave out labels that the out-of-fold blend cannot believe, train again; scores on all of them."""
    from lumbar.compute.launch import start_all_processes

    start_all_processes()
    from lumbar.training.clean_up import clean_up as clean

    options = {name: getattr(args, name) for name in ("threshold", "pretrained", "hours", "cache")}
    if text := clean(args.recipe, args.data, args.out, args.set, **options):
        voice.show(text)
    return 0


def fetch_weights(args: argparse.Namespace) -> int:
    """Collect the pretrained weights that a recipe begins with, on a machine with a network."""
    from lumbar.training.pretrained.fetch import fetch_weights as fetch

    voice.show(fetch(args.recipe, args.out, args.set, args.owner, voice.tell))
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Out-of-fold score by condition and keypoint error in mm, printed and stored in the run."""
    from lumbar.training.outcome.evaluate import evaluate as evaluate_run

    voice.show(evaluate_run(args.run))
    return 0


def bundle(args: argparse.Namespace) -> int:
    """Make a weights bundle from a run, of several bundles, or with random weights from a recipe (for timing)."""
    if args.join:
        from lumbar.bundle.join import join_bundles

        join_bundles(args.join, args.out, args.recipe)
        return 0
    from lumbar.training.outcome.bundling import make_bundle, make_random_bundle

    if args.random:
        make_random_bundle(args.recipe, args.out, args.seed)
    else:
        make_bundle(args.run, args.out)
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check every file of a bundle, ask each network once, and say what each member is."""
    from lumbar.prediction.checked import checked_bundle

    voice.show(checked_bundle(args.weights).describe())
    return 0


def likeness(args: argparse.Namespace) -> int:
    """Teach a bundle what regions look like, so that it tells those that look like nothing it has learnt from."""
    from lumbar.prediction.likeness import add_likenesses

    voice.show(add_likenesses(args.weights, args.data, args.split, args.device, say=voice.tell).describe())
    return 0


def card(args: argparse.Namespace) -> int:
    """Write a bundle's model card, README.md beside its manifest, from the manifest."""
    from lumbar.bundle.card import write_card

    voice.show(write_card(args.weights, args.measured))
    return 0


def convert(args: argparse.Namespace) -> int:
    """Turn the original ninth-place checkpoints (.pt) into a bundle."""
    from lumbar.bundle.convert.convert import convert_checkpoints

    convert_checkpoints(args.checkpoints, args.out, folds=args.folds, labels=args.labels)
    return 0


def predict_folder(args: argparse.Namespace) -> int:
    """Grade a folder of studies: submission.csv, keypoints.csv and run_report.json, with --html a report to look at."""
    if args.list:  # without torch
        return list_series(args)
    from lumbar.bundle.bundle import load_bundle
    from lumbar.prediction import job, run_report
    from lumbar.report.results import Chosen, Results
    from lumbar.study.folder import open_folder

    if args.dicom_sr:
        from lumbar.report.dicom_sr import write as dicom_sr

        dicom_sr.check_available()
    data, weights = open_folder(args.data, args.split, series=args.series), load_bundle(args.weights)
    if args.dicom_sr:
        dicom_sr.check_out(args.out, data)
    if args.html:
        from lumbar.report.html import write as html

        html.check_out(args.out)
    options = {name: getattr(args, name) for name in ("device", "engine", "on_error", "hours")}
    found = job.predict_all(data, weights, args.out, voice.tell, shard=args.shard, launch=False, **options)
    if args.shard != (1, 1):
        part = f"Part {args.shard[0]} of {args.shard[1]}"
        voice.tell(f"{part} is done; after all parts, run the same without --shard.")
    if found is None:
        return 0
    results = Results(found, data, weights, Chosen(**options))
    for path in results.save(args.out, html=args.html, dicom_sr=args.dicom_sr, say=voice.tell):
        voice.show(path)
    if run_report.exceeded_share(found):
        raise InputError(f"{args.data}: {run_report.describe_prior(found)}, see {args.out / 'run_report.json'}")
    voice.tell(results.evidence, of_result=True)
    return 0


def list_series(args: argparse.Namespace) -> int:
    """What would play which part, and why; nothing is graded."""
    from lumbar.study.folder import list_folder

    voice.show(list_folder(args.data, args.out or Path(), args.split, series=args.series))
    return 0


def score_table(args: argparse.Namespace) -> int:
    """The official score of a submission and its four parts."""
    from lumbar import metric

    labels, predictions = metric.read_labels(args.labels), metric.read_predictions(args.predictions)
    result = metric.score(labels, predictions)
    if args.plots:
        from lumbar.drawing.charts import draw_score_charts

        draw_score_charts(labels, predictions, args.plots)
    voice.show(result.to_json() if args.json else result)
    return 0


def blend_tables(args: argparse.Namespace) -> int:
    """Nested score of a way to blend tables, or of all, with its gain over the plain mean."""
    from lumbar.ensemble.command import report, report_json, run_blend
    from lumbar.ensemble.method_names import PACE
    from lumbar.recipe.recipe import load_recipe

    hand = load_recipe(args.recipe).blend if args.recipe else None
    method = args.method or (hand.method if hand and hand.method != "auto" else "all")
    pace = args.pace or (hand.pace if hand else PACE)
    result = run_blend(args.labels, args.tables, args.folds, method, seed=args.seed, out=args.out, hand=hand, pace=pace)
    for note in result["notes"]:
        voice.tell(note)
    voice.show(report_json(result) if args.json else report(result))
    return 0


def pack_for_kaggle(args: argparse.Namespace) -> int:
    """Write what a Kaggle user uploads: the dataset, notebook and utility script folders, wheels included."""
    from lumbar.kaggle.pack import pack, upload_commands

    pack(args.weights, args.out, owner=args.owner, wheels=args.wheels, say=voice.tell)
    voice.show("\n".join(upload_commands(args.out)))
    return 0


def info(args: argparse.Namespace) -> int:
    """What this version knows: commands, networks, blends, engines, words of a recipe, codes of Issues."""
    from lumbar.report.info import as_text
    from lumbar.report.info import info as everything

    voice.show(json.dumps(everything(), indent=2, ensure_ascii=False) if args.json else as_text(everything()))
    return 0


def show_batches(args: argparse.Namespace) -> int:
    """Draw what the networks really get in training: stage 1 with targets, stage 2 with labels."""
    from lumbar.training.outcome.show import show_batches as draw

    draw(args.recipe, args.data, args.out, args.set, args.run)
    return 0


def relabel(args: argparse.Namespace) -> int:
    """Write a page on which one keeps or changes doubtful labels of a run, and exports a table for the next."""
    from lumbar.report.relabel import write_page
    from lumbar.training.folder import RunFolder

    count = write_page(RunFolder(args.run, args.cache), args.out, args.rows)
    voice.tell(f"{args.out}: {count} label(s) to look at; open it in a browser")
    return 0


def draw(args: argparse.Namespace) -> int:
    """Draw a recipe's system: what finds keypoints, what grades them, what becomes of the answers."""
    from lumbar.report.diagram import draw_system

    voice.show(draw_system(args.recipe, args.out))
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "phantom": phantom,
    "spider": spider,
    "train": train,
    "clean-up": clean_up,
    "fetch-weights": fetch_weights,
    "evaluate": evaluate,
    "bundle": bundle,
    "verify": verify,
    "likeness": likeness,
    "card": card,
    "convert": convert,
    "predict": predict_folder,
    "blend": blend_tables,
    "score": score_table,
    "kaggle": pack_for_kaggle,
    "show-batches": show_batches,
    "relabel": relabel,
    "draw": draw,
    "info": info,
}


def _parser() -> argparse.ArgumentParser:
    with stopping.without_interrupts():  # numpy takes an interrupted import for a broken one
        from lumbar.arguments import ARGUMENTS, EXAMPLES
        from lumbar.terminal.parser import make_parser
    return make_parser(__doc__ or "", _COMMANDS, ARGUMENTS, EXAMPLES)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with stopping.stoppable():
        try:
            return ending.ended(partial(_main, argv), "train_utils.py")
        finally:
            ending.let_go_of_output()


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv) and "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        parser.print_help()  # a utility script is run once when it is pushed, and that has to end well
        return 0
    args = parser.parse_args(argv)
    if args.command == "bundle" and not args.join and (args.recipe if args.random else args.run) is None:
        parser.error("bundle needs --run, --join, or --random with --recipe")
    if args.command == "predict" and not args.list and None in (args.weights, args.out):
        parser.error("predict needs --weights and --out, or --list")
    return ending.ended(partial(_run, args), f"{parser.prog} {args.command}", ending.KEPT.get(args.command))


def _run(args: argparse.Namespace) -> int:
    with voice.speaking(quiet=args.quiet, verbose=args.verbose, log=args.log):
        voice.event(f"{args.command} begins, lumbar {__version__}")
        try:
            code = _run_command(args)
        except BaseException as error:
            voice.event(f"{args.command} fails ({type(error).__name__}); standard error says why")
            raise
        voice.event(f"{args.command} ends with exit code {code}")
        return code


def _run_command(args: argparse.Namespace) -> int:
    from lumbar.arguments import WRITES
    from lumbar.files.write import check_writable

    for name in WRITES.get(args.command, ("out",)):
        if (folder := getattr(args, name, None)) is not None:
            check_writable(folder)
    return args.run_command(args)


if __name__ == "__main__":
    sys.exit(main())
