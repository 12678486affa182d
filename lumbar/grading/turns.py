"""Test-time augmentation: a study's regions as they look turned round, for answers averaged over such looks."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as nnf

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
    """A view (5, T, H, W), every image turned about its middle, cubic, its border repeated.

    By torch: OpenCV rounds places to a thirty-second of a pixel, in a mirrored image the other way.
    """
    if not degrees:
        return pixels
    height, width = pixels.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in (height, width)), indexing="ij")
    grid = np.stack([2 / width * (cos * x + sin * y), 2 / height * (cos * y - sin * x)], axis=-1).astype(np.float32)
    images = torch.from_numpy(np.ascontiguousarray(pixels)).view(1, -1, height, width)
    places = torch.from_numpy(grid)[None]
    turned = nnf.grid_sample(images, places, mode="bicubic", padding_mode="border", align_corners=False)
    return turned.view(pixels.shape).numpy()


def _flipped(pixels: np.ndarray, view: View, turns: Sequence[Look]) -> np.ndarray:
    """A view (5, T, H, W) after the turns that leave the patient's sides where they are."""
    axial = view.startswith("axial")
    if ("columns" in turns or "front_back" in turns) and not axial:
        pixels = pixels[..., ::-1]
    if "rows" in turns or ("front_back" in turns and axial):
        pixels = pixels[..., ::-1, :]
    return pixels[:, ::-1] if "slices" in turns and axial else pixels
