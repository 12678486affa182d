"""The tables of a data folder, and which series of a study plays which part.

Layout (the competition's): `{train,test}_series_descriptions.csv`, `{train,test}_images/<study>/<series>/<n>.dcm`, and
for training `train.csv` and `train_label_coordinates.csv`. Ours besides: `train_sources.csv`, where studies come from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from lumbar.dicom import MAX_STUDY_BYTES, Series, read_stations
from lumbar.files import read_table
from lumbar.issues import InputError, Issue
from lumbar.labels import (
    CONDITIONS,
    LABEL_COLUMNS,
    LEVELS,
    SERIES_DESCRIPTIONS,
    SERIES_TYPES,
    SEVERITY_LABELS,
    SeriesType,
    condition_title,
    level_title,
)
from lumbar.study_checks import Candidate, belonging, same_frame

Split = Literal["train", "test"]
#: Part that a series of the wrong description plays, by the plane it really has.
_TYPE_OF_PLANE: Final[dict[str, SeriesType]] = {"sagittal": "sagittal_t2", "axial": "axial_t2"}
COORDINATE_COLUMNS: Final = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")


@dataclass(frozen=True, eq=False)
class DataFolder:
    """A folder of studies. `study_ids` follow the series table; tables keep the competition's words.

    `series`: DataFrame study_id, series_id, series_description. `labels`: index study_id, LABEL_COLUMNS, severity
    words or NaN; None without `train.csv`. `coordinates`: COORDINATE_COLUMNS, condition and level in the words of
    `labels.CONDITIONS` and `LEVELS`. `sources`: where a study comes from, where a table tells. `issues`: what the
    tables and folders of each study lack. `unlisted`: study folders that the series table does not name.
    """

    root: Path
    split: Split
    study_ids: tuple[int, ...]
    series: pd.DataFrame
    labels: pd.DataFrame | None = None
    coordinates: pd.DataFrame | None = None
    sources: Mapping[int, str] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()
    unlisted: tuple[int, ...] = ()

    @property
    def image_folder(self) -> Path:
        """Folder that holds one folder a study."""
        return self.root / f"{self.split}_images"


@dataclass(frozen=True, eq=False)
class Study:
    """The usable series of a study by type, each type in table order (an empty tuple where there is none)."""

    study_id: int
    series: Mapping[SeriesType, tuple[Series, ...]] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()

    def series_by_id(self, series_id: int) -> Series | None:
        """The series of that number, or None."""
        return next((one for group in self.series.values() for one in group if one.series_id == series_id), None)

    def share_frame(self, one: Series, other: Series) -> bool:
        """Whether points of one series can be carried to another, see `study_checks.same_frame`."""
        return same_frame(one, other, [each for group in self.series.values() for each in group])


def open_data(root: Path, split: str | None = None) -> DataFolder:
    """Read the tables of a data folder; raises InputError where it is none or a table cannot be understood.

    `split` None takes the one that is there, and `test` where both are.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder that holds *_series_descriptions.csv")
    chosen = _split(root, split)
    if not (root / f"{chosen}_images").is_dir():
        raise InputError(
            f"{root} has {chosen}_series_descriptions.csv but no folder {chosen}_images; put it beside the table"
        )
    study_ids, table, issues = _series_table(root / f"{chosen}_series_descriptions.csv")
    try:
        unlisted = tuple(sorted(set(_numbered_folders(root / f"{chosen}_images")) - set(study_ids)))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error
    issues += [
        Issue("study_unlisted", study, None, f"folder {study} has no row in the series table") for study in unlisted
    ]
    labels = coordinates = None
    sources: dict[int, str] = {}
    if chosen == "train":
        if (root / "train.csv").is_file():
            labels = _labels(root / "train.csv")
        if (root / "train_label_coordinates.csv").is_file():
            coordinates = read_coordinates(root / "train_label_coordinates.csv")
        if (root / "train_sources.csv").is_file():
            sources = read_sources(root / "train_sources.csv")
    return DataFolder(root, chosen, study_ids, table, labels, coordinates, sources, tuple(issues), unlisted)


def read_study(data: DataFolder, study_id: int) -> Study:
    """Read all series of a study that have a known type; what is missing or odd is in `Study.issues`."""
    issues = [issue for issue in data.issues if issue.study == study_id]
    candidates: list[Candidate] = []
    folder = data.image_folder / str(study_id)
    rows = data.series[data.series["study_id"] == study_id]
    try:
        there = set(_numbered_folders(folder))
    except OSError as error:
        why = f"folder {folder.name} in {folder.parent} cannot be read ({error.strerror})"
        issues.append(Issue("series_missing", study_id, None, why))
        rows, there = rows.iloc[:0], set()
    room = MAX_STUDY_BYTES
    for series_id, description in zip(rows["series_id"], rows["series_description"], strict=True):
        candidate = _read_row(folder, study_id, int(series_id), str(description), issues, room)
        if candidate is not None:
            candidates.append(candidate)
            room -= sum(item.pixels.nbytes for station in candidate.stations for item in station.slices)
    for series_id in sorted(there - {int(number) for number in rows["series_id"]}):
        detail = f"folder {series_id} has no row in the series table"
        issues.append(Issue("series_ignored", study_id, series_id, detail))
    candidates, odd = belonging(study_id, candidates)
    issues += odd
    found = {name: tuple(one.series for one in candidates if one.series_type == name) for name in SERIES_TYPES}
    for name in (name for name in SERIES_TYPES if not found[name]):
        issues.append(Issue("series_missing", study_id, None, f"no usable {_description(name)} series"))
    return Study(study_id, found, tuple(issues))


def choose_series(study: Study, series_type: SeriesType, rule: Literal["best", "first"] = "best") -> Series | None:
    """The series of a type to use. best: most slices, then the finest pixels, then table order; first: table order."""
    group = study.series.get(series_type, ())
    if not group or rule == "first":
        return group[0] if group else None
    return min(group, key=lambda series: (-len(series), round(math.prod(series.slices[0].spacing_mm), 6)))


def read_coordinates(path: Path) -> pd.DataFrame:
    """A table of keypoints in the layout of `train_label_coordinates.csv`, conditions and levels in `labels` words."""
    table = _read_table(path, COORDINATE_COLUMNS)
    table = table[list(COORDINATE_COLUMNS)].copy()
    for column in ("study_id", "series_id", "instance_number"):
        table[column] = _whole(table[column], path)
    conditions = {condition_title(name).casefold(): name for name in CONDITIONS} | {name: name for name in CONDITIONS}
    levels = {level_title(name).casefold(): name for name in LEVELS} | {name: name for name in LEVELS}
    table["condition"] = _words(table["condition"], conditions, path)
    table["level"] = _words(table["level"], levels, path)
    for column in ("x", "y"):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        if not np.isfinite(table[column]).all():
            raise InputError(f"{path}: column {column} holds something that is not a number; correct it")
    return table.drop_duplicates(ignore_index=True)


def _split(root: Path, split: str | None) -> Split:
    known: tuple[Split, ...] = ("test", "train")
    there = [name for name in known if (root / f"{name}_series_descriptions.csv").is_file()]
    if split is not None and split not in known:
        raise InputError(f"unknown split {split!r}; it is train or test")
    for name in there:
        if split in (None, name):
            return name
    wanted = split or "{train,test}"
    raise InputError(f"{root} has no {wanted}_series_descriptions.csv; give the folder in the competition's layout")


def _series_table(path: Path) -> tuple[tuple[int, ...], pd.DataFrame, list[Issue]]:
    """All studies listed, the series table without repeated rows, and the issues of rows that play no part.

    Without a whole number no row of a submission can be named after a study: that is an InputError.
    """
    columns = ["study_id", "series_id", "series_description"]
    table = _read_table(path, columns)[columns].copy()
    table["study_id"] = _whole(table["study_id"], path)
    if table.empty:
        raise InputError(f"{path} lists no series; give the table of the studies to grade")
    study_ids = tuple(int(study) for study in dict.fromkeys(table["study_id"]))
    strange = _not_whole(table["series_id"])
    issues = [
        Issue("series_ignored", int(study), None, f"series_id {text!r} is not a whole number")
        for study, text in zip(table["study_id"][strange], _plain(table["series_id"])[strange], strict=True)
    ]
    table = table[~strange].copy()
    table["series_id"] = _whole(table["series_id"], path)
    table["series_description"] = [_canonical_description(text) for text in table["series_description"]]
    repeated = table.duplicated(columns[:2])
    for row in table[repeated & ~table.duplicated()].itertuples():
        detail = f"listed again as {row.series_description!r}; the first row counts"
        issues.append(Issue("series_ignored", int(row.study_id), int(row.series_id), detail))
    return study_ids, table[~repeated].reset_index(drop=True), issues


def _canonical_description(text: object) -> str:
    """The competition's spelling of a description; other texts stay as they are."""
    plain = " ".join(str(text).split()) if isinstance(text, str) else ""
    return next((known for known in SERIES_DESCRIPTIONS if known.casefold() == plain.casefold()), plain)


def _read_row(
    folder: Path, study_id: int, series_id: int, description: str, issues: list[Issue], room: int
) -> Candidate | None:
    """Type and content of one row of the series table; the orientation overrules the description."""

    def note(code: str, detail: str) -> None:
        issues.append(Issue(code, study_id, series_id, detail))

    if description not in SERIES_DESCRIPTIONS:
        note("series_ignored", f"unknown description {description!r}; known: {', '.join(SERIES_DESCRIPTIONS)}")
        return None
    if not _is_folder(folder / str(series_id)):
        note("series_ignored", f"{description}: there is no folder {series_id} in {folder}")
        return None
    stations, found = read_stations(folder / str(series_id), series_id, description, study_id, room)
    issues += found
    if not stations:
        return None
    plane, series_type = stations[0].plane, SERIES_DESCRIPTIONS[description]
    if series_type.startswith(plane):
        return Candidate(series_type, tuple(stations))
    if plane not in _TYPE_OF_PLANE:
        note("series_ignored", f"listed as {description}, but its slices are {plane}")
        return None
    note("series_relabelled", f"listed as {description}, but its slices are {plane}")
    return Candidate(_TYPE_OF_PLANE[plane], tuple(stations))


def _labels(path: Path) -> pd.DataFrame:
    table = _read_table(path, ("study_id", *LABEL_COLUMNS))
    table["study_id"] = _whole(table["study_id"], path)
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
    return {int(study): str(name) for study, name in zip(_whole(table["study_id"], path), table["source"], strict=True)}


def _read_table(path: Path, columns: tuple[str, ...] | list[str]) -> pd.DataFrame:
    """A table with the wanted columns as text, rows without any value removed; InputError if unreadable."""
    return read_table(path, columns, text=columns).dropna(how="all").reset_index(drop=True)


def _whole(values: pd.Series, path: Path) -> pd.Series:
    """Numbers like 4003253 or 4003253.0 as int64; InputError names the first other value."""
    bad = _plain(values)[_not_whole(values)]
    if len(bad):
        where = f"{values.name} {bad.iloc[0]!r} in data row {bad.index[0] + 1}"
        raise InputError(f"{path}: {where} is not a whole number; correct the row or take it out")
    return _plain(values).str.split(".").str[0].astype(np.int64)


def _not_whole(values: pd.Series) -> "pd.Series[bool]":
    return ~_plain(values).str.fullmatch(r"[0-9]{1,18}(\.0*)?").astype(bool)


def _plain(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), "").astype(str).str.strip()


def _words(values: pd.Series, known: Mapping[str, str], path: Path) -> pd.Series:
    """Texts replaced by the words they stand for, whatever their case; InputError names the first unknown one."""
    plain = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    words = plain.str.casefold().map(dict(known))
    if words.isna().any():
        raise InputError(f"{path}: unknown {values.name} {plain[words.isna()].iloc[0]!r}; known: {', '.join(known)}")
    return words


def _description(series_type: SeriesType) -> str:
    return next(text for text, name in SERIES_DESCRIPTIONS.items() if name == series_type)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder that may be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _numbered_folders(folder: Path) -> list[int]:
    """Numbers that folders in a folder bear; OSError where it is missing or may not be read."""
    return [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
