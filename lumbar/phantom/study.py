"""One phantom study from a seed: person, series, pictures, files, and the rows it adds to the tables."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lumbar.labels import CONDITIONS, LABEL_COLUMNS, LEVELS, condition_title, level_title, side_of
from lumbar.phantom.anatomy import Anatomy, draw_anatomy
from lumbar.phantom.options import PhantomOptions
from lumbar.phantom.render import Maps, draw_camera, picture, tissue_maps, with_surface_coil
from lumbar.phantom.scan import SeriesPlan, plan_study
from lumbar.phantom.severity import Grades, draw_grades
from lumbar.phantom.vertebrae import FIRST
from lumbar.phantom.writer import Coding, slice_dataset, write_slice

Split = Literal["train", "test"]
#: Farther than this from every axial slice, a level counts as not imaged, mm (the original's limit).
_AXIAL_REACH_MM = 5.0


@dataclass(frozen=True)
class StudyPlan:
    """Everything about a study but its pixels; `series_ids` belong to `series`."""

    study_id: int
    grades: Grades
    person: Anatomy
    series: tuple[SeriesPlan, ...]
    series_ids: tuple[int, ...]
    options: PhantomOptions


@dataclass
class Rows:
    """What a study adds to the tables."""

    labels: dict[str, object] = field(default_factory=dict)
    series: list[dict[str, object]] = field(default_factory=list)
    coordinates: list[dict[str, object]] = field(default_factory=list)
    fronts: list[dict[str, object]] = field(default_factory=list)


def _generator(seed: int, index: int, part: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, index, part]))


def plan(seed: int, index: int, study_id: int, options: PhantomOptions) -> StudyPlan:
    """Draw study `index` of a seed. Grades, person, scan and pictures have generators of their own."""
    grades = draw_grades(_generator(seed, index, 0), options.label_noise)
    person = draw_anatomy(_generator(seed, index, 1), grades, options.vertebrae)
    rng = _generator(seed, index, 2)
    series = tuple(plan_study(rng, person.spine, options))
    ids = rng.choice(2**32 - 10**6, size=len(series), replace=False) + 10**6
    return StudyPlan(study_id, grades, person, series, tuple(int(value) for value in ids), options)


def keypoint_rows(study: StudyPlan) -> list[dict[str, object]]:
    """Rows of `train_label_coordinates.csv`: each keypoint in the pixels of the slice that shows it."""
    rows = []
    for condition in CONDITIONS:
        for number, level in enumerate(LEVELS):
            found = _keypoint(study, condition, FIRST + number)
            if found is not None:
                place, index, point = found
                x, y, _ = study.series[place].planes[index].to_pixel(point)
                rows.append(
                    {
                        "study_id": study.study_id,
                        "series_id": study.series_ids[place],
                        "instance_number": study.series[place].instances[index],
                        "condition": condition_title(condition),
                        "level": level_title(level),
                        "x": round(x, 6),
                        "y": round(y, 6),
                    }
                )
    return rows


def front_rows(study: StudyPlan) -> list[dict[str, object]]:
    """Rows of `train_disc_fronts.csv`: where each disc ends in front, on the slice of its level's canal point."""
    rows = []
    for number, level in enumerate(LEVELS):
        found = _keypoint(study, "spinal_canal_stenosis", FIRST + number)
        if found is not None:
            place, index, _ = found
            x, y, _ = study.series[place].planes[index].to_pixel(study.person.spine.disc_front(FIRST + number))
            numbers = {"series_id": study.series_ids[place], "instance_number": study.series[place].instances[index]}
            where = {"level": level_title(level), "x": round(x, 6), "y": round(y, 6)}
            rows.append({"study_id": study.study_id, **numbers, **where})
    return rows


def _keypoint(study: StudyPlan, condition: str, plane: int) -> tuple[int, int, np.ndarray] | None:
    """Series, slice and patient position of a keypoint; None where no series shows it."""
    spine = study.person.spine
    right = int(side_of(condition) == "right")  # type: ignore[arg-type]
    if condition == "spinal_canal_stenosis":
        places = [i for i, s in enumerate(study.series) if s.description == "Sagittal T2/STIR"]
        middle = np.mean([spine.canal_point(FIRST + level) for level in range(5)], axis=0)
        return (places[0], study.series[places[0]].nearest(middle)[0], spine.canal_point(plane)) if places else None
    if condition.endswith("foraminal_narrowing"):
        point = spine.foramen_point(plane, right)
        places = [i for i, s in enumerate(study.series) if s.description == "Sagittal T1"]
        return (places[0], study.series[places[0]].nearest(point)[0], point) if places else None
    point = spine.recess_point(plane, right)
    axial = [(i, series) for i, series in enumerate(study.series) if series.description == "Axial T2"]
    found = [(*series.nearest(point)[::-1], i) for i, series in axial]
    distance, index, place = min(found, default=(np.inf, 0, 0))
    return (place, index, point) if distance <= _AXIAL_REACH_MM else None


def table_rows(study: StudyPlan) -> Rows:
    """Labels, series and coordinates of a study. What no series shows has no label."""
    rows = Rows(coordinates=keypoint_rows(study), fronts=front_rows(study))
    seen = {(row["condition"], row["level"]) for row in rows.coordinates}
    words = study.grades.words()
    rows.labels = {"study_id": study.study_id}
    for column in LABEL_COLUMNS:
        condition = next(name for name in CONDITIONS if column.startswith(name))
        level = column.removeprefix(f"{condition}_")
        shown = (condition_title(condition), level_title(level)) in seen  # type: ignore[arg-type]
        rows.labels[column] = words[column] if shown else ""
    for series_id, series in zip(study.series_ids, study.series, strict=True):
        rows.series.append(
            {"study_id": study.study_id, "series_id": series_id, "series_description": series.description}
        )
    return rows


def _coding(rng: np.random.Generator, options: PhantomOptions) -> Coding:
    signed, inverted, scaled = rng.random(3) < (0.3, 0.01, 0.05)
    return Coding(bool(signed), bool(inverted), 1.0 if scaled else None, options.compressed)


def render(study: StudyPlan, seed: int, index: int) -> list[list[np.ndarray]]:
    """Pixels of all series, slice by slice in instance order, each (rows, columns) uint16."""
    pictures = []
    known: dict[int, Maps] = {}
    looks = _generator(seed, index, 4)
    surface = bool(looks.random() < study.options.surface_coil)
    for number, series in enumerate(study.series):
        rng = _generator(seed, index, 10 + number)
        camera = draw_camera(rng, study.person, series)
        if surface and series.description == "Axial T2":
            camera = with_surface_coil(camera, looks, study.person, study.options.surface_parts)
        stack = []
        for plane in series.planes:
            if id(plane) not in known:
                known[id(plane)] = tissue_maps(study.person, plane, series.thickness)
            stack.append(picture(rng, camera, study.person, plane, known[id(plane)]))
        pictures.append(stack)
    return pictures


def seed_words(seed: int, index: int, split: Split) -> str:
    """What the UIDs of a study's slices are made from, beside its numbers."""
    return f"{seed} {index} {split}"


def write_study(out: Path, seed: int, index: int, study_id: int, split: Split, options: PhantomOptions) -> Rows:
    """Draw, render and write one study below `<out>/<split>_images`; returns its table rows."""
    study = plan(seed, index, study_id, options)
    rng = _generator(seed, index, 3)
    folder = out / f"{split}_images" / str(study_id)
    for series_id, series, stack in zip(study.series_ids, study.series, render(study, seed, index), strict=True):
        coding = _coding(rng, options)
        for place, (number, pixels) in enumerate(zip(series.instances, stack, strict=True)):
            words = seed_words(seed, index, split)
            dataset = slice_dataset(study_id, series_id, number, series, place, pixels, coding, words)
            write_slice(dataset, folder / str(series_id), number)
    return table_rows(study)
