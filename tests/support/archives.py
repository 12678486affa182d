"""Studies as hospitals' archives store them: other names, other folders, series beside those that matter."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

#: Place of a file by the numbers of its study, series and image, all counted from 0, and its header.
Naming = Callable[[int, int, int, Dataset], str]

#: How five vendors' archives and discs call files. None keeps the order of names that slices have.
VENDORS: dict[str, Naming] = {
    "Siemens": lambda study, series, image, header: (
        f"MR.SPINE_LUMBAR.{series + 1:04d}.{_mixed(image):04d}.2024.01.01.12.00.00.{study}.IMA"
    ),
    "Siemens disc": lambda study, series, image, header: (
        f"DICOM/2411300{study}/4207000{series}/{10473212 + 7 * _mixed(image)}"
    ),
    "GE": lambda study, series, image, header: f"A/A{study}/S{series}/Z{_mixed(image):02d}",
    "Philips": lambda study, series, image, header: (
        f"PA{study}/ST000000/SE{series:06d}/IM{_mixed(image):06d}" if image % 2 else f"DICOM/IM_{study}{series}{image}"
    ),
    "Canon": lambda study, series, image, header: f"{header.SOPInstanceUID}.dcm",
}  # fmt: skip


def _mixed(image: int) -> int:
    """Another number for each image, in another order."""
    return image * 37 % 101


def copy_study(source: Path, out: Path, naming: Naming, study: int = 0, change: Any = None) -> None:
    """The files of `<source>/<series>/<n>.dcm`, called otherwise. `change`: a function of series folder and header."""
    for series, folder in enumerate(sorted(source.iterdir())):
        for image, path in enumerate(sorted(folder.iterdir(), key=lambda path: int(path.stem))):
            header = dcmread(path)
            header.InstanceNumber = int(path.stem)
            if change is not None:
                change(folder.name, header)
            save(header, out / naming(study, series, image, header))


def save(header: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert not path.exists(), path
    header.save_as(path)


def add_series(files: list[Path], out: Path, *, name: str = "", **tags: Any) -> str:
    """Copies of files as a series of its own, with some tags changed (None: taken out); returns its UID."""
    uid = generate_uid(entropy_srcs=[ascii(out), name, repr(sorted(tags.items(), key=lambda pair: pair[0]))])
    for number, path in enumerate(files, 1):
        header = dcmread(path)
        header.SeriesInstanceUID, header.SeriesNumber, header.InstanceNumber = (
            uid,
            900 + len(list(out.glob("*"))),
            number,
        )
        header.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
        for keyword, value in tags.items():
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)
        save(header, out / (name or uid[-12:]) / f"I{number:04d}")
    return uid


def add_clutter(out: Path) -> None:
    """What lies on a patient's disc beside the images: a directory of them, a report, a program, a zip."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["directory"])
    directory.FileSetID = "DISC"
    directory.save_as(out / "DICOMDIR", enforce_file_format=True)
    (out / "Befund.pdf").write_bytes(b"%PDF-1.7\n" + b"x" * 4000)
    (out / "viewer").mkdir()
    (out / "viewer" / "START.EXE").write_bytes(b"MZ" + b"\0" * 4000)
    with zipfile.ZipFile(out / "images.zip", "w") as packed:
        packed.write(out / "Befund.pdf", "Befund.pdf")


def zipped(folder: Path, path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A folder as a zip."""
    with zipfile.ZipFile(path, "w", compression) as packed:
        for place in sorted(folder.rglob("*")):
            packed.write(place, place.relative_to(folder.parent))
    return path


def files_of(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
