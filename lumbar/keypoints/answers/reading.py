"""What a detector's answer comes to, whatever its kind. No torch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Reading:
    """Points of N stacks with K names each, as read from the answer of one kind of detector.

    `points` (N, K, 3) float64: column and row in pixels of the network's image, whose pixel centres are whole numbers,
    and the slice's place in the stack, which may lie between slices; NaN where an answer has no such axis or says
    nothing. `confidence` (N, K) from 0 to 1, whatever the answer. `peak` (N, K) and `spread_px` (N, K) as far as maps
    tell them, else NaN. `size_px` (N, K, 2), width and height, where an answer tells one. `trail` (N, K, D, 3),
    where the point lies on D slices of the stack beside its own, as `points`; NaN on one that does not show it.
    """

    points: np.ndarray
    confidence: np.ndarray
    peak: np.ndarray
    spread_px: np.ndarray
    size_px: np.ndarray | None = None
    trail: np.ndarray | None = None

    @property
    def found(self) -> np.ndarray:
        """(N, K) bool: where the answer says anything."""
        return np.isfinite(self.points).any(axis=-1)
