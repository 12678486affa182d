"""Training on Kaggle: one session after another, each going on from what the last version of the notebook left.

The commands are those of `train_utils.py`; here is what a session adds: what is attached, the run of the last version,
how many GPUs there are. Nothing of the images is kept from one session to the next: their cache is larger than
Kaggle keeps, and is made again.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lumbar.files.read import read_json
from lumbar.files.write import writing_into
from lumbar.issues import InputError, printable
from lumbar.kaggle.inputs import COMPETITION, DATA_VARIABLE, KAGGLE, OUT_VARIABLE, Say, folder_given, folders, only_one

#: What a folder to train on, one of pretrained weights and a run folder hold.
DATA_MARKER, PRETRAINED_MARKER, RUN_MARKER = "train.csv", "pretrained.json", "recipe.json"
RUN_MARKERS: Final = (RUN_MARKER, "folds.csv", "labels.csv")
RUN_VARIABLE, PRETRAINED_VARIABLE = "LUMBAR_RUN", "LUMBAR_PRETRAINED"
#: The package's home: the checkout, or the attached dataset.
HOME: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Session:
    """One session's inputs, and where its run and its cache lie."""

    recipe: Path
    settings: tuple[str, ...]
    data: Path
    pretrained: Path | None
    previous: Path | None
    out: Path
    cache: Path

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.out / "run"

    def __str__(self) -> str:
        said = [f"recipe: {self.recipe.name}", f"data: {self.data}"]
        said.append(f"pretrained weights: {self.pretrained or 'none attached'}")
        said.append(f"goes on from: {self.previous or 'nothing, this is the first session'}")
        return printable(" · ".join([*said, f"the run lies in: {self.run}"]))

    def words(self, command: str, *more: object) -> list[str]:
        """A command line of `train_utils.py` about this session's recipe, data and run."""
        words = [command, "--recipe", self.recipe, "--data", self.data, "--out", self.run, "--cache", self.cache]
        words += ["--pretrained", self.pretrained] if self.pretrained is not None else []
        words += [word for setting in self.settings for word in ("--set", setting)]
        return [*map(str, words), *map(str, more)]

    def plan(self) -> None:
        """Say what the whole training will take, by a few real steps on this device."""
        _do([], self.words("train", "--plan"))

    def train(self, hours: float) -> None:
        """Train for so many hours at most, on every GPU that there is; InputError where it fails."""
        _do(launcher(gpus()), self.words("train", "--hours", hours))

    def finish(self) -> Path | None:
        """Where training has ended, evaluate it and write the bundle, and return its folder; else say how to go on."""
        if not (self.run / "finished.json").is_file():
            sys.stdout.write(
                "Not finished yet. Save this version; when it is done, attach this notebook's own output (Add Input, "
                "Your Work), in place of the version before, and run all cells again.\n"
            )
            return None
        _do([], ["evaluate", "--run", str(self.run)])
        bundle = self.out / "weights"
        _do([], ["bundle", "--run", str(self.run), "--out", str(bundle)])
        return bundle


def open_session(
    recipe: str, settings: Sequence[str] = (), *, kaggle: Path = KAGGLE, here: Path | None = None, say: Say = print
) -> Session:
    """Find what is attached, and bring the run of the last version to where this session goes on with it.

    `recipe`: the name of a file in the package's `recipes`, or a path. `settings`: as `--set` takes them. Says one line
    of what was found. Raises InputError, one sentence that says what to attach, where there are no studies to train
    on, several different ones, or where the attached run is another recipe's.
    """
    here = Path.cwd() if here is None else here
    attached = list(folders(kaggle / "input"))
    working = kaggle / "working"
    data = folder_given(DATA_VARIABLE, DATA_MARKER) or _attached(attached, DATA_MARKER, "folders with labels")
    if data is None and (here / "sample_data" / DATA_MARKER).is_file():
        data = here / "sample_data"
    if data is None:
        raise InputError(
            f"found no studies with labels in {kaggle / 'input'} and {here}: on Kaggle, attach the competition "
            f"{COMPETITION} with 'Add Input', or set {DATA_VARIABLE}"
        )
    pretrained = folder_given(PRETRAINED_VARIABLE, PRETRAINED_MARKER)
    out = folder_given(OUT_VARIABLE) or (working if working.is_dir() else here)
    session = Session(
        recipe=_recipe(recipe),
        settings=tuple(settings),
        data=data,
        pretrained=pretrained or _attached(attached, PRETRAINED_MARKER, "folders of pretrained weights"),
        previous=folder_given(RUN_VARIABLE, RUN_MARKER) or _attached_run(attached),
        out=out,
        cache=(kaggle / "temp" if working.is_dir() else out) / "lumbar-cache",
    )
    _go_on(session)
    say(str(session))
    return session


def _recipe(name: str) -> Path:
    found = [path for path in (Path(name), HOME / "recipes" / name) if path.is_file()]
    if not found:
        there = ", ".join(sorted(str(path.relative_to(HOME / "recipes")) for path in HOME.glob("recipes/**/*.toml")))
        raise InputError(f"there is no recipe {name}; give a path, or one of {there or 'recipes, which are missing'}")
    return found[0]


def _attached(attached: Sequence[Path], marker: str, what: str) -> Path | None:
    holders = [folder for folder in attached if (folder / marker).is_file()]
    if marker == DATA_MARKER:
        holders = [folder for folder in holders if folder.name == COMPETITION] or holders
    variable = {DATA_MARKER: DATA_VARIABLE, PRETRAINED_MARKER: PRETRAINED_VARIABLE}[marker]
    return only_one(holders, marker, what, variable) if holders else None


def _attached_run(attached: Sequence[Path]) -> Path | None:
    holders = [folder for folder in attached if all((folder / name).is_file() for name in RUN_MARKERS)]
    if len(holders) > 1:
        names = ", ".join(sorted(map(str, holders)))
        raise InputError(f"several runs are attached ({names}); detach all but the last version, or set {RUN_VARIABLE}")
    return holders[0] if holders else None


def _go_on(session: Session) -> None:
    """Copy the last version's run to where this session trains, unless a run lies there already."""
    if session.previous is None or session.run.exists() or session.previous.resolve() == session.run.resolve():
        return
    before, asked = _named(session.previous / RUN_MARKER), session.recipe.stem
    if before not in (None, asked):
        raise InputError(
            f"{session.previous}: is a run of the recipe {before}, not of {asked}; detach it, or ask for {before}"
        )
    fresh = session.run.with_name(f"{session.run.name}.tmp")
    with writing_into(session.out):
        shutil.rmtree(fresh, ignore_errors=True)  # half a copy of ours
        shutil.copytree(session.previous, fresh, ignore=shutil.ignore_patterns("cache"))
        for path in (fresh, *fresh.rglob("*")):  # what is attached is read-only
            path.chmod(0o755 if path.is_dir() else 0o644)
        fresh.rename(session.run)


def _named(recipe: Path) -> str | None:
    found = read_json(recipe, "attach the whole output of the last version")
    return str(found["name"]) if isinstance(found, dict) and "name" in found else None


def gpus() -> int:
    """The number of GPUs that PyTorch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def launcher(devices: int) -> list[str]:
    """What stands before `train_utils.py` for so many GPUs: accelerate's launcher of one process a GPU (DDP)."""
    if devices < 2:
        return []
    several = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(devices)]
    return ["-m", "accelerate.commands.launch", *several, "--mixed_precision", "no", "--dynamo_backend", "no"]


def _do(before: Sequence[str], words: Sequence[str]) -> None:
    """Run a command of `train_utils.py` in a process of its own, its lines shown as they come."""
    command = [sys.executable, *before, str(HOME / "train_utils.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
    if process.returncode != 0:
        raise InputError(
            f"train_utils.py {words[0]} ended with exit code {process.returncode}; its reason stands above, mend that "
            "and run again"
        )
