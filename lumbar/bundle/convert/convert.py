"""The original ninth-place checkpoints (.pt) → a bundle whose members carry the original's exact preprocessing.

Files are unpickled in a child process with limited memory (`weights_only=True`), which hands back tensors only; a
file's keys decide which network it is, and must match that network's exactly.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file

from lumbar.bundle.bundle import Bundle
from lumbar.bundle.convert.child import ReadingChild
from lumbar.bundle.convert.original import EXACT, ORIGINALS, own_keys, plain_keys, recognise
from lumbar.bundle.save import Weights, save_bundle
from lumbar.files.read import parse_toml, read_json, read_text
from lumbar.issues import InputError, few, printable
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES
from lumbar.metric import read_labels, weighted_prior
from lumbar.recipe.card import Card
from lumbar.recipe.evidence import Evidence
from lumbar.recipe.member import LAST_FOLD
from lumbar.recipe.strict import Strict
from lumbar.recipe.wording import describe
from lumbar.terminal.progress import follow

__all__ = ["EXACT", "ORIGINALS", "convert_checkpoints", "read_checkpoint"]

#: What the original's graders learnt from: all labelled studies of the competition, graded by its readers.
LEARNT: Final = Evidence(learnt_from="patients", patients=1975, graded_by="the radiologists of RSNA 2024")
_log = logging.getLogger(__name__)
#: The original numbers its folds from 1 (`…-cv1.pt`), others from 0 (`…_fold0.pt`).
_FOLD_NAMES: Final = ((re.compile(r"(?<![a-z])cv[_-]?(\d+)", re.I), 1), (re.compile(r"fold[_-]?(\d+)", re.I), 0))


class FileEntry(Strict):
    """What a TOML file may say of one checkpoint; what it leaves out is found in the file and its name."""

    member: str | None = None
    fold: Annotated[int, Field(strict=True, ge=0, le=LAST_FOLD)] | None = None
    #: Which state dict of a checkpoint that holds several, such as `model_ema`.
    entry: str | None = None


def convert_checkpoints(
    checkpoints: Path | str, out: Path | str, *, folds: Path | str | None = None, labels: Path | str | None = None
) -> Bundle:
    """Turn a folder of the original's `.pt` files (searched below, too) into a bundle, and load it.

    `folds` is a TOML file that maps file names to folds (`"a.pt" = 0`) or to `{member, fold, entry}`, for files that do
    not say so by themselves: fold by `cv1` … `cv5` (from 1) or `fold0` … (from 0) in the name, foraminal or
    subarticular by the name or by the `config.json` that the original's training writes beside. Where a file has a twin
    `…_best.pt`, the original predicts with the best one, and so does the bundle. `labels` (a `train.csv`) gives the
    weighted prior, else it is uniform. Raises InputError with one sentence for anything that does not fit.
    """
    folder = Path(checkpoints)
    files = _files(folder)
    entries = _entries(Path(folds), folder, files) if folds is not None else {}
    if labels is not None:
        prior, stands = (
            weighted_prior(read_labels(labels), smoothing=0.5),
            f"weighted by {printable(Path(labels).name)}",
        )
    else:
        prior, stands = np.full((len(CONDITIONS), len(LEVELS), len(SEVERITIES)), 1 / len(SEVERITIES)), "uniform"
        _log.warning("no --labels given: where no network speaks, the prior is uniform")
    return save_bundle(
        out,
        _weights(folder, files, entries),
        prior=prior,
        blend="mean_logits",
        description=f"ninth place, converted from the original's checkpoints; {stands} prior",
        card=Card(evidence=dict.fromkeys(CONDITIONS, LEARNT)),
    )


def read_checkpoint(path: Path, entry: str | None = None) -> dict[str, torch.Tensor]:
    """The state dict of one `.pt` file, read in a child process, in the original's keys.

    With several state dicts in the file `entry` names one, else the only one that is a network of the original.
    Raises InputError where the file is damaged, holds more than tensors, needs too much memory, or stays unclear.
    """
    with ReadingChild() as child:
        return _read(path, entry, child)


def _read(path: Path, entry: str | None, child: ReadingChild) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory(prefix="lumbar-convert-") as scratch:
        found = child.state_files(path, Path(scratch))
        if not found:
            raise InputError(f"{path}: holds no state dict; give a file that the original's training saved")
        if entry is not None:
            if entry not in found:
                raise InputError(f"{path}: has no entry {entry!r}; it has {few([repr(name) for name in found])}")
            chosen = [entry]
        else:
            chosen = list(found)
            if len(chosen) > 1:
                chosen = [place for place, file in found.items() if _is_original(load_file(file))] or chosen
        if len(chosen) > 1:
            raise InputError(f"{path}: holds several state dicts ({few(chosen)}); name one as `entry` in a TOML file")
        state = load_file(found[chosen[0]])
    return {plain: state[stored] for stored, plain in plain_keys(list(state)).items()}


def _is_original(state: Mapping[str, torch.Tensor]) -> bool:
    shapes = {plain: tuple(state[stored].shape) for stored, plain in plain_keys(list(state)).items()}
    return any(shapes == {key: shape for key, (_, shape) in own_keys(name).items()} for name in ORIGINALS)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with the original's .pt files")
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".pt", ".pth") and path.is_file())
    files = [path for path in files if not path.with_name(f"{path.stem}_best{path.suffix}").is_file()]
    if not files:
        raise InputError(f"{folder}: holds no .pt file; give the folder with the original's checkpoints")
    return files


def _entries(mapping: Path, folder: Path, files: list[Path]) -> dict[Path, FileEntry]:
    table = parse_toml(read_text(mapping, "give a TOML file"), str(mapping), 'write "file.pt" = 0')
    found = {}
    for name, value in table.items():
        at = [file for file in files if name in (file.name, file.relative_to(folder).as_posix())]
        if len(at) != 1:
            raise InputError(
                f"{mapping}: {name!r} names {len(at)} of the files in {folder}; write its path within the folder"
            )
        try:
            found[at[0]] = FileEntry.model_validate(value if isinstance(value, dict) else {"fold": value})
        except ValidationError as error:
            raise InputError(f"{mapping}: {name!r}: {describe(error)}") from error
        member = found[at[0]].member
        if member is not None and member not in ORIGINALS:
            raise InputError(f"{mapping}: {name!r}: no member {member!r}; known: {', '.join(ORIGINALS)}")
    return found


def _weights(folder: Path, files: list[Path], entries: Mapping[Path, FileEntry]) -> Iterator[Weights]:
    """One member a file, each read when it is its turn. Raises InputError where two files are the same member."""
    seen: dict[str, str] = {}
    with ReadingChild() as child:
        for file in follow(files, "converting", len(files), "file", name=lambda file: file.name):
            entry, source = entries.get(file, FileEntry()), file.relative_to(folder).as_posix()
            state = _read(file, entry.entry, child)
            shapes = {key: tuple(value.shape) for key, value in state.items()}
            name = recognise(shapes, entry.member or f"{source} {_config_hint(file)}", source)
            if entry.member is not None and entry.member != name:
                raise InputError(f"{file}: the mapping says {entry.member}, its keys say {name}; correct the mapping")
            fold = entry.fold if entry.fold is not None else _fold(file)
            member = name if fold is None else f"{name}_fold{fold}"
            if member in seen:
                raise InputError(
                    f"{folder}: {seen[member]} and {source} are both {member}; give each its fold in a TOML file"
                )
            seen[member] = source
            keys = own_keys(name)
            held = "" if fold is None else f", fold {fold} left out"
            yield Weights(
                name=member,
                spec=ORIGINALS[name],
                state={keys[key][0]: value for key, value in state.items()},
                fold=fold,
                saw=f"RSNA 2024 training studies{held}, by the original's code",
                source=str(file),
            )


def _config_hint(file: Path) -> str:
    """Type of the network by the `config.json` that the original's training writes beside its checkpoints."""
    try:
        return str(read_json(file.with_name("config.json"), "take it away")["model"]["type"])
    except (InputError, KeyError, TypeError, IndexError):
        return ""


def _fold(file: Path) -> int | None:
    """The fold that a file's name says, counted from 0; InputError where there can be none of that number."""
    for pattern, first in _FOLD_NAMES:
        words = list(pattern.finditer(file.stem))
        if words:
            fold = int(words[-1][1]) - first
            if not 0 <= fold <= LAST_FOLD:
                raise InputError(
                    f"{file}: {words[-1][0]!r} in its name is no fold: they are counted from {first} to "
                    f'{LAST_FOLD + first} there; rename it, or write "{file.name}" = 0 into a TOML file for --folds'
                )
            return fold
    return None
