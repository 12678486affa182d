"""Real images for the sagittal T2 detector: SPIDER's slices in the competition's layout.

SPIDER (van der Graaf et al., "Lumbar spine segmentation in MR images: a dataset and a public benchmark", Scientific
Data 2024, CC BY 4.0) gives images and masks. `t2_space/canal_keypoints.csv` holds canal points made from the masks of
T2 SPACE volumes: each labelled slice becomes a study of its own, with up to two neighbours on either side, so that
training sees it as any other series. `midsagittal/` holds one T2 turbo spin echo slice a patient: those that have
points in a table of our own become studies of one slice, with the T1 slice beside it where that shows the same place.
The part `images` is every mid-sagittal pair (T2, and T1 where both have one field of view) without any point. The
images carry no position along the patient's left-right axis: the slices lie around x = 0 in the order of their numbers.
SPIDER has no grades of stenosis: labels are empty, but for the canal of mid-sagittal slices where a table grades it.
Nothing that has a side may be learnt from them: the T1 slices get the same point for the left and the right foramen of
a level, where both would be if looked at from the side.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import pandas as pd

from lumbar.files.exchange import check_own, exchanging
from lumbar.files.write import write_csv, writing_into
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, LEVELS, level_title
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.writer import Coding, OwnSlices, slice_dataset, write_slice
from lumbar.spider.tables import MOST, check_within, columns_spacing, merged, read_grades, read_overview, read_points
from lumbar.terminal.progress import follow

Part = Literal["train", "held_out", "images"]
#: T2 SPACE: pixel spacing and distance of neighbouring slice numbers, mm, of all 31 patients in SPIDER's overview.csv.
PIXEL_MM: Final = 0.46875
SLICE_MM: Final = 0.9
#: Slices on either side of the labelled one; the folder holds every second slice number.
NEIGHBOURS: Final = 2
#: Patients whose number leaves this remainder by `HELD_OUT_OF` are held out: no study of theirs is trained on.
HELD_OUT_OF, HELD_OUT_REMAINDER = 5, 2
#: T1 and T2 belong together where their fields of view differ by less than this share.
SAME_WIDTH: Final = 0.02
FIRST_ID: Final = 9_000_000_000
#: From the canal point of a level to the middle of its foramina, seen from the side: forward and up, mm,
#: L1/L2 to L5/S1. Means over phantoms (`sample_data`: 50 foramina, standard deviation at most 1.6 mm).
FORAMEN_FROM_CANAL_MM: Final = ((2.3, 5.6), (2.6, 5.4), (3.0, 5.1), (3.7, 4.3), (6.7, 1.4))
#: Stands for the slice number in the study id of a mid-sagittal image, whose number is not known.
MIDSAGITTAL: Final = 999
SERIES_ID: Final = 1
TITLES: Final = ("Sagittal T2/STIR", "Sagittal T1")
TABLES: Final = ("train_sources.csv", "train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv")
COORDINATES: Final = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")


def is_held_out(patient: int) -> bool:
    """Whether a patient's studies belong to the part that is never trained on."""
    return patient % HELD_OUT_OF == HELD_OUT_REMAINDER


@dataclass(frozen=True)
class _Labelled:
    """One study to write: its slices from one side to the other by number, the labelled one's, and its points.

    `t1` is the T1 slice in the labelled one's place, (rows, columns) uint8 and pixel spacing, where there is one;
    `grades` are labels by their column of `train.csv`.
    """

    study: int
    pixels: dict[int, np.ndarray]  # (rows, columns) uint8
    number: int
    points: pd.DataFrame  # columns level, x, y (pixels of the labelled slice)
    spacing_mm: float
    sequence: str
    t1: tuple[np.ndarray, float] | None = None
    grades: Mapping[str, str] = field(default_factory=dict)


def write_spider(
    source: Path, out: Path, part: Part = "train", points: Path | None = None, grades: Path | None = None
) -> list[int]:
    """Add one part of SPIDER's labelled slices to the data folder `out`, new or not, and return the studies' ids.

    `source` holds `t2_space/` (`images/`, `canal_keypoints.csv`: patient, image, slice, level, x, y in pixels), and for
    the mid-sagittal images `midsagittal/` and `overview.csv`. `points`: table of canal points on those (patient, level,
    x, y in pixels of `<patient>_t2.png`; t1: 1 where `<patient>_t1.png` shows the same place, 0 where it does not or is
    missing; how it was made, `how`, is not read); without it they are left out. `grades`: table of canal grades of
    those (patient, level, grade: 0 normal or mild, 1 moderate, 2 severe), which become their labels. Of studies that
    are there already the images are written anew, and the rows stay as they stand. Raises InputError for a table or an
    image that cannot be read or used, where there is no study to write, and where a study or row of the same number is
    there that this did not write or that somebody changed, and where somebody changed one of its slices.
    """
    if grades is not None and (points is None or part == "images"):
        raise InputError(f"{grades}: grades need images with points; give the table of points and no part `images`")
    ids, labels, series, coordinates, sources = [], [], [], [], []
    if part == "images":
        found = [_pairs(Path(source))]
    else:
        found = [_t2_space(Path(source) / "t2_space", part)]
    if part != "images" and points is not None:
        found.append(
            _midsagittal(Path(source), Path(points), part, {} if grades is None else read_grades(Path(grades)))
        )
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
            for number, title in enumerate(TITLES[: 1 if labelled.t1 is None else 2], SERIES_ID):
                series.append({"study_id": labelled.study, "series_id": number, "series_description": title})
            coordinates += list(_coordinates(labelled, instances[labelled.number]))
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
    return table[[is_held_out(patient) == (part == "held_out") for patient in table["patient"]]]


def _t2_space(source: Path, part: Part) -> Iterator[_Labelled]:
    path = source / "canal_keypoints.csv"
    table = _of_part(path, ("patient", "image", "slice", "level", "x", "y"), part)
    for _, points in table.groupby(["patient", "slice"]):
        patient, number, image = (points[name].iloc[0] for name in ("patient", "slice", "image"))
        pixels = _neighbours(source / "images", str(image), int(number))
        check_within(path, points, *pixels[int(number)].shape)
        study = FIRST_ID + int(patient) * 1000 + int(number)
        yield _Labelled(study, pixels, int(number), points, PIXEL_MM, "SPIDER T2 SPACE")


def _neighbours(folder: Path, image: str, number: int) -> dict[int, np.ndarray]:
    """The labelled slice and those of its neighbours that are there (the folder holds every second number)."""
    found: dict[int, np.ndarray] = {}
    for step in range(-NEIGHBOURS, NEIGHBOURS + 1):
        near = number + 2 * step
        path = folder / image.replace(f"slice{number}", f"slice{near}")
        if path.is_file() or not step:
            found[near] = _image(path)
    return found


def _midsagittal(
    source: Path, points: Path, part: Part, grades: Mapping[int, Mapping[str, str]]
) -> Iterator[_Labelled]:
    """Mid-sagittal T2 slices, and T1 of the same place, with a table's points; pairs stored head down are turned."""
    table = _of_part(points, ("patient", "level", "x", "y", "t1"), part)
    overview = read_overview(source / "overview.csv")
    for patient, rows in table.groupby("patient"):
        squared, spacing, height = _squared(source, f"{patient}_t2", overview)
        size = len(squared)
        check_within(points, rows, height, size)
        placed = rows.assign(y=rows["y"] * size / height)
        heights = placed.set_index("level")["y"].sort_index()
        t1 = _t1_beside(source, int(patient), size * spacing, overview) if rows["t1"].all() else None
        if heights.iloc[0] > heights.iloc[-1]:  # L1/L2 below L5/S1
            squared, placed = squared[::-1], placed.assign(y=size - 1 - placed["y"])
            t1 = None if t1 is None else (t1[0][::-1], t1[1])
        study = FIRST_ID + int(patient) * 1000 + MIDSAGITTAL
        graded = grades.get(int(patient), {})
        yield _Labelled(study, {MIDSAGITTAL: squared}, MIDSAGITTAL, placed, spacing, "SPIDER mid-sagittal", t1, graded)


def _pairs(source: Path) -> Iterator[_Labelled]:
    """Every mid-sagittal T2 slice, with the T1 slice of the patient where both show the same width."""
    overview = read_overview(source / "overview.csv")
    nothing = pd.DataFrame(columns=["level", "x", "y"])
    for path in sorted((source / "midsagittal").glob("*_t2.png")):
        number = path.name.removesuffix("_t2.png")
        if not re.fullmatch("0|[1-9][0-9]*", number) or int(number) > MOST["patient"]:
            raise InputError(f"{path}: its name does not begin with a patient's number; rename it or take it away")
        patient = int(number)
        pixels, spacing, _ = _squared(source, f"{patient}_t2", overview)
        t1 = _t1_beside(source, patient, len(pixels) * spacing, overview)
        study = FIRST_ID + patient * 1000 + MIDSAGITTAL
        yield _Labelled(study, {MIDSAGITTAL: pixels}, MIDSAGITTAL, nothing, spacing, "SPIDER mid-sagittal", t1)


def _t1_beside(source: Path, patient: int, width_mm: float, overview: pd.DataFrame) -> tuple[np.ndarray, float] | None:
    """The patient's T1 slice and its spacing, mm, where there is one as wide as the T2 slice."""
    if not (source / "midsagittal" / f"{patient}_t1.png").is_file():
        return None
    pixels, spacing, _ = _squared(source, f"{patient}_t1", overview)
    return (pixels, spacing) if abs(len(pixels) * spacing / width_mm - 1) < SAME_WIDTH else None


def _squared(source: Path, name: str, overview: pd.DataFrame) -> tuple[np.ndarray, float, int]:
    """A mid-sagittal image as wide as high, its spacing (mm), and its stored height.

    Their rows were resampled (images of one patient differ in height only, vertebrae are squeezed or drawn out), their
    columns were not: a square with the columns' spacing shows vertebrae as they are.
    """
    stored = _image(source / "midsagittal" / f"{name}.png")
    height, width = stored.shape
    way = cv2.INTER_AREA if height > width else cv2.INTER_LINEAR
    spacing = columns_spacing(source / "overview.csv", overview, name)
    return cv2.resize(stored, (width, width), interpolation=way), spacing, height


def _image(path: Path) -> np.ndarray:
    if not path.is_file():  # to read a pipe may take for ever
        raise InputError(f"{path}: not a readable image (there is no such file); copy it again")
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise InputError(f"{path}: not a readable image; copy it again")
    return pixels


def _write_study(folder: Path, labelled: _Labelled) -> dict[int, int]:
    """Write the series of a study into its folder; slice number → instance number of the first."""
    found = labelled.pixels
    planes = tuple(_plane(near - labelled.number, pixels, labelled.spacing_mm) for near, pixels in found.items())
    _write_series(folder, labelled, SERIES_ID, "T2", planes, list(found.values()))
    if labelled.t1 is not None:
        pixels, spacing = labelled.t1
        _write_series(folder, labelled, SERIES_ID + 1, "T1", (_plane(0, pixels, spacing),), [pixels])
    return dict(zip(found, range(1, len(found) + 1), strict=True))


def _write_series(
    folder: Path,
    labelled: _Labelled,
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


def _coordinates(labelled: _Labelled, instance: int) -> Iterator[dict[str, object]]:
    """Rows of the coordinate table: the canal on T2, and on T1 both foramina of each level."""
    titles = [level_title(level) for level in LEVELS]
    points = labelled.points
    for level, x, y in zip(points["level"], points["x"], points["y"], strict=True):
        common = {"study_id": labelled.study, "level": str(level)}
        canal = {"series_id": SERIES_ID, "instance_number": instance, "condition": "Spinal Canal Stenosis"}
        yield common | canal | {"x": float(x), "y": float(y)}
        if labelled.t1 is None:
            continue
        pixels, spacing = labelled.t1
        forward, up = FORAMEN_FROM_CANAL_MM[titles.index(str(level))]
        scale = labelled.spacing_mm / spacing  # both images lie around one middle
        middle, t1_middle = len(labelled.pixels[labelled.number]) / 2, len(pixels) / 2
        place = {
            "x": (float(x) - middle) * scale + t1_middle - forward / spacing,
            "y": (float(y) - middle) * scale + t1_middle - up / spacing,
        }
        for side in ("Left", "Right"):
            condition = f"{side} Neural Foraminal Narrowing"
            yield common | {"series_id": SERIES_ID + 1, "instance_number": 1, "condition": condition} | place
