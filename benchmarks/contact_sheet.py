#!/usr/bin/env python3
"""Contact sheet: phantom and real studies side by side.

    python benchmarks/contact_sheet.py --out sheet.png [--real DIR] [--studies N] [--seed S]

Each row is a study: sagittal T1 through a foramen, sagittal T2 through the middle, axial T2 slices. Real rows come
first and are drawn where `--real` (a folder in the competition layout) exists; without one, phantoms stand alone.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.drawing import style
from lumbar.phantom.dataset import write_phantoms

_DESCRIPTIONS = ("Sagittal T1", "Sagittal T2/STIR", "Axial T2")
_COLUMNS = 8
#: Shown part of a picture, mm (height, width), around its middle.
_SAGITTAL_MM, _AXIAL_MM = (240.0, 190.0), (150.0, 150.0)


def load_stack(folder: Path) -> list[pydicom.FileDataset]:
    """The slices of a series folder, ordered along their dominant axis."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    positions = np.array([s.ImagePositionPatient for s in slices], float)
    axis = int(np.argmax(np.ptp(positions, axis=0)))
    return [slices[index] for index in np.argsort(positions[:, axis])]


def picture(dataset: pydicom.FileDataset, size_mm: tuple[float, float]) -> np.ndarray:
    """The part of a slice around its brightest mass, scaled 0..1."""
    pixels = dataset.pixel_array.astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() - pixels
    spacing = np.array(dataset.PixelSpacing, float)
    bright = pixels > np.percentile(pixels, 80)
    centre = [np.median(np.flatnonzero(bright.any(axis=1 - axis))) for axis in (0, 1)]
    box = []
    for axis in (0, 1):
        half = min(size_mm[axis] / spacing[axis], pixels.shape[axis]) / 2
        middle = float(np.clip(centre[axis], half, pixels.shape[axis] - half))
        box.append(slice(int(middle - half), int(middle + half)))
    part = pixels[box[0], box[1]]
    return np.clip(part / max(float(np.percentile(part, 99.5)), 1.0), 0, 1)


def pick(stack: list[pydicom.FileDataset], shares: tuple[float, ...]) -> list[pydicom.FileDataset]:
    """Slices at shares (0..1) of a stack."""
    return [stack[round(share * (len(stack) - 1))] for share in shares]


def study_pictures(root: Path, split: str, study: int) -> list[np.ndarray | None]:
    """The pictures of one row; None where a series is missing."""
    table = pd.read_csv(root / f"{split}_series_descriptions.csv")
    table = table[table.study_id == study]
    row: list[np.ndarray | None] = []
    plans = (((0.25, 0.75), _SAGITTAL_MM), ((0.5, 0.3), _SAGITTAL_MM), ((0.15, 0.4, 0.65, 0.85), _AXIAL_MM))
    for description, (shares, size) in zip(_DESCRIPTIONS, plans, strict=True):
        series = table[table.series_description == description].series_id.tolist()
        if not series:
            row += [None] * len(shares)
            continue
        stack = load_stack(root / f"{split}_images" / str(study) / str(series[0]))
        row += [picture(dataset, size) for dataset in pick(stack, shares)]
    return row


def real_studies(root: Path | None) -> list[tuple[Path, str, int]]:
    """(folder, split, study) of every study below a real data folder."""
    if root is None or not root.is_dir():
        return []
    found = []
    for split in ("train", "test"):
        folder = root / f"{split}_images"
        if folder.is_dir():
            found += [(root, split, int(path.name)) for path in sorted(folder.iterdir()) if path.name.isdecimal()]
    return found


def draw(rows: list[tuple[str, list[np.ndarray | None]]], out: Path) -> None:
    """Write the sheet."""
    figure, axes = plt.subplots(len(rows), _COLUMNS, figsize=(2.2 * _COLUMNS, 2.5 * len(rows)), squeeze=False)
    for line, (title, pictures) in zip(axes, rows, strict=True):
        for axis, image in zip(line, pictures, strict=True):
            axis.axis("off")
            if image is not None:
                axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        line[0].set_title(title, loc="left", size=style.TITLE_SIZE, color=style.INK)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="picture to write (png)")
    shared = Path(__file__).resolve().parent.parent.parent / "shared" / "real" / "cc0_study"
    parser.add_argument("--real", type=Path, default=shared, help="real studies, competition layout")
    parser.add_argument("--studies", type=int, default=4, help="phantom studies")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = [(f"real {study}", study_pictures(root, split, study)) for root, split, study in real_studies(options.real)]
    if not rows:
        print(f"no real study below {options.real}; phantoms only", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for study in write_phantoms(Path(folder), options.studies, options.seed):
            rows.append((f"phantom {study}", study_pictures(Path(folder), "train", study)))
    draw(rows, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
