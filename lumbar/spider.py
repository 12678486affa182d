"""Real images for the sagittal T2 detector: SPIDER's T2 SPACE slices in the competition's layout.

SPIDER (van der Graaf et al., "Lumbar spine segmentation in MR images: a dataset and a public benchmark", Scientific
Data 2024, CC BY 4.0) gives images and masks; `canal_keypoints.csv` beside them holds canal points made from the
masks. Each labelled slice becomes a study of its own, with up to two neighbours on either side, so that training sees
it as any other series. The images carry no position along the patient's left-right axis and no severity grades: the
slices lie around x = 0 in the order of their numbers, and all labels are empty. Only the canal, which has no side,
may be learnt from them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import pandas as pd

from lumbar.files import read_table, write_csv
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, LEVELS
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.writer import Coding, slice_dataset, write_slice

Part = Literal["train", "held_out"]
#: Pixel spacing and distance of neighbouring slice numbers, mm: the same for all 31 patients in SPIDER's overview.csv.
PIXEL_MM: Final = 0.46875
SLICE_MM: Final = 0.9
#: Slices on either side of the labelled one; the folder holds every second slice number.
NEIGHBOURS: Final = 2
#: Patients whose number leaves this remainder by `HELD_OUT_OF` are held out: no study of theirs is trained on.
HELD_OUT_OF, HELD_OUT_REMAINDER = 5, 2
FIRST_ID: Final = 9_000_000_000
SERIES_ID: Final = 1
TABLES: Final = ("train.csv", "train_series_descriptions.csv", "train_label_coordinates.csv")


def is_held_out(patient: int) -> bool:
    """Whether a patient's studies belong to the part that is never trained on."""
    return patient % HELD_OUT_OF == HELD_OUT_REMAINDER


def write_spider(source: Path, out: Path, part: Part = "train") -> list[int]:
    """Add one part of SPIDER's labelled slices to the data folder `out`, new or not, and return the studies' ids.

    `source` is the folder that holds `images/` and `canal_keypoints.csv` (columns patient, image, slice, level, x, y in
    pixels of the image). Studies that are there already are written anew. Raises InputError for a table or an image
    that cannot be read.
    """
    table = read_table(Path(source) / "canal_keypoints.csv", ("patient", "image", "slice", "level", "x", "y"))
    table = table[[is_held_out(int(patient)) == (part == "held_out") for patient in table["patient"]]]
    ids, labels, series, coordinates = [], [], [], []
    for _, points in table.groupby(["patient", "slice"]):
        patient, number, image = (points[name].iloc[0] for name in ("patient", "slice", "image"))
        study = FIRST_ID + int(patient) * 1000 + int(number)
        instances = _write_study(Path(source), Path(out), study, str(image), int(number))
        ids.append(study)
        labels.append({"study_id": study, **dict.fromkeys(LABEL_COLUMNS)})
        series.append({"study_id": study, "series_id": SERIES_ID, "series_description": "Sagittal T2/STIR"})
        coordinates += list(_coordinates(study, instances[int(number)], points))
    for name, rows in zip(TABLES, (labels, series, coordinates), strict=True):
        _add_rows(Path(out) / name, pd.DataFrame(rows), ids)
    return ids


def _write_study(source: Path, out: Path, study: int, image: str, number: int) -> dict[int, int]:
    """Write a labelled slice and its neighbours; slice number → instance number."""
    found: dict[int, np.ndarray] = {}
    for step in range(-NEIGHBOURS, NEIGHBOURS + 1):
        near = number + 2 * step
        path = source / "images" / image.replace(f"slice{number}", f"slice{near}")
        if not path.is_file() and step:
            continue
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise InputError(f"{path}: not a readable image, though canal_keypoints.csv names it; copy it again")
        found[near] = pixels
    planes = tuple(_plane(near, number, pixels) for near, pixels in found.items())
    instances = tuple(range(1, len(found) + 1))
    plan = SeriesPlan("Sagittal T2/STIR", "T2", planes, instances, SLICE_MM, 2 * SLICE_MM)
    folder = out / "train_images" / str(study) / str(SERIES_ID)
    for index, (instance, pixels) in enumerate(zip(instances, found.values(), strict=True)):
        dataset = slice_dataset(
            study, SERIES_ID, instance, plan, index, pixels.astype(np.uint16), Coding(), "SPIDER T2 SPACE"
        )
        dataset.Manufacturer = "SPIDER"
        write_slice(dataset, folder, instance)
    return dict(zip(found, instances, strict=True))


def _plane(number: int, middle: int, pixels: np.ndarray) -> Plane:
    """A sagittal plane, rows to the feet and columns to the back, as SPIDER's images are; centred on the origin."""
    rows, columns = pixels.shape
    position = np.array([(number - middle) * SLICE_MM, -columns / 2 * PIXEL_MM, rows / 2 * PIXEL_MM])
    return Plane(position, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0]), (rows, columns), PIXEL_MM)


def _coordinates(study: int, instance: int, points: pd.DataFrame) -> Iterator[dict[str, object]]:
    titles = {level.upper().replace("_", "/"): level for level in LEVELS}
    for level, x, y in zip(points["level"], points["x"], points["y"], strict=True):
        if str(level) not in titles:
            raise InputError(f"canal_keypoints.csv: unknown level {level!r}; known: {', '.join(titles)}")
        yield {
            "study_id": study,
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
