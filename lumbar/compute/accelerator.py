"""The machine a run trains on: accelerate's processes, precision and threads."""

import atexit
import os
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from lumbar.compute.launch import is_alone
from lumbar.issues import InputError
from lumbar.recipe.settings import Loop


def make_accelerator(loop: Loop) -> Accelerator:
    """Accelerate as it was launched, with the recipe's precision and threads.

    "auto": bf16 where the hardware computes in it, else fp16 on a GPU, else float32.
    """
    _note_single_process()
    if loop.threads:
        torch.set_num_threads(loop.threads)
    precision = choose_precision(loop)
    waits = InitProcessGroupKwargs(
        timeout=timedelta(hours=24)
    )  # the first process may read 36 GB before the others go on
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # on CPUs accelerate would let each train all by itself
    cpu = several and not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[waits])
    if accelerator.num_processes > 1:
        atexit.unregister(_part)
        atexit.register(_part)
    return accelerator


def _part() -> None:
    """End the group of processes before Python ends: its threads, still waiting, would abort this process then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def choose_precision(loop: Loop) -> str:
    """The number type to train in, as accelerate names it; InputError for fp16 without a GPU."""
    precision: str = loop.mixed_precision
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")  # `accelerate launch --cpu`
    gpu = torch.cuda.is_available() and not on_cpu
    if precision == "auto" and gpu:
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    elif precision == "auto":
        precision = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"
    if precision == "fp16" and not gpu:
        raise InputError("mixed_precision = fp16 needs a GPU; set loop.mixed_precision to auto, bf16 or no")
    return precision


def _note_single_process() -> None:
    """Say so where accelerate was meant to start several processes on the CPU and started one (see `launch`)."""
    if is_alone():
        sys.stderr.write(
            "accelerate launch --cpu starts a single process without --mpirun_hostfile; for N without MPI use\n"
            "  python -m torch.distributed.run --nproc_per_node N train_utils.py train …\n"
        )
