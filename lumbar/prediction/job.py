"""Prediction of a whole folder: shared out over shards and processes, kept study by study, brought together at the end.

Each process takes its share of the studies (of n every n-th one, as of n shards) and keeps every finished one in the
folder of results; where all is there, it is brought together from the files, so that it makes no difference who
computed what.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from lumbar.bundle.bundle import Bundle
from lumbar.compute import device as devices
from lumbar.compute.engine import choose_engine
from lumbar.compute.process_pool import no_cv2_threads, share
from lumbar.issues import InputError
from lumbar.prediction import schedule
from lumbar.prediction.budget import Budget
from lumbar.prediction.case import OnError
from lumbar.prediction.finished import computing
from lumbar.prediction.outputs import check_out
from lumbar.prediction.result import StudyResult
from lumbar.prediction.store import Store
from lumbar.study.study import DataFolder

Say = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """What a caller chooses: see the flags of `train_utils.py predict`."""

    device: str = "auto"
    engine: str = "auto"
    on_error: OnError = "fail"
    hours: float | None = None
    shard: tuple[int, int] = (1, 1)  # part, of how many
    progress: bool | None = None
    launch: bool = True  # a process for each of several GPUs, started from here

    def report(self) -> dict[str, Any]:
        """What of it belongs into the run report."""
        return {key: getattr(self, key) for key in ("device", "engine", "on_error", "hours")}


def predict_all(
    data: DataFolder, bundle: Bundle, out: Path, say: Say = print, **chosen: Any
) -> list[StudyResult] | None:
    """Grade every study: the one way in, for the notebook and the command line. `chosen`: fields of `Options`.

    With `launch`, accelerate's launcher starts a process for each of several GPUs; where this process has used a GPU
    before, that cannot be, and it works alone. Where one of them fails, this process does what is left, or meets the
    reason itself and says it. Finished studies are kept in `out` until the results are written, so that an interrupted
    run goes on. None where another process brings the results together, or other shards lack.

    InputError where a study cannot be graded and `on_error` is "fail", where something in `out` is not ours to
    replace, where it lies among the images, or where another run is computing there.
    """
    started, options = time.monotonic(), Options(**chosen)  # one clock for all that follows, whoever works
    job = Job(data, bundle, Path(out), options, started)
    check_out(job.out, data)
    with computing(job.out, job.store.run):  # so that nobody takes finished studies away meanwhile
        gpus = job.gpus(say) if options.launch else 1
        if gpus > 1 and _launch(gpus, job, say):
            return job.gathered({})
        if gpus > 1:
            say(f"one of {gpus} processes failed; this one goes on alone, finished studies are kept")
        processes = Processes()
        found = job.work(processes, say)
        processes.wait()
        if options.shard != (1, 1) or not processes.first:
            return None
        return job.gathered(found)


def _launch(gpus: int, job: "Job", say: Say) -> bool:
    """A process for each GPU, until all are done; whether that went well. What happened is on standard error."""
    from accelerate import notebook_launcher

    say(f"{gpus} GPUs, each grades every {gpus}th study")
    try:
        with no_cv2_threads():
            notebook_launcher(_launched, (job,), num_processes=gpus)
    except (RuntimeError, ChildFailedError):
        return False
    except ValueError as error:  # somebody trained in this kernel before
        say(f"several processes cannot be started here ({error})")
        return False
    return True


@dataclass(frozen=True)
class Job:
    """What a run of prediction is about."""

    data: DataFolder
    bundle: Bundle
    out: Path
    options: Options
    started: float  # when the time budget began, a reading of `time.monotonic`

    @property
    def store(self) -> Store:
        """Where finished studies are kept."""
        identity = {"bundle": self.bundle.identity, "engine": self.options.engine, "split": self.data.split}
        return Store(self.out, self.data, identity)

    def gpus(self, say: Say) -> int:
        """How many GPUs can be given a process each."""
        gpus = torch.cuda.device_count()  # asks the driver, and leaves the GPUs alone
        if gpus < 2 or self.options.device != "auto":
            return 1
        if torch.cuda.is_initialized():
            say(
                f"one of {gpus} GPUs computes, since this kernel has used it before; restart the kernel for all of them"
            )
            return 1
        return gpus

    def work(self, processes: "Processes", say: Say = print) -> dict[int, StudyResult]:
        """Grade this process's share of the shard, and keep it; what was kept before is not computed again."""
        options, store = self.options, self.store
        mine = share(share(self.data.study_ids, *options.shard), processes.rank + 1, processes.count)
        kept = {study_id: store.load(study_id) for study_id in mine}
        found = {study_id: result for study_id, result in kept.items() if result is not None}
        todo = [study_id for study_id in mine if study_id not in found]
        if found:
            say(f"{len(found)} of {len(mine)} studies were finished before")
        if not todo:
            return found
        device, amp = processes.device(options.device, say)
        if device.index is not None:
            torch.cuda.set_device(device)  # pinned memory belongs to the current one, which is the first GPU otherwise
        if options.progress:
            say(f"{len(todo)} studies on {device}, {choose_engine(options.engine, device, amp)}")
        results = schedule.predict(
            self.data,
            self.bundle,
            device=device,
            amp=amp,
            engine=options.engine,
            on_error=options.on_error,
            progress=options.progress if processes.first else False,  # two bars would write over each other
            study_ids=todo,
            budget=None if options.hours is None else Budget(3600 * options.hours, self.started),
        )
        for result in results:
            store.save(result)
            found[result.study_id] = result
        return found

    def gathered(self, found: Mapping[int, StudyResult]) -> list[StudyResult]:
        """The results of all studies: those `found` by this process, the others as they were kept.

        InputError where one is missing.
        """
        store = self.store
        known = {study_id: found.get(study_id) or store.load(study_id, failed=True) for study_id in self.data.study_ids}
        missing = [study_id for study_id, result in known.items() if result is None]
        if missing:
            raise InputError(
                f"{self.out}: {len(missing)} studies are not finished, {missing[0]} for instance; run the shards that "
                "lack, or the same command without --shard, which computes them"
            )
        return [result for result in known.values() if result is not None]


class Processes:
    """The processes that share a job, as accelerate started them; one, where nothing did."""

    def __init__(self) -> None:
        self.rank = self.local = 0
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._state: Any = None
        if self.count > 1:
            from accelerate import PartialState

            # All they do together is wait for each other, hours perhaps: on the CPU, since a GPU may have failed.
            self._state = PartialState(cpu=True, timeout=timedelta(hours=24))
            self.count = self._state.num_processes
            self.rank, self.local = self._state.process_index, self._state.local_process_index

    @property
    def first(self) -> bool:
        """Whether this process brings the results together."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def device(self, wanted: str, say: Say) -> devices.Device:
        """This process's device: of several processes each has a GPU of its own, where there are GPUs."""
        if wanted == "auto" and self.count > 1 and torch.cuda.is_available():
            try:
                return devices.choose_device(f"cuda:{self.local}", say=say)
            except InputError as error:
                say(f"{error}; this process goes on with the CPU, which is slower")
                return devices.Device(torch.device("cpu"), None)
        if wanted == "cuda" and self.count > 1:
            wanted = f"cuda:{self.local}"
        return devices.choose_device(None if wanted == "auto" else wanted, say=say)


def _launched(job: Job) -> None:
    """What each process of the launcher does."""
    processes = Processes()
    job.work(processes)
    processes.wait()
