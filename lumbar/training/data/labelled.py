"""Keypoints of the label table, as if they were found. No torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lumbar import geometry
from lumbar.grading.boxes import neighbour_mm
from lumbar.labels import KEYPOINT_SERIES, Condition, Level, mirrored
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import find_slice
from lumbar.study.study import Study

Name = tuple[Condition, Level]


def study_rows(coordinates: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The table's rows by study."""
    return {int(study): rows for study, rows in coordinates.groupby("study_id")}


def label_keypoints(study: Study, coordinates: pd.DataFrame) -> dict[Name, Keypoint]:
    """The keypoints of the label table as if found: one a condition and level, those whose slice is there.

    `coordinates`: rows of this study, see `DataFolder.coordinates`.
    """
    found: dict[Name, Keypoint] = {}
    for row in coordinates.itertuples():
        found_slice = find_slice(study, int(row.series_id), int(row.instance_number))
        if found_slice is None:
            continue
        name, xy = (row.condition, row.level), (float(row.x), float(row.y))
        mm = tuple(float(value) for value in geometry.to_patient(found_slice[1].affine, np.array(xy)))
        where = int(row.series_id), int(row.instance_number), xy, mm
        point = Keypoint(*name, *where, 1.0, 0.0, 1.0, slice_from="label")  # type: ignore[arg-type]
        found[name] = replace(point, front_mm=_front_mm(study, row))
    return found


def _front_mm(study: Study, row: Any) -> tuple[float, float, float] | None:
    """Where a labelled disc ends in front, where the data has a table of that and its slice is there."""
    instance = getattr(row, "front_instance", np.nan)
    found = None if np.isnan(instance) else find_slice(study, int(row.series_id), int(instance))
    if found is None:
        return None
    x, y, z = geometry.to_patient(found[1].affine, np.array([row.front_x, row.front_y])).tolist()
    return x, y, z


def sized(points: Mapping[Name, Keypoint]) -> dict[Name, Keypoint]:
    """The same points, labelled ones as large, in mm, as detectors that tell sizes learn them to be (`targets.sizes`).

    Left and right of an axial level: their distance. Others: the mean distance to the neighbouring levels, without
    what lies across the slices. One that has no neighbour has no size.
    """
    return {name: _sized(point, points) if point.slice_from == "label" else point for name, point in points.items()}


def _sized(label: Keypoint, points: Mapping[Name, Keypoint]) -> Keypoint:
    condition, level = label.name
    if KEYPOINT_SERIES[condition] == "axial_t2":
        other = points.get((mirrored(condition), level))
        size = 0.0 if other is None else float(np.linalg.norm(np.subtract(other.mm, label.mm)))
    else:
        line = {each: np.array(point.mm[1:]) for (name, each), point in points.items() if name == condition}
        size = neighbour_mm(line, level)
    return replace(label, size_mm=(size, size) if size > 0 else None)


def trusted(found: Sequence[Keypoint], told: Sequence[Keypoint], limit_mm: float) -> list[Keypoint]:
    """Found keypoints, and the labelled one where nothing was found or it lies farther off than `limit_mm`.

    On sagittal series the distance across the slices does not count: which slice carries the label was the reader's
    choice.
    """
    points = {(point.condition, point.level): point for point in found}
    for label in told:
        name = (label.condition, label.level)
        apart = np.array(points[name].mm) - np.array(label.mm) if name in points else np.full(3, np.inf)
        along = slice(1, 3) if KEYPOINT_SERIES[label.condition].startswith("sagittal") else slice(0, 3)
        if not np.linalg.norm(apart[along]) <= limit_mm:
            points[name] = label
    return list(points.values())


def lost_rows(coordinates: pd.DataFrame, instances: Mapping[int, Collection[int]]) -> pd.DataFrame:
    """Rows of a study's label table whose slice is not there; `instances`: those of each series that are."""
    pairs = zip(coordinates["series_id"], coordinates["instance_number"], strict=True)
    return coordinates[[int(instance) not in instances.get(int(series), ()) for series, instance in pairs]]
