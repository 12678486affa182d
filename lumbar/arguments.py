"""What each command of `train_utils.py` takes: flags and their one-line explanations, as argparse wants them."""

from pathlib import Path
from typing import Any, Final

from lumbar.ensemble.names import CHOICES

#: The words of `lumbar.compute.engine`, which loads torch.
ENGINES: Final = ("auto", "eager", "fused", "half", "openvino", "openvino-half")
Argument = tuple[str, dict[str, Any]]


def _path(flag: str, text: str, *, required: bool = True) -> Argument:
    return flag, {"type": Path, "required": required, "metavar": flag.strip("-").upper(), "help": text}


def _shard(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8)."""
    part, _, parts = text.partition("/")
    shard = int(part), int(parts)
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError
    return shard


_shard.__name__ = "part I/N, for instance 2/8,"  # argparse puts it behind "invalid"
_SET = ("--set", {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "override a value of the recipe"})
_JSON = ("--json", {"action": "store_true", "help": "print JSON"})
_DATA = _path("--data", "data folder in the competition layout, with labels")
_RECIPE = _path("--recipe", "TOML file: what to train")
#: Flags of each command, by its name.
ARGUMENTS: Final[dict[str, list[Argument]]] = {
    "phantom": [
        ("--studies", {"type": int, "required": True, "metavar": "N", "help": "how many"}),
        ("--seed", {"type": int, "required": True, "metavar": "S", "help": "same seed, same studies"}),
        _path("--out", "data folder to write"),
        ("--split", {"choices": ("train", "test"), "default": "train", "help": "test: without labels"}),
        ("--label-noise", {"action": "store_true", "help": "disturb labels as human readers do"}),
        ("--workers", {"type": int, "default": 1, "metavar": "N", "help": "processes"}),
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
    ],
    "train": [_RECIPE, _DATA, _path("--out", "run folder; an interrupted run in it goes on"), _SET],
    "evaluate": [_path("--run", "run folder")],
    "bundle": [
        _path("--run", "run folder", required=False),
        ("--random", {"action": "store_true", "help": "random weights, with --recipe"}),
        _path("--recipe", "with --random: TOML file", required=False),
        ("--seed", {"type": int, "default": 0, "metavar": "S", "help": "with --random"}),
        _path("--out", "bundle folder to write"),
    ],
    "verify": [_path("--weights", "bundle folder")],
    "card": [
        _path("--weights", "bundle folder"),
        (
            "--measured",
            {
                "type": Path,
                "nargs": "+",
                "default": [],
                "metavar": "JSON",
                "help": "figures that benchmarks wrote: add them",
            },
        ),
    ],
    "convert": [
        _path("--checkpoints", "folder of .pt files"),
        _path("--out", "bundle folder to write"),
        _path("--folds", "TOML file that maps file names to folds, where the names do not say", required=False),
        _path("--labels", "train.csv for the weighted prior (without: uniform)", required=False),
    ],
    "predict": [
        _path("--data", "data folder in the competition layout"),
        _path("--weights", "bundle folder"),
        _path("--out", "folder for the results"),
        ("--split", {"choices": ("train", "test"), "help": "which tables, where the folder holds both"}),
        ("--device", {"default": "auto", "help": "auto, cpu, cuda or cuda:N"}),
        (
            "--engine",
            {
                "choices": ENGINES,
                "default": "auto",
                "help": "how networks run: float32 (eager, fused), half precision (half), either by OpenVINO on a CPU; "
                "auto: half on a GPU, else fused",
            },
        ),
        ("--hours", {"type": float, "metavar": "H", "help": "time budget: members are dropped before it runs out"}),
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
        _path("--labels", "train.csv; a column fold_id with N folds is used"),
        (
            "--tables",
            {"type": Path, "required": True, "nargs": "+", "metavar": "CSV", "help": "out-of-fold tables"},
        ),
        ("--folds", {"type": int, "default": 5, "metavar": "N", "help": "folds by study (5)"}),
        ("--method", {"choices": CHOICES, "default": "all", "help": "how to blend; all: a table of all (the default)"}),
        ("--seed", {"type": int, "default": 0, "metavar": "S", "help": "of the folds and the stackers"}),
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
        ("--owner", {"metavar": "NAME", "help": "your Kaggle account, which the metadata name"}),
        _path("--wheels", "folder with the wheels (without: fetched with pip)", required=False),
    ],
    "show-batches": [
        _RECIPE,
        _DATA,
        _path("--out", "folder for the pictures"),
        _path("--run", "run whose keypoints are what graders see (else labelled ones)", required=False),
        _SET,
    ],
}
