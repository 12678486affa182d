"""Checkpoints and weights of a run as safetensors: tensors beside a JSON header, one file, written whole. No pickle."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from lumbar.compute.state import check_numbers
from lumbar.compute.tensors import load_tensors
from lumbar.files import write
from lumbar.issues import InputError
from lumbar.training.data.packs import read_header
from lumbar.training.loop.optimizer import counters, with_counters

Tensors = dict[str, Tensor]


class State:
    """All that a job's next step depends on, and the file it is kept in.

    Randomness needs no place here: the loop names it by epoch and step.
    """

    def __init__(
        self, folder: Path, fingerprint: str, network: nn.Module, average: nn.Module | None, optimizer: Any, scaler: Any
    ) -> None:
        self.path = folder / "checkpoint.safetensors"
        self.fingerprint, self.network, self.average = fingerprint, network, average
        self.optimizer, self.scaler = optimizer, scaler

    def save(self, progress: Any, writes: bool) -> None:
        """Write the checkpoint; only the main process `writes`."""
        if not writes:
            return
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in values.items()}
        scaler = self.scaler.state_dict() if self.scaler is not None else {}
        counted = counters(self.optimizer)
        header = {"progress": asdict(progress), "scaler": scaler} | ({"counters": counted} if counted else {})
        _write(self.path, tensors, fingerprint=self.fingerprint, **header)

    def restore(self, progress: Any) -> None:
        """Go back to the checkpoint, in place; nothing happens where there is none of this fingerprint."""
        header = read_header(self.path)
        if header is None or header.get("fingerprint") != self.fingerprint:
            return
        tensors = load_tensors(self.path)
        self.network.load_state_dict(_below(tensors, "network/"))
        if self.average is not None:
            self.average.load_state_dict(_below(tensors, "average/"))
        states: dict[int, Tensors] = {}
        for key, value in _below(tensors, "optimizer/").items():
            index, _, name = key.partition("/")
            states.setdefault(int(index), {})[name] = value
        stored = {**self.optimizer.state_dict(), "state": states}
        self.optimizer.load_state_dict(with_counters(stored, header.get("counters", [])))
        if self.scaler is not None and header["scaler"]:
            self.scaler.load_state_dict(header["scaler"])
        for name, value in header["progress"].items():
            setattr(progress, name, value)

    def remove(self) -> None:
        """Forget the checkpoint: the job is done."""
        self.path.unlink(missing_ok=True)


def write_weights(network: nn.Module, path: Path, fingerprint: str, epoch: int) -> None:
    """Write a network's weights in float32 with the fingerprint of their job."""
    _write(path, network.state_dict(), fingerprint=fingerprint, epoch=epoch)


def read_weights(network: nn.Module, path: Path) -> nn.Module:
    """Fill a network from `write_weights` (strictly) and set it to evaluation.

    Raises InputError where the weights do not fit, or are no numbers to compute with.
    """
    try:
        state = load_tensors(path)
        network.load_state_dict(state)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: these weights do not fit the recipe's network ({error}); train again") from error
    check_numbers(state, network.state_dict(), str(path))
    return network.eval()


def _write(path: Path, tensors: Tensors, **header: Any) -> None:
    import json

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        write.write_bytes(to_bytes(plain, metadata={"lumbar": json.dumps(header)}), path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free space on that disk and run again"
        ) from error


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
