"""Lumbar as a library: grade a folder, look at what came of it, save it. See docs/api.md."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.compute.device import choose_device
from lumbar.issues import CODES, InputError
from lumbar.prediction import job, outputs, schedule
from lumbar.prediction.budget import Budget
from lumbar.prediction.case import OnError
from lumbar.prediction.result import StudyResult
from lumbar.prediction.run_report import all_issues, describe_evidence, describe_rows, issue_entry
from lumbar.study.folder import open_folder
from lumbar.study.study import DataFolder

if TYPE_CHECKING:  # matplotlib takes long to load, and a submission needs no picture
    from matplotlib.figure import Figure

Say = Callable[[str], object]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """How a folder was graded, as it stands in the run report."""

    device: str = "auto"
    engine: str = "auto"
    on_error: OnError = "fail"
    hours: float | None = None


class Results(Sequence[StudyResult]):
    """The studies of a folder, graded, in the folder's order: a sequence of `StudyResult`, and tables of all of them.

    `data` and `bundle` are what was graded and by what.
    """

    def __init__(
        self, studies: Sequence[StudyResult], data: DataFolder, bundle: Bundle, chosen: Chosen | None = None
    ) -> None:
        self._studies, self.data, self.bundle, self.chosen = tuple(studies), data, bundle, chosen or Chosen()

    def __len__(self) -> int:
        return len(self._studies)

    def __iter__(self) -> Iterator[StudyResult]:
        return iter(self._studies)

    @overload
    def __getitem__(self, place: int) -> StudyResult: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[StudyResult]: ...

    def __getitem__(self, place: int | slice) -> StudyResult | Sequence[StudyResult]:
        return self._studies[place]

    def __repr__(self) -> str:
        return f"Results of {len(self)} studies. {describe_rows(self)} {self.evidence}"

    def study(self, study_id: int) -> StudyResult:
        """The result of one study by its id. Raises InputError where there is none."""
        for result in self:
            if result.study_id == study_id:
                return result
        raise InputError(f"study {study_id} was not graded; take an id of data.study_ids")

    @property
    def evidence(self) -> str:
        """What the severities rest on, in one sentence: to be said wherever one is shown."""
        return describe_evidence(self, self.bundle)

    @cached_property
    def submission(self) -> pd.DataFrame:
        """`row_id`, `normal_mild`, `moderate`, `severe`: 25 rows a study, each summing to 1, as `submission.csv`."""
        return outputs.submission_table(self)

    @cached_property
    def keypoints(self) -> pd.DataFrame:
        """The columns of `train_label_coordinates.csv` and a confidence of 0 to 1; x, y in pixels of the slice."""
        return outputs.keypoint_table(self)

    @cached_property
    def issues(self) -> pd.DataFrame:
        """What was missing, repaired or replaced: `study`, `series` (empty: the whole study), `code`, `detail`,
        `meaning`; names no folder of this machine."""
        entries = [issue_entry(issue, self.data.root) for issue in all_issues(self, self.data)]
        rows = [{**entry, "meaning": CODES[entry["code"]]} for entry in entries]
        table = pd.DataFrame(rows, columns=["study", "series", "code", "detail", "meaning"])
        return table.astype({"series": "Int64"})

    def show(self, study_id: int) -> "Figure":
        """One study as a figure: where each condition was looked for, its probabilities, and what they rest on."""
        from lumbar.report.pictures import show_study

        return show_study(self.study(study_id), self.data)

    def save(
        self, out: Path | str, *, html: bool = False, dicom_sr: bool = False, say: Say | None = None
    ) -> list[Path]:
        """Write `submission.csv`, `keypoints.csv` and `run_report.json` into `out`, whole or none.

        `html`: `report.html` besides, for which every study is read again. `dicom_sr`: a DICOM Structured Report a
        study, which needs the package highdicom. Returns what a person may want to open; `say` is told which study has
        no report, and why. Raises InputError where a folder cannot be written to, or holds what no earlier run left.
        """
        out, say = Path(out), say or _log.warning
        written = [outputs.write_outputs(self, self.data, self.bundle, out, asdict(self.chosen))]
        if html:
            from lumbar.report.html import write as page

            device = choose_device(self.chosen.device, say=say).device
            written.append(page.write_report(self, self.data, self.bundle, out, device=device))
        if dicom_sr:
            from lumbar.report.dicom_sr import write as reports

            paths, left_out = reports.write_reports(self, self.data, self.bundle, out)
            written += paths
            for sentence in left_out:
                say(sentence)
        return written


def grade(
    data: DataFolder | Path | str,
    weights: Bundle | Path | str,
    *,
    device: str = "auto",
    engine: str = "auto",
    on_error: OnError = "fail",
    hours: float | None = None,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Results:
    """Grade every study of a folder: the competition's layout, or any folder or zip of DICOM files.

    `weights`: a bundle, or its folder. `device`: auto, cpu, cuda or cuda:N. `engine`: see `lumbar.compute.engine`.
    `on_error="prior"` gives a study that cannot be read the weighted prior and an Issue, where "fail" raises. `hours`:
    a time budget, before whose end members are dropped. `out`: a folder in which finished studies are kept until
    `Results.save` is called with it, so that an interrupted call goes on; with it, several GPUs share the studies.
    `progress`: True shows bars and what is computed where, None a bar in a terminal, False nothing.

    Raises InputError, one clear sentence, for whatever is wrong with the folders or, unless told otherwise, a study.
    """
    started = time.monotonic()
    bundle = weights if isinstance(weights, Bundle) else load_bundle(weights)
    folder = data if isinstance(data, DataFolder) else open_folder(Path(data), progress=progress)
    chosen = Chosen(device, engine, on_error, hours)
    say: Say = print if progress else _log.info
    if out is not None:
        found = job.predict_all(folder, bundle, Path(out), say, progress=progress, **asdict(chosen))
        if found is None:
            raise InputError(f"{out}: another process brings these results together; take them from the first one")
        return Results(found, folder, bundle, chosen)
    where = choose_device(None if device == "auto" else device, say=print if progress else _log.warning)
    options: dict[str, Any] = {"engine": engine, "on_error": on_error, "progress": progress}
    budget = None if hours is None else Budget(3600 * hours, started)
    found = list(schedule.predict(folder, bundle, device=where.device, amp=where.amp, budget=budget, **options))
    return Results(found, folder, bundle, chosen)
