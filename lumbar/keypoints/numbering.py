"""Whether the heatmaps of a chain of levels would nearly as soon have it one disc higher or lower. No torch.

A detector of five levels tells them by what it sees, and by counting from nothing: where a vertebra is transitional, or
there are six lumbar ones, its maps may hold each level at two discs, or show a sixth disc next to the five.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from lumbar.keypoints.answers.heatmaps import local_maxima

#: A neighbouring disc lies this far away, in median steps of the chain.
NEXT: Final = (0.5, 1.6)
#: ... and beyond an end within about 37 degrees of the chain's last step (cosine).
AHEAD: Final = 0.8
#: Maxima looked at in each map, and what they hold at least.
MAXIMA: Final = 12
LEAST: Final = 0.02
#: The numbering is doubtful where maps hold, on average over the levels, this share of their peak at a neighbouring
#: disc, or all together this much at a disc beyond the ends. The shipped T2 detector's hold at most 0.36 and 0.54 on 66
#: usual phantoms (30 of them at two sizes), and 0.45 or more at a neighbouring disc on 13 of 15 with a lumbarised S1.
SECOND: Final = 0.4
SIXTH: Final = 0.6


class Rivals(NamedTuple):
    """What speaks against a chain of levels (1 is a detector's certainty)."""

    second: float  # mean share of its own peak that a map holds at a neighbouring disc
    above: float  # what all maps together hold at a disc above the chain
    below: float

    def doubt(self) -> str | None:
        """Why the numbering is doubtful and what to do, if it is."""
        if self.second >= SECOND:
            why = "the heatmaps show most levels at two discs each, as with a transitional vertebra"
        elif max(self.above, self.below) >= SIXTH:
            where = "above L1/L2" if self.above >= self.below else "below L5/S1"
            why = f"the heatmaps show a sixth disc {where}, as with six lumbar vertebrae or a transitional one"
        else:
            return None
        return f"{why}; all levels may be one too high or too low, check the numbering by eye"


def rivals(maps: np.ndarray, pixels: np.ndarray, to_mm: Callable[[np.ndarray], np.ndarray]) -> Rivals:
    """Rivals of a chain at pixels (K, 2), head to foot, of maps (K, S, S); `to_mm` as of `repair.choose_chain`."""
    places = to_mm(pixels.astype(np.float64))
    step = float(np.median(np.linalg.norm(np.diff(places, axis=0), axis=1)))
    columns, rows = pixels.astype(np.int64).T
    own = np.maximum(maps[np.arange(len(maps)), rows, columns], LEAST)
    second = [_highest(each, place, step, to_mm) for each, place in zip(maps, places, strict=True)]
    every = np.maximum(maps, 0).sum(axis=0)
    above, below = (
        _highest(every, places[end], step, to_mm, places[end] - places[inner]) for end, inner in ((0, 1), (-1, -2))
    )
    return Rivals(float(np.mean(second / own)), above, below)


def _highest(
    image: np.ndarray,
    place: np.ndarray,
    step: float,
    to_mm: Callable[[np.ndarray], np.ndarray],
    way: np.ndarray | None = None,
) -> float:
    """Highest maximum of an image (S, S) about a step from a place (3,) mm, with `way` (3,) ahead; 0 without any."""
    pixels = local_maxima(image, LEAST, MAXIMA)
    move = to_mm(pixels.astype(np.float64)) - place
    length = np.linalg.norm(move, axis=1)
    near = (length >= NEXT[0] * step) & (length <= NEXT[1] * step)
    if way is not None:
        near &= move @ way >= AHEAD * length * np.linalg.norm(way)
    found = image[pixels[near, 1], pixels[near, 0]]
    return float(found.max(initial=0.0))
