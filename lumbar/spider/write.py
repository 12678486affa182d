"""Real images for the sagittal detectors: SPIDER's slices in the competition's layout.

SPIDER (van der Graaf et al., "Lumbar spine segmentation in MR images: a dataset and a public benchmark", Scientific
Data 2024, CC BY 4.0) gives images and masks. `t2_space/canal_keypoints.csv` holds canal points made from the masks of
T2 SPACE volumes: each labelled slice becomes a study of its own, with up to two neighbours on either side, so that
training sees it as any other series. `midsagittal/` holds one T2 turbo spin echo slice a patient: those that have
points in a table of our own become studies of one slice, with the T1 slice beside it where that shows the same place.
The part `images` is every mid-sagittal pair (T2, and T1 where both have one field of view) without any point. The
images carry no position along the patient's left-right axis: the slices lie around x = 0 in the order of their numbers.
SPIDER has no grades of stenosis: labels are empty, but for the canal of mid-sagittal slices where a table grades it.
Nothing that has a side may be learnt from them: the T1 slices get the same point for the left and the right foramen of
a level, where both would be if looked at from the side. Slices on which foramina show join from a table of theirs
(`foramina`), each as a study of one T1 slice.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from lumbar.files.exchange import check_own, exchanging
from lumbar.files.write import write_csv, writing_into
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, LEVELS, level_title
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.writer import Coding, OwnSlices, slice_dataset, write_slice
from lumbar.spider.foramina import PIXEL_MM, with_foramina
from lumbar.spider.labelled import Labelled, read_image, squared
from lumbar.spider.parts import Part, in_part
from lumbar.spider.tables import MOST, check_within, merged, read_grades, read_overview, read_points
from lumbar.terminal.progress import follow

#: T2 SPACE: distance of neighbouring slice numbers, mm, of all 31 patients in SPIDER's overview.csv.
SLICE_MM: Final = 0.9
#: Slices on either side of the labelled one; the folder holds every second slice number.
NEIGHBOURS: Final = 2
#: T1 and T2 belong together where their fields of view differ by less than this share.
SAME_WIDTH: Final = 0.02
FIRST_ID: Final = 9_000_000_000
#: From the canal point of a level to the middle of its foramina, seen from the side: forward and up, mm,
#: L1/L2 to L5/S1. Means over 10 patients of T2 SPACE that are trained on (foramina `seen` in
#: `recipes/spider_foramina.csv`, 53 on 23 slices; between patients 1 to 3 mm, at L5/S1 up to 5).
FORAMEN_FROM_CANAL_MM: Final = ((-0.4, 8.1), (1.7, 7.9), (4.2, 9.1), (7.2, 5.4), (11.0, -0.2))
#: Stands for the slice number in the study id of a mid-sagittal image, whose number is not known.
MIDSAGITTAL: Final = 999
SERIES_ID: Final = 1
TITLES: Final = ("Sagittal T2/STIR", "Sagittal T1")
TABLES: Final = ("train_sources.csv", "train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv")
COORDINATES: Final = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")


def write_spider(
    source: Path,
    out: Path,
    part: Part = "train",
    points: Path | None = None,
    grades: Path | None = None,
    foramina: Path | None = None,
) -> list[int]:
    """Add one part of SPIDER's labelled slices to the data folder `out`, new or not, and return the studies' ids.

    `source` holds `t2_space/` (`images/`, `canal_keypoints.csv`: patient, image, slice, level, x, y in pixels), and for
    the mid-sagittal images `midsagittal/` and `overview.csv`. `points`: table of canal points on those (patient, level,
    x, y in pixels of `<patient>_t2.png`; t1: 1 where `<patient>_t1.png` shows the same place, 0 where it does not or is
    missing; how it was made, `how`, is not read); without it they are left out. `grades`: table of canal grades of
    those (patient, level, grade: 0 normal or mild, 1 moderate, 2 severe), which become their labels. `foramina`: table
    of points of foramina on slices beside the middle (patient, image, level, x, y in pixels as stored); without it
    these are left out. Of studies that are there already the images are written anew, and the rows stay as they stand.
    Raises InputError for a table or an image that cannot be read or used, where there is no study to write, and where a
    study or row of the same number is there that this did not write or that somebody changed, and where somebody
    changed one of its slices.
    """
    if grades is not None and (points is None or part == "images"):
        raise InputError(f"{grades}: grades need images with points; give the table of points and no part `images`")
    if foramina is not None and part == "images":
        raise InputError(f"{foramina}: the part `images` is without points; give another part for the foramina")
    ids, labels, series, coordinates, sources = [], [], [], [], []
    if part == "images":
        found = [_pairs(Path(source))]
    else:
        found = [_t2_space(Path(source) / "t2_space", part)]
    if part != "images" and points is not None:
        found.append(
            _midsagittal(Path(source), Path(points), part, {} if grades is None else read_grades(Path(grades)))
        )
    if foramina is not None:
        found.append(with_foramina(Path(source), Path(foramina), part))
    with ExitStack() as built:
        for labelled in follow(itertools.chain(*found), "writing slices", None):
            place = Path(out) / "train_images" / str(labelled.study)
            own = OwnSlices(labelled.study, labelled.sequence)
            own.like = new = built.enter_context(exchanging(place, own))
            instances = _write_study(new, labelled)
            check_own(place, own, besides=new)
            ids.append(labelled.study)
            labels.append({"study_id": labelled.study, **dict.fromkeys(LABEL_COLUMNS), **labelled.grades})
            sources.append({"study_id": labelled.study, "source": labelled.sequence})
            for number, title in enumerate(TITLES, SERIES_ID):
                if labelled.pixels if number == SERIES_ID else labelled.t1 is not None:
                    series.append({"study_id": labelled.study, "series_id": number, "series_description": title})
            coordinates += list(_coordinates(labelled, instances.get(labelled.number)))
        if not ids:
            raise InputError(f"{source}: holds no study of the part {part}; check the folder or give another part")
        points_table = pd.DataFrame(coordinates, columns=list(COORDINATES))
        rows = zip(TABLES, map(pd.DataFrame, (sources, labels, series, points_table)), strict=True)
        tables = merged(Path(out), dict(rows), ids)
    with writing_into(out):
        for name, table in tables.items():  # the sources first: they say that the other rows are ours
            write_csv(table, Path(out) / name)
    return ids


def _of_part(path: Path, columns: tuple[str, ...], part: Part) -> pd.DataFrame:
    table = read_points(path, columns)
    return table[[in_part(patient, part) for patient in table["patient"]]]


def _t2_space(source: Path, part: Part) -> Iterator[Labelled]:
    path = source / "canal_keypoints.csv"
    table = _of_part(path, ("patient", "image", "slice", "level", "x", "y"), part)
    for _, points in table.groupby(["patient", "slice"]):
        patient, number, image = (points[name].iloc[0] for name in ("patient", "slice", "image"))
        pixels = _neighbours(source / "images", str(image), int(number))
        check_within(path, points, *pixels[int(number)].shape)
        study = FIRST_ID + int(patient) * 1000 + int(number)
        yield Labelled(study, pixels, int(number), points, PIXEL_MM, "SPIDER T2 SPACE")


def _neighbours(folder: Path, image: str, number: int) -> dict[int, np.ndarray]:
    """The labelled slice and those of its neighbours that are there (the folder holds every second number)."""
    found: dict[int, np.ndarray] = {}
    for step in range(-NEIGHBOURS, NEIGHBOURS + 1):
        near = number + 2 * step
        path = folder / image.replace(f"slice{number}", f"slice{near}")
        if path.is_file() or not step:
            found[near] = read_image(path)
    return found


def _midsagittal(source: Path, points: Path, part: Part, grades: Mapping[int, Mapping[str, str]]) -> Iterator[Labelled]:
    """Mid-sagittal T2 slices, and T1 of the same place, with a table's points; pairs stored head down are turned."""
    table = _of_part(points, ("patient", "level", "x", "y", "t1"), part)
    overview = read_overview(source / "overview.csv")
    for patient, rows in table.groupby("patient"):
        image, spacing, height = _midsagittal_image(source, f"{patient}_t2", overview)
        size = len(image)
        check_within(points, rows, height, size)
        placed = rows.assign(y=rows["y"] * size / height)
        heights = placed.set_index("level")["y"].sort_index()
        t1 = _t1_beside(source, int(patient), size * spacing, overview) if rows["t1"].all() else None
        if heights.iloc[0] > heights.iloc[-1]:  # L1/L2 below L5/S1
            image, placed = image[::-1], placed.assign(y=size - 1 - placed["y"])
            t1 = None if t1 is None else (t1[0][::-1], t1[1])
        study = FIRST_ID + int(patient) * 1000 + MIDSAGITTAL
        graded = grades.get(int(patient), {})
        yield Labelled(study, {MIDSAGITTAL: image}, MIDSAGITTAL, placed, spacing, "SPIDER mid-sagittal", t1, graded)


def _pairs(source: Path) -> Iterator[Labelled]:
    """Every mid-sagittal T2 slice, with the T1 slice of the patient where both show the same width."""
    overview = read_overview(source / "overview.csv")
    nothing = pd.DataFrame(columns=["level", "x", "y"])
    for path in sorted((source / "midsagittal").glob("*_t2.png")):
        number = path.name.removesuffix("_t2.png")
        if not re.fullmatch("0|[1-9][0-9]*", number) or int(number) > MOST["patient"]:
            raise InputError(f"{path}: its name does not begin with a patient's number; rename it or take it away")
        patient = int(number)
        pixels, spacing, _ = _midsagittal_image(source, f"{patient}_t2", overview)
        t1 = _t1_beside(source, patient, len(pixels) * spacing, overview)
        study = FIRST_ID + patient * 1000 + MIDSAGITTAL
        yield Labelled(study, {MIDSAGITTAL: pixels}, MIDSAGITTAL, nothing, spacing, "SPIDER mid-sagittal", t1)


def _t1_beside(source: Path, patient: int, width_mm: float, overview: pd.DataFrame) -> tuple[np.ndarray, float] | None:
    """The patient's T1 slice and its spacing, mm, where there is one as wide as the T2 slice."""
    if not (source / "midsagittal" / f"{patient}_t1.png").is_file():
        return None
    pixels, spacing, _ = _midsagittal_image(source, f"{patient}_t1", overview)
    return (pixels, spacing) if abs(len(pixels) * spacing / width_mm - 1) < SAME_WIDTH else None


def _midsagittal_image(source: Path, name: str, overview: pd.DataFrame) -> tuple[np.ndarray, float, int]:
    return squared(source, source / "midsagittal" / f"{name}.png", name, overview)


def _write_study(folder: Path, labelled: Labelled) -> dict[int, int]:
    """Write the series of a study into its folder; slice number → instance number of T2."""
    found = labelled.pixels
    planes = tuple(_plane(near - labelled.number, pixels, labelled.spacing_mm) for near, pixels in found.items())
    if found:
        _write_series(folder, labelled, SERIES_ID, "T2", planes, list(found.values()))
    if labelled.t1 is not None:
        pixels, spacing = labelled.t1
        _write_series(folder, labelled, SERIES_ID + 1, "T1", (_plane(0, pixels, spacing),), [pixels])
    return dict(zip(found, range(1, len(found) + 1), strict=True))


def _write_series(
    folder: Path,
    labelled: Labelled,
    series_id: int,
    weighting: Literal["T1", "T2"],
    planes: tuple[Plane, ...],
    images: list[np.ndarray],
) -> None:
    title = TITLES[series_id - SERIES_ID]
    instances = tuple(range(1, len(images) + 1))
    plan = SeriesPlan(title, weighting, planes, instances, SLICE_MM, 2 * SLICE_MM)
    for index, (instance, pixels) in enumerate(zip(instances, images, strict=True)):
        stored = pixels.astype(np.uint16)
        dataset = slice_dataset(labelled.study, series_id, instance, plan, index, stored, Coding(), labelled.sequence)
        dataset.Manufacturer = "SPIDER"
        write_slice(dataset, folder / str(series_id), instance)


def _plane(steps: int, pixels: np.ndarray, spacing: float) -> Plane:
    """A sagittal plane, rows to the feet and columns to the back, as SPIDER's images are; centred on the origin."""
    rows, columns = pixels.shape
    position = np.array([steps * SLICE_MM, -columns / 2 * spacing, rows / 2 * spacing])
    return Plane(position, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0]), (rows, columns), spacing)


def _coordinates(labelled: Labelled, instance: int | None) -> Iterator[dict[str, object]]:
    """Rows of the coordinate table: the canal on T2's `instance`, and on T1 both foramina of each level."""
    points = labelled.points
    for level, x, y in zip(points["level"], points["x"], points["y"], strict=True):
        common = {"study_id": labelled.study, "level": str(level)}
        if instance is not None:
            canal = {"series_id": SERIES_ID, "instance_number": instance, "condition": "Spinal Canal Stenosis"}
            yield common | canal | {"x": float(x), "y": float(y)}
        if labelled.t1 is None:
            continue
        place = {"x": float(x), "y": float(y)} if instance is None else _foramen(labelled, str(level), x, y)
        for side in ("Left", "Right"):
            condition = f"{side} Neural Foraminal Narrowing"
            yield common | {"series_id": SERIES_ID + 1, "instance_number": 1, "condition": condition} | place


def _foramen(labelled: Labelled, level: str, x: float, y: float) -> dict[str, float]:
    """Where, in pixels of the T1 slice, the foramina of a level would be whose canal point on T2 is given."""
    assert labelled.t1 is not None
    pixels, spacing = labelled.t1
    forward, up = FORAMEN_FROM_CANAL_MM[[level_title(each) for each in LEVELS].index(level)]
    scale = labelled.spacing_mm / spacing  # both images lie around one middle
    middle, t1_middle = len(labelled.pixels[labelled.number]) / 2, len(pixels) / 2
    return {
        "x": (float(x) - middle) * scale + t1_middle - forward / spacing,
        "y": (float(y) - middle) * scale + t1_middle - up / spacing,
    }
