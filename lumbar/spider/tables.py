"""The tables around SPIDER's studies: points and spacings that are read, rows that join those of a data folder."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from lumbar.files.read import read_texts, whole_numbers
from lumbar.issues import InputError, cut, few
from lumbar.labels import LEVELS, SEVERITY_LABELS, level_title

#: The largest numbers of patients and slices that fit into a study's number.
MOST: Final = {"patient": 999_999, "slice": 998}
#: Spacings of real pictures of a spine lie well within, mm.
SPACINGS_MM: Final = (0.05, 10.0)


def read_points(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table of points, indexed by line: `patient` and `slice` whole, `x` and `y` finite, `t1` 0 or 1, `level` known.

    InputError names the file, the line and the value that is none of these, a point that stands there twice, an image
    whose name does not hold its slice's number, and a table without rows.
    """
    table = read_texts(path, columns)
    if table.empty:
        raise InputError(f"{path} holds no rows; give the table with its points")
    for name in (name for name in MOST if name in columns):
        table[name] = whole_numbers(table[name], path)
        _refuse(path, table[name], table[name] > MOST[name], f"is larger than {MOST[name]}")
    for name in (name for name in ("x", "y", "t1") if name in columns):
        numbers = pd.Series([_number(text) for text in table[name]], index=table.index, dtype=float)
        if name == "t1":
            _refuse(path, table[name], ~numbers.isin([0, 1]), "is neither 0 nor 1")
        _refuse(path, table[name], ~numbers.map(math.isfinite), "is not a finite number")
        table[name] = numbers
    titles = [level_title(level) for level in LEVELS]
    _refuse(path, table["level"], ~table["level"].isin(titles), f"is none of {', '.join(titles)}")
    if {"image", "slice"} <= set(columns):
        named = [_is_named(image, number) for image, number in zip(table["image"], table["slice"], strict=True)]
        _refuse(path, table["image"], ~pd.Series(named, index=table.index), "is not a file's name with `slice<slice>`")
    picture = "slice" if "slice" in columns else "image"
    twice = table.duplicated([name for name in ("patient", picture, "level") if name in columns])
    _refuse(path, table["level"], twice, "has its point already in a line above")
    return table


def read_grades(path: Path) -> dict[int, dict[str, str]]:
    """A table of canal grades: patient → column of `train.csv` → label, from `patient`, `level` and `grade`.

    `grade` is 0 normal or mild, 1 moderate, 2 severe. InputError names the file, the line and the value that is none of
    these, and a disc that is graded twice.
    """
    table = read_texts(path, ("patient", "level", "grade"))
    table["patient"] = whole_numbers(table["patient"], path)
    columns = {level_title(level): f"spinal_canal_stenosis_{level}" for level in LEVELS}
    labels = dict(zip("012", SEVERITY_LABELS, strict=True))
    _refuse(path, table["level"], ~table["level"].isin(columns), f"is none of {', '.join(columns)}")
    _refuse(
        path, table["grade"], ~table["grade"].isin(labels), "is none of 0 (normal or mild), 1 (moderate), 2 (severe)"
    )
    _refuse(path, table["level"], table.duplicated(["patient", "level"]), "has its grade already in a line above")
    found: dict[int, dict[str, str]] = {}
    for patient, level, grade in zip(table["patient"], table["level"], table["grade"], strict=True):
        found.setdefault(int(patient), {})[columns[level]] = labels[grade]
    return found


def check_within(path: Path, points: pd.DataFrame, rows: int, columns: int) -> None:
    """Raise InputError where a point of a table, read from `path`, lies outside of its picture (pixels)."""
    for name, most in (("x", columns), ("y", rows)):
        _refuse(path, points[name], ~points[name].between(-1, most), f"lies outside of the picture (0 to {most - 1})")


def _refuse(path: Path, values: pd.Series, bad: pd.Series, why: str) -> None:
    if bad.any():
        line = bad.idxmax()
        raise InputError(f"{path}: {values.name} {cut(str(values[line]))!r} in line {line} {why}; correct the line")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_named(image: str, number: int) -> bool:
    return "/" not in image and "\0" not in image and bool(re.search(rf"slice{number}(?![0-9])", image))


def read_overview(path: Path) -> pd.DataFrame:
    """SPIDER's table of images, as text: `new_file_name`, `PixelSpacing`."""
    return read_texts(path, ("new_file_name", "PixelSpacing"))


def columns_spacing(path: Path, overview: pd.DataFrame, name: str) -> float:
    """From one column of an image to the next, mm; InputError where the table from `path` does not give it."""
    found = overview.loc[overview["new_file_name"] == name, "PixelSpacing"]
    if len(found) != 1:
        many = f"{len(found)} rows" if len(found) else "no row"
        raise InputError(f"{path}: {many} {name}, though the image is there; copy the table again")
    parts = found.iloc[0].strip("[]").split(",")
    spacings = [_number(part) for part in parts]
    low, high = SPACINGS_MM
    if len(spacings) != 2 or not all(low <= spacing <= high for spacing in spacings):
        raise InputError(
            f"{path}: PixelSpacing {cut(found.iloc[0])!r} of {name} is not like [0.5, 0.5], two numbers from {low} to "
            f"{high} mm; copy the table again"
        )
    return spacings[1]


def merged(out: Path, tables: Mapping[str, pd.DataFrame], ids: Sequence[int]) -> dict[str, pd.DataFrame]:
    """Those tables of `out` that need more rows, with them at the end; what stands there stays to the letter.

    The first of `tables` (`study_id`, `source`) says which studies are ours. InputError where one of `ids` is there
    but not ours, or has other rows than these: somebody wrote or corrected them.
    """
    found: dict[str, pd.DataFrame] = {}
    ours: set[int] | None = None
    for name, rows in tables.items():
        table = _old_rows(out / name)
        numbers = pd.to_numeric(table["study_id"], errors="coerce")
        there = set(numbers[numbers.isin(ids)].astype("int64"))
        ours = there if ours is None else ours
        for study in sorted(there):
            older, newer = table[numbers == study], rows[rows["study_id"] == study]
            if study not in ours or _plain(older, list(rows.columns)) != _plain(newer, list(rows.columns)):
                raise InputError(
                    f"{out / name}: study {study} has the number of one of SPIDER's, and rows that were not written "
                    "from it or that somebody changed since; take the study out or give another folder"
                )
        more = rows[~rows["study_id"].isin(there)]
        if len(more) or not (out / name).is_file():
            found[name] = pd.concat([table, more.astype(object)], ignore_index=True)
    return found


def _plain(table: pd.DataFrame, columns: list[str]) -> Counter[tuple[str, ...]]:
    """How often each row is there, in these columns: numbers alike however they are written, "" where there is none."""
    known = table.reindex(columns=columns).astype(object)
    rows = known.where(known.notna(), "").itertuples(index=False)
    return Counter(tuple(_plain_text(value) for value in row) for row in rows)


def _plain_text(value: object) -> str:
    text = str(value)
    number = _number(text)
    return text if math.isnan(number) else f"{number:.12g}"


def _old_rows(path: Path) -> pd.DataFrame:
    """A table of the data folder, as text; without rows where it is missing."""
    if not path.exists():
        return pd.DataFrame(columns=["study_id"], dtype=object)
    table = read_texts(path, ("study_id",))
    if twice := list(table.columns[table.columns.duplicated()].unique()):
        raise InputError(f"{path} has the column(s) {few(twice)} more than once; keep one of each")
    return table
