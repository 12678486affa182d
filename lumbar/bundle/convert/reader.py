"""Child process that unpickles checkpoints. A line on standard input, a line on standard output for each:

    [CHECKPOINT, OUT, BYTES, SECONDS]   →   {"places": [...]} or {"reason": "..."}

Only tensors come out: every state dict found in the file is written as OUT/<number>.safetensors, and `places` names the
place in the file of each. A copy of this process reads each file, so that none meets what another left behind; it may
use BYTES of address space beyond what it needs to start, and SECONDS, where the system has such copies and limits. It
runs by its path, apart from the project, so that a hostile file meets as little as possible.
"""

import json
import os
import pickle
import signal
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

_DEEPEST = 3


def state_dicts(value: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every mapping from words to tensors inside a checkpoint, with its place such as `state.model`."""
    if not isinstance(value, Mapping) or depth > _DEEPEST or not value:
        return
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    if len(tensors) == len(value):
        yield place, tensors
        return
    for key, item in value.items():
        if isinstance(key, str):
            yield from state_dicts(item, f"{place}.{key}" if place else key, depth + 1)


def apart(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that can be written one by one: a copy of what is no plain run of numbers, or shares another's."""
    found, begun = {}, set()
    for key, value in state.items():
        own = value.detach()
        start = own.untyped_storage().data_ptr()
        whole = own.is_contiguous() and own.untyped_storage().nbytes() == own.numel() * own.element_size()
        found[key] = own if whole and start not in begun else own.clone(memory_format=torch.contiguous_format)
        begun.add(start)
    return found


def limit_memory(extra: int) -> None:
    """Let this process take `extra` bytes more than it has now; without effect where the system has no such limit."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read(checkpoint: Path, out: Path) -> dict[str, Any]:
    """What is to be answered of a checkpoint."""
    try:
        mapped = zipfile.is_zipfile(checkpoint)  # the form since 2019, whose numbers need not be read to be written
        found = dict(state_dicts(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)))
        for number, state in enumerate(found.values()):
            save_file(apart(state), out / f"{number}.safetensors")
    except pickle.UnpicklingError as error:
        reason = (
            str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "not a pickle of tensors"
        )
        return {"reason": f"holds more than tensors, or is no checkpoint ({reason})"}
    except SafetensorError as error:
        return {"reason": f"cannot be unpacked into {out.parent} ({error})"}
    except MemoryError:
        return {"reason": "needs more memory than a checkpoint of its size may"}
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        return {"reason": f"cannot be read ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"}
    return {"places": list(found)}


def read_by_a_copy(checkpoint: Path, out: Path, extra: int, seconds: int) -> dict[str, Any]:
    """The same by a copy of this process, within its limits."""
    answer, child = out / "answer.json", os.fork()
    if not child:
        limit_memory(extra)
        answer.write_text(json.dumps(read(checkpoint, out)), encoding="utf-8")
        os._exit(0)
    latest = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > latest:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"reason": f"could not be read within {seconds} s"}
        time.sleep(0.005)
    if ended[1]:
        return {"reason": f"reading ended with {os.waitstatus_to_exitcode(ended[1])}"}
    return dict(json.loads(answer.read_text(encoding="utf-8")))


def main() -> None:
    """Answer until there are no more questions."""
    for line in sys.stdin:
        checkpoint, out, extra, seconds = json.loads(line)
        if hasattr(os, "fork"):
            answer = read_by_a_copy(Path(checkpoint), Path(out), extra, seconds)
        else:
            answer = read(Path(checkpoint), Path(out))
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
