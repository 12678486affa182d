"""How studies are mixed, misplaced and mislabelled in `test_together.py`: what is done to their files."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from tests.support.damage_harms import AX, T1, T2, Harm, files, put
from tests.support.tiny_dicom import CORONAL

SOURCE = {T1: "794108896", T2: "3456246721", AX: "3913907269"}  # of phantom 100001
WORDS = {T1: "Sagittal T1", T2: "Sagittal T2/STIR", AX: "Axial T2"}


def every(series: int, change: Callable[[Dataset, int], None], places: slice = slice(None)) -> Harm:
    """Change files of a series; the change is told which file it is, counted from 0."""

    def harm(folder: Path) -> None:
        for place, path in list(enumerate(files(folder, series)))[places]:
            dataset = dcmread(path)
            change(dataset, place)
            dataset.save_as(path)

    return harm


def beside(series: int, change: Callable[[Dataset, int], None], places: slice = slice(None), start: int = 100) -> Harm:
    """Add changed copies of files to the same folder, with identifiers of their own images."""

    def harm(folder: Path) -> None:
        for place, path in list(enumerate(files(folder, series)))[places]:
            dataset = dcmread(path)
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(start + place)])
            change(dataset, place)
            dataset.save_as(path.with_name(f"{start + place}.dcm"))

    return harm


def moved(x: float = 0, y: float = 0, z: float = 0, **tags: str) -> Callable[[Dataset, int], None]:
    """Another position, mm, and other tags."""

    def change(dataset: Dataset, place: int) -> None:
        old = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [f"{float(a) + b:.6f}" for a, b in zip(old, (x, y, z), strict=True)]
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    return change


def scaled(keyword: str, factor: float) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, place: int) -> None:
        setattr(dataset, keyword, [f"{float(value) * factor:.6f}" for value in dataset[keyword].value])

    return change


def darker(dataset: Dataset, place: int) -> None:
    """A proton-density echo of the same place: other pixels, a short echo time."""
    dataset.PixelData = (dataset.pixel_array // 2 + 300).astype("<u2").tobytes()
    dataset.EchoTime = "12"


def axes(order: tuple[int, int], signs: tuple[int, int]) -> Callable[[Dataset, int], None]:
    """Another ImageOrientationPatient over the same pixels and position."""

    def change(dataset: Dataset, place: int) -> None:
        both = np.asarray(dataset.ImageOrientationPatient, float).reshape(2, 3)[list(order)] * np.array(signs)[:, None]
        dataset.ImageOrientationPatient = [f"{value:.8g}" for value in both.ravel()]

    return change


def repainted(paint: Callable[[np.ndarray], np.ndarray]) -> Callable[[Dataset, int], None]:
    """Other pixels of the same kind under the same header."""

    def change(dataset: Dataset, place: int) -> None:
        dataset.PixelData = np.ascontiguousarray(paint(dataset.pixel_array)).tobytes()

    return change


def turned_honestly(dataset: Dataset, place: int) -> None:
    """Stored upside down, and the header says so."""
    pixels = dataset.pixel_array
    row, column = np.asarray(dataset.ImageOrientationPatient, float).reshape(2, 3)
    spacing = np.asarray(dataset.PixelSpacing, float)
    corner = np.asarray(dataset.ImagePositionPatient, float)
    corner = corner + row * spacing[1] * (pixels.shape[1] - 1) + column * spacing[0] * (pixels.shape[0] - 1)
    dataset.ImagePositionPatient = [f"{value:.8g}" for value in corner]
    dataset.ImageOrientationPatient = [f"{value:.8g}" for value in (*-row, *-column)]
    dataset.PixelData = np.ascontiguousarray(pixels[::-1, ::-1]).tobytes()


def both(*harms: Harm) -> Harm:
    """One harm after the other."""

    def harm(folder: Path) -> None:
        for each in harms:
            each(folder)

    return harm


def renamed(ending: str, places: slice = slice(-2, None), series: int = T1) -> Harm:
    def harm(folder: Path) -> None:
        for path in files(folder, series)[places]:
            path.rename(path.with_name(path.stem + ending))

    return harm


def into_subfolder(folder: Path) -> None:
    (folder / str(T2) / "rest").mkdir()
    for path in files(folder, T2)[4:]:
        path.rename(folder / str(T2) / "rest" / path.name)


def zipped(folder: Path) -> None:
    for path in files(folder, T1)[-2:]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def zipped_in_place(folder: Path) -> None:
    path = files(folder, T1)[7]
    path.write_bytes(gzip.compress(path.read_bytes()))


def bare(start: int | None = None, group_length: bool = False) -> Harm:
    """T1 without the first bytes of its files, or all that comes before the data set, which may tell its length."""

    def harm(folder: Path) -> None:
        for path in files(folder, T1):
            content = path.read_bytes()
            meta = 144 + int.from_bytes(content[140:144], "little")
            first = b"\x08\0\0\0UL\x04\0\0\x01\0\0" if group_length else b""
            path.write_bytes(first + content[meta if start is None else start :])

    return harm


def copied_over(folder: Path) -> None:
    """The T1 folder holds the T2 images."""
    shutil.rmtree(folder / str(T1))
    shutil.copytree(folder / str(T2), folder / str(T1))


def as_its_own(dataset: Dataset, place: int) -> None:
    """A copy whose identifiers do not tell."""
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[f"copy {place}"])


def in_other_units(dataset: Dataset, place: int) -> None:
    dataset.PixelData = (dataset.pixel_array.astype(int) * 3 // 2 + 50).astype("<u2").tobytes()
    dataset.BitsStored, dataset.HighBit = 16, 15


def two_of_t2(folder: Path) -> None:
    """Two slices of T1 bear pictures of T2."""
    for own, other in zip(files(folder, T1)[:2], files(folder, T2)[:2], strict=True):
        dataset = dcmread(own)
        dataset.PixelData = dcmread(other).PixelData
        dataset.save_as(own)


def one_picture_twice(folder: Path) -> None:
    first, second = files(folder, T2)[:2]
    dataset = dcmread(second)
    dataset.PixelData = dcmread(first).PixelData
    dataset.save_as(second)


def second_series(series: int, change: Callable[[Dataset, int], None]) -> Harm:
    """Series 9, a changed copy of another."""

    def harm(folder: Path) -> None:
        shutil.copytree(folder / str(series), folder / "9")
        every(9, change)(folder)

    return harm


def coronal_beside(folder: Path) -> None:
    for number in range(20):
        dataset = dcmread(files(folder, AX)[0])
        dataset.ImageOrientationPatient = [str(value) for value in CORONAL]
        dataset.ImagePositionPatient = ["-100", str(4 * number - 40), "100"]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[f"coronal {number}"])
        dataset.save_as(folder / str(AX) / f"{200 + number}.dcm")


def oblique_localiser(folder: Path) -> None:
    dataset = dcmread(files(folder, T2)[4])
    angle = np.radians(35)
    dataset.ImageOrientationPatient = [f"{value:.8f}" for value in (np.sin(angle), np.cos(angle), 0, 0, 0, -1)]
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["localiser"])
    dataset.save_as(folder / str(T2) / "99.dcm")


def both_of_dixon(folder: Path) -> None:
    """Water and fat images of one series, in the same places."""
    put(T2, ImageType=["ORIGINAL", "PRIMARY", "WATER"])(folder)

    def fat(dataset: Dataset, place: int) -> None:
        dataset.PixelData = (dataset.pixel_array.max() - dataset.pixel_array).astype("<u2").tobytes()
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "FAT"]

    beside(T2, fat)(folder)


def exchanged(folder: Path) -> None:
    (folder / str(T1)).rename(folder / "t")
    (folder / str(T2)).rename(folder / str(T1))
    (folder / "t").rename(folder / str(T2))


def dark_background(dataset: Dataset, place: int) -> None:
    """Signed numbers, -1 in the air, said to be unsigned."""
    pixels = dataset.pixel_array.astype("<i2")
    pixels[:20], pixels[:, :20], pixels[-20:] = -1, -1, -1
    dataset.BitsStored, dataset.HighBit = 16, 15
    dataset.PixelData = pixels.tobytes()


def far_from_zero(dataset: Dataset, place: int) -> None:
    dataset.PixelData = (dataset.pixel_array.astype("<u4") + 2**30).tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31


def swapped(dataset: Dataset, place: int) -> None:
    """Big endian samples in a file that says little endian."""
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()


def own_uids(dataset: Dataset, place: int) -> None:
    """What a careless tool does: every file a series, a study and a frame of reference of its own."""
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, str(dataset.SOPInstanceUID)]))
