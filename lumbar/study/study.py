"""A data folder, and which series of a study plays which part.

Layout (the competition's): `{train,test}_series_descriptions.csv`, `{train,test}_images/<study>/<series>/<n>.dcm`, and
for training `train.csv` and `train_label_coordinates.csv`. Ours besides: `train_sources.csv`, where studies come
from, and `train_disc_fronts.csv`, where discs end in front.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import pandas as pd

from lumbar.dicom.said import Headers
from lumbar.dicom.series import MAX_STUDY_BYTES, Series, dicom_files, read_stations
from lumbar.dicom.veil import hide
from lumbar.issues import InputError, Issue, cut
from lumbar.labels import CONDITIONS, LEVELS, SERIES_DESCRIPTIONS, SERIES_TYPES, SEVERITIES, SEVERITY_LABELS, SeriesType
from lumbar.study.checks import Candidate, belonging, same_frame
from lumbar.study.tables import (
    read_coordinates,
    read_fronts,
    read_label_words,
    read_series_table,
    read_sources,
    with_fronts,
)
from lumbar.study.tree import Tree

Split = Literal["train", "test"]
_SPLITS: Final[tuple[Split, ...]] = ("test", "train")
Table = TypeVar("Table")
_log = logging.getLogger(__name__)
#: Part that a series of the wrong description plays, by the plane it really has.
_TYPE_OF_PLANE: Final[dict[str, SeriesType]] = {"sagittal": "sagittal_t2", "axial": "axial_t2"}


@dataclass(frozen=True, eq=False)
class DataFolder:
    """A folder of studies. `study_ids` follow the series table; tables keep the competition's words.

    `series`: DataFrame study_id, series_id, series_description. `labels`: index study_id, LABEL_COLUMNS, severity
    words or NaN; None without `train.csv`. `coordinates`: COORDINATE_COLUMNS, condition and level in the words of
    `labels.CONDITIONS` and `LEVELS`, and where the data has that table the canal's points with `front_instance`,
    `front_x`, `front_y`. `sources`: where a study comes from, where a table tells. `issues`: what the
    tables and folders of each study lack. `unlisted`: study folders that the series table does not name. `tree`: where
    the files lie, if there are no tables (see `lumbar.study.folder`); the series table is then ours.
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
    tree: Tree | None = None

    @property
    def image_folder(self) -> Path:
        """Folder that holds one folder a study, or all of a tree."""
        return self.root / f"{self.split}_images" if self.tree is None else self.root

    def folder(self, study_id: int) -> Path:
        """The folder of a study's series; see `numbered_folder`."""
        return numbered_folder(self.image_folder, study_id) if self.tree is None else self.root

    def series_files(self, study_id: int, series_id: int) -> list[Path]:
        """The DICOM files of a series, in their order; OSError where its folder may not be read."""
        if self.tree is None:
            return dicom_files(numbered_folder(self.folder(study_id), series_id))
        return list(self.tree.files.get((study_id, series_id), ()))

    def said(self, study_id: int, text: str) -> str:
        """A text about a study's files without what their names may say of the patient."""
        return text if self.tree is None else hide(text, self.tree.veils.get(study_id))


@dataclass(frozen=True, eq=False)
class Study:
    """The usable series of a study by type, each type in table order (an empty tuple where there is none)."""

    study_id: int
    series: Mapping[SeriesType, tuple[Series, ...]] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()

    def series_by_id(self, series_id: int) -> Series | None:
        """The series of that number, or None."""
        return next((one for group in self.series.values() for one in group if one.series_id == series_id), None)

    def weightings_exchanged(self) -> "Study":
        """The same with T1 in T2's place and T2 in T1's, as where series are listed as what they are not."""
        other: dict[SeriesType, SeriesType] = {"sagittal_t1": "sagittal_t2", "sagittal_t2": "sagittal_t1"}
        return replace(self, series={other.get(kind, kind): group for kind, group in self.series.items()})

    @property
    def is_phantom(self) -> bool:
        """Whether every image of it is of a phantom."""
        listed = [item for group in self.series.values() for series in group for item in series.slices]
        return bool(listed) and all(item.identity.is_phantom for item in listed)

    def share_frame(self, one: Series, other: Series) -> bool:
        """Whether points of one series can be carried to another, see `checks.same_frame`."""
        return same_frame(one, other, [each for group in self.series.values() for each in group])


def has_tables(root: Path) -> bool:
    """Whether a folder holds a series table."""
    return bool(_splits(root))


def open_data(root: Path, split: str | None = None, *, strict: bool = True) -> DataFolder:
    """Read the tables of a data folder; raises InputError where it is none or a table cannot be understood.

    `split` None takes the one that is there, and `test` where both are. Prediction needs no labels, keypoints and
    sources: without `strict` those that cannot be understood are left out with a warning.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder that holds *_series_descriptions.csv")
    chosen = _split(root, split)
    if not (root / f"{chosen}_images").is_dir():
        raise InputError(
            f"{root} has {chosen}_series_descriptions.csv but no folder {chosen}_images; put it beside the table"
        )
    study_ids, table, issues = read_series_table(root / f"{chosen}_series_descriptions.csv")
    try:
        there = _numbered_folders(root / f"{chosen}_images")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error
    unlisted = tuple(sorted(set(there) - set(study_ids)))
    issues += [
        Issue("study_unlisted", study, None, f"folder {study} has no row in the series table") for study in unlisted
    ]
    issues += [
        Issue("study_unlisted", study, None, f"{count} folders bear the number {study}; one of them was read")
        for study, count in Counter(there).items()
        if count > 1
    ]
    labels = coordinates = None
    sources: Mapping[int, str] | None = None
    if chosen == "train":
        labels = _told(read_label_words, root / "train.csv", strict)
        coordinates = _told(read_coordinates, root / "train_label_coordinates.csv", strict)
        sources = _told(read_sources, root / "train_sources.csv", strict)
        fronts = _told(read_fronts, root / "train_disc_fronts.csv", strict)
        if coordinates is not None and fronts is not None:
            coordinates = with_fronts(coordinates, fronts)
    return DataFolder(root, chosen, study_ids, table, labels, coordinates, sources or {}, tuple(issues), unlisted)


def _told(read: Callable[[Path], Table], path: Path, strict: bool) -> Table | None:
    """A table that prediction can do without: None where it is missing or, unless `strict`, cannot be understood."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except InputError as error:
        if strict:
            raise
        _log.warning("%s (it is left out)", error)
        return None


def read_study(data: DataFolder, study_id: int) -> Study:
    """Read all series of a study that have a known type; what is missing or odd is in `Study.issues`."""
    issues = [issue for issue in data.issues if issue.study == study_id]
    candidates: list[Candidate] = []
    folder = data.folder(study_id)
    rows = data.series[data.series["study_id"] == study_id]
    try:
        there = set(_numbered_folders(folder)) if data.tree is None else set()
    except OSError as error:
        why = f"folder {folder.name} in {folder.parent} cannot be read ({error.strerror})"
        issues.append(Issue("series_missing", study_id, None, why))
        rows, there = rows.iloc[:0], set()
    room, known = MAX_STUDY_BYTES, Headers()
    for series_id, description in zip(rows["series_id"], rows["series_description"], strict=True):
        candidate = _read_row(data, study_id, int(series_id), str(description), issues, room, known)
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
    return Study(study_id, found, tuple(replace(issue, detail=data.said(study_id, issue.detail)) for issue in issues))


def choose_series(
    study: Study, series_type: SeriesType, rule: Literal["best", "first", "all"] = "best"
) -> Series | None:
    """The series of a type to use where one counts, None without any.

    best, all: most slices, then the finest pixels, then table order; first: table order.
    """
    group = study.series.get(series_type, ())
    if not group or rule == "first":
        return group[0] if group else None
    return min(group, key=lambda series: (-len(series), round(math.prod(series.slices[0].spacing_mm), 6)))


def _splits(root: Path) -> list[Split]:
    return [name for name in _SPLITS if (root / f"{name}_series_descriptions.csv").is_file()]


def _split(root: Path, split: str | None) -> Split:
    if split is not None and split not in _SPLITS:
        raise InputError(f"unknown split {split!r}; it is train or test")
    for name in _splits(root):
        if split in (None, name):
            return name
    wanted = split or "{train,test}"
    raise InputError(f"{root} has no {wanted}_series_descriptions.csv; give the folder in the competition's layout")


def _read_row(
    data: DataFolder,
    study_id: int,
    series_id: int,
    description: str,
    issues: list[Issue],
    room: int,
    known: Headers,
) -> Candidate | None:
    """Type and content of one row of the series table; the orientation overrules the description."""

    def note(code: str, detail: str) -> None:
        issues.append(Issue(code, study_id, series_id, detail))

    if description not in SERIES_DESCRIPTIONS:
        note("series_ignored", f"unknown description {cut(description)!r}; known: {', '.join(SERIES_DESCRIPTIONS)}")
        return None
    source: Path | list[Path]
    if data.tree is None:
        folder = data.folder(study_id)
        source = numbered_folder(folder, series_id)
        if not _is_folder(source):
            note("series_ignored", f"{description}: there is no folder {series_id} in {folder}")
            return None
    else:
        source = data.series_files(study_id, series_id)
    stations, found = read_stations(source, series_id, description, study_id, room, known)
    stations = [_called(station, data, study_id) for station in stations]
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


def _called(series: Series, data: DataFolder, study_id: int) -> Series:
    """The series with names of files that say nothing of the patient."""
    if data.tree is None or data.tree.veils.get(study_id) is None:
        return series
    slices = tuple(replace(item, called=data.said(study_id, item.path.name)) for item in series.slices)
    return replace(series, slices=slices)


def _description(series_type: SeriesType) -> str:
    return next(text for text, name in SERIES_DESCRIPTIONS.items() if name == series_type)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder that may be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return False


def numbered_folder(parent: Path, number: int) -> Path:
    """The folder in `parent` that bears a number, plainly or with zeros before it; the plain name where none does."""
    plain = parent / str(number)
    if _is_folder(plain):
        return plain
    try:
        found = sorted(path for path in parent.iterdir() if _number(path.name) == number and _is_folder(path))
    except OSError:  # told where the folder is read
        found = []
    return found[0] if found else plain


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() else None


def _numbered_folders(folder: Path) -> list[int]:
    """Numbers that folders in a folder bear; OSError where it is missing or may not be read."""
    numbers = [(path, _number(path.name)) for path in folder.iterdir()]
    return [number for path, number in numbers if number is not None and path.is_dir()]


def true_severities(data: "DataFolder", study_id: int) -> np.ndarray | None:
    """True severities (5 conditions, 5 levels) as 0, 1, 2, and -1 where empty; None without labels."""
    if data.labels is None or study_id not in data.labels.index:
        return None
    row = data.labels.loc[study_id]
    words = [[row.get(f"{condition}_{level}") for level in LEVELS] for condition in CONDITIONS]
    return np.array([[_severity_index(word) for word in line] for line in words])


def _severity_index(word: Any) -> int:
    severity = SEVERITY_LABELS.get(word, word) if isinstance(word, str) else None
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1
