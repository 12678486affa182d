"""A study's regions as they look turned round, for answers that are averaged over such looks."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np

from lumbar.grading.mirror import mirror_view
from lumbar.grading.regions import Regions
from lumbar.recipe.grader import ROTATIONS, GraderSpec, Turn
from lumbar.recipe.views import MIRROR_VIEW, View

#: One of the spec's words, or an angle in degrees, clockwise as displayed.
Look = Turn | int


def looks(spec: GraderSpec) -> list[tuple[Look, ...]]:
    """Every combination of the member's turns, the plain look first; `rotations` stand for one angle each."""
    plain = [turn for turn in spec.tta if turn != "rotations"]
    every: list[tuple[Look, ...]] = [each for n in range(len(plain) + 1) for each in combinations(plain, n)]
    angles = ROTATIONS if "rotations" in spec.tta else ()
    return [*every, *((*each, angle) for angle in angles for each in every)]


def turned(regions: Regions, turns: Sequence[Look], spec: GraderSpec) -> Regions:
    """The regions after some turns; with `mirror` among them they are the mirrored study's, sides exchanged."""
    tensors, present = dict(regions.tensors), dict(regions.present)
    if "mirror" in turns:
        tensors = {view: mirror_view(regions.tensors[MIRROR_VIEW[view]], view, spec) for view in tensors}
        present = {view: regions.present[MIRROR_VIEW[view]] for view in present}
    for view, pixels in tensors.items():
        tensors[view] = _rotated(_flipped(pixels, view, turns), sum(turn for turn in turns if isinstance(turn, int)))
    return replace(regions, tensors=tensors, present=present, cuts={}, others=())


def _rotated(pixels: np.ndarray, degrees: int) -> np.ndarray:
    """A view (5, T, H, W), every image turned about its middle, cubic, its border repeated."""
    if not degrees:
        return pixels
    height, width = pixels.shape[-2:]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)
    flat = np.ascontiguousarray(pixels).reshape(-1, height, width)
    turned = [
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        for image in flat
    ]
    return np.stack(turned).reshape(pixels.shape)


def _flipped(pixels: np.ndarray, view: View, turns: Sequence[Look]) -> np.ndarray:
    """A view (5, T, H, W) after the turns that leave the patient's sides where they are."""
    axial = view.startswith("axial")
    if ("columns" in turns or "front_back" in turns) and not axial:
        pixels = pixels[..., ::-1]
    if "rows" in turns or ("front_back" in turns and axial):
        pixels = pixels[..., ::-1, :]
    return pixels[:, ::-1] if "slices" in turns and axial else pixels
