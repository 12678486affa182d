"""A study's regions as they look turned round, for answers that are averaged over such looks."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from lumbar.grading.mirror import mirror_view
from lumbar.grading.regions import Regions
from lumbar.recipe.grader import GraderSpec, Turn
from lumbar.recipe.views import MIRROR_VIEW, View


def looks(spec: GraderSpec) -> list[tuple[Turn, ...]]:
    """Every combination of the member's turns, the plain look first."""
    return [each for count in range(len(spec.tta) + 1) for each in combinations(spec.tta, count)]


def turned(regions: Regions, turns: Sequence[Turn], spec: GraderSpec) -> Regions:
    """The regions after some turns; with `mirror` among them they are the mirrored study's, sides exchanged."""
    tensors, present = dict(regions.tensors), dict(regions.present)
    if "mirror" in turns:
        tensors = {view: mirror_view(regions.tensors[MIRROR_VIEW[view]], view, spec) for view in tensors}
        present = {view: regions.present[MIRROR_VIEW[view]] for view in present}
    for view, pixels in tensors.items():
        tensors[view] = _flipped(pixels, view, turns)
    return replace(regions, tensors=tensors, present=present, cuts={}, others=())


def _flipped(pixels: np.ndarray, view: View, turns: Sequence[Turn]) -> np.ndarray:
    """A view (5, T, H, W) after the turns that leave the patient's sides where they are."""
    axial = view.startswith("axial")
    if ("columns" in turns or "front_back" in turns) and not axial:
        pixels = pixels[..., ::-1]
    if "rows" in turns or ("front_back" in turns and axial):
        pixels = pixels[..., ::-1, :]
    return pixels[:, ::-1] if "slices" in turns and axial else pixels
