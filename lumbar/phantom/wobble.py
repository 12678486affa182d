"""Organic irregularity: a smooth displacement that keeps outlines from looking drawn with a compass."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Wobble:
    """Sum of plane waves, mm. `vectors` (n, 3) rad/mm, `phases` (n,), `amplitudes` (n, 3)."""

    vectors: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Displacement (N, 3) at patient points (N, 3)."""
        waves = np.sin(points @ self.vectors.T + self.phases)
        return (waves @ self.amplitudes).astype(np.float32)


def draw_wobble(rng: np.random.Generator, size_mm: float, shortest_mm: float, longest_mm: float) -> Wobble:
    """Waves of random direction and length; each axis moves by `size_mm` (standard deviation)."""
    count = 9
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = rng.uniform(shortest_mm, longest_mm, (count, 1))
    amplitudes = rng.standard_normal((count, 3))
    amplitudes *= size_mm * np.sqrt(2) / np.linalg.norm(amplitudes, axis=0)
    return Wobble(2 * np.pi * direction / length, rng.uniform(0, 2 * np.pi, count), amplitudes)


def spread(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A displacement on a coarse grid (h, w, 3) brought to a picture's pixels, (rows × columns, 3)."""
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR).reshape(-1, 3)
