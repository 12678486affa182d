"""A batch through a network, and what a device can do wrong meanwhile: too little memory (smaller batches go on) or a
fault for good."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

#: A network at work: a batch in, one answer a sample out.
Network = Callable[..., torch.Tensor]
#: What a network is asked about, the samples along every tensor's first axis: a detector's stacks, or what a grader's
#: `forward` takes, its views by name and which of them are there.
Inputs = torch.Tensor | tuple[Mapping[str, torch.Tensor], torch.Tensor]
_log = logging.getLogger(__name__)


def asked(network: Callable[..., Any], inputs: Inputs) -> Any:
    """What a network answers to its inputs."""
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def mapped(change: Callable[[torch.Tensor], torch.Tensor], inputs: Any) -> Any:
    """The same inputs, or answers, of changed tensors."""
    if isinstance(inputs, torch.Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {name: mapped(change, value) for name, value in inputs.items()}
    return tuple(mapped(change, value) for value in inputs)


def tensors(inputs: Any) -> list[torch.Tensor]:
    """Every tensor of some inputs."""
    found: list[torch.Tensor] = []
    mapped(lambda value: found.append(value) or value, inputs)  # type: ignore[func-returns-value]
    return found


def in_halves(network: Callable[..., Any], batch: Inputs, device: torch.device) -> Any:
    """What the network answers to a batch on `device`; where its memory does not suffice, half of the samples after
    the other.

    The network treats samples (first axis) one by one, so that the parts together are the whole, to rounding. Raises
    what the device raises where not even one sample fits.
    """
    count = len(tensors(batch)[0])
    try:
        return asked(network, moved(batch, device))
    except RuntimeError as error:
        if count < 2 or not is_out_of_memory(error):
            raise
    # Outside of the handler, since the exception holds on to what filled the memory.
    half = (count + 1) // 2
    _log.warning("%s ran out of memory with %d samples at once; trying %d.", device, count, half)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    first, second = mapped(lambda value: value[:half], batch), mapped(lambda value: value[half:], batch)
    return _joined([in_halves(network, part, device) for part in (first, second)])


def _joined(answers: list[Any]) -> Any:
    """Answers to the parts of a batch as one."""
    if isinstance(answers[0], Mapping):
        return {name: _joined([answer[name] for answer in answers]) for name in answers[0]}
    return torch.cat(answers)


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


def moved(batch: Any, device: torch.device) -> Any:
    """The batch on the device; from pinned memory, which an accelerator fetches without waiting for the CPU."""
    if not isinstance(batch, torch.Tensor):
        return mapped(lambda value: moved(value, device), batch)
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
