"""The tables of a data folder: series, labels, keypoints, sources, each checked row by row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from lumbar.files.read import plain_texts, read_table, whole_numbers, why_no_id
from lumbar.issues import InputError, Issue, cut
from lumbar.labels import (
    CONDITIONS,
    LABEL_COLUMNS,
    LEVELS,
    SERIES_DESCRIPTIONS,
    SEVERITY_LABELS,
    condition_title,
    level_title,
)

DISC_COLUMNS: Final = ("study_id", "series_id", "instance_number", "level", "x", "y")
COORDINATE_COLUMNS: Final = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")


def read_series_table(path: Path) -> tuple[tuple[int, ...], pd.DataFrame, list[Issue]]:
    """All studies listed, the series table without repeated rows, and the issues of rows that play no part.

    Without a whole number no row of a submission can be named after a study: that is an InputError.
    """
    columns = ["study_id", "series_id", "series_description"]
    table = _read_table(path, columns)[columns].copy()
    table["study_id"] = whole_numbers(table["study_id"], path)
    if table.empty:
        raise InputError(f"{path} lists no series; give the table of the studies to grade")
    study_ids = tuple(int(study) for study in dict.fromkeys(table["study_id"]))
    named = list(zip(table["study_id"], plain_texts(table["series_id"]), strict=True))
    issues = [
        Issue("series_ignored", int(study), None, f"series_id {cut(text)!r} {why}")
        for study, text in named
        if (why := why_no_id(text))
    ]
    table = table[[not why_no_id(text) for _, text in named]].copy()
    table["series_id"] = whole_numbers(table["series_id"], path)
    table["series_description"] = [_canonical_description(text) for text in table["series_description"]]
    repeated = table.duplicated(columns[:2])
    for row in table[repeated & ~table.duplicated()].itertuples():
        detail = f"listed again as {cut(row.series_description)!r}; the first row counts"
        issues.append(Issue("series_ignored", int(row.study_id), int(row.series_id), detail))
    return study_ids, table[~repeated].reset_index(drop=True), issues


def _canonical_description(text: object) -> str:
    """The competition's spelling of a description; other texts stay as they are."""
    plain = " ".join(str(text).split()) if isinstance(text, str) else ""
    return next((known for known in SERIES_DESCRIPTIONS if known.casefold() == plain.casefold()), plain)


def read_coordinates(path: Path) -> pd.DataFrame:
    """A table of keypoints in the layout of `train_label_coordinates.csv`, conditions and levels in `labels` words."""
    table = _read_table(path, COORDINATE_COLUMNS)
    table = table[list(COORDINATE_COLUMNS)].copy()
    for column in ("study_id", "series_id", "instance_number"):
        table[column] = whole_numbers(table[column], path)
    conditions = {condition_title(name).casefold(): name for name in CONDITIONS} | {name: name for name in CONDITIONS}
    levels = {level_title(name).casefold(): name for name in LEVELS} | {name: name for name in LEVELS}
    table["condition"] = _words(table["condition"], conditions, path)
    table["level"] = _words(table["level"], levels, path)
    for column in ("x", "y"):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        if not np.isfinite(table[column]).all():
            raise InputError(f"{path}: column {column} holds something that is not a number; correct it")
    return table.drop_duplicates(ignore_index=True)


def read_fronts(path: Path) -> pd.DataFrame:
    """A table of discs' front ends, in pixels of a slice of the sagittal T2 series that shows the level's canal point:
    DISC_COLUMNS, levels in `labels` words."""
    table = _read_table(path, DISC_COLUMNS)[list(DISC_COLUMNS)].copy()
    for column in ("study_id", "series_id", "instance_number"):
        table[column] = whole_numbers(table[column], path)
    levels = {level_title(name).casefold(): name for name in LEVELS} | {name: name for name in LEVELS}
    table["level"] = _words(table["level"], levels, path)
    for column in ("x", "y"):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        if not np.isfinite(table[column]).all():
            raise InputError(f"{path}: column {column} holds something that is not a number; correct it")
    if table.duplicated(["study_id", "series_id", "level"]).any():
        raise InputError(f"{path}: the front end of a disc is listed twice; keep one of the two")
    return table


def with_fronts(coordinates: pd.DataFrame, fronts: pd.DataFrame) -> pd.DataFrame:
    """Keypoints, those of the canal with `front_instance`, `front_x`, `front_y` of their series; NaN where unknown."""
    own = fronts.rename(columns={"instance_number": "front_instance", "x": "front_x", "y": "front_y"})
    own = own.assign(condition=CONDITIONS[0])
    return coordinates.merge(own, how="left", on=["study_id", "series_id", "condition", "level"])


def read_label_words(path: Path) -> pd.DataFrame:
    """Labels by study, LABEL_COLUMNS in the words of `SEVERITY_LABELS` or NaN; InputError where one is unknown."""
    table = _read_table(path, ("study_id", *LABEL_COLUMNS))
    table["study_id"] = whole_numbers(table["study_id"], path)
    table = table[["study_id", *LABEL_COLUMNS]].drop_duplicates()
    if table["study_id"].duplicated().any():
        twice = table.loc[table["study_id"].duplicated(), "study_id"].iloc[0]
        raise InputError(f"{path}: study {twice} is listed twice with different labels; keep one of them")
    labels = table.set_index("study_id").astype(object)
    words = {word.casefold(): word for word in SEVERITY_LABELS}
    for column in LABEL_COLUMNS:
        known = labels[column].notna()
        labels.loc[known, column] = _words(labels.loc[known, column], words, path)
    return labels.where(labels.notna(), np.nan)


def read_sources(path: Path) -> dict[int, str]:
    """Study to the name of where it comes from; InputError where the table is not of that kind."""
    table = _read_table(path, ("study_id", "source"))
    studies = whole_numbers(table["study_id"], path)
    return {int(study): str(name) for study, name in zip(studies, table["source"], strict=True)}


def _read_table(path: Path, columns: tuple[str, ...] | list[str]) -> pd.DataFrame:
    """A table with the wanted columns as text, rows without any value removed; InputError if unreadable."""
    return read_table(path, columns, text=columns).dropna(how="all").reset_index(drop=True)


def _words(values: pd.Series, known: Mapping[str, str], path: Path) -> pd.Series:
    """Texts replaced by the words they stand for, whatever their case; InputError names the first unknown one."""
    plain = plain_texts(values)
    words = plain.str.casefold().map(dict(known))
    if words.isna().any():
        first = cut(plain[words.isna()].iloc[0])
        raise InputError(f"{path}: unknown {values.name} {first!r}; known: {', '.join(known)}")
    return words
