"""Writes whole phantom data folders: images and tables as the competition lays them out."""

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lumbar.files.exchange import check_own, exchanging
from lumbar.files.pool import spread
from lumbar.files.write import write_text
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS
from lumbar.phantom import study
from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.study import Rows, Split, plan, seed_words, table_rows
from lumbar.phantom.writer import OwnSlices

_COORDINATES = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")
#: Seed, number, id, split and options of one study.
_Study = tuple[int, int, int, Split, PhantomOptions]
_FRONTS = ("study_id", "series_id", "instance_number", "level", "x", "y")
_SERIES = ("study_id", "series_id", "series_description")


def study_ids(studies: int, seed: int, first_id: int | None) -> list[int]:
    """Distinct ids: counted from `first_id`, or numbers of up to ten digits as the competition has them."""
    if first_id is not None:
        return list(range(first_id, first_id + studies))
    found: list[int] = []
    for index in range(studies):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index, 99]))
        # The index in the last digits keeps ids of one seed distinct.
        found.append(int(rng.integers(1, 400)) * 10_000_000 + int(rng.integers(0, 100)) * 100_000 + index % 100_000)
    return found


def write_phantoms(
    out: Path,
    studies: int,
    seed: int,
    *,
    split: Split = "train",
    label_noise: bool = False,
    workers: int = 1,
    first_id: int | None = None,
    variations: Mapping[int, PhantomOptions] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> list[int]:
    """Write `studies` phantom studies into `out` and return their ids.

    The same seed gives the same bytes whatever `workers` is, and study i does not depend on how many are written.
    `overrides` are fields of `PhantomOptions` for all studies; `variations` replaces the options of single studies by
    their number (0 is the first). `split="test"` writes images and the series table only. `progress` is called with
    (done, all). A folder that is there must be empty, or hold studies that this call writes again and nothing else.
    """
    if studies < 1:
        raise InputError(f"{studies} studies cannot be written; give 1 or more as --studies")
    base = replace(PhantomOptions(label_noise=label_noise), **overrides)
    ids = study_ids(studies, seed, first_id)
    chosen = [(seed, index, study, split, (variations or {}).get(index, base)) for index, study in enumerate(ids)]
    slices = [OwnSlices(study, seed_words(seed, index, split)) for index, study in enumerate(ids)]
    proof = functools.partial(_own_files, chosen, slices)
    with exchanging(out, proof, f"{split}_series_descriptions.csv") as new:
        rows: list[Rows] = []
        for done, row in enumerate(_run(out, [(new, *study) for study in chosen], workers), start=1):
            rows.append(row)
            own, images = slices[done - 1], Path(f"{split}_images", str(ids[done - 1]))
            own.like = new / images
            check_own(Path(out) / images, own, besides=new)
            if progress is not None:
                progress(done, studies)
        for name, text in _tables(split, rows).items():
            write_text(text, new / name)
    return ids


def _own_files(studies: list[_Study], slices: list[OwnSlices], folder: Path) -> list[str]:
    """Files of an earlier call: slices of these studies, and tables with the lines of those up to the last.

    The last is the last whose images are there: a table that somebody cut down or corrected is nobody's to replace.
    """
    split = studies[0][3]
    places = [folder / f"{split}_images" / str(study) for _, _, study, _, _ in studies]
    last = max((index for index, place in enumerate(places) if place.is_dir()), default=-1)
    rows = [table_rows(plan(seed, index, study, options)) for seed, index, study, _, options in studies[: last + 1]]
    own = []
    for name, text in _tables(split, rows).items():
        with suppress(OSError, UnicodeDecodeError):
            stands = (folder / name).read_bytes().decode().splitlines() if (folder / name).is_file() else []
            own += [name] if Counter(stands) == Counter(text.splitlines()) else []
    for place, of_study in zip(places, slices, strict=True):
        own += [(place / name).relative_to(folder).as_posix() for name in of_study(place)]
    return own


def _run(out: Path, jobs: list[tuple[Any, ...]], workers: int) -> Any:
    if workers <= 1:
        yield from map(_work, jobs)
        return
    lost = (
        f"{out}: a worker process was killed before all phantoms were written, often for lack of memory; run "
        "again with fewer workers"
    )
    yield from spread(_work, jobs, workers, lost=lost)


def _work(job: tuple[Any, ...]) -> Rows:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return study.write_study(*job)
    finally:
        cv2.setNumThreads(threads)


def _tables(split: Split, rows: list[Rows]) -> dict[str, str]:
    """The tables of a split by name, as CSV; the test split has the series table only."""
    tables = {f"{split}_series_descriptions.csv": _csv(_SERIES, [line for row in rows for line in row.series])}
    if split == "train":
        tables["train.csv"] = _csv(("study_id", *LABEL_COLUMNS), [row.labels for row in rows])
        lines = [line for row in rows for line in row.coordinates]
        tables["train_label_coordinates.csv"] = _csv(_COORDINATES, lines)
        tables["train_disc_fronts.csv"] = _csv(_FRONTS, [line for row in rows for line in row.fronts])
    return tables


def _csv(columns: tuple[str, ...], lines: list[dict[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
