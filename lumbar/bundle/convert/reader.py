"""Child process that unpickles one checkpoint: `reader.py CHECKPOINT OUT BYTES`.

Only tensors come out: every state dict found in the file is written as OUT/<number>.safetensors, and OUT/entries.json
names the place in the file of each. The process may use BYTES of address space beyond what it needs to start, where the
system can limit that. It runs by its path, apart from the project, so that a hostile file meets as little as possible.
"""

import json
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
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


def limit_memory(extra: int) -> None:
    """Let this process take `extra` bytes more than it has now; without effect where the system has no such limit."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(checkpoint: Path, out: Path, extra: int) -> int:
    """Exit status 0, or 1 with the reason on standard error."""
    limit_memory(extra)
    try:
        found = dict(state_dicts(torch.load(checkpoint, map_location="cpu", weights_only=True)))
        for number, state in enumerate(found.values()):
            plain = {key: value.detach().clone().contiguous() for key, value in state.items()}
            save_file(plain, out / f"{number}.safetensors")
    except pickle.UnpicklingError as error:
        reason = (
            str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "not a pickle of tensors"
        )
        print(f"holds more than tensors, or is no checkpoint ({reason})", file=sys.stderr)  # noqa: T201
        return 1
    except MemoryError:
        print("needs more memory than a checkpoint of its size may", file=sys.stderr)  # noqa: T201
        return 1
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        print(f"cannot be read ({reason})", file=sys.stderr)  # noqa: T201
        return 1
    (out / "entries.json").write_text(json.dumps(list(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
