"""Labels that a person changed on a second look, as `train_utils.py relabel` exports them, for training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from lumbar.files.read import read_table
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, split_row_id

#: Study, place in `CONDITIONS`, place in `LEVELS`.
Cell = tuple[int, int, int]
#: What a page exports: the row, its new label and the one that it had.
COLUMNS: Final = ("row_id", "label", "was")


def read_corrected(path: Path | str) -> dict[Cell, int]:
    """The new severity of each row of a list with columns `row_id, label`, as a place in `SEVERITIES`.

    InputError where the file is missing, lacks a column, names what is no row or no severity, or a row twice.
    """
    table = read_table(path, ["row_id", "label"], text=["row_id", "label"])
    words = {severity.lower(): place for place, severity in enumerate(SEVERITIES)}
    found: dict[Cell, int] = {}
    for name, label in zip(table["row_id"], table["label"], strict=True):
        try:
            study, condition, level = split_row_id(str(name))
        except ValueError as error:
            raise InputError(f"{path}: {error}; list rows as submission.csv names them") from error
        place = words.get(str(label).strip().lower().replace("/", "_"))
        if place is None:
            raise InputError(f"{path}: {str(label)[:40]!r} of row {name} is no severity; write {', '.join(SEVERITIES)}")
        cell = study, CONDITIONS.index(condition), LEVELS.index(level)
        if cell in found:
            raise InputError(f"{path}: row {name} stands there twice; keep one of them")
        found[cell] = place
    return found


def corrected(codes: Mapping[int, np.ndarray], labels: Mapping[Cell, int]) -> dict[int, np.ndarray]:
    """Each study's codes (5, 5) with some labels in place of its own; a study of which none changes keeps its array."""
    changed = dict(codes)
    for (study, condition, level), label in sorted(labels.items()):
        if study in changed and changed[study][condition, level] != label:
            if changed[study] is codes[study]:
                changed[study] = codes[study].copy()
            changed[study][condition, level] = label
    return changed
