"""Mirrors a whole study left to right on disk, as a scanner would have written the mirrored patient."""

from pathlib import Path

import numpy as np
import pandas as pd
from pydicom import dcmread
from pydicom.dataset import FileDataset

from lumbar import geometry
from lumbar.labels import mirrored


def mirror_study(source: Path, target: Path) -> Path:
    """Write the study folder `source` (`<series>/<n>.dcm`) mirrored left to right to the folder `target`.

    Columns of axial and coronal slices still run to the patient's left: their pixels are flipped. Sagittal slices keep
    their pixels and change sides. File names, instance numbers and all other tags stay; compressed files are written
    uncompressed, since the syntax plays no part.
    """
    for path in sorted(source.glob("*/*.dcm")):
        dataset = dcmread(path)
        mirror_dataset(dataset)
        destination = target / path.parent.name / path.name
        destination.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(destination)
    return target


def mirror_dataset(dataset: FileDataset) -> None:
    """Mirror one slice in place."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    affine = _affine(dataset)
    if geometry.plane_of(affine) == "sagittal":
        _set_affine(dataset, _mirror_affine(affine))
        return
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    kind = f"{'<' if little else '>'}u{dataset.BitsAllocated // 8}"
    stored = np.frombuffer(dataset.PixelData, kind, dataset.Rows * dataset.Columns)
    dataset.PixelData = stored.reshape(dataset.Rows, dataset.Columns)[:, ::-1].tobytes()
    _set_affine(dataset, _mirror_affine(affine, int(dataset.Columns)))


def _mirror_affine(affine: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Affine (4, 4) of the slice in the patient mirrored left to right (x to -x).

    With `columns`, the image is flipped along its rows as well, so that an axial slice's columns still run to the left.
    """
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine
    if columns is not None:
        mirrored[:3, 3] += (columns - 1) * mirrored[:3, 0]
        mirrored[:3, 0] *= -1
    return mirrored


def mirror_coordinates(coordinates: pd.DataFrame, study_folder: Path) -> pd.DataFrame:
    """Keypoints (columns of `DataFolder.coordinates`) of the mirrored study.

    Axial x is flipped within its image; sagittal pixels stay; left and right change names. Rows keep their order.
    """
    table = coordinates.copy()
    table["condition"] = [mirrored(condition) for condition in table["condition"]]
    for index, row in table.iterrows():
        path = study_folder / str(row["series_id"]) / f"{row['instance_number']}.dcm"
        dataset = dcmread(path, stop_before_pixels=True)
        if geometry.plane_of(_affine(dataset)) != "sagittal":
            table.loc[index, "x"] = dataset.Columns - 1 - row["x"]
    return table


def mirror_labels(labels: pd.DataFrame) -> pd.DataFrame:
    """Severities (columns `<condition>_<level>`) with left and right exchanged."""
    names = {}
    for column in labels.columns:
        side = next((side for side in ("left_", "right_") if column.startswith(side)), None)
        other = {"left_": "right_", "right_": "left_"}.get(side or "", "")
        names[column] = other + column.removeprefix(side or "")
    return labels.rename(columns=names)[list(labels.columns)]


def _affine(dataset: FileDataset) -> geometry.FloatArray:
    return geometry.slice_affine(dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)


def _set_affine(dataset: FileDataset, affine: geometry.FloatArray) -> None:
    """Position and orientation in decimal strings of at most 16 characters, as the standard wants them."""
    rows, columns = dataset.PixelSpacing
    steps = affine[:3, :2] / [float(columns), float(rows)]
    dataset.ImagePositionPatient = [f"{value:.9g}" for value in affine[:3, 3]]
    dataset.ImageOrientationPatient = [f"{value:.9f}" for value in steps.T.ravel()]
