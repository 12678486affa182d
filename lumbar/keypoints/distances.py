"""How far slices lie from the levels' canal points, as planes that go wherever slices go: to files, through turns, into
networks.

A plane is as large as a slice and holds the distances of one slice. Its rows are shared out among the levels, from both
edges towards the middle, so that it stays itself upside down and mirrored: nobody who turns a stack has to know of it.
No torch.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from lumbar import geometry
from lumbar.keypoints.spans import Span
from lumbar.labels import LEVELS, Level

#: A plane tells decimetres, so that numbers are about as large as grey values.
UNIT_MM: Final = 100.0
#: Units: what lies farther off counts as so far, and every slice lies so far above a level without a canal point.
FAR: Final = 3.0


def rows_of_levels(size: int) -> list[int]:
    """The first row of each level in a plane of so many rows."""
    return np.searchsorted(_level_of_rows(size)[: (size + 1) // 2], np.arange(len(LEVELS))).tolist()


def distance_planes(span: Span, canal_mm: Mapping[Level, np.ndarray]) -> np.ndarray:
    """(T, S, S) float32 for the slices of a span: how far each lies above each level's canal point (3,) in mm.

    Along the slice's own normal, positive towards the head, in `UNIT_MM`; places of the span without a slice stay zero.
    """
    points = np.stack([canal_mm.get(level, np.full(3, np.nan)) for level in LEVELS])
    above = geometry.above_mm(np.stack([item.affine for item in span.slices]), points) / UNIT_MM
    above = np.where(np.isfinite(above), above.clip(-FAR, FAR), FAR)  # (slices, levels)
    there = np.isfinite(span.source)
    planes = np.zeros((len(span.source), span.size, span.size), np.float32)
    shown = [np.interp(span.source[there], np.arange(len(above)), own) for own in above.T]
    planes[there] = np.stack(shown, -1)[:, _level_of_rows(span.size), None]
    return planes


def _level_of_rows(size: int) -> np.ndarray:
    """(S,) number of the level of each row."""
    row = np.arange(size)
    return np.minimum(row, size - 1 - row) * 2 * len(LEVELS) // size
