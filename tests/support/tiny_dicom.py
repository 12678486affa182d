"""Writes small DICOM files and studies for tests of the reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
from numpy.typing import ArrayLike, NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from lumbar.dicom.series import Series, read_series
from lumbar.issues import Issue

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
ORIGIN = np.zeros(3)


def image(seed: int, shape: tuple[int, int] = (40, 36), dtype: str = "int16", low: int = 0) -> NDArray[Any]:
    """A noisy image with a bright block, different for each seed."""
    random = np.random.default_rng(seed)
    pixels = random.integers(low, 900, shape)
    pixels[4:9, 3:7] += 500
    return pixels.astype(dtype)


def smooth(high: float, shape: tuple[int, int] = (64, 48), seed: int = 0) -> NDArray[np.int64]:
    """An image like a patient's, from 0 in the air to about `high`: neighbouring pixels differ little."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    body = np.sin(np.pi * rows / (shape[0] - 1)) * np.sin(np.pi * columns / (shape[1] - 1))
    noise = np.random.default_rng(seed).normal(0, high / 200, shape)
    return np.clip(high * body * (0.8 + 0.15 * np.cos(rows / 5)) + noise, 0, high).astype(np.int64)


def write_slice(
    path: Path,
    pixels: NDArray[Any],
    ipp: ArrayLike | None,
    iop: ArrayLike | None = SAGITTAL,
    spacing: ArrayLike | None = (3.5, 3.0),
    *,
    syntax: UID = ExplicitVRLittleEndian,
    codestream: bytes | None = None,
    **tags: Any,
) -> Path:
    """One MR file. `tags` are added as they are; a tag given as None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = "MR"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    geometry = {"ImagePositionPatient": ipp, "ImageOrientationPatient": iop, "PixelSpacing": spacing}
    for keyword, value in geometry.items():
        if value is not None:
            setattr(dataset, keyword, [f"{number:.10g}" for number in np.asarray(value, float)])
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW"
    if codestream is not None:
        dataset.PixelData = encapsulate([codestream])
        dataset["PixelData"].VR = "OB"
    elif syntax in (RLELossless, JPEG2000Lossless):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_stack(
    folder: Path,
    positions: Sequence[float],
    iop: Sequence[float] = SAGITTAL,
    *,
    names: Sequence[int] | None = None,
    shape: tuple[int, int] = (40, 36),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    pictures: int = 0,
    **options: Any,
) -> Path:
    """A series: one slice at each position (mm along the normal from `origin`); files are numbered from 1.

    The image of a slice is that of its number (and of `pictures`, which tells series of one study apart), so that
    reordering is seen in the pixels.
    """
    normal = np.cross(iop[:3], iop[3:])
    for number, position in zip(names or range(1, len(positions) + 1), positions, strict=True):
        ipp = np.asarray(origin) + normal * position
        write_slice(
            folder / f"{number}.dcm", image(number + pictures, shape), ipp, iop, InstanceNumber=number, **options
        )
    return folder


def merge_into_enhanced(folder: Path, syntax: UID = ExplicitVRLittleEndian, *, shared: bool = True) -> Path:
    """Replace the ordinary files of a series folder, in natural order, by one enhanced file `1.dcm` with a frame each.

    Orientation, pixel measures and rescale stand once for all frames (`shared`) or with every frame. The slices must be
    uncompressed, of one shape and storage.
    """
    paths = sorted(folder.glob("*.dcm"), key=lambda path: int(path.stem))
    slices = [dcmread(path) for path in paths]
    merged = dcmread(paths[0])
    merged.file_meta.MediaStorageSOPClassUID = merged.SOPClassUID = EnhancedMRImageStorage
    common = [_functional_groups(item) for item in slices]
    if shared:
        merged.SharedFunctionalGroupsSequence = [common[0]]
    frames = []
    for item, groups in zip(slices, common, strict=True):
        frame = Dataset() if shared else groups
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = item.ImagePositionPatient
        frames.append(frame)
    merged.PerFrameFunctionalGroupsSequence = frames
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices"):
        if keyword in merged:
            delattr(merged, keyword)
    merged.NumberOfFrames = len(slices)
    merged.PixelData = b"".join(item.PixelData for item in slices)
    merged["PixelData"].VR = "OW"
    if syntax.is_compressed:
        merged.compress(syntax, generate_instance_uid=False)
    for path in paths:
        path.unlink()
    merged.save_as(folder / "1.dcm", enforce_file_format=True)
    return folder / "1.dcm"


def _functional_groups(item: Dataset) -> Dataset:
    groups, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = item.ImageOrientationPatient
    measures.PixelSpacing = item.PixelSpacing
    if "SpacingBetweenSlices" in item:
        measures.SpacingBetweenSlices = item.SpacingBetweenSlices
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    if "RescaleSlope" in item:
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept = item.RescaleSlope, item.RescaleIntercept
        groups.PixelValueTransformationSequence = [values]
    return groups


def read(folder: Path, description: str = "Sagittal T1") -> tuple[Series, list[str]]:
    series, issues = read_series(folder, 7, description, 1)
    assert series is not None, issues
    return series, [issue.code for issue in issues]


def read_one(folder: Path, pixels: np.ndarray, **options: Any) -> tuple[Series | None, list[Issue]]:
    write_slice(folder / "1.dcm", pixels, ORIGIN, **options)
    return read_series(folder, 7, "Sagittal T1", 1)


def instances(series: Series, order: str = "position") -> list[int]:
    return [item.instance for item in series.ordered(order)]  # type: ignore[arg-type]
