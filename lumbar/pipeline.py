"""Study → keypoints → regions → probabilities: the only place where the two stages meet.

One study is read ahead by a thread while the device computes. The per-study boundary in `predict` is the only wide
`except` of the project: a study that fails there is reported, and either stops the run or takes the weighted prior.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from lumbar import submission
from lumbar.bundle import Bundle, BundleBlend
from lumbar.faults import is_device_fault
from lumbar.files import write_csv, write_json, writing_into
from lumbar.grading.grade import grade
from lumbar.grading.regions import Regions, cut_regions, region_key
from lumbar.grading.tasks import OWN_VIEW
from lumbar.issues import InputError, Issue
from lumbar.keypoints.detect import detect
from lumbar.keypoints.keypoint import Keypoint
from lumbar.labels import CONDITIONS, LEVELS, SeriesType, condition_title, level_title
from lumbar.member import DetectorSpec, GraderSpec
from lumbar.progress import follow
from lumbar.report import run_report
from lumbar.study import DataFolder, Study, read_study

OnError = Literal["fail", "prior"]
_log = logging.getLogger(__name__)


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


class Predictor:
    """A bundle's networks on a device, ready for one study after another.

    `amp` is the autocast type (None: float32 throughout). Raises InputError where the bundle lacks a stage.
    """

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu", amp: torch.dtype | None = None) -> None:
        self.bundle = bundle
        self.prior = np.asarray(bundle.manifest.prior, dtype=np.float64)  # (5, 5, 3)
        try:
            self._load(torch.device(device), amp)
        except RuntimeError as error:
            if not is_device_fault(error, torch.device(device)):
                raise
            self._go_on_without(torch.device(device), error)
        if not self.detectors or not self.graders:
            raise InputError(
                f"{bundle.folder}: the bundle lacks {'graders' if self.detectors else 'detectors'}; "
                "prediction needs both stages, make the bundle from a run that finished them"
            )
        self.blend = BundleBlend(bundle, [name for name, _, _ in self.graders])

    def _load(self, device: torch.device, amp: torch.dtype | None) -> None:
        """Every member's network on the device."""
        self.device, self.amp = device, amp
        self.detectors: dict[SeriesType, list[tuple[DetectorSpec, nn.Module]]] = {}
        self.graders: list[tuple[str, GraderSpec, nn.Module]] = []
        bundle = self.bundle
        for member in bundle.manifest.members:
            network = bundle.network(member.name, self.device)
            if isinstance(member.spec, DetectorSpec):
                self.detectors.setdefault(member.spec.series_type, []).append((member.spec, network))
            else:
                self.graders.append((member.name, member.spec, network))

    def __call__(self, study: Study) -> StudyResult:
        """Keypoints, regions and probabilities of one study. Raises InputError where no series can be used.

        Where the accelerator fails, this study and all later ones are computed on the CPU, with a sentence.
        """
        try:
            return self._result(study)
        except RuntimeError as error:
            if not is_device_fault(error, self.device):
                raise
            sentence = self._go_on_without(self.device, error)
        result = self._result(study)
        return replace(result, issues=(*result.issues, Issue("device_failed", study.study_id, None, sentence)))

    def _go_on_without(self, device: torch.device, error: RuntimeError) -> str:
        """Load everything on the CPU, from the files, since a broken device gives nothing back; says so."""
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        sentence = f"{device} failed ({reason}); the CPU goes on, which is slower."
        _log.warning("%s", sentence)
        self._load(torch.device("cpu"), None)
        return sentence

    def _result(self, study: Study) -> StudyResult:
        started = time.perf_counter()
        if not any(study.series.values()):
            reasons = "; ".join(dict.fromkeys(issue.detail for issue in study.issues)) or "it holds no series"
            raise InputError(f"study {study.study_id}: no usable series ({reasons}); check its folder and tables")
        keypoints, found = detect(study, self.detectors, self.device, self.amp)
        issues = [*study.issues, *found]
        by_name = {(keypoint.condition, keypoint.level): keypoint for keypoint in keypoints}
        cut: dict[str, Regions] = {}
        probabilities = []
        for _, spec, network in self.graders:
            key = region_key(spec)
            if key not in cut:
                cut[key] = cut_regions(study, by_name, spec)
                issues.extend(issue for issue in cut[key].issues if issue not in issues)
            probabilities.append(grade(cut[key], spec, network, self.device, self.amp))
        seen = [
            [any(part.present[OWN_VIEW[c]][level] for part in cut.values()) for level in range(5)] for c in CONDITIONS
        ]
        return self._blended(study, np.stack(probabilities), np.array(seen), keypoints, issues, started)

    def _blended(
        self,
        study: Study,
        members: np.ndarray,
        seen: np.ndarray,
        keypoints: Iterable[Keypoint],
        issues: list[Issue],
        started: float,
    ) -> StudyResult:
        blended, graded = self.blend(members)
        return StudyResult(
            study_id=study.study_id,
            probabilities=blended,
            members=members,
            graded=graded,
            seen=seen,
            keypoints=tuple(keypoints),
            issues=(*issues, *_unseen(study.study_id, graded & ~seen), *_ungraded(study.study_id, graded)),
            used={kind: [series.series_id for series in listed] for kind, listed in study.series.items()},
            seconds=time.perf_counter() - started,
        )

    def stand_in(self, study_id: int, reason: str, issues: Iterable[Issue] = ()) -> StudyResult:
        """The weighted prior for a study that could not be graded, with the reason as an Issue."""
        return StudyResult(
            study_id=study_id,
            probabilities=self.prior.copy(),
            members=np.full((len(self.graders), *self.prior.shape), np.nan),
            graded=np.zeros(self.prior.shape[:2], dtype=bool),
            seen=np.zeros(self.prior.shape[:2], dtype=bool),
            issues=(*issues, Issue("study_failed", study_id, None, reason)),
            failed=True,
        )


def predict(
    data: DataFolder,
    bundle: Bundle,
    *,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
    on_error: OnError = "fail",
    progress: bool | None = None,
    study_ids: Iterable[int] | None = None,
) -> Iterator[StudyResult]:
    """Grade every study of a data folder, in the folder's order, one study read ahead.

    `on_error="fail"` raises InputError at the first study that cannot be graded; `"prior"` gives it the weighted prior
    and a `study_failed` Issue. `progress=None` shows a bar on standard error where that is a terminal.
    """
    wanted = list(data.study_ids if study_ids is None else study_ids)
    predictor = Predictor(bundle, device, amp)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as reader:
        ahead = _read_ahead(reader, lambda study_id: read_study(data, study_id), wanted)
        for study_id, future in follow(
            ahead, "grading", len(wanted), show=progress, name=lambda one: f"study {one[0]}"
        ):
            issues: tuple[Issue, ...] = ()
            try:
                study = future.result()
                issues = study.issues
                yield predictor(study)
            except Exception as error:  # the per-study boundary: one bad study must not take the others with it
                sentence = str(error) if isinstance(error, InputError) else _unexpected(study_id, error)
                if on_error == "fail":
                    raise InputError(sentence) from error
                yield predictor.stand_in(study_id, sentence, issues)


def _study_name(one: tuple[int, Future[Study]]) -> str:
    return f"study {one[0]}"


def _unexpected(study_id: int, error: Exception) -> str:
    _log.debug("study %s failed", study_id, exc_info=error)
    remedy = "look at its files, or run with --on-error prior to go on without it"
    return f"study {study_id}: {type(error).__name__}: {error}; {remedy}"


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[int], Study], study_ids: list[int]
) -> Iterator[tuple[int, Future[Study]]]:
    """Each study's future in order, the next one already being read: at most two studies are in memory."""
    coming = pool.submit(read, study_ids[0]) if study_ids else None
    for place, study_id in enumerate(study_ids):
        assert coming is not None
        coming.exception()  # wait, so that only one study is ahead of the device
        current = coming
        coming = pool.submit(read, study_ids[place + 1]) if place + 1 < len(study_ids) else None
        yield study_id, current


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
    InputError says what is wrong with it, or why the folder cannot be written to.
    """
    results = list(results)
    study_ids = [result.study_id for result in results]
    table = submission.to_rows(study_ids, np.stack([result.probabilities for result in results]))
    path = Path(out) / "submission.csv"
    ungraded = [result.study_id for result in results if not result.graded.any()]
    report = run_report(results, data, bundle, options=options)
    with writing_into(out):
        submission.write_submission(table, data.study_ids, path, prior_studies=ungraded)
        write_csv(keypoint_table(results), path.with_name("keypoints.csv"))
        write_json(report, path.with_name("run_report.json"))
    return path
