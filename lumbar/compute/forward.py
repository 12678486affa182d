"""What a device can do wrong in the middle of a run: too little memory (smaller batches go on) or a fault for good."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

#: A network at work: a batch in, one answer a sample out.
Network = Callable[[torch.Tensor], torch.Tensor]
_log = logging.getLogger(__name__)


def in_halves(network: Network, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`network(batch)` on `device`; where its memory does not suffice, half of the samples after the other.

    The network treats samples (first axis) one by one, so that the parts together are the whole, to rounding. Raises
    what the device raises where not even one sample fits.
    """
    try:
        return network(moved(batch, device))
    except RuntimeError as error:
        if len(batch) < 2 or not is_out_of_memory(error):
            raise
    # Outside of the handler, since the exception holds on to what filled the memory.
    _log.warning("%s ran out of memory with %d samples at once; trying %d.", device, len(batch), (len(batch) + 1) // 2)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return torch.cat([in_halves(network, half, device) for half in batch.split((len(batch) + 1) // 2)])


@contextmanager
def exact_convolutions(device: torch.device, amp: torch.dtype | None) -> Iterator[None]:
    """Where float32 is meant (no autocast type), let cuDNN compute in it and not in TF32; set back at the end."""
    if device.type != "cuda" or amp is not None:
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def moved(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The batch on the device; from pinned memory, which an accelerator fetches without waiting for the CPU."""
    if device.type == "cuda" and batch.device.type == "cpu" and torch.cuda.is_available():
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


#: What libraries say where memory is short; cuDNN, without workspace, that it finds no engine.
_SHORT: Final = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",
)
_BROKEN: Final = (
    "CUDA error",
    "cuDNN error",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "NVIDIA driver",
    "unable to find an engine",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory; most libraries say so in words only."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _SHORT)


def is_device_fault(error: BaseException, device: torch.device) -> bool:
    """Whether an accelerator failed in a way that is no study's fault, so that the CPU should go on."""
    if device.type == "cpu":
        return False
    return isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError) or any(w in str(error) for w in _BROKEN)
