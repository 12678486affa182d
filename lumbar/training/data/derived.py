"""From a study to what the networks train on: detector stacks with targets, regions with a margin. No torch."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.grading.regions import cut_regions
from lumbar.keypoints.stacks import Stack, channel_names, make_stack, sagittal_stacks
from lumbar.labels import KEYPOINT_SERIES, Condition, Level
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import axial_window
from lumbar.study.study import Study
from lumbar.training.data.packs import Packs, write_arrays

Name = tuple[Condition, Level]


def label_keypoints(study: Study, coordinates: pd.DataFrame) -> dict[Name, Keypoint]:
    """The keypoints of the label table as if found: one a condition and level, those whose slice is there.

    `coordinates`: rows of this study, see `DataFolder.coordinates`.
    """
    found: dict[Name, Keypoint] = {}
    for row in coordinates.itertuples():
        item = _slice(study, int(row.series_id), int(row.instance_number))
        if item is None:
            continue
        name, xy = (row.condition, row.level), (float(row.x), float(row.y))
        mm = tuple(float(value) for value in geometry.to_patient(item.affine, np.array(xy)))
        found[name] = Keypoint(*name, int(row.series_id), int(row.instance_number), xy, mm, 1.0, 0.0, 1.0)  # type: ignore[arg-type]
    return found


def lost_rows(coordinates: pd.DataFrame, instances: Mapping[int, Collection[int]]) -> pd.DataFrame:
    """Rows of a study's label table whose slice is not there; `instances`: those of each series that are."""
    pairs = zip(coordinates["series_id"], coordinates["instance_number"], strict=True)
    return coordinates[[int(instance) not in instances.get(int(series), ()) for series, instance in pairs]]


def _slice(study: Study, series_id: int, instance: int) -> Slice | None:
    series = study.series_by_id(series_id)
    return None if series is None else next((one for one in series.slices if one.instance == instance), None)


def stack_arrays(
    study: Study, keypoints: Mapping[Name, Keypoint], spec: DetectorSpec, lost: Collection[Name] = ()
) -> dict[str, np.ndarray]:
    """`images` (N, C, S, S) float16, `points` (N, K, 2) px of the image, NaN where missing, `mm_per_px` (N, 2), and
    `flip` (N,): the sum of a column and the column that it becomes in the mirrored image.

    Sagittal: the stacks that detection sees. Axial: a stack around every slice that carries a label, with the points of
    both sides that lie within reach of its plane. Stacks without any labelled point are left out, and those with a map
    for a `lost` one: it is labelled, but nobody knows where it lies, and an empty map would say that it is not there.
    """
    own = {name: point for name, point in keypoints.items() if KEYPOINT_SERIES[name[0]] == spec.series_type}
    stacks = (
        _labelled_planes(study, own, spec)
        if spec.series_type == "axial_t2"
        else sagittal_stacks(study, spec, keypoints)[0]
    )
    images, points, scales, flips = [], [], [], []
    for stack in stacks:
        target = _targets(stack, own, spec)
        unknown = any(name in lost for name in channel_names(spec, stack.side, stack.level))
        if np.isfinite(target).all(-1).any() and not unknown:
            images.append(stack.pixels.astype(np.float16))
            points.append(target)
            between_rows, between_columns = geometry.spacing_mm(stack.frame)
            shape = np.array(stack.shape[::-1], np.float64)
            scales.append(np.array([between_columns, between_rows]) * shape / spec.image_size)
            flips.append(spec.image_size * (1 - 1 / shape[0]))
    size = spec.image_size
    return {
        "images": np.array(images, np.float16).reshape(-1, spec.in_chans, size, size),
        "points": np.array(points, np.float32).reshape(-1, spec.num_classes, 2),
        "mm_per_px": np.array(scales, np.float32).reshape(-1, 2),
        "flip": np.array(flips, np.float32),
    }


def _labelled_planes(study: Study, keypoints: Mapping[Name, Keypoint], spec: DetectorSpec) -> list[Stack]:
    planes: dict[tuple[Level, int, int], tuple[Series, Slice]] = {}
    for (_, level), point in keypoints.items():
        series, item = study.series_by_id(point.series_id), _slice(study, point.series_id, point.instance)
        if series is not None and item is not None and series in study.series.get("axial_t2", ()):
            planes[level, point.series_id, point.instance] = (series, item)
    return [
        make_stack(axial_window(series, item, spec.in_chans, spec.preprocessing), item, spec, level=level)
        for (level, _, _), (series, item) in planes.items()
    ]


def _targets(stack: Stack, keypoints: Mapping[Name, Keypoint], spec: DetectorSpec) -> np.ndarray:
    """(K, 2) px of the stack's image; NaN where there is no label, or (axial) its plane is out of reach."""
    names = channel_names(spec, stack.side, stack.level)
    points = np.full((len(names), 2), np.nan, np.float32)
    for place, name in enumerate(names):
        if name is None or name not in keypoints:
            continue
        mm = np.array(keypoints[name].mm)
        if stack.level is not None and abs(geometry.to_pixel(stack.frame, mm)[2]) > spec.max_plane_distance_mm:
            continue
        points[place] = stack.from_patient(mm)
    return points


def margin_spec(spec: GraderSpec, margin: float) -> GraderSpec:
    """The spec that cuts regions `margin` times as wide at the same pixel size, so that the middle is `spec`'s."""
    size = spec.image_size + 2 * round(spec.image_size * (margin - 1) / 2)
    return spec.model_copy(update={"image_size": size, "roi_mm": spec.roi_mm * size / spec.image_size})


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


def study_rows(coordinates: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The table's rows by study."""
    return {int(study): rows for study, rows in coordinates.groupby("study_id")}


def make_stacks(
    packs: Packs, rows: Any, spec: DetectorSpec, folder: Path, wanted: dict[int, str], study_id: int
) -> None:
    """Write the stacks of one study; `rows`: its labelled keypoints, `wanted`: the fingerprint to store, by study."""
    study = packs.study(study_id)
    points: dict[Name, Keypoint] = {}
    lost: set[Name] = set()
    if study_id in rows:
        points = label_keypoints(study, rows[study_id])
        listed = [series for group in study.series.values() for series in group]
        there = {series.series_id: {item.instance for item in series.slices} for series in listed}
        lost = {(row.condition, row.level) for row in lost_rows(rows[study_id], there).itertuples()}
    arrays = stack_arrays(study, points, spec, lost)
    write_arrays(folder / f"{study_id}.safetensors", arrays, source=wanted[study_id])


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
