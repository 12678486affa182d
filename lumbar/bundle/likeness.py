"""Likenesses of regions on disk: a small safetensors file a grader, in a bundle's folder or a run's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lumbar.files.read import read_bytes
from lumbar.files.write import write_bytes
from lumbar.grading.likeness import Likeness, Likenesses, graded_on
from lumbar.issues import InputError, cut
from lumbar.recipe.grader import GraderSpec

#: What stands behind a member's name in the name of its file.
ENDING: Final = ".likeness.safetensors"
_PARTS: Final = ("mean", "directions", "variances", "bar")
#: What may be there besides; bundles of before have it not.
_WEIGHTING: Final = "weighting"
_AGAIN: Final = "copy the bundle again, or make it anew with train_utils.py likeness"


def as_bytes(likenesses: Likenesses) -> bytes:
    """Likenesses by kind of view as a safetensors file; directions in half precision."""
    arrays: dict[str, np.ndarray] = {}
    for kind, one in likenesses.items():
        parts = (one.mean, one.directions, one.variances, np.array([one.bar]))
        for name, part in zip(_PARTS, parts, strict=True):
            number = np.float16 if name == "directions" else np.float32
            arrays[f"{kind}.{name}"] = np.ascontiguousarray(part, dtype=number)  # as safetensors writes what it gets
        if one.weighting is not None:
            arrays[f"{kind}.{_WEIGHTING}"] = np.ascontiguousarray(one.weighting, dtype=np.float32)
    return save(arrays)


def write_likenesses(likenesses: Likenesses, path: Path) -> None:
    """Write a grader's likenesses; where there are none, none stay from before."""
    if likenesses:
        write_bytes(as_bytes(likenesses), path)
    else:
        path.unlink(missing_ok=True)


def read_likenesses(path: Path, spec: GraderSpec) -> dict[str, Likeness]:
    """The likenesses of a grader's file by kind of view. Raises InputError where it holds anything else."""
    try:
        stored = {name: part.astype(np.float64) for name, part in load(read_bytes(path, _AGAIN)).items()}
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}); {_AGAIN}") from error
    kinds = sorted({name.rpartition(".")[0] for name in stored})
    needed = {f"{kind}.{part}" for kind in kinds for part in _PARTS}
    if not kinds or not needed <= set(stored) <= needed | {f"{kind}.{_WEIGHTING}" for kind in kinds}:
        raise InputError(f"{path}: holds no likeness of regions (one part or another is missing); {_AGAIN}")
    if strangers := sorted(set(kinds) - set(graded_on(spec))):
        raise InputError(f"{path}: holds the likeness of {cut(strangers[0])!r}, which its grader lacks; {_AGAIN}")
    for kind in kinds:
        if fault := _fault(kind, stored):
            raise InputError(f"{path}: holds no likeness of {kind} ({fault}); {_AGAIN}")
    return {kind: _of(kind, stored) for kind in kinds}


def _of(kind: str, stored: Mapping[str, np.ndarray]) -> Likeness:
    mean, directions, variances, bar = (stored[f"{kind}.{part}"] for part in _PARTS)
    return Likeness(mean, directions, variances, float(bar[0]), stored.get(f"{kind}.{_WEIGHTING}"))


def _fault(kind: str, stored: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the parts of a likeness; empty where nothing is."""
    every = mean, directions, variances, bar = [stored[f"{kind}.{part}"] for part in _PARTS]
    alike = mean.ndim == 1 and directions.ndim == 2 and directions.shape[1] == len(mean) and bar.shape == (1,)
    if not alike or variances.shape != (len(directions) + 1,):
        return "its parts do not fit each other"
    if (weighting := stored.get(f"{kind}.{_WEIGHTING}")) is not None:
        if weighting.shape != mean.shape:
            return "its parts do not fit each other"
        every.append(weighting)
    if not all(np.isfinite(part).all() for part in every):
        return "not all are numbers"
    return "" if (variances > 0).all() and (bar > 0).all() else "a variance or the bar is not above zero"
