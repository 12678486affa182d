"""Damaged studies, made from one small phantom: what is done to it, the Issues it must raise, what is still graded.

Series 1 is sagittal T1, 2 sagittal T2, 3 axial T2, whatever the phantom called them.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
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
from tests.support.damage_harms import (
    AX,
    SLICES,
    T1,
    T2,
    Harm,
    all_coronal,
    as_folder,
    as_report,
    both,
    coded,
    compressed_overlay,
    copy_beside,
    edit,
    enhanced,
    floats,
    halved,
    large,
    localiser,
    loop_of_links,
    many_slices,
    on_file,
    overlay,
    own_slope,
    padded,
    put,
    remove,
    rename,
    repaint,
    unknown_code,
    without,
    without_end,
)
from tests.support.worlds import detector_spec, grader_spec

NUMBER_OF = {"Sagittal T1": T1, "Sagittal T2/STIR": T2, "Axial T2": AX}
#: Which condition group is seen on which series.
GROUP_OF = {T1: "foraminal", T2: "spinal", AX: "subarticular"}
#: A read Issue: its code and the series it names (None: the whole study).
Told = tuple[str, int | None]


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
    "duplicate slice": Case(on_file(copy_beside), (("slice_dropped", T2),), same=True),
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
    "coronal localiser mixed in": Case(localiser, (("slice_dropped", T2),), same=True, says="a coronal slice"),
    "coronal series": Case(all_coronal, gone(T1), (T1,), says="its slices are coronal"),
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
    "overlay bits": Case(edit(overlay, T2), same=True),
    "overlay bits in JPEG 2000": Case(
        both(edit(overlay, T2), edit(compressed_overlay, T2)), (("values_repaired", T2),), same=True, says="was cut"
    ),
    "signed pixels called unsigned": Case(
        both(repaint(lambda pixels: pixels - 9, T2), put(T2, PixelRepresentation=0)),
        (("values_repaired", T2),),
        same=True,
        says="the samples are signed",
    ),
    "padding": Case(
        both(repaint(padded, T2), edit(lambda ds: ds.add_new((0x0028, 0x0120), "SS", -32768), T2)), same=True
    ),
    "intercept without end": Case(put(T2, RescaleSlope="1e-5", RescaleIntercept="1e8"), same=True),
    "slopes of their own": Case(edit(own_slope, T2), same=True),
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
        both(coded(RLELossless), on_file(without_end)), (("values_repaired", T2),), same=True, says="is missing"
    ),
    "a report among the images": Case(as_report, (("file_unreadable", T2),), same=True, says="no image but"),
    "enhanced multi-frame": Case(enhanced, same=True),
    "frames without a place": Case(put(T2, NumberOfFrames=2), every("file_unreadable", T2), (T2,), says="2 frames"),
    "truncated file": Case(on_file(halved), one_bad("file_unreadable")),
    "empty file": Case(on_file(lambda path: path.write_bytes(b"")), one_bad("file_unreadable"), says="is empty"),
    "text file": Case(
        on_file(lambda path: path.write_text("hello")), one_bad("file_unreadable"), says="is no DICOM file"
    ),
    "folder named .dcm": Case(on_file(as_folder), one_bad("file_unreadable"), says="is a folder"),
    "symbolic link loop": Case(on_file(loop_of_links), one_bad("file_unreadable"), says="a link to nothing"),
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
    "600 slices": Case(many_slices),
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
