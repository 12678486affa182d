"""The machine a run trains on: accelerate's processes and precision, and work spread over reading processes."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta

import cv2
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tqdm import tqdm

from lumbar.issues import InputError
from lumbar.training.recipe import Loop


def make_accelerator(loop: Loop) -> Accelerator:
    """Accelerate as it was launched, with the recipe's precision and threads.

    "auto": bf16 where the hardware computes in it, else fp16 on a GPU, else float32.
    """
    if loop.threads:
        torch.set_num_threads(loop.threads)
    precision: str = loop.mixed_precision
    if precision == "auto":
        if torch.cuda.is_available():
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        else:
            precision = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"
    if precision == "fp16" and not torch.cuda.is_available():
        raise InputError("mixed_precision = fp16 needs a GPU; set loop.mixed_precision to auto, bf16 or no")
    waits = InitProcessGroupKwargs(timeout=timedelta(hours=24))  # the first process may read 36 GB before the others go on
    return Accelerator(mixed_precision=precision, kwargs_handlers=[waits])


def each(function: Callable[[int], None], items: Sequence[int], title: str, processes: int) -> None:
    """Call `function` on every item with a progress bar, over `processes` fresh processes where there are many items.

    Raises InputError where a process dies (out of memory) instead of waiting for ever.
    """
    wait = 0.5 if sys.stderr.isatty() else 20.0
    bar = tqdm(total=len(items), desc=title, unit="study", file=sys.stderr, mininterval=wait, disable=not items)
    if processes <= 1 or len(items) < 4 * processes:
        for item in items:
            function(item)
            bar.update()
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_install, initargs=(function,)) as pool:
            try:
                for _ in pool.map(_call, items):
                    bar.update()
            except BrokenProcessPool as error:
                raise InputError(
                    f"{title}: a reading process died, most likely out of memory; set loop.read_processes lower"
                ) from error
    bar.close()


_installed: list[Callable[[int], None]] = []


def _install(function: Callable[[int], None]) -> None:
    """Give a fresh process its work once, not once an item."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _installed[:] = [function]


def _call(item: int) -> None:
    _installed[0](item)
