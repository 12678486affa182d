"""From a study to what a detector trains on: stacks with their targets, one file a study. No torch."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from lumbar import geometry
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.stacks import Stack, channel_names
from lumbar.labels import KEYPOINT_SERIES, LABEL_COLUMNS, LEVELS
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study
from lumbar.training.data.labelled import Name, label_keypoints, lost_rows
from lumbar.training.data.packs import Packs, write_arrays


def stack_arrays(
    study: Study, keypoints: Mapping[Name, Keypoint], spec: DetectorSpec, lost: Collection[Name] = ()
) -> dict[str, np.ndarray]:
    """`images` (N, C, S, S) float16, `points` (N, K, 2) px of the image, NaN where missing, `mm_per_px` (N, 2), and
    `flip` (N,): the sum of a column and the column that it becomes in the mirrored image; `slices` (N, K), the place of
    each label's slice in the stack, NaN where it is not there, and `slice_mm` (N,), the step from slice to slice;
    `told` (N, K): 1 where the study has a label of that name, whether the stack shows its slice or not; `rows` (N, K),
    the place of each name among the study's 25, condition by condition, -1 for one without a meaning.

    The stacks that detection sees, where earlier detectors have found what is labelled. A detector of axial planes: a
    stack around every slice that carries a label, with the points of both sides within reach of its plane. Stacks
    without any labelled point are left out, and those with a map for a `lost` one: it is labelled, but nobody knows
    where it lies, and an empty map would say that it is not there.
    """
    own = {name: point for name, point in keypoints.items() if KEYPOINT_SERIES[name[0]] in spec.types}
    stacks, _ = stacks_for(study, spec, Known(keypoints, labelled=True))
    images, points, scales, flips, slices, steps, told, rows = [], [], [], [], [], [], [], []
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
            places, step = _slice_places(stack, own, spec)
            slices.append(places)
            steps.append(step)
            names = channel_names(spec, stack.side, stack.level)
            told.append([name in own for name in names])
            rows.append([-1 if name is None else LABEL_COLUMNS.index(f"{name[0]}_{name[1]}") for name in names])
    size = spec.image_size
    return {
        "images": np.array(images, np.float16).reshape(-1, spec.channels, size, size),
        "points": np.array(points, np.float32).reshape(-1, spec.num_classes, 2),
        "mm_per_px": np.array(scales, np.float32).reshape(-1, 2),
        "flip": np.array(flips, np.float32),
        "slices": np.array(slices, np.float32).reshape(-1, spec.num_classes),
        "slice_mm": np.array(steps, np.float32),
        "told": np.array(told, np.uint8).reshape(-1, spec.num_classes),
        "rows": np.array(rows, np.int64).reshape(-1, spec.num_classes),
    }


def is_whole(path: Path) -> bool:
    """Whether a file holds all that `stack_arrays` gives; files of before lack some of it."""
    with safe_open(path, "np") as file:
        return {"slices", "slice_mm", "told", "rows"} <= set(file.keys())


def _slice_places(stack: Stack, keypoints: Mapping[Name, Keypoint], spec: DetectorSpec) -> tuple[np.ndarray, float]:
    """Where each label (K,) lies among the slices of a stack, see `Stack.from_keypoint`, and the step between them, mm.

    The step of a whole series is the mean one, else the median of those between different slices.
    """
    names = channel_names(spec, stack.side, stack.level)
    origins = [item.affine[:3, 3] for item in stack.window.slices if item is not None]
    away = geometry.to_pixel(stack.frame, np.reshape(origins, (-1, 3)))[:, 2]  # mm along the normal of the centre slice
    steps = np.abs(np.diff(away))
    some = steps if spec.placed == "whole" else steps[steps > 0]
    step = float(np.mean(some) if spec.placed == "whole" else np.median(some)) if (steps > 0).any() else np.nan
    known = [keypoints.get(name) if name is not None else None for name in names]
    return np.array([np.nan if point is None else stack.from_keypoint(point)[2] for point in known]), step


def _targets(stack: Stack, keypoints: Mapping[Name, Keypoint], spec: DetectorSpec) -> np.ndarray:
    """(K, 2) px of the stack's image; NaN where there is no label, or (axial) its plane is out of reach."""
    names = channel_names(spec, stack.side, stack.level)
    points = np.full((len(names), 2), np.nan, np.float32)
    for place, name in enumerate(names[: len(LEVELS)] if spec.ends else ()):
        front = None if name is None or name not in keypoints else keypoints[name].front_mm
        if front is not None:
            points[place + len(LEVELS)] = stack.from_patient(np.array(front))
    for place, name in enumerate(names):
        if name is None or name not in keypoints:
            continue
        if spec.placed == "whole":
            points[place] = stack.from_keypoint(keypoints[name])[:2]
            continue
        mm = np.array(keypoints[name].mm)
        if stack.level is not None and abs(geometry.to_pixel(stack.frame, mm)[2]) > spec.max_plane_distance_mm:
            continue
        points[place] = stack.from_patient(mm)
    return points


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
