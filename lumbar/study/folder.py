"""Studies of any folder: one with the competition's tables, or any tree of DICOM files, or a zip of one.

Of a tree the headers are read once; which part a series plays is told from them (`lumbar.study.roles`), or by an
edited list. Nothing is copied or moved, but for a zip, whose images are unpacked into a folder that goes at the end.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from lumbar.dicom.kinds import is_dicom
from lumbar.dicom.scan import Scan, scan
from lumbar.dicom.veil import veil
from lumbar.files.unpack import unpacked
from lumbar.files.write import check_apart, check_replaceable, check_writable, csv_text, write_text, writing_into
from lumbar.issues import InputError, Issue, cut, few
from lumbar.study.found import by_study, overrule, series_rows, study_row
from lumbar.study.study import DataFolder, has_tables, open_data
from lumbar.study.tree import Tree
from lumbar.terminal.progress import follow

LIST: Final = "series.csv"


def open_folder(
    root: Path,
    split: str | None = None,
    *,
    strict: bool = False,
    series: Path | None = None,
    progress: bool | None = None,
) -> DataFolder:
    """Open whatever holds studies: a folder with tables (see `open_data`), any tree of DICOM files, or a zip of one.

    `series`: an edited `series.csv`, which says what plays which part. `progress`: see `terminal.progress.bar`. Raises
    InputError where nothing can be graded, or the list does not fit.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(
            f"{root} is not there; check the path, and give a folder in the competition's layout, or any folder or zip "
            "of DICOM files"
        )
    if not _is_tree(root, split):
        data = open_data(root, split, strict=strict)
        if series is not None:
            raise InputError(f"{root} has a series table, which says what plays which part; take --series away")
        return data
    data, listed = _of_tree(root, series, progress)
    if not data.study_ids:
        reasons = few([f"{count} × {why}" for why, count in Counter(listed["why"]).most_common()], 2)
        raise InputError(
            f"{root}: none of its {len(listed)} series plays a part ({cut(reasons, 150)}); look at them with --list, "
            "and give an edited series.csv as --series"
        )
    return data


def list_folder(
    root: Path, out: Path, split: str | None = None, *, series: Path | None = None, progress: bool | None = None
) -> str:
    """The table of what would play which part and why; writes `series.csv` into `out`, unless `series` is one.

    Of a folder with tables it shows what the series table says, and writes nothing. InputError where the folder or the
    list cannot be read or written, or another file of that name stands there.
    """
    root, out = Path(root), Path(out)
    if not _is_tree(root, split):
        told = open_folder(root, split, series=series).series[["study_id", "series_id", "series_description"]]
        return _shown(told.assign(why="the series table says so"))
    data, listed = _of_tree(root, series, progress)
    if series is None:
        text = csv_text(listed)
        check_apart(out, data.image_folder)
        check_writable(out)
        check_replaceable(out / LIST, lambda there: there.read_bytes() == text.encode())
        with writing_into(out):
            write_text(text, out / LIST)
    shown = listed[["study_id", "series_id", "plays", "series_description", "images", "description", "why"]].copy()
    shown["description"] = [cut(text, 30) for text in shown["description"]]
    return _shown(shown)


def _shown(listed: pd.DataFrame) -> str:
    """The list for people."""
    return listed.rename(columns={"series_description": "part"}).to_string(index=False, justify="left")


def _is_tree(root: Path, split: str | None) -> bool:
    """Whether there are no tables, and none were asked for."""
    return root.is_file() or (split is None and root.is_dir() and not has_tables(root))


def _of_tree(root: Path, series: Path | None, progress: bool | None) -> tuple[DataFolder, pd.DataFrame]:
    """The studies of a tree, or of a zip of one, and the rows of `series.csv`."""
    place = unpacked(root, is_dicom) if root.is_file() else root
    found = scan(place, lambda paths: follow(paths, "reading headers", len(paths), "file", show=progress))
    if not found.series:
        passed = few([f"{count} {why}" for why, count in found.passed_over.most_common()])
        raise InputError(
            f"{root} has no *_series_descriptions.csv and no DICOM image in it{passed and f' ({passed})'}; give the "
            "folder in the competition's layout, or any folder or zip of DICOM files"
        )
    studies = by_study(found)
    if series is not None:
        overrule(studies, series)
    veils = {number: veil({head.patient for one in lot for head in one.heads}) for number, lot in studies.items()}
    listed = pd.DataFrame(
        [row for number, lot in studies.items() for row in series_rows(place, number, lot, veils[number])]
    )
    parts = listed.loc[listed["series_description"] != "", ["study_id", "series_id", "series_description"]]
    graded = tuple(number for number in studies if (parts["study_id"] == number).any())
    unlisted = tuple(number for number in studies if number not in graded)
    rows = [study_row(place, number, lot, veils[number], number in graded) for number, lot in studies.items()]
    files = {(number, one.number): one.files for number, lot in studies.items() for one in lot}
    tree = Tree(files, pd.DataFrame(rows), veils, "headers" if series is None else "an edited list")
    issues = tuple(_issues(listed, graded, unlisted, found))
    data = DataFolder(place, "test", graded, parts.reset_index(drop=True), issues=issues, unlisted=unlisted, tree=tree)
    return data, listed.sort_values(["study_id", "series_id"], ignore_index=True)


def _issues(listed: pd.DataFrame, graded: Sequence[int], unlisted: Sequence[int], found: Scan) -> Iterator[Issue]:
    """What was passed over, series by series and study by study."""
    for row in listed[(listed["plays"] != "yes") & listed["study_id"].isin(graded)].itertuples():
        what = f"series {row.series_id}" + (f" ({cut(row.description, 40)})" if row.description else "")
        yield Issue("series_ignored", int(row.study_id), int(row.series_id), f"{what}: {row.why}")
    for number in unlisted:
        reasons = Counter(listed.loc[listed["study_id"] == number, "why"])
        why = few([f"{count} × {reason}" for reason, count in reasons.most_common()], 2)
        yield Issue("study_unlisted", number, None, f"none of its {sum(reasons.values())} series plays a part: {why}")
    if found.passed_over and graded:
        why = "; ".join(f"{count} {reason}" for reason, count in found.passed_over.most_common())
        yield Issue("file_ignored", graded[0], None, f"of the whole folder, some files were passed over: {why}")
