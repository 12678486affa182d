"""Which device works, and which number type suits it: the one home of both questions."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from lumbar.arguments import DEVICE, DEVICES
from lumbar.issues import InputError

Say = Callable[[str], object]


class Device(NamedTuple):
    """A device on which a kernel ran, and the autocast type that suits it (None: float32 throughout)."""

    device: torch.device
    amp: torch.dtype | None


def choose_device(wanted: str | None = None, *, say: Say = print) -> Device:
    """The GPU if a kernel really runs on it, else the CPU with a sentence why.

    An old card (a P100 under recent builds) says that it is available and fails on the first kernel, so one is tried.
    Autocast type: bfloat16 from compute capability 8 on, float16 below (a T4 only emulates bfloat16), none on the CPU.
    `wanted` (`cuda`, `cuda:1`, `cpu`) overrides the choice, `auto` is None; InputError where that device does not work.
    """
    if wanted is not None and not DEVICE.fullmatch(wanted):
        raise InputError(f"unknown device {wanted[:60]!r}; known: {DEVICES}")
    wanted = None if wanted == "auto" else wanted
    if wanted == "cpu" or (wanted is None and not torch.cuda.is_available()):
        return Device(torch.device("cpu"), None)
    device = torch.device(wanted or "cuda")
    try:
        _try_kernel(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if wanted is not None:
            raise InputError(
                f"device {wanted!r} does not work here ({reason}); choose 'cpu' or leave it out"
            ) from error
        say(f"The GPU does not run this build of torch ({reason}); the CPU is used, which is slower.")
        return Device(torch.device("cpu"), None)
    major, _ = torch.cuda.get_device_capability(device)
    return Device(device, torch.bfloat16 if major >= 8 else torch.float16)


def _try_kernel(device: torch.device) -> None:
    image = torch.ones(1, 1, 8, 8, device=device)
    weight = torch.ones(1, 1, 3, 3, device=device)
    torch.nn.functional.conv2d(image, weight).sum().item()  # .item() waits for the kernel
