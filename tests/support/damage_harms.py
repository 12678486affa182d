"""What can be done to a study's folder: harms of `damage` and of `together_harms`.

Series 1 is sagittal T1, 2 sagittal T2, 3 axial T2, whatever the phantom called them.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from openjpeg.utils import encode_array
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
)

from tests.support.draft import with_tags
from tests.support.tiny_dicom import CORONAL, image, merge_into_enhanced, write_slice

T1, T2, AX = 1, 2, 3
SLICES = 9
Harm = Callable[[Path], None]


def files(folder: Path, series: int) -> list[Path]:
    return sorted((folder / str(series)).glob("*.dcm"), key=lambda path: int(path.stem))


def edit(change: Callable[[FileDataset], None], *series: int, only: int | None = None) -> Harm:
    """Change every file of the series, or one of them."""

    def harm(folder: Path) -> None:
        for number in series:
            for path in files(folder, number)[slice(None) if only is None else slice(only, only + 1)]:
                dataset = dcmread(path)
                change(dataset)
                dataset.save_as(path)

    return harm


def put(series: int = T2, only: int | None = None, **tags: object) -> Harm:
    """Give tags a value; None takes the tag away."""
    return edit(with_tags(tags), series, only=only)


def repaint(paint: Callable[[np.ndarray], np.ndarray], *series: int, only: int | None = None) -> Harm:
    """Other pixels, stored as signed or unsigned 16 bits as their type says."""

    def change(dataset: FileDataset) -> None:
        pixels = paint(dataset.pixel_array.astype(np.int64))
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelRepresentation = int(pixels.min() < 0)
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.PixelData = pixels.astype("<i2" if pixels.min() < 0 else "<u2").tobytes()

    return edit(change, *series, only=only)


def on_file(act: Callable[[Path], object], series: int = T2, place: int = 4) -> Harm:
    return lambda folder: act(files(folder, series)[place]) and None


def remove(*series: int) -> Harm:
    def harm(folder: Path) -> None:
        for number in series:
            shutil.rmtree(folder / str(number))

    return harm


def coded(syntax: UID) -> Harm:
    """All series in another transfer syntax."""

    def change(dataset: FileDataset) -> None:
        if syntax.is_compressed and not syntax.is_deflated:
            dataset.compress(syntax, generate_instance_uid=False)
            return
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax

    def harm(folder: Path) -> None:
        for path in sorted(folder.rglob("*.dcm")):
            dataset = dcmread(path)
            change(dataset)
            dcmwrite(path, dataset, little_endian=syntax.is_little_endian, implicit_vr=False, force_encoding=True)

    return harm


def unknown_code(syntax: UID) -> Harm:
    def change(dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([b"\xff\xd8\xff\xc3\xff\xd9"])
        dataset["PixelData"].VR = "OB"

    return edit(change, T2)


def rename(order: str) -> Harm:
    """Other file names in every series: backwards, or letters that say nothing."""

    def harm(folder: Path) -> None:
        for series in (T1, T2, AX):
            paths = files(folder, series)
            dealer = random.Random(series)
            names = [path.name for path in paths[::-1]]
            if order == "random":
                names = [f"x{dealer.getrandbits(64):016x}q.dcm" for _ in paths]
            for path, name in zip(paths, names, strict=True):
                path.rename(path.with_name(f"{name}.new"))
            for path in (folder / str(series)).glob("*.new"):
                path.rename(path.with_suffix(""))

    return harm


def without(*places: int, series: int = T2) -> Harm:
    def harm(folder: Path) -> None:
        paths = files(folder, series)
        for place in places:
            paths[place].unlink()

    return harm


def many_slices(folder: Path) -> None:
    """600 slices on sagittal T2, a third of a millimetre apart."""
    template = dcmread(files(folder, T2)[0])
    remove(T2)(folder)
    (folder / str(T2)).mkdir()
    template.Rows = template.Columns = 16
    template.PixelSpacing = [8.0, 8.0]
    template.SliceThickness = 1.0
    del template.SpacingBetweenSlices
    start = [float(value) for value in template.ImagePositionPatient]
    for number in range(600):
        template.InstanceNumber = number + 1
        template.PixelData = image(number, (16, 16), "uint16").tobytes()
        template.ImagePositionPatient = [f"{start[0] + number / 3:.3f}", *start[1:]]
        template.save_as(folder / str(T2) / f"{number + 1}.dcm")


def large(dataset: FileDataset) -> None:
    """The same image with 4,000 x 4,000 pixels."""
    pixels = cv2.resize(dataset.pixel_array, (4000, 4000), interpolation=cv2.INTER_NEAREST)
    dataset.PixelSpacing = [float(dataset.PixelSpacing[0]) * dataset.Rows / 4000] * 2
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()


def enhanced(folder: Path) -> None:
    for series in (T1, T2, AX):
        merge_into_enhanced(folder / str(series))


def floats(dataset: FileDataset) -> None:
    """Pixels as floating-point numbers, one of them not a number."""
    pixels = dataset.pixel_array.astype("<f4")
    pixels[3, 3] = np.nan
    del dataset.PixelData
    dataset.FloatPixelData = pixels.tobytes()
    dataset.BitsAllocated = 32


def copy_beside(path: Path) -> None:
    shutil.copy(path, path.with_name("9999.dcm"))


def loop_of_links(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def localiser(folder: Path) -> None:
    write_slice(folder / str(T2) / "9999.dcm", image(3, (64, 64)), [-60, 0, 60], CORONAL, (2.0, 2.0))


def all_coronal(folder: Path) -> None:
    remove(T1)(folder)
    for number in range(5):
        write_slice(folder / "1" / f"{number}.dcm", image(number, (64, 64)), [-60, 4 * number, 60], CORONAL, (2.0, 2.0))


def overlay(dataset: FileDataset) -> None:
    """An overlay plane in bit 12, as old workstations wrote it."""
    pixels = dataset.pixel_array.astype("<u2")
    pixels |= (np.indices(pixels.shape).sum(axis=0) % 19 == 0).astype("<u2") << 12
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 12)
    dataset.PixelData = pixels.tobytes()


def compressed_overlay(dataset: FileDataset) -> None:
    """The samples as a codestream of 16 bits, the overlay no longer declared."""
    del dataset[0x6000, 0x0100], dataset[0x6000, 0x0102]
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    stream = encode_array(pixels, bits_stored=16, photometric_interpretation=2, codec_format=0)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset["PixelData"].VR = "OB"


def padded(pixels: np.ndarray) -> np.ndarray:
    """Padding wherever the image is darkest."""
    return np.where(pixels == pixels.min(), -32768, pixels)


def own_slope(dataset: FileDataset) -> None:
    """Twice the values or the same, by turns, and the slope to it."""
    twice = dataset.InstanceNumber % 2
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.5" if twice else "1", "0"
    if twice:
        dataset.PixelData = (2 * dataset.pixel_array).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit = 16, 15


def without_end(path: Path) -> None:
    content = path.read_bytes()
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    path.write_bytes(content[:-8])


def as_report(folder: Path) -> None:
    path = files(folder, T2)[0]
    dataset = dcmread(path)
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    dataset.save_as(path.with_name("9999.dcm"))


def both(*harms: Harm) -> Harm:
    def harm(folder: Path) -> None:
        for one in harms:
            one(folder)

    return harm
