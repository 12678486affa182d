"""One study to write from SPIDER's pictures, and how a picture is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lumbar.issues import InputError
from lumbar.spider.tables import columns_spacing


@dataclass(frozen=True)
class Labelled:
    """One study to write: its slices from one side to the other by number, the labelled one's, and its points.

    `t1` is the T1 slice in the labelled one's place, (rows, columns) uint8 and pixel spacing, where there is one;
    `grades` are labels by their column of `train.csv`. Without `pixels` there is the T1 slice alone, and the points
    are foramina on it.
    """

    study: int
    pixels: dict[int, np.ndarray]  # (rows, columns) uint8
    number: int
    points: pd.DataFrame  # columns level, x, y (pixels of the labelled slice)
    spacing_mm: float
    sequence: str
    t1: tuple[np.ndarray, float] | None = None
    grades: Mapping[str, str] = field(default_factory=dict)


def squared(source: Path, image: Path, name: str, overview: pd.DataFrame) -> tuple[np.ndarray, float, int]:
    """A picture as wide as high, its spacing (mm), and its stored height; `name` is its series' in the overview.

    Rows were resampled (pictures of one patient differ in height only, vertebrae are squeezed or drawn out), columns
    were not: a square with the columns' spacing shows vertebrae as they are.
    """
    stored = read_image(image)
    height, width = stored.shape
    way = cv2.INTER_AREA if height > width else cv2.INTER_LINEAR
    spacing = columns_spacing(source / "overview.csv", overview, name)
    return cv2.resize(stored, (width, width), interpolation=way), spacing, height


def read_image(path: Path) -> np.ndarray:
    """Grey values (rows, columns) uint8; InputError where there is no readable picture."""
    if not path.is_file():  # to read a pipe may take for ever
        raise InputError(f"{path}: not a readable image (there is no such file); copy it again")
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise InputError(f"{path}: not a readable image; copy it again")
    return pixels
