"""Positions in the patient that several whole series show, for a step that learns without labels. No torch."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from lumbar import geometry
from lumbar.grading.regions import Region
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.views import View
from lumbar.study.standardise import slice_frame
from lumbar.study.study import Study

#: Positions a study, from all its series alike; each lies in this inner share of its slice.
COUNT, INNER = 384, 0.8
#: A slice shows a position whose plane lies no farther off than this (eighth place: a guess).
REACH_MM: Final = 3.0


def shared_places(
    study: Study, cuts: Mapping[View, Region], spec: GraderSpec
) -> tuple[np.ndarray, dict[View, np.ndarray]]:
    """Positions (P, 3) mm, drawn by the study's number; and for each view where it shows them, (P, 3): slice, column,
    row in pixels of the whole image as the network sees it, NaN where it does not."""
    rng = np.random.default_rng(study.study_id)
    frames = {view: _frames(cut, spec) for view, cut in cuts.items()}
    drawn: list[np.ndarray] = []
    for affines, shapes, _ in frames.values():
        for _ in range(COUNT // len(frames)):
            number = int(rng.integers(len(affines)))
            share = 0.5 + INNER * (rng.random(2) - 0.5)
            drawn.append(geometry.to_patient(affines[number], share * shapes[number][::-1] - 0.5))
    mm = np.array(drawn).reshape(-1, 3)
    return mm.astype(np.float32), {view: _shown(mm, *of, spec.region_of(view).size) for view, of in frames.items()}


def _frames(cut: Region, spec: GraderSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Affine (T, 4, 4), rows and columns (T, 2) and place (T,) of each slice that is there."""
    there = [(place, item) for place, item in enumerate(cut.slices) if item is not None]
    found = [slice_frame(item, spec.preprocessing) for _, item in there]
    places = np.array([place for place, _ in there])
    return np.stack([affine for affine, _ in found]), np.array([shape for _, shape in found]), places


def _shown(
    mm: np.ndarray, affines: np.ndarray, shapes: np.ndarray, places: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(P, 3) slice, column and row of positions (P, 3) on the nearest slice."""
    pixels = np.stack([geometry.to_pixel(affine, mm) for affine in affines])  # (T, P, 3), at last mm off the plane
    nearest = np.abs(pixels[..., 2]).argmin(0)
    own, shape = pixels[nearest, np.arange(len(mm))], shapes[nearest][:, ::-1]
    inside = ((own[:, :2] > -0.5) & (own[:, :2] < shape - 0.5)).all(1) & (np.abs(own[:, 2]) <= REACH_MM)
    scaled = (own[:, :2] + 0.5) * (size[1], size[0]) / shape - 0.5
    found = np.column_stack([places[nearest], scaled])
    return np.where(inside[:, None], found, np.nan).astype(np.float32)
