"""A fitted blend as data: what a method learned, as numbers and as files that other tools can read, no pickle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fit:
    """What `method` learned: `params` as JSON can hold them, `files` by name (.safetensors, .txt or .json)."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def inner_folds(studies: int, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split studies into `count` folds at random: pairs of masks (N,), to fit on and held out."""
    numbers = np.random.default_rng(seed).permutation(studies) % count
    return [(numbers != fold, numbers == fold) for fold in range(count)]
