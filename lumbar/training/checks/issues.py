"""What of the images and labels cannot be trained on, told when the studies are read: nothing is lost silently."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lumbar.files.write import write_json, writing_into
from lumbar.issues import Issue
from lumbar.labels import condition_title, level_title
from lumbar.training.data.labelled import lost_rows
from lumbar.training.data.packs import Packs, read_header


def tell_issues(packs: Packs, rows: Mapping[int, pd.DataFrame], study_ids: Iterable[int], path: Path) -> list[Issue]:
    """Write every Issue of the studies as `issues.json`, and say on standard error how many there are.

    Beside those of reading: labelled keypoints whose slice could not be read, and labelled studies without a series.
    `rows`: the labelled keypoints by study, see `labelled.study_rows`.
    """
    labelled = set() if packs.data.labels is None else {int(study) for study in packs.data.labels.index}
    what = "the study has labels, but no row in the series table; it is not trained on"
    issues = [Issue("label_unused", study, None, what) for study in sorted(labelled - set(packs.data.study_ids))]
    for study in study_ids:
        header = read_header(packs.path(study)) or {"issues": [], "series": {}}
        issues += [Issue(**issue) for issue in header["issues"]]
        listed = [series for group in header["series"].values() for series in group]
        there = {series["series_id"]: {one["instance"] for one in series["slices"]} for series in listed}
        if study in rows:
            issues += [_lost(study, row) for row in lost_rows(rows[study], there).itertuples()]
    with writing_into(path.parent):
        write_json({"issues": [asdict(issue) for issue in issues]}, path)
    if issues:
        counts = ", ".join(f"{count} {code}" for code, count in sorted(Counter(one.code for one in issues).items()))
        sys.stderr.write(f"{len({one.study for one in issues})} studies have issues ({counts}); see {path}\n")
    return issues


def _lost(study: int, row: object) -> Issue:
    """`row`: of the keypoint table, as a tuple with names."""
    name = f"{condition_title(row.condition)} {level_title(row.level)}"  # type: ignore[attr-defined]
    what = f"{name}: slice {row.instance_number} could not be used; stacks that would show it are not trained on"  # type: ignore[attr-defined]
    return Issue("keypoint_lost", study, int(row.series_id), what)  # type: ignore[attr-defined]
