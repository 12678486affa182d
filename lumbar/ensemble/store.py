"""A fitted blend on disk (`fit.json` and its models beside it), and at work on the members of a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from lumbar.ensemble.average import BlendMethod, blend
from lumbar.ensemble.cells import Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.method_names import SUFFIXES, WEIGHTED
from lumbar.ensemble.methods import METHODS, predict, spoken
from lumbar.files.read import read_bytes, read_json
from lumbar.files.write import write_bytes, write_json
from lumbar.issues import InputError
from lumbar.labels import split_row_id

FIT_FILE: Final = "fit.json"


@dataclass(frozen=True)
class Blender:
    """A fit, the names of the tables that it was fitted on in their order, and the prior that it was fitted with."""

    fitted: Fit
    tables: tuple[str, ...]
    prior: np.ndarray

    def __call__(self, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Blend one study: tables (T, 5, 5, 3), NaN where silent, to the blend (5, 5, 3) and `spoken` (5, 5)."""
        blended, there = self.many(np.asarray(tables, dtype=np.float64)[None])
        return blended[0], there[0]

    def many(self, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for N studies: tables (N, T, 5, 5, 3)."""
        cells = Cells(tables, self.prior)
        return predict(self.fitted, cells), spoken(self.fitted, cells)

    @property
    def of_folds(self) -> BlendMethod:
        """How the folds of a table become one: weights on logits are weights of the folds' logits, too."""
        average: BlendMethod = self.fitted.params["average"] if self.fitted.method == WEIGHTED else "mean"
        return average

    def try_out(self) -> None:
        """Blend two made-up studies, one of them silent; InputError where the numbers do not fit together."""
        members = np.full((len(self.tables), 5, 5, 3), 1 / 3)
        try:
            answers = [self(study)[0] for study in (members, np.full_like(members, np.nan))]
            if not np.isfinite(answers).all():
                raise ValueError("it gives no distribution")
        except (InputError, ValueError, KeyError, TypeError, IndexError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the fitted blend ({self.fitted.method}) does not work: {reason}; fit it again or copy it again"
            ) from error


def gather(members: np.ndarray, places: Sequence[Sequence[int]], average: BlendMethod = "mean") -> np.ndarray:
    """Tables (T, 5, 5, 3) from members (M, 5, 5, 3): each the average of those of its members that speak, else NaN.

    One table may have several members: the same grader, trained once a fold.
    """
    tables = []
    for chosen in places:
        mean, there = blend(members[list(chosen)], np.full(members.shape[1:], 1 / 3), average)
        tables.append(np.where(there[..., None], mean, np.nan))
    return np.stack(tables) if tables else np.empty((0, *members.shape[1:]))


def write_fit(blender: Blender, folder: Path, before: str = "") -> None:
    """Write a fit into a folder, its models first. `before`: what its files' names begin with there."""
    for name, data in blender.fitted.files.items():
        write_bytes(data, folder / f"{before}{name}")
    fitted = blender.fitted
    content = {
        "method": fitted.method,
        "tables": list(blender.tables),
        "params": fitted.params,
        "files": sorted(fitted.files),
        "prior": blender.prior,
    }
    write_json(content, folder / f"{before}{FIT_FILE}")


def read_fit(folder: Path, before: str = "") -> Blender:
    """Read what `write_fit` wrote; InputError where it is missing or is something else."""
    path, remedy = folder / f"{before}{FIT_FILE}", "fit the blend again"
    stored = read_json(path, remedy)
    try:
        files = {name: read_bytes(folder / f"{before}{plain_name(name)}", remedy) for name in stored["files"]}
        if stored["method"] not in METHODS:
            raise ValueError(f"unknown method {stored['method']!r}")
        fitted = Fit(stored["method"], stored["params"], files)
        blender = Blender(fitted, tuple(stored["tables"]), np.asarray(stored["prior"], dtype=np.float64))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    return blender


def plain_name(name: str) -> str:
    """The name itself; ValueError where it is no plain file name of a known kind."""
    if Path(name).name != name or Path(name).suffix not in SUFFIXES:
        raise ValueError(f"a blend's file is named {name!r}; wanted a plain name ending in {', '.join(SUFFIXES)}")
    return name


def member_array(tables: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tables by name, each (N, 5, 5, 3), as one array (N, T, 5, 5, 3), in the mapping's order."""
    return np.stack(list(tables.values()), axis=1)


def studies_of(predictions: Sequence[pd.DataFrame]) -> np.ndarray:
    """Every study that some table has rows of, ascending."""
    named = {split_row_id(name)[0] for frame in predictions for name in frame["row_id"]}
    return np.array(sorted(named), dtype=np.int64)
