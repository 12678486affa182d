"""Tensors from safetensors files, wherever they lie."""

import os
from pathlib import Path

from safetensors.torch import load, load_file
from torch import Tensor


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors, still in the file until they are used. SafetensorError or OSError where it is none.

    The library takes no path for PyTorch that is not UTF-8; such a file is read at once.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return load(path.read_bytes())
    return load_file(path)
