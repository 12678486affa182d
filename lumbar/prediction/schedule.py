"""A data folder → its results, study by study: who reads and who computes what, when.

Studies are read ahead while the device computes. Where members share networks, several studies go through stage 2
together, so that weights are swapped once for all; each study's samples stay a batch of their own, since its numbers
must not depend on its company. Many studies on a CPU are shared out over processes of one core each.
"""

import logging
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch

from lumbar.bundle.bundle import Bundle
from lumbar.compute import process_pool, thread_pool
from lumbar.prediction.budget import Budget
from lumbar.prediction.case import Case, OnError, attempt
from lumbar.prediction.predictor import Predictor
from lumbar.prediction.reading import ReadAhead
from lumbar.prediction.result import StudyResult
from lumbar.study import study as studies
from lumbar.study.study import DataFolder, Study
from lumbar.terminal.progress import bar

_log = logging.getLogger(__name__)

Group = list[tuple[int, Future[Study]]]
#: Threads that read for an accelerator; a CPU has something better to do.
READERS: Final = 3
#: Studies a core from which on processes pay for their beginning.
MANY: Final = 3
_LATE: Final = "the time budget was spent before its turn; run again with more hours or fewer members"


def predict(
    data: DataFolder,
    bundle: Bundle,
    *,
    device: torch.device | str = "cpu",
    amp: torch.dtype | None = None,
    engine: str = "auto",
    on_error: OnError = "fail",
    progress: bool | None = None,
    study_ids: Iterable[int] | None = None,
    budget: Budget | None = None,
) -> Iterator[StudyResult]:
    """Grade every study of a data folder, in the folder's order, the next ones read ahead.

    `on_error="fail"` raises InputError at the first study that cannot be graded; `"prior"` gives it the weighted prior
    and a `study_failed` Issue. With a `budget`, members are dropped that would make the run late; a study whose turn
    comes too late all the same takes the prior. `progress=None` shows a bar on standard error where that is a terminal.
    """
    wanted = list(data.study_ids if study_ids is None else study_ids)
    predictor = Predictor(bundle, device, amp, engine, len(wanted))
    yield from grade_all(predictor, data, wanted, on_error, progress, budget)


def grade_all(
    predictor: Predictor,
    data: DataFolder,
    wanted: list[int],
    on_error: OnError = "fail",
    progress: bool | None = None,
    budget: Budget | None = None,
    most_lanes: int | None = None,
) -> Iterator[StudyResult]:
    """`predict` with networks that are loaded already; `most_lanes`: studies that may be computed side by side."""
    # A study's numbers depend, in the last bits, on how many cores compute it: what decides is the whole folder.
    work = Work(predictor, data, on_error, budget, most_lanes or len(data.study_ids))
    apart = process_pool.POSSIBLE and predictor.alone and len(wanted) >= MANY * work.lanes > MANY
    results = work.by_processes(wanted) if apart else work.here(wanted)
    with bar("grading", len(wanted), show=progress) as shown, closing(results):
        for study_id in wanted:
            shown.set_postfix_str(f"study {study_id}")
            yield next(results)
            shown.update()


@dataclass(frozen=True)
class Work:
    """What is asked of whoever grades some studies."""

    predictor: Predictor
    data: DataFolder
    on_error: OnError
    budget: Budget | None
    most_lanes: int

    @property
    def lanes(self) -> int:
        """Studies that are computed side by side."""
        return min(self.predictor.lanes, self.most_lanes)

    def by_processes(self, wanted: list[int]) -> Generator[StudyResult, None, None]:
        """The studies' results, by a process for each lane.

        Where a process is lost and every study must have a result, this process computes the rest.
        """
        done = 0
        share = replace(self, most_lanes=1)
        try:
            with closing(process_pool.answers(share.here, wanted, self.lanes)) as results:
                for result in results:
                    yield result
                    done += 1
        except process_pool.LostProcessError as error:
            if self.on_error == "fail":
                raise
            _log.warning("%s: here, one process goes on alone.", str(error).partition(";")[0])
            yield from self.here(wanted[done:])

    def here(self, wanted: list[int]) -> Generator[StudyResult, None, None]:
        """The studies' results, computed by this process; begun anew with what is left where the device is given up."""
        done = 0
        while done < len(wanted):
            for result in self._on_one_device(wanted[done:]):
                yield result
                done += 1

    def _on_one_device(self, wanted: list[int]) -> Generator[StudyResult, None, None]:
        """Results, the next studies read ahead, until the device changes: how many go together depends on it."""
        device, budget = self.predictor.device, self.budget
        size, left = self.predictor.together, len(wanted)
        ahead = max(size, self.lanes)
        ahead, workers = (ahead, 1) if device.type == "cpu" else (ahead + READERS, READERS)
        # Where weights are swapped the lanes go through a group together; else each takes a study from start to end.
        with (
            ReadAhead(lambda study_id: studies.read_study(self.data, study_id), wanted, ahead, workers) as reading,
            thread_pool.Lanes(1 if size > 1 else self.lanes) as apart,
            thread_pool.Lanes(self.lanes if size > 1 else 1) as within,
        ):
            since = 0
            for results in apart.answers(partial(self._graded, within), reading.groups(size)):
                yield from results
                since, left = since + len(results), left - len(results)
                if self.predictor.device != device:
                    if budget is not None:
                        budget.restart()
                    return
                if budget is not None and since >= ahead:
                    self.predictor.keep_time(budget, since, left, self.lanes)
                    since = 0

    def _graded(self, lanes: thread_pool.Lanes, group: Group) -> list[StudyResult]:
        """The results of some studies that were read."""
        predictor, budget = self.predictor, self.budget
        if budget is not None and budget.is_over(max(len(group), self.lanes)):
            return [predictor.stand_in(study_id, _LATE, code="out_of_time") for study_id, _ in group]
        cases = _received(group, self.on_error)
        for step in predictor.steps():
            lanes.each(partial(attempt, partial(predictor.take, step), self.on_error), cases)
        return [predictor.result(case) for case in cases]


def _received(group: Group, on_error: OnError) -> list[Case]:
    """The studies of a group as they were read; the group lets go of them."""
    cases = [Case(study_id) for study_id, _ in group]
    for case, (_, future) in zip(cases, group, strict=True):
        attempt(partial(_receive, future=future), on_error, case)
    group.clear()
    return cases


def _receive(case: Case, future: Future[Study]) -> None:
    case.study = future.result()
    case.issues = list(case.study.issues)
