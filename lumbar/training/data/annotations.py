"""Which slices carry an annotation, followed through all that changes a sample. No torch."""

from collections.abc import Sequence

import numpy as np

from lumbar.grading.mirror import mirror_view
from lumbar.labels import CONDITIONS, Condition, side_of
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View, side_of_view


def frames(
    spec: GraderSpec, view: View, slices: int, window: slice, order: np.ndarray | None, mirrored: bool, backwards: bool
) -> np.ndarray:
    """(T,) which slice of a cached region, of `slices`, each slice of a sample's view is.

    `window`: the frames that were chosen, every slice with its neighbours where the region has some; `order`: how they
    were drawn; `mirrored`, `backwards`: what was turned before and after.
    """
    channels = spec.region_of(view).channels
    places = np.arange(slices * channels)[:, None, None]
    places = (mirror_view(places, view, spec) if mirrored else places)[window, 0, 0]
    places = places[::-1] if backwards else places
    places = places if order is None else places[order]
    return places[channels // 2 :: channels] // channels


def of_view(told: np.ndarray, view: View, conditions: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
    """(T, C) which slices carry an annotation of each condition, (T,) which one of what the view shows.

    `told` (T, 5): of each of `CONDITIONS`. A view of one side shows none of the other's.
    """
    side = side_of_view(view)
    shown = [place for place, name in enumerate(CONDITIONS) if side is None or side_of(name) in (None, side)]
    return told[:, [CONDITIONS.index(name) for name in conditions]], told[:, shown].any(axis=1)
