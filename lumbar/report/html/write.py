"""`report.html`: a study list that one opens in a browser, in one file that reaches for nothing outside of itself.

A table of studies by worst finding, and a page a study: its 25 distributions, the panel, slices to scroll with
keypoints and regions, the regions as the networks saw them, what in them moved the networks, the issues, the bundle.
The page is made as all of ours are, see `frame`.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from matplotlib.colors import to_hex
from torch import nn

from lumbar.bundle.bundle import Bundle, bundle_identity
from lumbar.drawing import style
from lumbar.files.write import check_replaceable, replacing, writing_into
from lumbar.grading.regions import cut_all_regions, region_key
from lumbar.issues import CODES, NOTICE
from lumbar.labels import LEVELS, level_title
from lumbar.prediction.result import StudyResult
from lumbar.prediction.run_report import issue_entry
from lumbar.prediction.versions import versions_here
from lumbar.recipe.evidence import rests_on
from lumbar.recipe.grader import GraderSpec
from lumbar.report.html import cells
from lumbar.report.html.frame import as_json, framed
from lumbar.report.html.panel import panel
from lumbar.report.html.regions import Seen, region_views
from lumbar.report.html.saliency import METHOD, saliency
from lumbar.report.html.slices import Shown
from lumbar.study.study import DataFolder, Study, read_study, true_severities
from lumbar.terminal.progress import follow

#: In the order in which they are joined.
SCRIPTS: Final = ("dom.js", "list.js", "slices.js", "study.js", "main.js")
REPORT: Final = "report.html"
Grader = tuple[str, GraderSpec, nn.Module]


def write_report(
    results: Iterable[StudyResult],
    data: DataFolder,
    bundle: Bundle,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Path:
    """Write `report.html` into `out`, whole or not at all; returns its path.

    Each study is read again and its regions pass the graders once more, for their gradients, on `device` in float32;
    one study is in memory at a time. `progress=None` shows a bar on standard error where that is a terminal. Raises
    InputError where the folder cannot be written to.
    """
    results = list(results)
    if any(issue.code == "device_failed" for result in results for issue in result.issues):
        device = "cpu"  # what failed once gives nothing back
    graders = _graders(bundle, device)
    path = Path(out) / REPORT
    before, after = _frame(results, bundle)
    opened = partial(open, mode="w", encoding="utf-8", errors="backslashreplace")
    with writing_into(out), replacing(path, _is_report) as temporary:
        with opened(temporary) as stream:
            stream.write(before)
            named = follow(results, "report", len(results), show=progress, name=lambda one: f"study {one.study_id}")
            for result in named:
                view = as_json(study_view(result, data, graders, device))
                stream.write(f'<script type="application/json" id="study-{result.study_id}">{view}</script>\n')
            stream.write(after)
        with temporary.open("r+b") as page:
            page.write(_signature(page, temporary.stat().st_size))
    return path


def check_out(out: Path) -> None:
    """InputError where a `report.html` stands in `out` that is none of ours, or that somebody changed."""
    check_replaceable(Path(out) / REPORT, _is_report)


def _is_report(path: Path) -> bool:
    """Whether a page ends with the signature of what stands above it: ours, and nobody wrote into it."""
    above = path.stat().st_size - len(_signature(io.BytesIO(), 0))
    with path.open("rb") as page:
        return above > 0 and _signature(page, above) == page.read()


def _signature(page: BinaryIO, size: int) -> bytes:
    """The last line of a page: the SHA-256 of its first `size` bytes. `page` stands behind them afterwards."""
    digest = hashlib.sha256()
    while piece := page.read(min(size, 1 << 22)):
        digest.update(piece)
        size -= len(piece)
    return f"<!-- Lumbar report, SHA-256 of all above: {digest.hexdigest()} -->\n".encode()


def study_view(
    result: StudyResult, data: DataFolder, graders: Sequence[Grader], device: torch.device | str
) -> dict[str, Any]:
    """All that the page of a study shows, as data for JSON; a study that failed has no images."""
    names = [name for name, _, _ in graders]
    view: dict[str, Any] = {
        "id": str(result.study_id),
        "failed": bool(result.failed),
        "phantom": result.phantom,
        "rests_on": result.rests_on(),
        "seconds": f"{result.seconds:.1f}",
        "worst": cells.worst(result),
        "cells": cells.table(result, names, true_severities(data, result.study_id)),
        "issues": [_as_text(issue_entry(issue, data.root)) for issue in result.issues],
    }
    if result.failed:
        return view | {"series": [], "points": [], "panel": [], "regions": []}
    study = read_study(data, result.study_id)
    shown = Shown(study)
    points = shown.points(result)
    return view | {
        "series": shown.series,
        "points": points,
        "panel": panel(shown, points),
        "regions": region_views(_seen(study, result, graders, device), shown),
    }


def _as_text(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its series as text: a browser's numbers hold 15 digits, a series id may have 18."""
    return entry | {"series": None if entry["series"] is None else str(entry["series"])}


def _graders(bundle: Bundle, device: torch.device | str) -> list[Grader]:
    return [
        (name, spec, bundle.network(name, device).requires_grad_(False))
        for name, spec in bundle.manifest.graders.items()
    ]


def _seen(study: Study, result: StudyResult, graders: Sequence[Grader], device: torch.device | str) -> list[Seen]:
    """The regions of every kind of input around the keypoints that are shown, with their saliency maps.

    They are those that were graded, but of graders that answer around another set of keypoints alone; whole series,
    which stand among the slices, are none.
    """
    graders = [grader for grader in graders if grader[1].levels != "study"]
    points = {(point.condition, point.level): point for point in result.keypoints}
    kinds: dict[str, list[tuple[GraderSpec, nn.Module]]] = {}
    for _, spec, network in graders:
        kinds.setdefault(region_key(spec), []).append((spec, network))
    regions = cut_all_regions(study, points, [spec for _, spec, _ in graders])
    return [
        Seen(members[0][0], regions[key], saliency(regions[key], members, device)) for key, members in kinds.items()
    ]


def _frame(results: Sequence[StudyResult], bundle: Bundle) -> tuple[str, str]:
    """The page up to the studies' data, and the rest."""
    here, index = "<!-- studies -->", as_json(_index(results, bundle))
    page = framed("report.html", "Lumbar report", SCRIPTS, index=index, studies=here)
    before, _, after = page.partition(here)
    return before, after


def _index(results: Sequence[StudyResult], bundle: Bundle) -> dict[str, Any]:
    """What every page needs: the words, the colours, the studies in short, the bundle."""
    return {
        "notice": NOTICE,
        "levels": [level_title(level) for level in LEVELS],
        "columns": cells.COLUMN_TITLES,
        "severities": cells.SEVERITY_WORDS,
        "scale": [to_hex(style.SEVERITY_MAP(place / 2)) for place in range(3)],
        "pale": to_hex(style.pale(style.SEVERITY_MAP(0.5))),
        "mark_mm": style.MARK_MM,
        "saliency": {"raises": style.RAISES, "lowers": style.LOWERS, "method": METHOD},
        "meanings": CODES,
        "rests_on": rests_on(bundle.manifest.card.evidence),
        "studies": [_summary(result) for result in results],
        "bundle": bundle_identity(bundle) | {"blend": bundle.manifest.blend.method},
        "versions": ", ".join(f"{name} {version}" for name, version in versions_here().items()),
    }


def _summary(result: StudyResult) -> dict[str, Any]:
    counted = result.graded & cells.counted(result)
    likeliest = np.where(counted, np.argmax(result.probabilities, axis=-1), -1)
    confidences = [float(point.confidence) for point in result.keypoints]
    return {
        "id": str(result.study_id),
        "failed": bool(result.failed),
        "phantom": result.phantom,
        "backed": bool(result.backed.all()),
        "strange": bool(result.strange.any()),
        "worst": cells.worst(result),
        "fills": [[cells.fill(result, one, level) for one in cells.ORDER] for level in range(len(LEVELS))],
        "counted": int(counted.sum()),
        "severe": int((likeliest == 2).sum()),
        "moderate": int((likeliest == 1).sum()),
        "confidence": style.confidence(min(confidences)) if confidences else None,
        "prior": int((~np.asarray(result.graded, dtype=bool)).sum()),
        "issues": len(result.issues),
    }
