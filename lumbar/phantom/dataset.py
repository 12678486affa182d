"""Writes whole phantom data folders: images and tables as the competition lays them out."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lumbar.labels import LABEL_COLUMNS
from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.study import Rows, Split, write_study
from lumbar.pool import spread

_COORDINATES = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")
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
    (done, all).
    """
    base = replace(PhantomOptions(label_noise=label_noise), **overrides)
    ids = study_ids(studies, seed, first_id)
    jobs = [
        (Path(out), seed, index, study, split, (variations or {}).get(index, base)) for index, study in enumerate(ids)
    ]
    Path(out).mkdir(parents=True, exist_ok=True)
    rows: list[Rows] = []
    for done, row in enumerate(_run(jobs, workers), start=1):
        rows.append(row)
        if progress is not None:
            progress(done, studies)
    _write_tables(Path(out), split, rows)
    return ids


def _run(jobs: list[tuple[Any, ...]], workers: int) -> Any:
    if workers <= 1:
        yield from map(_work, jobs)
        return
    lost = (
        f"{jobs[0][0]}: a worker process was killed before all phantoms were written, often for lack of memory; run "
        "again with fewer workers"
    )
    yield from spread(_work, jobs, workers, lost=lost)


def _work(job: tuple[Any, ...]) -> Rows:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return write_study(*job)
    finally:
        cv2.setNumThreads(threads)


def _write_tables(out: Path, split: Split, rows: list[Rows]) -> None:
    """The tables of a split; the test split has the series table only."""
    _write_csv(out / f"{split}_series_descriptions.csv", _SERIES, [line for row in rows for line in row.series])
    if split == "train":
        _write_csv(out / "train.csv", ("study_id", *LABEL_COLUMNS), [row.labels for row in rows])
        lines = [line for row in rows for line in row.coordinates]
        _write_csv(out / "train_label_coordinates.csv", _COORDINATES, lines)


def _write_csv(path: Path, columns: tuple[str, ...], lines: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
