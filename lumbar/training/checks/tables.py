"""Faults of a training folder, all of them at once, before anything is trained.

Each table is looked at on its own, so that one fault does not hide the next; a sentence counts the rows it is about and
shows the first. What only costs a sample (an empty label, a keypoint missing) is no fault.
"""

import difflib
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from lumbar.dicom.series import dicom_files
from lumbar.files.read import read_texts, why_no_id
from lumbar.issues import InputError, cut, few
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, SERIES_DESCRIPTIONS, SEVERITY_LABELS, level_title
from lumbar.labels import condition_title as title
from lumbar.recipe.recipe import Recipe
from lumbar.study.study import DataFolder, numbered_folder, open_data
from lumbar.study.tables import COORDINATE_COLUMNS
from lumbar.training.checks.recipe import all_told, recipe_faults
from lumbar.training.pretrained.sources import Sources

#: Unknown columns of a table that are told one by one.
MOST = 5
SERIES, LABELS, COORDINATES = "train_series_descriptions.csv", "train.csv", "train_label_coordinates.csv"
COLUMNS = {
    SERIES: ("study_id", "series_id", "series_description"),
    LABELS: ("study_id", *LABEL_COLUMNS),
    COORDINATES: COORDINATE_COLUMNS,
}


def open_checked(folder: Path, recipe: Recipe, sources: Sources | None = None) -> DataFolder:
    """A data folder with labels and keypoints whose tables and files hold together, fit to be trained on by a recipe.

    `sources` of pretrained weights, where networks are to begin with them. Every fault found in either is told in a
    line; InputError gives their number and the first.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the data folder in the competition's layout")
    faults = find_faults(folder) + recipe_faults(recipe, folder, sources)
    if faults:
        raise all_told(str(folder), faults)
    return open_data(folder, "train")


def find_faults(root: Path) -> list[str]:
    """Every fault of a data folder: file, what is wrong, remedy."""
    faults: list[str] = []
    tables = {name: _read(root / name, faults) for name in COLUMNS}
    images = root / "train_images"
    if not images.is_dir():
        faults.append("train_images is missing: put the folder of DICOM studies beside the tables")
    series, labels, points = (tables[name] for name in COLUMNS)
    if series is not None:
        faults += _series_faults(series, images)
    if labels is not None:
        faults += _label_faults(labels)
    if points is not None:
        faults += _point_faults(points, series, images)
    if series is not None and labels is not None and not set(series["study_id"]) & set(labels["study_id"]):
        faults.append(f"{LABELS} and {SERIES} have no study in common: take both from the same data")
    return faults


def _read(path: Path, faults: list[str]) -> pd.DataFrame | None:
    """A table as text, or None and the reason; columns are checked, numbers too."""
    if not path.is_file():
        faults.append(f"{path.name} is missing: put it into the data folder")
        return None
    try:
        table = read_texts(path)
    except InputError as error:
        faults.append(str(error).replace(f"{path.parent}{os.sep}", ""))
        return None
    wanted = COLUMNS[path.name]
    missing = [name for name in wanted if name not in table.columns]
    unknown = [str(name) for name in table.columns if name not in wanted] if path.name == LABELS or missing else []
    for name in unknown[:MOST]:
        near = difflib.get_close_matches(name, missing, n=1)
        remedy = f"rename it to {near[0]!r}" if near else "remove it"
        faults.append(f"{path.name} has an unknown column {cut(name)!r}: {remedy}")
    if len(unknown) > MOST:
        faults.append(f"{path.name} has {len(unknown) - MOST} more unknown columns: remove them")
    if missing:
        faults.append(f"{path.name} lacks the column(s) {few(missing)}: add them")
        return None
    for name in ("study_id", "series_id", "instance_number"):
        if name in wanted:
            bad = table[name].map(lambda text: bool(why_no_id(text))).astype(bool)
            _note(faults, table, bad, f"{path.name}: {name}", "is no whole number, or one too large")
            table[name] = table[name].where(bad, table[name].str.replace(r"\.0*$|^0+(?=.)", "", regex=True))
    return table


def _note(faults: list[str], table: pd.DataFrame, bad: "pd.Series[bool]", what: str, why: str) -> None:
    """One sentence about the rows where `bad`, with the first of them."""
    if bad.any():
        first = int(np.flatnonzero(bad.to_numpy())[0])
        row = ", ".join(cut(str(value), 30) for value in table.iloc[first].tolist()[:7])
        faults.append(
            f"{what} {why} in {int(bad.sum())} row(s), first in line {int(table.index[first])} ({row}): correct it"
        )


def _series_faults(table: pd.DataFrame, images: Path) -> list[str]:
    faults: list[str] = []
    known = {text.casefold() for text in SERIES_DESCRIPTIONS}
    words = table["series_description"].str.split().str.join(" ").str.casefold()
    _note(
        faults,
        table,
        ~words.isin(known),
        f"{SERIES}: series_description",
        f"is none of {', '.join(SERIES_DESCRIPTIONS)}",
    )
    _note(faults, table, table.duplicated(["study_id", "series_id"]), f"{SERIES}: a series", "is listed twice")
    if images.is_dir():
        there = [
            bool(dicom_files(_folder(images, s, n))) for s, n in zip(table["study_id"], table["series_id"], strict=True)
        ]
        empty = ~pd.Series(there, index=table.index, dtype=bool)
        _note(faults, table, empty, f"{SERIES}: a series", "has no .dcm file in train_images")
    return faults


def _label_faults(table: pd.DataFrame) -> list[str]:
    faults: list[str] = []
    _note(faults, table[["study_id"]], table["study_id"].duplicated(), f"{LABELS}: a study", "is listed twice")
    known = {word.casefold() for word in SEVERITY_LABELS} | {"", "nan"}
    cells = table[list(LABEL_COLUMNS)].apply(lambda column: column.str.strip())
    wrong = ~cells.apply(lambda column: column.str.casefold().isin(known))
    if wrong.to_numpy().any():
        row, column = np.argwhere(wrong.to_numpy())[0]
        faults.append(
            f"{LABELS}: {int(wrong.to_numpy().sum())} unknown word(s), first {cut(cells.iat[row, column])!r} for study "
            f"{table['study_id'].iloc[row]}, {LABEL_COLUMNS[column]}: write {', '.join(SEVERITY_LABELS)} or nothing"
        )
    if cells.isin(["", "nan"]).to_numpy().all():
        faults.append(f"{LABELS} holds no label at all: fill it in")
    return faults


def _point_faults(table: pd.DataFrame, series: pd.DataFrame | None, images: Path) -> list[str]:
    faults: list[str] = []
    conditions = {title(name).casefold() for name in CONDITIONS} | set(CONDITIONS)
    levels = {level_title(name).casefold() for name in LEVELS} | set(LEVELS)
    words = table[["condition", "level"]].apply(lambda column: column.str.strip().str.casefold())
    _note(faults, table, ~words["condition"].isin(conditions), f"{COORDINATES}: condition", "is unknown")
    _note(faults, table, ~words["level"].isin(levels), f"{COORDINATES}: level", "is unknown")
    twice = pd.concat([table["study_id"], words], axis=1).duplicated()
    _note(faults, table, twice, f"{COORDINATES}: a keypoint", "is listed twice for its study, condition and level")
    if series is not None:
        listed = set(zip(series["study_id"], series["series_id"], strict=True))
        strange = [pair not in listed for pair in zip(table["study_id"], table["series_id"], strict=True)]
        place = pd.Series(strange, index=table.index, dtype=bool)
        _note(faults, table, place, f"{COORDINATES}: a series", f"is not in {SERIES}")
    xy = table[["x", "y"]].apply(pd.to_numeric, errors="coerce")
    _note(faults, table, ~np.isfinite(xy).all(axis=1), f"{COORDINATES}: x or y", "is no number")
    _note(faults, table, _outside(table, xy, images), f"{COORDINATES}: a keypoint", "lies outside its image")
    _note(faults, table, _without_image(table, images), f"{COORDINATES}: a keypoint", "lies on a slice without a file")
    return faults


def _folder(images: Path, study: str, series: str) -> Path:
    """Folder of a series by the texts of a table, which may be no numbers."""
    folder = images
    for text in (study, series):
        folder = folder / cut(text) if why_no_id(text) else numbered_folder(folder, int(text))
    return folder


def _without_image(table: pd.DataFrame, images: Path) -> "pd.Series[bool]":
    """Which keypoints lie on a slice without a file, where a series' files are named after instances."""
    named: dict[Path, set[str]] = {}
    missing = []
    for study, series, instance in zip(table["study_id"], table["series_id"], table["instance_number"], strict=True):
        folder = _folder(images, study, series)
        if folder not in named:
            stems = {file.stem for file in folder.glob("*.dcm")}
            named[folder] = stems if len(stems) > 1 and all(stem.isdigit() for stem in stems) else set()
        missing.append(bool(named[folder]) and instance not in named[folder])
    return pd.Series(missing, index=table.index, dtype=bool)


def _outside(table: pd.DataFrame, xy: pd.DataFrame, images: Path) -> "pd.Series[bool]":
    """Which keypoints lie outside their slice. One header a series is read, and those of slices that seem too small."""
    sizes: dict[Path, tuple[int, int] | None] = {}
    outside = []
    for study, series, instance, x, y in zip(
        table["study_id"], table["series_id"], table["instance_number"], xy["x"], xy["y"], strict=True
    ):
        folder = _folder(images, study, series)
        if folder not in sizes:
            sizes[folder] = _size(next(iter(folder.glob("*.dcm")), None))
        bad = _beyond(sizes[folder], x, y)
        own = folder / f"{instance}.dcm"
        outside.append(bool(bad and np.isfinite([x, y]).all() and _beyond(_size(own) or sizes[folder], x, y)))
    return pd.Series(outside, index=table.index, dtype=bool)


def _beyond(size: tuple[int, int] | None, x: float, y: float) -> bool:
    """Whether a point lies outside an image of (rows, columns), counted from its corner or from its first pixel."""
    return size is not None and not (-0.5 <= x <= size[1] and -0.5 <= y <= size[0])


def _size(path: Path | None) -> tuple[int, int] | None:
    """Rows and columns of a DICOM file; None where it is missing or unreadable, which reading will report."""
    if path is None or not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(header.Rows), int(header.Columns)
    except (InvalidDicomError, OSError, AttributeError, ValueError, EOFError, TypeError):
        return None
