"""Real images for the sagittal T2 detector: SPIDER's slices in the competition's layout.

SPIDER (van der Graaf et al., "Lumbar spine segmentation in MR images: a dataset and a public benchmark", Scientific
Data 2024, CC BY 4.0) gives images and masks. `t2_space/canal_keypoints.csv` holds canal points made from the masks of
T2 SPACE volumes: each labelled slice becomes a study of its own, with up to two neighbours on either side, so that
training sees it as any other series. `midsagittal/` holds one T2 turbo spin echo slice a patient: those that have
points in a table of our own become studies of one slice. The images carry no position along the patient's left-right
axis and no severity grades: the slices lie around x = 0 in the order of their numbers, and all labels are empty. Only
the canal, which has no side, may be learnt from them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import pandas as pd

from lumbar.files import read_table, write_csv
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, LEVELS, level_title
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.writer import Coding, slice_dataset, write_slice

Part = Literal["train", "held_out"]
#: T2 SPACE: pixel spacing and distance of neighbouring slice numbers, mm, of all 31 patients in SPIDER's overview.csv.
PIXEL_MM: Final = 0.46875
SLICE_MM: Final = 0.9
#: Slices on either side of the labelled one; the folder holds every second slice number.
NEIGHBOURS: Final = 2
#: Patients whose number leaves this remainder by `HELD_OUT_OF` are held out: no study of theirs is trained on.
HELD_OUT_OF, HELD_OUT_REMAINDER = 5, 2
FIRST_ID: Final = 9_000_000_000
#: Stands for the slice number in the study id of a mid-sagittal image, whose number is not known.
MIDSAGITTAL: Final = 999
SERIES_ID: Final = 1
TABLES: Final = ("train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv")


def is_held_out(patient: int) -> bool:
    """Whether a patient's studies belong to the part that is never trained on."""
    return patient % HELD_OUT_OF == HELD_OUT_REMAINDER


@dataclass(frozen=True)
class _Labelled:
    """One study to write: its slices from one side to the other by number, the labelled one's, and its points."""

    study: int
    pixels: dict[int, np.ndarray]  # (rows, columns) uint8
    number: int
    points: pd.DataFrame  # columns level, x, y (pixels of the labelled slice)
    spacing_mm: float
    sequence: str


def write_spider(source: Path, out: Path, part: Part = "train", points: Path | None = None) -> list[int]:
    """Add one part of SPIDER's labelled slices to the data folder `out`, new or not, and return the studies' ids.

    `source` holds `t2_space/` (`images/`, `canal_keypoints.csv`: patient, image, slice, level, x, y in pixels), and for
    the mid-sagittal images `midsagittal/` and `overview.csv`. `points`: table of canal points on those (patient, level,
    x, y in pixels of `<patient>_t2.png`); without it they are left out. Studies that are there already are written
    anew. Raises InputError for a table or an image that cannot be read.
    """
    ids, labels, series, coordinates = [], [], [], []
    found = [_t2_space(Path(source) / "t2_space", part)]
    if points is not None:
        found.append(_midsagittal(Path(source), Path(points), part))
    for labelled in itertools.chain(*found):
        instances = _write_study(Path(out), labelled)
        ids.append(labelled.study)
        labels.append({"study_id": labelled.study, **dict.fromkeys(LABEL_COLUMNS)})
        series.append({"study_id": labelled.study, "series_id": SERIES_ID, "series_description": "Sagittal T2/STIR"})
        coordinates += list(_coordinates(labelled, instances[labelled.number]))
    for name, rows in zip(TABLES, (labels, series, coordinates), strict=True):
        _add_rows(Path(out) / name, pd.DataFrame(rows), ids)
    return ids


def _of_part(path: Path, columns: tuple[str, ...], part: Part) -> pd.DataFrame:
    table = read_table(path, columns)
    return table[[is_held_out(int(patient)) == (part == "held_out") for patient in table["patient"]]]


def _t2_space(source: Path, part: Part) -> Iterator[_Labelled]:
    table = _of_part(source / "canal_keypoints.csv", ("patient", "image", "slice", "level", "x", "y"), part)
    for _, points in table.groupby(["patient", "slice"]):
        patient, number, image = (points[name].iloc[0] for name in ("patient", "slice", "image"))
        pixels = _neighbours(source / "images", str(image), int(number))
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


def _midsagittal(source: Path, points: Path, part: Part) -> Iterator[_Labelled]:
    """Mid-sagittal T2 slices, as wide as high again: their rows were resampled, their columns were not."""
    table = _of_part(points, ("patient", "level", "x", "y"), part)
    overview = read_table(source / "overview.csv", ("new_file_name", "PixelSpacing")).set_index("new_file_name")
    for patient, rows in table.groupby("patient"):
        stored = _image(source / "midsagittal" / f"{patient}_t2.png")
        height, width = stored.shape
        way = cv2.INTER_AREA if height > width else cv2.INTER_LINEAR
        squared = cv2.resize(stored, (width, width), interpolation=way)
        placed = rows.assign(y=rows["y"].astype(float) * width / height)
        heights = placed.set_index("level")["y"].sort_index()
        if heights.iloc[0] > heights.iloc[-1]:  # L1/L2 below L5/S1: stored head down
            squared, placed = squared[::-1], placed.assign(y=width - 1 - placed["y"])
        spacing = float(str(overview["PixelSpacing"][f"{patient}_t2"]).strip("[]").split(",")[1])
        study = FIRST_ID + int(patient) * 1000 + MIDSAGITTAL
        yield _Labelled(study, {MIDSAGITTAL: squared}, MIDSAGITTAL, placed, spacing, "SPIDER T2 TSE")


def _image(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise InputError(f"{path}: not a readable image, though the table of points names it; copy it again")
    return pixels


def _write_study(out: Path, labelled: _Labelled) -> dict[int, int]:
    """Write the slices of a study; slice number → instance number."""
    found, study = labelled.pixels, labelled.study
    planes = tuple(_plane(near - labelled.number, pixels, labelled.spacing_mm) for near, pixels in found.items())
    instances = tuple(range(1, len(found) + 1))
    plan = SeriesPlan("Sagittal T2/STIR", "T2", planes, instances, SLICE_MM, 2 * SLICE_MM)
    folder = out / "train_images" / str(study) / str(SERIES_ID)
    for index, (instance, pixels) in enumerate(zip(instances, found.values(), strict=True)):
        stored = pixels.astype(np.uint16)
        dataset = slice_dataset(study, SERIES_ID, instance, plan, index, stored, Coding(), labelled.sequence)
        dataset.Manufacturer = "SPIDER"
        write_slice(dataset, folder, instance)
    return dict(zip(found, instances, strict=True))


def _plane(steps: int, pixels: np.ndarray, spacing: float) -> Plane:
    """A sagittal plane, rows to the feet and columns to the back, as SPIDER's images are; centred on the origin."""
    rows, columns = pixels.shape
    position = np.array([steps * SLICE_MM, -columns / 2 * spacing, rows / 2 * spacing])
    return Plane(position, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0]), (rows, columns), spacing)


def _coordinates(labelled: _Labelled, instance: int) -> Iterator[dict[str, object]]:
    titles = [level_title(level) for level in LEVELS]
    points = labelled.points
    for level, x, y in zip(points["level"], points["x"], points["y"], strict=True):
        if str(level) not in titles:
            raise InputError(f"SPIDER's points: unknown level {level!r}; write one of {', '.join(titles)}")
        yield {
            "study_id": labelled.study,
            "series_id": SERIES_ID,
            "instance_number": instance,
            "condition": "Spinal Canal Stenosis",
            "level": str(level),
            "x": float(x),
            "y": float(y),
        }


def _add_rows(path: Path, rows: pd.DataFrame, ids: list[int]) -> None:
    """The table at `path`, where there is one, without these studies' old rows and with the new ones."""
    if path.is_file():
        old = read_table(path, ("study_id",))
        rows = pd.concat([old[~old["study_id"].astype(int).isin(ids)], rows], ignore_index=True)
    write_csv(rows, path)
