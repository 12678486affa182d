"""Labels that the out-of-fold blend finds hard to believe, for a second look or to be left out of training."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from lumbar.ensemble.cells import Cells
from lumbar.files.read import read_table
from lumbar.files.write import write_csv
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, row_id, split_row_id
from lumbar.metric import UNLABELLED

#: A label is suspect where the blend gives it less than this, whatever the costs of the severities.
BELIEVED: Final = 0.05
#: The second place left labels out of training where they lay farther than this from what its blend said of any
#: severity. Since the rest goes to the label's own, that is where the blend gave it less than 1 - .8.
FAR: Final = 0.8
COLUMNS: Final = ("row_id", "label", "loss", "reason")


def suspect_labels(
    studies: np.ndarray,
    codes: np.ndarray,
    blended: np.ndarray,
    members: np.ndarray,
    believed: float = BELIEVED,
    *,
    unanimous: bool = True,
) -> pd.DataFrame:
    """Table `row_id, label, loss, reason`, the largest loss first.

    `codes` (N, 5, 5); `blended` (N, 5, 5, 3) and `members` (N, M, 5, 5, 3) must be out of fold, or a memorised label
    looks right. `loss` is −ln of what the blend gives the label. Suspect: a label that gets less than `believed` and,
    if they are to be `unanimous`, that no member finds the most probable.
    """
    spoken = Cells(members, np.empty(0)).spoken
    said = np.take_along_axis(blended, np.maximum(codes, 0)[..., None], axis=-1)[..., 0]
    silent = np.isnan(members).all(axis=-1)
    voted = np.where(silent, UNLABELLED, np.where(np.isnan(members), -1.0, members).argmax(axis=-1))  # (N, M, 5, 5)
    agree = (voted == codes[:, None]).any(axis=1)
    suspect = (codes != UNLABELLED) & spoken & (said < believed)
    if unanimous:
        suspect &= ~agree
    rows = []
    for study, condition, level in np.argwhere(suspect):
        place = (study, condition, level)
        label, likely = int(codes[place]), int(blended[place].argmax())
        count = int((~silent[study, :, condition, level]).sum())
        votes = int((voted[study, :, condition, level] == label).sum())
        reason = (
            f"out of fold the blend gives {SEVERITIES[label]} {said[place]:.1%} and {SEVERITIES[likely]} "
            f"{blended[(*place, likely)]:.1%}; {votes or 'none'} of {count} member(s) finds the label the most probable"
        )
        name = row_id(int(studies[study]), CONDITIONS[condition], LEVELS[level])
        rows.append((name, SEVERITIES[label], round(float(-np.log(max(said[place], 1e-15))), 4), reason))
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["loss", "row_id"], ascending=[False, True])


def write_suspects(table: pd.DataFrame, path: Path) -> None:
    """Write the list."""
    write_csv(table, path)


def read_left_out(path: Path | str) -> set[tuple[int, int, int]]:
    """The rows of a list with a column `row_id`, as (study id, place in `CONDITIONS`, place in `LEVELS`).

    InputError where the file is missing, lacks the column, or names what is no row.
    """
    found = set()
    for name in read_table(path, ["row_id"], text=["row_id"])["row_id"]:
        try:
            study, condition, level = split_row_id(str(name))
        except ValueError as error:
            raise InputError(f"{path}: {error}; list rows as submission.csv names them") from error
        found.add((study, CONDITIONS.index(condition), LEVELS.index(level)))
    return found


def without(codes: Mapping[int, np.ndarray], left_out: Set[tuple[int, int, int]]) -> dict[int, np.ndarray]:
    """Each study's codes (5, 5), empty where a row is left out; a study of which none is keeps its own array."""
    kept = dict(codes)
    for study, condition, level in sorted(left_out):
        if study in kept:
            if kept[study] is codes[study]:
                kept[study] = codes[study].copy()
            kept[study][condition, level] = UNLABELLED
    return kept
