"""Five levels read together: of each heatmap's maxima, those that make the most probable spine. No torch.

One map alone may take a level for its neighbour, since discs look alike; the maps together rarely do. Where the first
maxima already make a spine, nothing is changed.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from lumbar.keypoints.answers.heatmaps import local_maxima
from lumbar.keypoints.repair import FAINT, MIN_DROP_MM, STEP_MM

#: Maxima looked at in each map.
CANDIDATES: Final = 5
#: Standard deviation of the logarithm of a step's length over that of the step above. The canal points derived from the
#: SPIDER masks (205 slices of 30 adults) give root mean squares of 0.09, 0.10 and, to L5/S1, 0.25.
STEP_SPREAD: Final = 0.2
#: What a map is taken to say at least, anywhere: below this its own opinion does not count against the others'.
LEAST: Final = 0.02


def choose_chain(maps: np.ndarray, to_mm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    """Whole pixels (K, 2) of K maps (K, S, S), head to foot; None where no chain of their maxima can be a spine.

    `to_mm` takes pixels (M, 2) to the patient (M, 3). The score of a chain is the sum of log heights of the maps at its
    places, less the squared change of the step's length from level to level.
    """
    found = [local_maxima(each, FAINT, CANDIDATES) for each in maps]
    pixels = np.unique(np.concatenate(found), axis=0)  # (M, 2): a place may be any level's
    if len(pixels) < len(maps):
        return None
    places = to_mm(pixels.astype(np.float64))
    said = np.log(np.maximum(maps[:, pixels[:, 1], pixels[:, 0]], LEAST))  # (K, M)
    move = places[None] - places[:, None]  # (M, M, 3) from the first to the second
    length = np.linalg.norm(move, axis=-1)
    possible = (length >= STEP_MM[0]) & (length <= STEP_MM[1]) & (move[..., 2] <= -MIN_DROP_MM)
    step = np.log(np.where(possible, length, 1.0))
    # best[i, j]: the score of the best chain that ends with a step from place i to place j
    best = np.where(possible, said[0][:, None] + said[1][None], -np.inf)
    back = []
    for level in range(2, len(maps)):
        bend = -0.5 * ((step[None] - step[:, :, None]) / STEP_SPREAD) ** 2  # (i, j, k): step i to j, then j to k
        through = best[:, :, None] + bend
        before = through.argmax(axis=0)  # (j, k)
        best = np.where(possible, np.take_along_axis(through, before[None], axis=0)[0] + said[level][None], -np.inf)
        back.append(before)
    if not np.isfinite(best.max()):
        return None
    last = list(np.unravel_index(int(best.argmax()), best.shape))
    for before in reversed(back):
        last.insert(0, before[last[0], last[1]])
    return pixels[np.array(last, dtype=np.int64)]
