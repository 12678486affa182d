"""Writes phantom series as MR Image Storage files and the tables of the competition layout."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid

from lumbar.dicom.identity import PHANTOM
from lumbar.phantom.scan import SeriesPlan

#: Echo and repetition times (ms) that the contrasts stand for.
_TIMES = {"T1": (10.0, 550.0), "T2": (105.0, 3600.0), "STIR": (60.0, 4200.0)}


@dataclass(frozen=True)
class Coding:
    """How a series' pixels are stored."""

    signed: bool = False
    inverted: bool = False  # MONOCHROME1
    slope: float | None = None
    compressed: bool = False


def _decimals(values: np.ndarray | list[float]) -> list[float]:
    """Values short enough for a DICOM decimal string."""
    return [round(float(value), 6) + 0.0 for value in values]


def _uid(*parts: object) -> str:
    return generate_uid(entropy_srcs=[str(part) for part in ("lumbar phantom", *parts)])


def slice_uid(seed: str, study: int, series: int, number: int) -> str:
    """UID of a slice: the same for the same words, and nobody else's."""
    return _uid(seed, study, series, number)


@dataclass
class OwnSlices:
    """Which files of a study's folder (`<series>/<number>.dcm`) an earlier call wrote, by relative name.

    They bear the UIDs of this seed. Where `like` is given, the folder that the study was written into anew, each must
    be what stands there, or its beginning, as a kill leaves it: a slice that somebody edited keeps its UIDs.
    """

    study: int
    seed: str
    like: Path | None = None

    def __call__(self, folder: Path) -> list[str]:
        names = [path.relative_to(folder) for path in folder.glob("*/*.dcm") if _is_own(path, self.study, self.seed)]
        like = self.like
        return [name.as_posix() for name in names if like is None or _is_begun(folder / name, like / name)]


def _is_begun(path: Path, whole: Path) -> bool:
    """Whether a file is another one, or the beginning of it."""
    return whole.is_file() and whole.read_bytes().startswith(path.read_bytes())


def _is_own(path: Path, study: int, seed: str) -> bool:
    series, number = path.parent.name, path.stem
    if not (series.isdecimal() and number.isdecimal() and path.is_file()):
        return False
    try:
        found = read_file_meta_info(path).get("MediaStorageSOPInstanceUID")
    except (InvalidDicomError, ValueError, AttributeError, EOFError, struct.error):
        return False
    return found == slice_uid(seed, study, int(series), int(number))


def slice_dataset(
    study: int, series: int, number: int, plan: SeriesPlan, index: int, pixels: np.ndarray, coding: Coding, seed: str
) -> FileDataset:
    """One MR Image Storage dataset. `pixels` (rows, columns) uint16."""
    plane = plan.planes[index]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = slice_uid(seed, study, series, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.Manufacturer = "20240101", "120000", "MR", PHANTOM
    ds.AccessionNumber, ds.ReferringPhysicianName = "", ""
    ds.SeriesDescription = plan.description
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = f"Phantom^{study}", str(study), "", ""
    ds.PatientPosition, ds.BodyPartExamined = "HFS", "LSPINE"
    ds.ScanningSequence, ds.SequenceVariant = ("IR", "SK") if plan.weighting == "STIR" else ("SE", "SK")
    ds.ScanOptions, ds.MRAcquisitionType, ds.EchoTrainLength = "", "2D", 3 if plan.weighting == "T1" else 17
    ds.EchoTime, ds.RepetitionTime = _TIMES[plan.weighting]
    ds.MagneticFieldStrength = 1.5
    ds.SliceThickness = round(plan.thickness, 3)
    if plan.gap is not None:
        ds.SpacingBetweenSlices = round(plan.gap, 3)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid(seed, study), _uid(seed, study, series)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = _uid(seed, study, "frame"), ""
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(study)[:16], series % 10000, number
    ds.ImagePositionPatient = _decimals(plane.position)
    ds.ImageOrientationPatient = _decimals([*plane.row, *plane.column])
    ds.PixelSpacing = _decimals([plane.spacing, plane.spacing])
    _store_pixels(ds, pixels, coding)
    return ds


def _store_pixels(ds: FileDataset, pixels: np.ndarray, coding: Coding) -> None:
    ds.SamplesPerPixel, ds.BitsAllocated = 1, 16
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsStored, ds.HighBit = (16, 15) if coding.signed else (12, 11)
    ds.PixelRepresentation = int(coding.signed)
    ds.PhotometricInterpretation = "MONOCHROME1" if coding.inverted else "MONOCHROME2"
    if coding.inverted:
        pixels = pixels.max() - pixels
    if coding.slope is not None:
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0.0, coding.slope, "US"
    high = float(np.percentile(pixels, 99.5))
    ds.WindowCenter, ds.WindowWidth = round(high / 2, 1), round(max(high, 1.0), 1)
    ds.PixelData = pixels.astype("<i2" if coding.signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if coding.compressed:
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)


def write_slice(ds: FileDataset, folder: Path, number: int) -> None:
    """Write `<folder>/<number>.dcm`."""
    folder.mkdir(parents=True, exist_ok=True)
    ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
