"""From a study to what a grader trains on: regions with a margin, one file a study. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumbar.grading.regions import cut_regions
from lumbar.recipe.grader import GraderSpec
from lumbar.study.study import Study
from lumbar.training.data.labelled import Name, label_keypoints
from lumbar.training.data.packs import Packs, write_arrays


def margin_spec(spec: GraderSpec, margin: float, shift: int = 0) -> GraderSpec:
    """The spec that cuts regions `margin` times as wide at the same pixel size, and `shift` slices longer at either
    end, so that the middle is `spec`'s."""
    size = spec.image_size + 2 * round(spec.image_size * (margin - 1) / 2)
    wide = {"image_size": size, "roi_mm": spec.roi_mm * size / spec.image_size}
    return spec.model_copy(update=wide | {"slices": spec.slices + 2 * shift})


def region_arrays(study: Study, keypoints: Mapping[Name, Any], spec: GraderSpec) -> dict[str, np.ndarray]:
    """Every view as `<view>` (5, T, S, S) uint8 with `<view>/range` (5, 2): value = code / 255 x (high - low) + low;
    and `<view>/present` (5,)."""
    regions = cut_regions(study, keypoints, spec)
    arrays: dict[str, np.ndarray] = {}
    for view, pixels in regions.tensors.items():
        low, high = pixels.min((1, 2, 3)), pixels.max((1, 2, 3))
        span = np.where(high > low, high - low, 1).astype(np.float32)
        scaled = (pixels - low[:, None, None, None]) / span[:, None, None, None] * 255
        arrays[view] = np.rint(scaled).astype(np.uint8)
        arrays[f"{view}/range"] = np.stack([low, low + span], -1).astype(np.float32)
        arrays[f"{view}/present"] = regions.present[view].astype(np.uint8)
    return arrays


def make_regions(
    packs: Packs, rows: Any, found: Any, spec: GraderSpec, folder: Path, wanted: dict[int, str], study_id: int
) -> None:
    """Write the regions of one study around `found` keypoints by study, or (None) around labelled ones."""
    study = packs.study(study_id)
    if found is not None:
        points: Any = {(point.condition, point.level): point for point in found[study_id]}
    else:
        points = label_keypoints(study, rows[study_id]) if study_id in rows else {}
    write_arrays(folder / f"{study_id}.safetensors", region_arrays(study, points, spec), source=wanted[study_id])
