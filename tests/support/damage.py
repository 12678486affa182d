"""Damaged studies, made from one small phantom: what is done to it, the Issues it must raise, what is still graded.

Series 1 is sagittal T1, 2 sagittal T2, 3 axial T2, whatever the phantom called them.
"""

import random
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from openjpeg.utils import encode_array
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from lumbar.bundle.bundle import Bundle
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.labels import SERIES_DESCRIPTIONS
from lumbar.phantom.dataset import write_phantoms
from tests.support.tiny_dicom import CORONAL, image, merge_into_enhanced, write_slice
from tests.support.worlds import detector_spec, grader_spec

T1, T2, AX = 1, 2, 3
NUMBER_OF = {"Sagittal T1": T1, "Sagittal T2/STIR": T2, "Axial T2": AX}
#: Which condition group is seen on which series.
GROUP_OF = {T1: "foraminal", T2: "spinal", AX: "subarticular"}
SLICES = 9
#: A read Issue: its code and the series it names (None: the whole study).
Told = tuple[str, int | None]
Harm = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One way to damage a study. `harm` gets the study's folder; `rows` replaces series in the table."""

    harm: Harm = lambda folder: None
    #: Issues of reading, in any order, each as often as it must come.
    told: tuple[Told, ...] = ()
    #: Series whose conditions cannot be seen any more.
    blind: tuple[int, ...] = ()
    #: Whether members speak for what is seen, and for what is not; else the prior stands in everywhere.
    graded: bool = True
    #: The result must be that of the sound study: nothing that matters was changed.
    same: bool = False
    #: Words that an Issue must hold.
    says: str = ""
    #: Codes that grading must add, over and above what reading told.
    later: tuple[str, ...] = ()
    descriptions: Mapping[int, str] = field(default_factory=dict)


# -- tools ----------------------------------------------------------------------------------------------------------


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

    def change(dataset: FileDataset) -> None:
        for keyword, value in tags.items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)

    return edit(change, series, only=only)


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
    """2,000 slices on sagittal T2, a third of a millimetre apart."""
    template = dcmread(files(folder, T2)[0])
    remove(T2)(folder)
    (folder / str(T2)).mkdir()
    template.Rows = template.Columns = 16
    template.PixelSpacing = [8.0, 8.0]
    template.SliceThickness = 1.0
    del template.SpacingBetweenSlices
    start = [float(value) for value in template.ImagePositionPatient]
    for number in range(2000):
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


def _copy_beside(path: Path) -> None:
    shutil.copy(path, path.with_name("9999.dcm"))


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _localiser(folder: Path) -> None:
    write_slice(folder / str(T2) / "9999.dcm", image(3, (64, 64)), [-60, 0, 60], CORONAL, (2.0, 2.0))


def _all_coronal(folder: Path) -> None:
    remove(T1)(folder)
    for number in range(5):
        write_slice(folder / "1" / f"{number}.dcm", image(number, (64, 64)), [-60, 4 * number, 60], CORONAL, (2.0, 2.0))


def _overlay(dataset: FileDataset) -> None:
    """An overlay plane in bit 12, as old workstations wrote it."""
    pixels = dataset.pixel_array.astype("<u2")
    pixels |= (np.indices(pixels.shape).sum(axis=0) % 19 == 0).astype("<u2") << 12
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 12)
    dataset.PixelData = pixels.tobytes()


def _compressed_overlay(dataset: FileDataset) -> None:
    """The samples as a codestream of 16 bits, the overlay no longer declared."""
    del dataset[0x6000, 0x0100], dataset[0x6000, 0x0102]
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    stream = encode_array(pixels, bits_stored=16, photometric_interpretation=2, codec_format=0)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset["PixelData"].VR = "OB"


def _padded(pixels: np.ndarray) -> np.ndarray:
    """Padding wherever the image is darkest."""
    return np.where(pixels == pixels.min(), -32768, pixels)


def _own_slope(dataset: FileDataset) -> None:
    """Twice the values or the same, by turns, and the slope to it."""
    twice = dataset.InstanceNumber % 2
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.5" if twice else "1", "0"
    if twice:
        dataset.PixelData = (2 * dataset.pixel_array).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit = 16, 15


def _without_end(path: Path) -> None:
    content = path.read_bytes()
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    path.write_bytes(content[:-8])


def _report(folder: Path) -> None:
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


# -- the matrix -----------------------------------------------------------------------------------------------------


def gone(*series: int) -> tuple[Told, ...]:
    """What is told of series that cannot be used: each is ignored, and each type is missing."""
    return tuple(("series_ignored", number) for number in series) + (("series_missing", None),) * len(series)


def every(code: str, series: int) -> tuple[Told, ...]:
    """What is told where every file of a series has the same fault: the fault once, with the number of files."""
    return ((code, series), *gone(series))


def one_bad(code: str) -> tuple[Told, ...]:
    """What is told where a file in the middle of sagittal T2 is left out."""
    return ((code, T2), ("slices_missing", T2))


CASES: dict[str, Case] = {
    "sound": Case(same=True),
    "no T1": Case(remove(T1), gone(T1), (T1,)),
    "no T2": Case(remove(T2), gone(T2), (T2,)),
    "no axial": Case(remove(AX), gone(AX), (AX,)),
    # Axial slices alone do not say which level they show.
    "no T1, no T2": Case(remove(T1, T2), gone(T1, T2), (T1, T2, AX), graded=False),
    "no T1, no axial": Case(remove(T1, AX), gone(T1, AX), (T1, AX)),
    "no T2, no axial": Case(remove(T2, AX), gone(T2, AX), (T2, AX)),
    "no series": Case(remove(T1, T2, AX), gone(T1, T2, AX), (T1, T2, AX), graded=False),
    "no folder": Case(
        shutil.rmtree, (("series_missing", None),) * 4, (T1, T2, AX), graded=False, says="cannot be read"
    ),
    "empty series folder": Case(
        both(remove(T1), lambda folder: (folder / "1").mkdir()), gone(T1), (T1,), says="no DICOM file"
    ),
    "one slice": Case(without(0, 1, 2, 3, 5, 6, 7, 8), later=("window_repeated",)),
    "duplicate slice": Case(on_file(_copy_beside), (("slice_dropped", T2),), same=True),
    "missing slice in the middle": Case(without(4), (("slices_missing", T2),)),
    "two stacks in one series": Case(without(4, 5, 6, series=AX), (("several_stacks", AX),)),
    "reversed order": Case(rename("reversed"), same=True),
    "random file names": Case(rename("random"), same=True),
    "mixed shapes": Case(repaint(lambda pixels: pixels[:-16, :-8], T2, only=2)),
    "mixed spacings": Case(
        put(T2, only=2, PixelSpacing=[2.5, 2.5]), one_bad("slice_dropped"), says="where the other slices have"
    ),
    "no PixelSpacing": Case(
        put(T2, PixelSpacing=None), every("slice_dropped", T2), (T2,), says="PixelSpacing is missing"
    ),
    "no ImageOrientationPatient": Case(put(T2, ImageOrientationPatient=None), every("slice_dropped", T2), (T2,)),
    "no ImagePositionPatient": Case(put(T2, ImagePositionPatient=None), every("slice_dropped", T2), (T2,)),
    "no ImagePositionPatient in one file": Case(put(T2, 4, ImagePositionPatient=None), one_bad("slice_dropped")),
    "no SpacingBetweenSlices": Case(put(T2, SpacingBetweenSlices=None), same=True),
    "no Rows": Case(put(T2, Rows=None), every("file_unreadable", T2), (T2,), says="0 rows"),
    "axial labelled sagittal": Case(
        told=(("series_relabelled", AX),), same=True, descriptions={AX: "Sagittal T1"}, says="its slices are axial"
    ),
    "T1 labelled axial": Case(
        told=(("series_relabelled", T1), ("subject_doubtful", T1), ("series_missing", None)),
        blind=(T1,),
        descriptions={T1: "Axial T2"},
    ),
    "unknown description": Case(told=gone(T1), blind=(T1,), descriptions={T1: "Localizer"}, says="'Localizer'"),
    "coronal localiser mixed in": Case(_localiser, (("slice_dropped", T2),), same=True, says="a coronal slice"),
    "coronal series": Case(_all_coronal, gone(T1), (T1,), says="its slices are coronal"),
    "MONOCHROME1": Case(
        both(
            repaint(lambda pixels: 65535 - pixels, T1, T2, AX),
            put(T1, PhotometricInterpretation="MONOCHROME1"),
            put(T2, PhotometricInterpretation="MONOCHROME1"),
            put(AX, PhotometricInterpretation="MONOCHROME1"),
        ),
        same=True,
    ),
    "signed": Case(repaint(lambda pixels: pixels - 900, T1, T2, AX), same=True),
    "12 bits": Case(put(T2, BitsStored=12, HighBit=11), same=True),
    "RLE": Case(coded(RLELossless), same=True),
    "JPEG 2000": Case(coded(JPEG2000Lossless), same=True),
    "deflated": Case(coded(DeflatedExplicitVRLittleEndian), same=True),
    "big endian": Case(coded(ExplicitVRBigEndian), same=True),
    "JPEG of 12 bits": Case(
        unknown_code(JPEGExtended12Bit), every("file_unreadable", T2), (T2,), says="cannot decode JPEG Extended"
    ),
    "JPEG lossless": Case(unknown_code(JPEGLosslessSV1), every("file_unreadable", T2), (T2,), says="JPEG"),
    "samples at the upper end of 16 bits": Case(
        both(repaint(lambda pixels: pixels << 4, T2), put(T2, BitsStored=12, HighBit=15)),
        (("values_repaired", T2),),
        same=True,
        says="moved down 4 bits",
    ),
    "BitsStored below the values": Case(
        put(T2, BitsStored=9, HighBit=8), (("values_repaired", T2),), same=True, says="were read whole"
    ),
    "overlay bits": Case(edit(_overlay, T2), same=True),
    "overlay bits in JPEG 2000": Case(
        both(edit(_overlay, T2), edit(_compressed_overlay, T2)), (("values_repaired", T2),), same=True, says="was cut"
    ),
    "signed pixels called unsigned": Case(
        both(repaint(lambda pixels: pixels - 9, T2), put(T2, PixelRepresentation=0)),
        (("values_repaired", T2),),
        same=True,
        says="the samples are signed",
    ),
    "padding": Case(
        both(repaint(_padded, T2), edit(lambda ds: ds.add_new((0x0028, 0x0120), "SS", -32768), T2)), same=True
    ),
    "intercept without end": Case(put(T2, RescaleSlope="1e-5", RescaleIntercept="1e8"), same=True),
    "slopes of their own": Case(edit(_own_slope, T2), same=True),
    "negative slope": Case(
        both(repaint(lambda pixels: 4095 - pixels, T2), put(T2, RescaleSlope="-1", RescaleIntercept="4095")),
        (("values_repaired", T2),),
        same=True,
        says="is negative",
    ),
    "slope of nothing": Case(
        put(T2, RescaleSlope="0", RescaleIntercept="0"), (("values_repaired", T2),), same=True, says="RescaleSlope is"
    ),
    "RLE without its end": Case(
        both(coded(RLELossless), on_file(_without_end)), (("values_repaired", T2),), same=True, says="is missing"
    ),
    "a report among the images": Case(_report, (("file_unreadable", T2),), same=True, says="no image but"),
    "enhanced multi-frame": Case(enhanced, same=True),
    "frames without a place": Case(put(T2, NumberOfFrames=2), every("file_unreadable", T2), (T2,), says="2 frames"),
    "truncated file": Case(on_file(_halved), one_bad("file_unreadable")),
    "empty file": Case(on_file(lambda path: path.write_bytes(b"")), one_bad("file_unreadable"), says="is empty"),
    "text file": Case(
        on_file(lambda path: path.write_text("hello")), one_bad("file_unreadable"), says="is no DICOM file"
    ),
    "folder named .dcm": Case(on_file(_folder), one_bad("file_unreadable"), says="is a folder"),
    "symbolic link loop": Case(on_file(_loop), one_bad("file_unreadable"), says="a link to nothing"),
    "constant slice": Case(repaint(np.zeros_like, T2, only=4), (("pixels_constant", T2),)),
    "constant series": Case(
        repaint(np.zeros_like, T2),
        (("series_ignored", T2), *every("pixels_constant", T2)),
        (T2,),
        says="one value only",
    ),
    "saturated pixels": Case(repaint(lambda pixels: np.where(pixels > np.median(pixels), 65535, pixels), T2)),
    "pixels that are not numbers": Case(edit(floats, T2), every("file_unreadable", T2), (T2,), says="no PixelData"),
    "PixelSpacing is no number": Case(put(T2, 4, PixelSpacing=["nan", "1"]), one_bad("slice_dropped")),
    "CT": Case(put(T2, Modality="CT"), every("slice_dropped", T2), (T2,), says="Modality is CT"),
    "knee": Case(
        put(T2, BodyPartExamined="KNEE"),
        (("subject_doubtful", T2),),
        same=True,
        says="BodyPartExamined is KNEE",
    ),
    "4,000 x 4,000 pixels": Case(edit(large, T2, only=4)),
    "5,000 x 5,000 pixels": Case(put(T2, 4, Rows=5000, Columns=5000), one_bad("file_unreadable"), says="5000 rows"),
    "header of 60,000 x 60,000": Case(put(T2, 4, Rows=60000, Columns=60000), one_bad("file_unreadable"), says="60000"),
    "2,000 slices": Case(many_slices),
}


def write_matrix(root: Path, wanted: Collection[str]) -> dict[str, int]:
    """A data folder with one study a wanted case; the study's id by the case's name."""
    write_phantoms(
        root / "source", 1, 5, matrices=(128,), sagittal_slices=(SLICES, SLICES), axial_kind="block",
        two_axial=False, numbering="plain",
    )  # fmt: skip
    source = next((root / "source" / "train_images").iterdir())
    table = (root / "source" / "train_series_descriptions.csv").read_text().splitlines()[1:]
    names = {row.split(",")[1]: row.split(",")[2] for row in table}
    lines = ["study_id,series_id,series_description"]
    studies = {name: 100 + place for place, name in enumerate(CASES) if name in wanted}
    for name in studies:
        case = CASES[name]
        folder = root / "test_images" / str(studies[name])
        for series in source.iterdir():
            shutil.copytree(series, folder / str(NUMBER_OF[names[series.name]]))
        case.harm(folder)
        for text, number in NUMBER_OF.items():
            lines.append(f"{studies[name]},{number},{case.descriptions.get(number, text)}")
    (root / "test_series_descriptions.csv").write_text("\n".join(lines) + "\n")
    return studies


def watchful_bundle(folder: Path) -> Bundle:
    """A tiny bundle that takes any axial slice, however far; its global member speaks for what it cannot see."""
    specs = {
        text: detector_spec(kind, chans, maps)
        for text, (kind, chans, maps) in {
            "canal": ("sagittal_t2", 5, 5),
            "foramen": ("sagittal_t1", 3, 5),
            "recess": ("axial_t2", 3, 2),
        }.items()
    }
    specs["recess"] = specs["recess"].model_copy(update={"max_plane_distance_mm": 1000.0})
    graders = {task: grader_spec(task) for task in ("spinal", "foraminal", "subarticular", "global")}
    graders["global"] = graders["global"].model_copy(update={"view_dropout": 0.1})
    torch.manual_seed(0)
    weights = [Weights(name, spec, build_network(spec).state_dict()) for name, spec in (specs | graders).items()]
    prior = np.random.default_rng(0).dirichlet((8.0, 2.0, 1.0), size=(5, 5))
    return save_bundle(folder, weights, prior=prior, description="random weights, for tests of damage")


assert set(NUMBER_OF) == set(SERIES_DESCRIPTIONS)
__all__ = ["CASES", "Case", "replace", "watchful_bundle", "write_matrix"]
