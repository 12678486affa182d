"""Prediction of a whole folder: shared out over shards and processes, kept study by study, brought together at the end.

Each process takes its share of the studies and keeps every finished one in the folder of results; where all is there,
it is brought together from the files, so that it makes no difference who computed what.
"""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from lumbar.bundle.bundle import Bundle
from lumbar.compute import device as devices
from lumbar.compute.crew import no_cv2_threads, share
from lumbar.compute.engine import choose_engine
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

    def report(self) -> dict[str, Any]:
        """What of it belongs into the run report."""
        return {key: getattr(self, key) for key in ("device", "engine", "on_error", "hours")}


def predict_all(data: DataFolder, bundle: Bundle, out: Path, say: Say = print, **chosen: Any) -> list[StudyResult]:
    """Grade every study on all that this machine has; for a notebook. `chosen`: fields of `Options`.

    Where there are several GPUs, accelerate's launcher starts a process for each; where this process has used a GPU
    before, that cannot be, and it works alone. Where one of them fails, this process does what is left, or meets the
    reason itself and says it. Finished studies are kept in `out` until the results are written, so that an interrupted
    cell goes on.
    """
    started, options = time.monotonic(), Options(**chosen)  # one clock for all that follows, whoever works
    with holding(data, bundle, out, options):
        return _predict_all(data, bundle, out, options, started, say)


def holding(data: DataFolder, bundle: Bundle, out: Path, options: Options) -> AbstractContextManager[None]:
    """Hold the folder of results from work to `gather`, so that nobody takes finished studies away meanwhile.

    InputError where something in it is not ours to replace, where it lies among the images, or where another run is
    computing there.
    """
    check_out(out, data)
    return computing(out, _store(data, bundle, out, options).run)


def _predict_all(
    data: DataFolder, bundle: Bundle, out: Path, options: Options, started: float, say: Say
) -> list[StudyResult]:
    gpus = torch.cuda.device_count()  # asks the driver, and leaves the GPUs alone
    if gpus > 1 and options.device == "auto" and torch.cuda.is_initialized():
        say(f"one of {gpus} GPUs computes, since this kernel has used it before; restart the kernel for all of them")
        gpus = 1
    if gpus < 2 or options.device != "auto":
        work(data, bundle, out, options, say=say, started=started)
    elif not _launch(gpus, (data, bundle, out, options, started), say):
        say(f"one of {gpus} processes failed; this one goes on alone, finished studies are kept")
        work(data, bundle, out, options, say=say, started=started)
    return gather(data, bundle, out, options)


def _launch(gpus: int, arguments: tuple[Any, ...], say: Say) -> bool:
    """A process for each GPU, until all are done; whether that went well. What happened is on standard error."""
    from accelerate import notebook_launcher

    say(f"{gpus} GPUs, each grades every {gpus}th study")
    try:
        with no_cv2_threads():
            notebook_launcher(_launched, arguments, num_processes=gpus)
    except (RuntimeError, ChildFailedError):
        return False
    except ValueError as error:  # somebody trained in this kernel before
        say(f"several processes cannot be started here ({error})")
        return False
    return True


def work(
    data: DataFolder,
    bundle: Bundle,
    out: Path,
    options: Options,
    processes: "Processes | None" = None,
    say: Say = print,
    started: float | None = None,
) -> None:
    """Grade this process's share of the shard; what is already kept in `out` is not computed again.

    `started`: when the time budget began, a reading of `time.monotonic` (now). InputError where a study cannot be
    graded and `on_error` is "fail", or a device or disk does not work.
    """
    started = time.monotonic() if started is None else started
    processes = processes or Processes()
    store = _store(data, bundle, out, options)
    mine = share(share(data.study_ids, *options.shard), processes.rank + 1, processes.count)
    todo = [study_id for study_id in mine if store.load(study_id) is None]
    if len(todo) < len(mine):
        say(f"{len(mine) - len(todo)} of {len(mine)} studies were finished before")
    if not todo:
        return
    device, amp = processes.device(options.device, say)
    if device.index is not None:
        torch.cuda.set_device(device)  # pinned memory belongs to the current one, which is the first GPU otherwise
    if options.progress:
        say(f"{len(todo)} studies on {device}, {choose_engine(options.engine, device, amp)}")
    budget = None if options.hours is None else Budget(3600 * options.hours, started)
    results = schedule.predict(
        data,
        bundle,
        device=device,
        amp=amp,
        engine=options.engine,
        on_error=options.on_error,
        progress=options.progress if processes.first else False,  # two bars would write over each other
        study_ids=todo,
        budget=budget,
    )
    for result in results:
        store.save(result)


def gather(data: DataFolder, bundle: Bundle, out: Path, options: Options) -> list[StudyResult]:
    """The results of all studies, whoever computed them. InputError where one is missing."""
    store = _store(data, bundle, out, options)
    found = {study_id: store.load(study_id, failed=True) for study_id in data.study_ids}
    results = [result for result in found.values() if result is not None]
    if len(results) < len(found):
        missing = [study_id for study_id, result in found.items() if result is None]
        raise InputError(
            f"{out}: {len(missing)} studies are not finished, {missing[0]} for instance; run the shards that lack, or "
            "the same command without --shard, which computes them"
        )
    return results


def _store(data: DataFolder, bundle: Bundle, out: Path, options: Options) -> Store:
    identity = {"bundle": bundle.identity, "engine": options.engine, "split": data.split}
    return Store(out, data, identity)


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


def _launched(data: DataFolder, bundle: Bundle, out: Path, options: Options, started: float) -> None:
    """What each process of the launcher does."""
    processes = Processes()
    work(data, bundle, out, options, processes, started=started)
    processes.wait()
