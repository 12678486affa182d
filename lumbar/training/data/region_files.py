"""From a study to what a grader trains on: regions with a margin, one file a study. No torch."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from lumbar import geometry
from lumbar.grading.regions import Region as Cut
from lumbar.grading.regions import cut_regions, views_of
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.region import AXIAL_HALF, Region, RegionSpec
from lumbar.recipe.views import TASK_VIEWS, View
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import find_slice
from lumbar.study.standardise import slice_frame
from lumbar.study.study import Study
from lumbar.training.data.labelled import Name, label_keypoints, sized
from lumbar.training.data.layout import SHARED, numbered
from lumbar.training.data.packs import Packs, write_arrays
from lumbar.training.data.shared_places import shared_places


def margin_spec(spec: GraderSpec, margin: float, shift: int = 0) -> GraderSpec:
    """The spec that cuts regions `margin` times as wide at the same pixel size, and `shift` slices longer at either
    end, so that the middle is `spec`'s. Whole images have no margin."""
    size = spec.image_size + 2 * round(spec.image_size * (margin - 1) / 2)
    wide = {"image_size": size, "roi_mm": spec.roi_mm * size / spec.image_size}
    changed = spec.model_copy(update=wide | {"slices": spec.slices + 2 * shift})
    if spec.task is not None and spec.region == RegionSpec():
        return changed
    views = spec.views or TASK_VIEWS
    regions = {view: _wide(spec.region_of(view), view, margin, shift) for view in views}
    return changed.model_copy(update={"region": RegionSpec(), "regions": regions})


def _wide(region: Region, view: View, margin: float, shift: int) -> RegionSpec:
    height, width = (
        side if region.box == "whole" else side + 2 * round(side * (margin - 1) / 2) for side in region.size
    )
    down, across = height / region.size[0], width / region.size[1]
    assert region.extent is not None
    extent = region.extent[0] * down, region.extent[1] * across
    values = asdict(region) | {"size": (height, width), "extent": extent}
    if region.around not in ("level", "series"):
        values["slices"] = region.slices + 2 * shift
    if region.half and view.startswith("axial"):  # a wider box's half lies farther out
        inwards = region.extent[1] * (across - 1) * (1 - AXIAL_HALF) / 2
        for name in ("shift", "shift_l5_s1"):
            if values[name] is not None:
                values[name] = values[name][0] - inwards, values[name][1]
    return RegionSpec.model_construct(**values)


def region_arrays(
    study: Study, keypoints: Mapping[Name, Any], spec: GraderSpec, labelled: Mapping[Name, Keypoint] | None = None
) -> dict[str, np.ndarray]:
    """Every view as `<view>` (5, T, H, W) uint8 with `<view>/range` (5, 2): value = code / 255 x (high - low) + low;
    `<view>/present` (5,); and `<view>/annotated` (5, slices, 5 conditions), which slices the `labelled` points of
    their level lie on. Of whole series once for all levels, and `<view>/points` (5, 5 conditions, 2), where these
    points lie on it, (column, row) px, NaN where they do not; and `shared` positions, see `shared_places`. Where
    several series have a region, those of the second are called `<view>.1`, …"""
    regions = cut_regions(study, keypoints, spec)
    arrays: dict[str, np.ndarray] = {}
    for number, part in enumerate((regions, *regions.others)):
        for view, pixels in part.tensors.items():
            low, high = pixels.min((1, 2, 3)), pixels.max((1, 2, 3))
            span = np.where(high > low, high - low, 1).astype(np.float32)
            scaled = (pixels - low[:, None, None, None]) / span[:, None, None, None] * 255
            name = numbered(view, number)
            arrays[name] = np.rint(scaled).astype(np.uint8)
            arrays[f"{name}/range"] = np.stack([low, low + span], -1).astype(np.float32)
            arrays[f"{name}/present"] = part.present[view].astype(np.uint8)
            cuts = [part.cuts.get((view, level)) for level in LEVELS]
            arrays[f"{name}/annotated"] = np.stack([_annotated(study, cut, spec, view, labelled or {}) for cut in cuts])
            if spec.levels == "study":
                arrays[f"{name}/points"] = np.stack([_points(study, cut, spec, view, labelled or {}) for cut in cuts])
        whole = {view: part.cuts[view, LEVELS[0]] for view in part.tensors if (view, LEVELS[0]) in part.cuts}
        if spec.levels == "study" and whole:
            mm, places = shared_places(study, whole, spec)
            none = np.full_like(mm, np.nan)
            arrays[numbered(SHARED, number)] = mm
            arrays |= {f"{numbered(view, number)}/{SHARED}": places.get(view, none) for view in part.tensors}
    return arrays


def _annotated(
    study: Study, cut: Cut | None, spec: GraderSpec, view: View, labelled: Mapping[Name, Keypoint]
) -> np.ndarray:
    """(slices, 5 conditions) uint8: on which slices of a region its level's labels lie; none where it is missing."""
    region = spec.region_of(view)
    out = np.zeros((region.slices, len(CONDITIONS)), np.uint8)
    if cut is None:
        return out
    middle = cut.slices[region.channels // 2 :: region.channels]  # without the neighbours that each brings along
    for column, condition in enumerate(CONDITIONS):
        point = labelled.get((condition, cut.level))
        found = None if point is None else find_slice(study, point.series_id, point.instance)
        if found is not None:
            out[:, column] = [item is found[1] for item in middle]
    return out


def _points(
    study: Study, cut: Cut | None, spec: GraderSpec, view: View, labelled: Mapping[Name, Keypoint]
) -> np.ndarray:
    """(5 conditions, 2) px of a whole image as the network sees it: where its level's labels lie; NaN elsewhere."""
    height, width = spec.region_of(view).size
    out = np.full((len(CONDITIONS), 2), np.nan, np.float32)
    if cut is None:
        return out
    for column, condition in enumerate(CONDITIONS):
        point = labelled.get((condition, cut.level))
        found = None if point is None else find_slice(study, point.series_id, point.instance)
        if point is None or found is None or not any(item is found[1] for item in cut.slices):
            continue
        frame, (rows, columns) = slice_frame(found[1], spec.preprocessing)
        place = geometry.to_pixel(frame, point.mm)[:2]
        out[column] = (place + 0.5) * (width / columns, height / rows) - 0.5
    return out


def tells_annotations(path: Path) -> bool:
    """Whether a file says which slices carry annotations; files of before do not."""
    with safe_open(path, "np") as file:
        return any(name.endswith("/annotated") for name in file.keys())  # noqa: SIM118 (no dictionary)


def make_regions(
    packs: Packs, rows: Any, found: Any, spec: GraderSpec, folder: Path, wanted: dict[int, str], study_id: int
) -> None:
    """Write the regions of one study around `found` keypoints by study, or (None) around labelled ones.

    Labelled ones among them get a size where a box is as large as its point.
    """
    study = packs.study(study_id)
    labelled = label_keypoints(study, rows[study_id]) if study_id in rows else {}
    points: Any = labelled
    if found is not None:
        points = {(point.condition, point.level): point for point in found[study_id]}
    if any(spec.region_of(view).box == "own" for view in views_of(spec)):
        points = sized(points)
    arrays = region_arrays(study, points, spec, labelled)
    write_arrays(folder / f"{study_id}.safetensors", arrays, source=wanted[study_id])
