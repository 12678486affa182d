"""The run report: what was used, what was missing or repaired, and how long it took.

`run_report` is a pure function of its arguments. It names studies and series by the ids that the tables give, and no
folder of the machine.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from lumbar.bundle.bundle import Bundle, bundle_identity
from lumbar.issues import CODES, NOTICE, Issue, printable
from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS
from lumbar.prediction.result import REPORTED, StudyResult
from lumbar.prediction.versions import versions_here
from lumbar.recipe.evidence import ByCondition, complete, rests_on
from lumbar.study.study import DataFolder

#: Layout of the report; raised when a key changes its meaning.
FORMAT: Final = 1
#: More studies with nothing but the prior than this share, and a run that went on with it still counts as failed.
MAX_FAILED_SHARE: Final = 0.1


def run_report(
    results: Sequence[StudyResult],
    data: DataFolder,
    bundle: Bundle,
    *,
    options: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The report of a run as JSON-serialisable data.

    `options`: what the caller chose (device, engine, error policy ...). `versions`: as `versions_here()` gives
    them, which is also the default. `seconds`: the whole run; the sum over studies where it is None. In the report,
    `ran_on` counts studies by device and number type, `dropped` those graded without a member for lack of time.
    """
    issues = all_issues(results, data)
    spent = [float(result.seconds) for result in results]
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "versions": dict(versions_here() if versions is None else versions),
        "options": {key: _plain(value) for key, value in (options or {}).items()},
        "ran_on": dict(Counter(result.ran_on for result in results if result.ran_on)),
        "dropped": dict(Counter(name for result in results for name in result.dropped)),
        "bundle": bundle_identity(bundle),
        "evidence": evidence_entries(bundle.manifest.card.evidence),
        "data": {
            "split": data.split,
            "parts_by": "tables" if data.tree is None else data.tree.parts_by,
            "studies": len(data.study_ids),
            "unlisted": [int(one) for one in data.unlisted],
        },
        "seconds": {
            "total": round(sum(spent) if seconds is None else seconds, 3),
            "median_per_study": round(float(np.median(spent)), 3) if spent else None,
            "slowest_study": max(results, key=lambda result: result.seconds).study_id if results else None,
        },
        "rows": _row_origins(results),
        "failed_studies": failed_studies(results),
        "prior_studies": prior_studies(results),
        "issues": {
            "counts": dict(sorted(Counter(issue.code for issue in issues).items())),
            "meanings": {code: CODES[code] for code in sorted({issue.code for issue in issues})},
            "list": [issue_entry(issue, data.root) for issue in issues],
        },
        "studies": [_study_entry(result) for result in results],
    }


def all_issues(results: Iterable[StudyResult], data: DataFolder) -> list[Issue]:
    """The issues of all studies, and of those that were left out."""
    issues = [issue for result in results for issue in result.issues]
    return [*issues, *(issue for issue in data.issues if issue.study in data.unlisted)]


def failed_studies(results: Iterable[StudyResult]) -> list[int]:
    """Ids of the studies that could not be read or graded, whose error or lateness is an Issue."""
    return [result.study_id for result in results if result.failed]


def prior_studies(results: Iterable[StudyResult]) -> list[int]:
    """Ids of the studies whose 25 rows all are the prior's: those that failed, and those that show nothing to grade."""
    return [result.study_id for result in results if _is_prior(result)]


def describe_prior(results: Sequence[StudyResult]) -> str:
    """One sentence: how many studies took the prior, from which causes, and what to do."""
    failed = [result for result in results if _is_prior(result)]
    causes = Counter(_cause(result) for result in failed)
    counts = ", ".join(f"{count} {code}" for code, count in sorted(causes.items()))
    if set(causes) == {"out_of_time"}:
        remedy = "run again with more --hours"
    elif "out_of_time" in causes:
        remedy = "run again with more --hours, and check the files of the others"
    else:
        remedy = "check their files"
    share = f"{len(failed)} of {len(results)} studies could not be graded and took the prior ({counts})"
    return f"{share}; everything is written all the same; {remedy}"


def _is_prior(result: StudyResult) -> bool:
    return result.failed or not np.asarray(result.graded, dtype=bool).any()


def _cause(result: StudyResult) -> str:
    """The code that says why a study took the prior."""
    codes = {issue.code for issue in result.issues}
    return next((code for code in ("out_of_time", "study_failed") if code in codes), "condition_ungraded")


def exceeded_share(results: Sequence[StudyResult], limit: float = MAX_FAILED_SHARE) -> bool:
    """Whether more than `limit` of the studies took the prior in all rows; False where there are no studies."""
    return len(prior_studies(results)) > limit * len(results)


def show_issues(results: Iterable[StudyResult]) -> pd.DataFrame:
    """Every kind of issue found, the most frequent first: how often, in how many studies, meaning, first example."""
    by_code: dict[str, list[Issue]] = {}
    for result in results:
        for issue in result.issues:
            by_code.setdefault(issue.code, []).append(issue)
    rows = [
        (code, len(found), len({issue.study for issue in found}), CODES[code], _example(found[0]))
        for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return pd.DataFrame(rows, columns=["issue", "times", "studies", "meaning", "first example"])


def _example(issue: Issue) -> str:
    series = "" if issue.series is None else f", series {issue.series}"
    return f"study {issue.study}{series}: {issue.detail}"


def evidence_entries(told: ByCondition) -> dict[str, dict[str, Any]]:
    """What each condition's severities rest on, as the bundle tells it, and in words."""
    return {
        condition: {"tested_on_patients": one.on_patients, "says": one.says(), **one.model_dump(mode="json")}
        for condition, one in complete(told).items()
    }


def describe_evidence(results: Sequence[StudyResult], bundle: Bundle) -> str:
    """One sentence: what the severities rest on, and how many of the studies are phantoms."""
    line = f"What the severities rest on: {rests_on(bundle.manifest.card.evidence)}."
    phantoms = sum(result.phantom for result in results)
    return f"{line} {phantoms} of {len(results)} studies are phantoms." if phantoms else line


def describe_rows(results: Sequence[StudyResult]) -> str:
    """One sentence: how many rows there are, and how many come from what."""
    rows = _row_origins(results)
    return (
        f"{rows['total']} rows: {rows['from_members']} from members ({rows['from_other_views']} of them without the "
        f"condition's own view), {rows['from_prior']} from the weighted prior."
    )


def _row_origins(results: Sequence[StudyResult]) -> dict[str, Any]:
    """How many of the 25 rows a study come from members, and where the prior stands in, by condition."""
    size = (-1, len(CONDITIONS), len(LEVELS))
    graded = np.array([result.graded for result in results], dtype=bool).reshape(size)
    other = graded & ~np.array([result.seen for result in results], dtype=bool).reshape(size)

    def counts(part: Any) -> dict[str, int]:
        return {
            "from_members": int(graded[part].sum()),
            "from_other_views": int(other[part].sum()),
            "from_prior": int((~graded[part]).sum()),
        }

    by_condition = {condition: counts(np.s_[:, row]) for row, condition in enumerate(CONDITIONS)}
    return {"total": int(graded.size), **counts(np.s_[:]), "by_condition": by_condition}


def _study_entry(result: StudyResult) -> dict[str, Any]:
    confidences = [float(point.confidence) for point in result.keypoints]
    own = {one.metadata[REPORTED]: getattr(result, one.name) for one in fields(result) if REPORTED in one.metadata}
    return {key: _plain(round(value, 3) if isinstance(value, float) else value) for key, value in own.items()} | {
        "keypoints": {
            "found": len(result.keypoints),
            "repaired": sum(bool(point.repaired) for point in result.keypoints),
            "lowest_confidence": round(min(confidences), 4) if confidences else None,
        },
        "rows": _row_sources(result),
        "issues": len(result.issues),
    }


def _row_sources(result: StudyResult) -> dict[str, dict[str, Any]]:
    """Where each of the 25 rows came from (own view, other views or prior), how many members spoke, and how strange
    its region is where that can be told."""
    graded, seen = np.asarray(result.graded, dtype=bool).ravel(), np.asarray(result.seen, dtype=bool).ravel()
    spoke = (~np.isnan(result.members).all(axis=-1)).sum(axis=0).ravel()  # all in the order of LABEL_COLUMNS
    sources = np.where(graded, np.where(seen, "own view", "other views"), "prior")
    strange = np.asarray(result.strangeness).ravel()
    return {
        column: {"from": str(source), "members": int(count)}
        | ({"strangeness": round(float(share), 2)} if np.isfinite(share) else {})
        for column, source, count, share in zip(LABEL_COLUMNS, sources, spoke, strange, strict=True)
    }


def issue_entry(issue: Issue, root: Path) -> dict[str, Any]:
    """An issue as data; its detail names no folder of this machine."""
    folder = printable(str(root))  # as it stands in an Issue
    detail = issue.detail.replace(f"{folder}/", "").replace(folder, "the data folder")
    return {"code": issue.code, "study": int(issue.study), "series": _plain(issue.series), "detail": detail}


def _plain(value: Any) -> Any:
    """JSON's own types as they are, anything else (a device, a path, a numpy number) as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
