"""The images that a structured report refers to, read again for the little that a report needs of their headers."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, validate_value

from lumbar.dicom.file import Header, read_header
from lumbar.geometry import to_patient
from lumbar.issues import InputError
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder

#: What a report of the same study has to repeat (PS3.3, patient and general study modules); may be empty, not absent.
REPEATED: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
#: What tells a de-identified study; nothing else of a header is kept.
_DEIDENTIFIED: Final = ("PatientIdentityRemoved", "DeidentificationMethod")
_IDENTITY: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
#: A keypoint's pixel and its millimetres agree to far less than this on the slice that it was found on.
_SAME_MM: Final = 0.02


@dataclass(frozen=True, eq=False)
class Source:
    """An image, as a report refers to it: `evidence` holds its identity, `frame` counts from 1 in an enhanced file."""

    evidence: Dataset
    frame: int | None
    inside: bool  # whether the keypoint lies in the image


def find_sources(data: DataFolder, study_id: int, points: Iterable[Keypoint]) -> dict[Keypoint, Source]:
    """The image of each keypoint among the files of a study: the one where its pixel is at its millimetres.

    File names are only where the search starts, since numbers may repeat. Each file is read once and without pixels.
    Raises InputError where a header cannot be read, or names no study, series or instance.
    """
    headers: dict[Path, Header] = {}
    evidence: dict[Path, Dataset] = {}
    found = {}
    for point in points:
        own = f"{point.instance}.dcm"
        for path in sorted(data.series_files(study_id, point.series_id), key=lambda path: path.name != own):
            header = headers[path] = headers.get(path) or read_header(path)
            place = _frame_at(header, point)
            if place is not None:
                evidence[path] = evidence.get(path) or evidence_of(header.dataset, path)
                rows, columns = int(header.dataset.Rows), int(header.dataset.Columns)
                x, y = point.xy_px
                inside = -0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5
                found[point] = Source(evidence[path], header.affines[place][0], inside)
                break
    return found


def _frame_at(header: Header, point: Keypoint) -> int | None:
    """Place among the header's frames of the one on which the point's pixel is at its millimetres."""
    for place, (_, affine) in enumerate(header.affines):
        if np.linalg.norm(to_patient(affine, point.xy_px) - np.array(point.mm)) < _SAME_MM:
            return place
    return None


def first_of(data: DataFolder, study_id: int, series_ids: Iterable[int]) -> list[Dataset]:
    """Evidence of the first file of each series, for a report that has no keypoint to point at."""
    firsts = [path for number in series_ids for path in data.series_files(study_id, number)[:1]]
    return [evidence_of(read_header(path).dataset, path) for path in firsts]


def evidence_of(header: Dataset, path: Path) -> Dataset:
    """The part of a header that a report needs; InputError where it names no study, series or instance."""
    if missing := [name for name in _IDENTITY if not header.get(name)]:
        raise InputError(f"{path}: has no {missing[0]}, so that no report can refer to it; take the original files")
    kept = Dataset()
    for name in _IDENTITY:
        setattr(kept, name, str(header.get(name)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a remark on an odd value quotes it, and a patient's data belong in no log
        for name in REPEATED:
            value = str(header.get(name) or "")
            setattr(kept, name, value if _can_stand(name, value) else "")
        if header.get(_DEIDENTIFIED[0]) == "YES" and header.get(_DEIDENTIFIED[1]):
            method = header.get(_DEIDENTIFIED[1])
            kept.PatientIdentityRemoved = "YES"
            kept.DeidentificationMethod = (method if isinstance(method, str) else "; ".join(method))[:64]
    return kept


def _can_stand(name: str, value: str) -> bool:
    """Whether a value may be repeated: a malformed date, time or sex is not, an odd name or number is whose it is."""
    if name == "PatientSex":
        return value in ("M", "F", "O")
    vr = dictionary_VR(name)
    if vr not in ("DA", "TM"):
        return True
    try:
        validate_value(vr, value, RAISE)
        (DA if vr == "DA" else TM)(value)  # 30 February has the form of a date
    except ValueError:
        return False
    return True


def nameless(evidence: Dataset) -> Dataset:
    """Evidence without a word about the patient, for a library that quotes odd names in its warnings."""
    bare = Dataset()
    for name in _IDENTITY:
        setattr(bare, name, evidence.get(name))
    for name in REPEATED:
        setattr(bare, name, "")
    return bare


def repeat_study(report: Dataset, evidence: Dataset) -> None:
    """Put the patient and study of the images into their report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*REPEATED, *_DEIDENTIFIED):
            if name in evidence:
                setattr(report, name, evidence.get(name))
