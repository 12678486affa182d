"""What weights must be before a network takes them: its own keys and shapes, and numbers to compute with."""

import math
from collections.abc import Mapping
from typing import Final

import torch

from lumbar.issues import InputError, few

#: Number types in which weights are taken; a network computes with them in float32.
FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
#: The largest weight: the product of two larger ones overflows in float32.
LARGEST: Final = 1e18


def check_shapes(found: Mapping[str, tuple[int, ...]], own: Mapping[str, torch.Tensor], source: str) -> None:
    """Compare stored shapes with a network's state dict; InputError names the first missing, unexpected, misshapen."""
    missing = [key for key in own if key not in found]
    unexpected = [key for key in found if key not in own]
    other = [key for key in own if key in found and tuple(found[key]) != tuple(own[key].shape)]
    faults = [
        f"{len(keys)} {what} ({keys[0]})" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys
    ]
    if other:
        key = other[0]
        faults.append(f"{len(other)} of another shape ({key} is {tuple(found[key])}, not {tuple(own[key].shape)})")
    if faults:
        raise InputError(
            f"{source}: the weights do not fit the network: {', '.join(faults)}; use the file that was made for it"
        )


def check_state(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str) -> None:
    """Check a state dict against a network's `own`, key by key: shapes, kinds of number, and the numbers themselves.

    Raises InputError with the first keys, see `check_shapes` and `check_numbers`.
    """
    check_shapes({key: tuple(value.shape) for key, value in state.items()}, own, source)
    check_numbers(state, own, source)


def check_numbers(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str) -> None:
    """Weights are finite numbers of one of `FLOATS`, none beyond `LARGEST`; no variance is negative, not all is zero.

    Where the network's `own` state counts in integers, as batch norms do, any finite number will do, since it plays no
    part in an answer. Keys and shapes are those of `own`. Raises InputError with the first keys of each fault.
    """
    faults: dict[str, list[str]] = {}
    for key, value in state.items():
        if fault := _fault(key, value, own[key]):
            faults.setdefault(fault, []).append(key)
    if faults:
        told = "; ".join(f"{fault}: {few(keys)}" for fault, keys in list(faults.items())[:3])
        raise InputError(
            f"{source}: no weights that a network can compute with ({told}); get the file again or train again"
        )
    matrices = [value for value in state.values() if value.is_floating_point() and value.ndim > 1]
    if matrices and not any(value.any() for value in matrices):
        raise InputError(
            f"{source}: every weight is zero, so that nothing was learned; get the file again or train again"
        )


def _fault(key: str, value: torch.Tensor, own: torch.Tensor) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    counts = not own.is_floating_point() and value.dtype in _INTEGERS
    if value.dtype not in FLOATS and not counts:
        return f"stored as {str(value.dtype).removeprefix('torch.')}"
    if not value.numel():
        return ""
    low, high = (float(end) for end in value.aminmax())  # NaN where one number is; many times as fast as isfinite
    if not (math.isfinite(low) and math.isfinite(high)):
        return "not finite"
    if max(-low, high) > LARGEST:
        return f"beyond {LARGEST:g}"
    return "a negative variance" if key.endswith("running_var") and low < 0 else ""
