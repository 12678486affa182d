"""What each command of `train_utils.py` takes: flags, their ranges, one-line explanations, as argparse wants them."""

import re
from typing import Any, Final

from lumbar.ensemble.method_names import CHOICES, MOST_PACE, PACE
from lumbar.terminal.parser import Argument
from lumbar.terminal.values import given, matching, named_path, refused, share, whole

#: The words of `lumbar.compute.engine`, which loads torch.
ENGINES: Final = ("auto", "eager", "fused", "half", "openvino", "openvino-half")
#: Of `lumbar.phantom.vertebrae`, a room above.
VERTEBRAE: Final = ("usual", "six_lumbar", "sacralised", "lumbarised")
#: Devices that the networks are tried on.
DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?", re.ASCII)
DEVICES: Final = "auto, cpu, cuda or cuda:N"
#: A Kaggle account.
OWNER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
#: What scikit-learn and numpy take.
LARGEST_SEED: Final = 2**32 - 1
#: Ids of one seed are distinct up to here.
MOST_STUDIES: Final = 100_000
MOST_HOURS, MOST_PARTS, MOST_PROCESSES, MOST_FOLDS = 100_000, 100_000, 256, 1000


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= MOST_HOURS:  # NaN is not, either
        raise refused(text, f"a number of hours above 0 and up to {MOST_HOURS}")
    return hours


def _shard(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8)."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]) <= MOST_PARTS:
        raise refused(text, f"part I/N, for instance 2/8, with N up to {MOST_PARTS}")
    return int(found[1]), int(found[2])


def _path(flag: str, text: str, *, required: bool = True) -> Argument:
    return flag, {"type": given, "required": required, "metavar": flag.strip("-").upper(), "help": text}


def _paths(flag: str, name: str, text: str, **more: Any) -> Argument:
    return flag, {"type": given, "nargs": "+", "metavar": name, "help": text, **more}


def _number(flag: str, name: str, least: int, most: int, text: str, **more: Any) -> Argument:
    return flag, {"type": whole(least, most), "metavar": name, "help": f"{text}; {least} to {most}", **more}


_SET = (
    "--set",
    {
        "type": matching(re.compile(r"\s*[^=\s][^=]*=.*", re.DOTALL), "KEY=VALUE, for instance stage2.epochs=1"),
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "override a value of the recipe",
    },
)
_OWNER = (
    "--owner",
    {
        "type": matching(OWNER, "a Kaggle account: letters, digits and '-'"),
        "metavar": "NAME",
        "help": "your Kaggle account, which the metadata name",
    },
)
_HOURS = (
    "--hours",
    {
        "type": _hours,
        "metavar": "H",
        "help": f"stop in time, at a checkpoint, and say what is left; above 0, up to {MOST_HOURS}",
    },
)
_PRETRAINED = _path("--pretrained", "folder of pretrained weights, as fetch-weights makes it", required=False)
_DEVICE = ("--device", {"type": matching(DEVICE, DEVICES), "default": "auto", "help": DEVICES})
_SPLIT = (
    "--split",
    {"choices": ("train", "test"), "help": "which tables, where the folder holds both (default: test)"},
)
_JSON = ("--json", {"action": "store_true", "help": "print JSON"})
_DATA = _path("--data", "data folder in the competition layout, with labels")
_RECIPE = _path("--recipe", "TOML file: what to train")
#: Flags of each command, by its name.
ARGUMENTS: Final[dict[str, list[Argument]]] = {
    "phantom": [
        _number("--studies", "N", 1, MOST_STUDIES, "how many", required=True),
        _number("--seed", "S", 0, LARGEST_SEED, "same seed, same studies", required=True),
        _path("--out", "data folder to write"),
        ("--split", {"choices": ("train", "test"), "default": "train", "help": "test: without labels"}),
        ("--label-noise", {"action": "store_true", "help": "disturb labels as human readers do"}),
        _number("--surface-coil", "PERCENT", 0, 100, "studies with axial pictures as of surface coils", default=0),
        (
            "--vertebrae",
            {
                "choices": VERTEBRAE,
                "default": "usual",
                "help": "six lumbar vertebrae, or a transitional one: L5 part of the sacrum, S1 free (default: usual)",
            },
        ),
        _number("--workers", "N", 1, MOST_PROCESSES, "processes", default=1),
    ],
    "spider": [
        _path("--source", "SPIDER's folder: t2_space/, midsagittal/, overview.csv"),
        _path("--out", "data folder, new or with other studies in it"),
        (
            "--part",
            {
                "choices": ("train", "held_out", "images"),
                "default": "train",
                "help": "patients to train on or not; or all mid-sagittal images, without points",
            },
        ),
        _path("--points", "CSV of canal points on the mid-sagittal T2 images (without: T2 SPACE only)", required=False),
        _path("--foramina", "CSV of foramina on slices beside the middle: patient, image, level, x, y", required=False),
        _path("--grades", "CSV of canal grades of these images: patient, level, grade (0, 1, 2)", required=False),
    ],
    "train": [
        _RECIPE,
        _DATA,
        _path("--out", "run folder; an interrupted run in it goes on"),
        (
            "--plan",
            {
                "type": whole(1, MOST_STUDIES),
                "nargs": "?",
                "const": 0,
                "metavar": "N",
                "help": "train nothing: take a few steps of every member and say what all of it will need, of the "
                f"folder's studies or as if there were N; 1 to {MOST_STUDIES}",
            },
        ),
        _HOURS,
        _path(
            "--cache",
            "folder of this run's own for what is made of the images, if not in OUT; may be deleted between two calls",
            required=False,
        ),
        _PRETRAINED,
        _SET,
    ],
    "clean-up": [
        _RECIPE,
        _DATA,
        _path("--out", "folder for the list, both runs and their scores; an interrupted call in it goes on"),
        (
            "--threshold",
            {
                "type": share,
                "default": 0.8,
                "metavar": "T",
                "help": "leave a label out where what the first run says of it, out of fold, is farther than this from "
                "1; above 0 and below 1",
            },
        ),
        _HOURS,
        _path(
            "--cache",
            "folder for what both runs make of the images, if not in OUT; may be deleted between two calls",
            required=False,
        ),
        _PRETRAINED,
        _SET,
    ],
    "fetch-weights": [
        _path("--recipe", "TOML file: whose backbones' pretrained weights to collect"),
        _path("--out", "folder for them; what is there is not fetched again"),
        _OWNER,
        _SET,
    ],
    "evaluate": [_path("--run", "run folder")],
    "bundle": [
        _path("--run", "run folder", required=False),
        ("--random", {"action": "store_true", "help": "random weights, with --recipe"}),
        (
            "--join",
            {
                "type": named_path,
                "nargs": "+",
                "metavar": "NAME=BUNDLE",
                "help": "several bundles, each a system of that name, as one",
            },
        ),
        _path("--recipe", "with --random: TOML file; with --join: one whose systems these are", required=False),
        _number("--seed", "S", 0, LARGEST_SEED, "with --random", default=0),
        _path("--out", "bundle folder to write"),
    ],
    "verify": [_path("--weights", "bundle folder")],
    "likeness": [
        _path("--weights", "bundle folder"),
        _path("--data", "folder of studies such as its graders were trained on, best of others than these"),
        _SPLIT,
        _DEVICE,
    ],
    "card": [
        _path("--weights", "bundle folder"),
        _paths("--measured", "JSON", "figures that benchmarks wrote: add them", default=[]),
    ],
    "convert": [
        _path("--checkpoints", "folder of .pt files"),
        _path("--out", "bundle folder to write"),
        _path("--folds", "TOML file that maps file names to folds, where the names do not say", required=False),
        _path("--labels", "train.csv for the weighted prior (without: uniform)", required=False),
    ],
    "predict": [
        _path("--data", "data folder in the competition layout, or any folder or zip of DICOM files"),
        _path("--weights", "bundle folder; wanted without --list", required=False),
        _path("--out", "folder for the results; wanted without --list, with it the current one", required=False),
        (
            "--list",
            {
                "action": "store_true",
                "help": "grade nothing: show which series would play which part and why, and, of a folder without "
                "tables, write series.csv (into OUT, or here)",
            },
        ),
        _path("--series", "an edited series.csv, which says what plays which part", required=False),
        _SPLIT,
        _DEVICE,
        (
            "--engine",
            {
                "choices": ENGINES,
                "default": "auto",
                "help": "how networks run: float32 (eager, fused), half precision (half), either by OpenVINO on a CPU; "
                "auto: half on a GPU, else fused, or openvino where it is installed and sooner done",
            },
        ),
        (
            "--hours",
            {
                "type": _hours,
                "metavar": "H",
                "help": f"time budget: members are dropped before it runs out; above 0, up to {MOST_HOURS}",
            },
        ),
        (
            "--shard",
            {
                "type": _shard,
                "default": (1, 1),
                "metavar": "I/N",
                "help": "grade part I of N only; without it at the end: join what the parts left in OUT",
            },
        ),
        (
            "--on-error",
            {
                "choices": ("fail", "prior"),
                "default": "fail",
                "help": "a study that cannot be read: stop, or give it the weighted prior and go on",
            },
        ),
        ("--html", {"action": "store_true", "help": "also write report.html: studies to look at in a browser"}),
        ("--dicom-sr", {"action": "store_true", "help": "a DICOM Structured Report a study as well"}),
    ],
    "blend": [
        _path("--labels", "train.csv; a column fold_id says which fold a study belongs to"),
        _paths("--tables", "CSV", "out-of-fold tables", required=True),
        _number("--folds", "N", 2, MOST_FOLDS, "folds by study (those of the column fold_id, else 5)"),
        (
            "--method",
            {"choices": CHOICES, "help": "how to blend; default: as the recipe says, else all: a table of all"},
        ),
        _path("--recipe", "a recipe with what [blend] sets by hand; tables are named as its members", required=False),
        _number("--seed", "S", 0, LARGEST_SEED, "of the folds and the stackers", default=0),
        _number(
            "--pace",
            "N",
            1,
            MOST_PACE,
            "xgboost_raw and stack_raw: learn at so many times the published rate, in so many times fewer rounds; "
            f"default: as the recipe says, else {PACE}",
        ),
        _path(
            "--out",
            "folder for the fitted blend, its table, suspect labels, a picture",
            required=False,
        ),
        _JSON,
    ],
    "score": [
        _path("--labels", "train.csv"),
        _path("--predictions", "submission.csv"),
        _path("--plots", "folder for charts: reliability, ROC and confusion", required=False),
        _JSON,
    ],
    "kaggle": [
        _path("--weights", "bundle folder"),
        _path("--out", "folder for the three folders to upload"),
        _OWNER,
        _path("--wheels", "folder with the wheels (without: fetched with pip)", required=False),
    ],
    "show-batches": [
        _RECIPE,
        _DATA,
        _path("--out", "folder for the pictures"),
        _path("--run", "run whose keypoints are what graders see (else labelled ones)", required=False),
        _SET,
    ],
    "relabel": [
        _path("--run", "finished run folder, with the images that it cached"),
        _path("--out", "HTML file to write"),
        _path("--cache", "where the run's cache lies (without: RUN/cache)", required=False),
        _path("--rows", "CSV with a column row_id: what to look at (without: RUN/suspect_labels.csv)", required=False),
    ],
    "draw": [_RECIPE, _path("--out", "folder for the picture, named as the recipe")],
    "info": [_JSON],
}
#: One call of each command.
EXAMPLES: Final = {
    "phantom": "phantom --studies 6 --seed 7 --out DATA",
    "spider": "spider --source SPIDER --points recipes/spider_midsagittal.csv --out DATA",
    "train": "train --recipe recipes/demo.toml --data DATA --out RUN --set stage2.epochs=1",
    "clean-up": "clean-up --recipe recipes/demo.toml --data DATA --out CLEAN",
    "fetch-weights": "fetch-weights --recipe recipes/ninth_place.toml --out pretrained",
    "evaluate": "evaluate --run RUN",
    "bundle": "bundle --run RUN --out weights",
    "verify": "verify --weights weights",
    "likeness": "likeness --weights weights --data DATA",
    "card": "card --weights weights --measured figures.json",
    "convert": "convert --checkpoints CHECKPOINTS --labels train.csv --out weights",
    "predict": "predict --data DATA --weights weights --out results --html",
    "blend": "blend --labels train.csv --tables one.csv other.csv --out BLEND",
    "score": "score --labels train.csv --predictions submission.csv --plots charts",
    "kaggle": "kaggle --weights weights --out build --owner NAME",
    "show-batches": "show-batches --recipe recipes/demo.toml --data DATA --out pictures",
    "relabel": "relabel --run RUN --out relabel.html",
    "draw": "draw --recipe recipes/ninth_place.toml --out pictures",
    "info": "info --json",
}
#: Options that name a folder to write into, where that is not --out alone; it is tried before anything is computed.
WRITES: Final = {"evaluate": ("run",), "card": ("weights",), "likeness": ("weights",), "score": ("plots",)}
