"""What a run of prediction came to, study by study, and the three files that it leaves."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from lumbar import submission
from lumbar.bundle import Bundle
from lumbar.files import write_csv, write_json, writing_into
from lumbar.issues import Issue
from lumbar.keypoints.keypoint import Keypoint
from lumbar.labels import CONDITIONS, LEVELS, condition_title, level_title
from lumbar.report import run_report
from lumbar.study import DataFolder

#: Folder in the folder of results where finished studies are kept until all are there.
FINISHED: Final = "finished"


@dataclass(frozen=True)
class StudyResult:
    """What one study came to. Axes are named by `labels.CONDITIONS`, `labels.LEVELS` and `labels.SEVERITIES`."""

    study_id: int
    probabilities: np.ndarray  # (5 conditions, 5 levels, 3), blended, each row sums to 1
    members: np.ndarray  # (M, 5, 5, 3), NaN where a member stays silent
    graded: np.ndarray  # (5, 5) bool; False: no member spoke, the weighted prior stands in
    seen: np.ndarray  # (5, 5) bool; False: no region on the condition's own view, who spoke saw the level on others
    keypoints: tuple[Keypoint, ...] = ()
    issues: tuple[Issue, ...] = ()
    used: Mapping[str, list[int]] = field(default_factory=dict)  # series ids by series type
    seconds: float = 0.0
    failed: bool = False
    ran_on: str = ""  # device and number type
    dropped: tuple[str, ...] = ()  # members that a time budget had left out by then


KEYPOINT_COLUMNS = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y", "confidence")


def keypoint_table(results: Iterable[StudyResult]) -> pd.DataFrame:
    """Keypoints in the columns of `train_label_coordinates.csv` plus `confidence`; x, y in pixels of the slice."""
    rows = [
        (
            result.study_id,
            point.series_id,
            point.instance,
            condition_title(point.condition),
            level_title(point.level),
            round(float(point.xy_px[0]), 3),
            round(float(point.xy_px[1]), 3),
            round(float(point.confidence), 4),
        )
        for result in results
        for point in result.keypoints
    ]
    return pd.DataFrame(rows, columns=list(KEYPOINT_COLUMNS))


def write_outputs(
    results: Iterable[StudyResult],
    data: DataFolder,
    bundle: Bundle,
    out: Path,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write `submission.csv`, `keypoints.csv` and `run_report.json` into `out`, each atomically; returns the first.

    `options` (device, error policy, …) go into the report. The submission is validated before anything is written;
    InputError says what is wrong with it, or why the folder cannot be written to. What was kept study by study in `out`
    is taken away at the end.
    """
    results = list(results)
    study_ids = [result.study_id for result in results]
    table = submission.rounded(submission.to_rows(study_ids, np.stack([result.probabilities for result in results])))
    path = Path(out) / "submission.csv"
    ungraded = [result.study_id for result in results if not result.graded.any()]
    report = run_report(results, data, bundle, options=options)
    with writing_into(out):
        submission.write_submission(table, data.study_ids, path, prior_studies=ungraded)
        write_csv(keypoint_table(results), path.with_name("keypoints.csv"))
        write_json(report, path.with_name("run_report.json"))
    shutil.rmtree(Path(out) / FINISHED, ignore_errors=True)
    return path


def left_out(study_id: int, graded: np.ndarray, seen: np.ndarray) -> tuple[Issue, ...]:
    """What members could not see of a study: `graded` and `seen` (5, 5) as in `StudyResult`."""
    return (*_unseen(study_id, graded & ~seen), *_ungraded(study_id, graded))


def _unseen(study_id: int, spoken: np.ndarray) -> Iterator[Issue]:
    """One Issue a condition for the levels (5, 5) at which only members without its own view spoke."""
    for condition, row in zip(CONDITIONS, spoken, strict=True):
        if row.any():
            levels = ", ".join(level_title(level) for level, there in zip(LEVELS, row, strict=True) if there)
            detail = f"{condition_title(condition)} {levels}: graded by members that see the level on other series"
            yield Issue("condition_unseen", study_id, None, detail)


def _ungraded(study_id: int, graded: np.ndarray) -> Iterator[Issue]:
    for (row, column), spoken in np.ndenumerate(graded):
        if not spoken:
            what = f"{condition_title(CONDITIONS[row])} {level_title(LEVELS[column])}"
            yield Issue(
                "condition_ungraded", study_id, None, f"{what}: no member could see its region; the prior stands in"
            )
