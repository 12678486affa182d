"""What a run of prediction came to, study by study, and the files that it leaves."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from lumbar import submission
from lumbar.bundle.bundle import Bundle
from lumbar.files.write import (
    check_apart,
    check_replaceable,
    check_writable,
    csv_text,
    json_text,
    replacing,
    sha256,
    writing_into,
)
from lumbar.issues import NOTICE
from lumbar.labels import condition_title, level_title
from lumbar.prediction.finished import check_finished, remove_finished
from lumbar.prediction.result import StudyResult
from lumbar.prediction.run_report import run_report
from lumbar.study.study import DataFolder

SUBMISSION: Final = "submission.csv"
KEYPOINTS: Final = "keypoints.csv"
#: Of studies that come from a tree of files: number, folder, StudyInstanceUID.
STUDIES: Final = "studies.csv"
REPORT: Final = "run_report.json"
#: In the run report: the SHA-256 of the report without this key.
_OWN_HASH: Final = "sha256"


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


def submission_table(results: Iterable[StudyResult]) -> pd.DataFrame:
    """The rows of `submission.csv`, with the digits that it has there."""
    results = list(results)
    probabilities = np.stack([result.probabilities for result in results])
    return submission.rounded(submission.to_rows([result.study_id for result in results], probabilities))


def write_outputs(
    results: Iterable[StudyResult],
    data: DataFolder,
    bundle: Bundle,
    out: Path,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write `submission.csv`, `keypoints.csv` and `run_report.json` into `out`, whole or none; returns the first.

    Where the studies got their numbers from us, `studies.csv` says which is which.
    `options` (device, error policy, …) go into the report. The submission is validated before anything is written;
    InputError says what is wrong with it, why the folder cannot be written to, or which file in it is not one that an
    earlier run left. What was kept study by study in `out` is taken away at the end.
    """
    results, out = list(results), Path(out)
    table = submission_table(results)
    ungraded = [result.study_id for result in results if not result.graded.any()]
    submission.validate(table, data.study_ids, prior_studies=ungraded)
    report = run_report(results, data, bundle, options=options)
    texts = {SUBMISSION: csv_text(table), KEYPOINTS: csv_text(keypoint_table(results))}
    if data.tree is not None:
        texts[STUDIES] = csv_text(data.tree.studies)
    report["files"] = {name: _hashes(text, out / name) for name, text in texts.items()}
    with writing_into(out), ExitStack() as written:
        for name, text in (*texts.items(), (REPORT, _signed(report))):  # the last is there first: it knows the others
            written.enter_context(replacing(out / name, _left_by_a_run)).write_bytes(_as_bytes(text))
    remove_finished(out, data.study_ids)
    return out / SUBMISSION


def check_out(out: Path, data: DataFolder) -> None:
    """InputError where the results of these studies cannot be written to `out`, before anything is computed.

    It lies in what is read, it may not be written to, or something stands in it that no earlier run left there.
    """
    check_apart(out, data.image_folder)
    check_writable(out)
    for name in (REPORT, SUBMISSION, KEYPOINTS, *([] if data.tree is None else [STUDIES])):
        check_replaceable(Path(out) / name, _left_by_a_run)
    check_finished(out, data.study_ids)


def _left_by_a_run(path: Path) -> bool:
    """Whether a file of results is as a run left it: a run report, or what the report beside it knows by its hash."""
    try:
        raw = path.with_name(REPORT).read_bytes()
        report = json.loads(raw)
        if report["notice"] != NOTICE or report["bundle"]["identity"] is None:
            return False
        if path.name != REPORT:
            return sha256(path) in report["files"][path.name]
        del report[_OWN_HASH]
        return _as_bytes(_signed(report)) == raw
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _signed(report: Mapping[str, Any]) -> str:
    """A run report's text with its own hash at the end, by which a later run knows that nobody wrote into it."""
    return json_text({**report, _OWN_HASH: hashlib.sha256(_as_bytes(json_text(report))).hexdigest()})


def _as_bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _hashes(text: str, path: Path) -> list[str]:
    """The hash of a file's new content; where an older one stands, that one's too, since a kill may leave it there."""
    new = hashlib.sha256(text.encode()).hexdigest()
    return list(dict.fromkeys([new, *([sha256(path)] if path.is_file() else [])]))
