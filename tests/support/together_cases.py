"""Every case of `test_together.py`: what is done, and the Issue that must tell it."""

import os
from dataclasses import dataclass

import numpy as np

from tests.support.damage_harms import AX, T1, T2, Harm, put
from tests.support.together_harms import (
    SOURCE,
    as_its_own,
    axes,
    bare,
    beside,
    both,
    both_of_dixon,
    copied_over,
    coronal_beside,
    dark_background,
    darker,
    every,
    exchanged,
    far_from_zero,
    in_other_units,
    into_subfolder,
    moved,
    oblique_localiser,
    one_picture_twice,
    own_uids,
    renamed,
    repainted,
    scaled,
    second_series,
    swapped,
    turned_honestly,
    two_of_t2,
    zipped,
    zipped_in_place,
)


@dataclass(frozen=True)
class Case:
    """One way to mix or misplace images of a study."""

    harm: Harm
    code: str  # of an Issue that must be told
    says: str = ""  # words of that Issue
    same: bool = False  # whether the answer stays that of the sound study
    prior: str = ""  # conditions whose rows must all come from the prior (or from members that see other series)
    rows: str = ""  # further rows of the series table


OTHER = {"PatientID": "SOMEBODY", "StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}
CASES: dict[str, Case] = {
    # -- whose images they are
    "a series of another patient": Case(put(T1, **OTHER), "study_mixed", "PatientID", prior="foraminal"),
    "slices of another patient": Case(put(T2, 3, PatientID="SOMEBODY"), "series_mixed", "PatientID"),
    "another patient's slices between": Case(
        beside(T2, moved(2.0, **OTHER, SeriesInstanceUID="1.2.9"), slice(0, 4)), "series_mixed", "PatientID", same=True
    ),
    "a series of another day": Case(put(T1, StudyInstanceUID="1.2.3.4"), "study_mixed", "StudyInstanceUID", same=True),
    "a proton-density series beside": Case(
        beside(T2, lambda dataset, place: (darker(dataset, place), setattr(dataset, "SeriesInstanceUID", "1.2.7"))),
        "series_mixed", "SeriesInstanceUID", same=True,
    ),
    "a second echo": Case(beside(T2, darker, start=-100), "series_mixed", "EchoTime", same=True),
    "axial slices in another frame": Case(
        every(AX, moved(0, 0, 34, FrameOfReferenceUID="1.2.3.5")), "frames_differ", "no level", prior="subarticular"
    ),
    "T1 in another frame": Case(
        every(T1, moved(0, 7, 40, FrameOfReferenceUID="1.2.3.5")), "frames_differ", "FrameOfReferenceUID"
    ),
    "T1 in another frame by its name alone": Case(
        put(T1, FrameOfReferenceUID="1.2.3.5"), "frames_differ", "only where positions show"
    ),
    "a frame for every series": Case(
        lambda folder: [put(series, FrameOfReferenceUID=f"1.2.{series}")(folder) for series in (T1, T2, AX)] and None,
        "frames_differ", "no level", prior="subarticular",
    ),
    "upside down, whatever the header says": Case(
        every(T2, lambda d, _: setattr(d, "PixelData", d.pixel_array[::-1, ::-1].tobytes())),
        "orientation_doubtful", "upside down",
    ),
    "T1 upside down": Case(
        every(T1, lambda d, _: setattr(d, "PixelData", d.pixel_array[::-1, ::-1].tobytes())),
        "orientation_doubtful", "upside down",
    ),
    "its rows from the feet to the head, whatever the header says": Case(
        every(T2, lambda d, _: setattr(d, "PixelData", d.pixel_array[::-1].tobytes())),
        "orientation_doubtful", "upside down",
    ),
    "mirrored from front to back": Case(
        every(T2, lambda d, _: setattr(d, "PixelData", d.pixel_array[:, ::-1].tobytes())),
        "orientation_doubtful", "front to back",
    ),
    "both sagittal series upside down": Case(
        both(every(T1, repainted(lambda p: p[::-1, ::-1])), every(T2, repainted(lambda p: p[::-1, ::-1]))),
        "orientation_doubtful", "T2/STIR: the pictures look upside down",
    ),
    "both with rows from the feet to the head": Case(
        both(every(T1, repainted(lambda p: p[::-1])), every(T2, repainted(lambda p: p[::-1]))),
        "orientation_doubtful", "upside down and mirrored",
    ),
    "both mirrored from front to back": Case(
        both(every(T1, repainted(lambda p: p[:, ::-1])), every(T2, repainted(lambda p: p[:, ::-1]))),
        "orientation_doubtful", "T1: the pictures look mirrored from front to back",
    ),
    "T1 with rows and columns exchanged": Case(
        every(T1, repainted(lambda p: p.T)), "orientation_doubtful", "turned by 90 degrees"
    ),
    "T2 turned by 90 degrees": Case(every(T2, repainted(np.rot90)), "orientation_doubtful", "turned by 90 degrees"),
    "axial slices upside down": Case(
        every(AX, repainted(lambda p: p[::-1])), "orientation_doubtful", "Axial T2: the pictures look upside down"
    ),
    "axial slices turned by 180 degrees": Case(
        every(AX, repainted(lambda p: p[::-1, ::-1])), "orientation_doubtful", "Axial T2: the pictures look upside down"
    ),
    "axial slices with rows and columns exchanged": Case(
        every(AX, repainted(lambda p: p.T)), "orientation_doubtful", "Axial T2: the pictures look turned by 90 degrees"
    ),
    "every file its own": Case(every(T2, own_uids), "series_mixed", "tells nothing", same=True),
    "T1 is a copy of T2": Case(copied_over, "study_mixed", "the same images", prior="foraminal"),
    "T1 is a copy of T2 under names of its own": Case(
        both(copied_over, put(T1, SeriesInstanceUID="1.2.6"), every(T1, as_its_own)),
        "study_mixed", "the same images in the same places", prior="foraminal",
    ),
    "T1 is a copy of T2 in other units": Case(
        both(copied_over, every(T1, as_its_own), every(T1, in_other_units)),
        "study_mixed", "the same images", prior="foraminal",
    ),
    "T1 is a copy of T2 in other places": Case(
        both(copied_over, every(T1, as_its_own), every(T1, moved(1, 2, 3))),
        "study_mixed", "the same images in other places", prior="foraminal",
    ),
    "two slices of T2 among those of T1": Case(two_of_t2, "study_mixed", "share the pictures of some slices"),
    "one picture in two places": Case(one_picture_twice, "series_mixed", "1 of 9 slices (1.dcm) repeat others' pic"),
    "another name": Case(put(T1, PatientName="SOMEBODY^ELSE"), "study_mixed", "PatientName", same=True),
    "another date of birth": Case(
        both(put(T1, PatientBirthDate="19010101"), put(T2, 3, PatientBirthDate="19020101")),
        "study_mixed", "PatientBirthDate",
    ),
    "one name in other letters": Case(
        both(*(put(series, PatientName=f"SOMEBODY^Else{'^' * series}") for series in SOURCE)), "", same=True
    ),
    "a series twice": Case(
        second_series(AX, lambda *_: None), "study_mixed", "the same images", same=True, rows="9,Axial T2"
    ),
    "water and fat": Case(both_of_dixon, "series_mixed", "ImageType", same=True),
    "T1 and T2 exchanged": Case(exchanged, "subject_doubtful", "EchoTime of 105 ms is that of T2"),
    # -- what is a file of the series
    "a pipe": Case(lambda folder: os.mkfifo(folder / "2/pipe"), "file_ignored", "pipe", same=True),
    "no ending": Case(renamed(""), "name_of_file_ignored", "2 of 9 files", same=True),
    "IMA": Case(renamed(".IMA", slice(0, 1)), "name_of_file_ignored", "1 of 9", same=True),
    "a backup's ending": Case(renamed(".dcm.bak", slice(None, 5), T2), "name_of_file_ignored", "5 of 9", same=True),
    "in a subfolder": Case(into_subfolder, "", same=True),
    "zipped": Case(zipped, "file_ignored", "2 file(s) were passed over (8.dcm.gz, 9.dcm.gz); they are compressed"),
    "zipped under its old name": Case(zipped_in_place, "file_unreadable", "8.dcm: is no DICOM file but compressed"),
    "no preamble": Case(bare(132), "values_repaired", "preamble and the letters DICM are missing", same=True),
    "neither preamble nor meta header": Case(bare(), "values_repaired", "the letters DICM are missing", same=True),
    "a data set that begins with the length of its group": Case(
        both(bare(group_length=True), renamed("")), "values_repaired", "the letters DICM are missing", same=True
    ),
    "no preamble and no ending": Case(both(bare(132), renamed("")), "name_of_file_ignored", "2 of 9 files", same=True),
    "notes": Case(
        lambda folder: (folder / "2/notes.txt").write_text("x") and None, "file_ignored", "notes.txt", same=True
    ),
    # -- where images lie
    "spacing in centimetres": Case(every(T2, scaled("PixelSpacing", 0.1)), "slice_dropped", "field of view"),
    "spacing times ten": Case(
        every(AX, scaled("PixelSpacing", 10)), "slice_dropped", "field of view", prior="subarticular"
    ),
    "positions in centimetres": Case(every(T1, scaled("ImagePositionPatient", 0.1)), "slice_dropped", "mm apart"),
    "positions times ten": Case(
        every(T1, scaled("ImagePositionPatient", 10)), "slice_dropped", "mm apart", prior="foraminal"
    ),
    "T2 smaller than any spine": Case(
        every(T2, scaled("PixelSpacing", 0.6)), "geometry_doubtful", "T2/STIR: neighbouring levels lie 19 mm"
    ),
    "T1 larger than any spine": Case(every(T1, scaled("PixelSpacing", 1.8)), "geometry_doubtful", "24 to 44 mm"),
    "T1 larger than T2": Case(
        every(T1, scaled("PixelSpacing", 1.25)), "geometry_doubtful", "PixelSpacing of one of the two"
    ),
    "both sagittal series larger than any spine": Case(
        both(every(T1, scaled("PixelSpacing", 1.8)), every(T2, scaled("PixelSpacing", 1.8))),
        "geometry_doubtful", "T2/STIR: neighbouring levels lie 56 mm",
    ),
    "axial slices of half the size": Case(
        every(AX, scaled("PixelSpacing", 0.5)), "geometry_doubtful", "left and right recess lie 10 mm apart"
    ),
    "axial slices beside the canal": Case(
        every(AX, scaled("PixelSpacing", 1.4)), "geometry_doubtful", "beside the canal points"
    ),
    "axial slices elsewhere": Case(every(AX, moved(30, 20)), "geometry_doubtful", "ImagePositionPatient of one"),
    "positions halved": Case(
        every(T2, scaled("ImagePositionPatient", 0.5)), "geometry_doubtful", "SpacingBetweenSlices says 6.43 mm"
    ),
    "axial positions times 0.7": Case(
        every(AX, scaled("ImagePositionPatient", 0.7)), "geometry_doubtful", "SpacingBetweenSlices says 4.1 mm"
    ),
    "positions doubled, thin slices": Case(
        both(every(T2, scaled("ImagePositionPatient", 2)), put(T2, SpacingBetweenSlices=None)),
        "geometry_doubtful", "each is 3.5 mm thick",
    ),
    "the gap as SpacingBetweenSlices": Case(put(T2, SpacingBetweenSlices="2.932"), "", same=True),
    "axial positions in centimetres": Case(
        every(AX, scaled("ImagePositionPatient", 0.1)), "slice_dropped", "and 12 more): 0.41 mm apart"
    ),
    "axes of an axial slice in every stack": Case(
        every(AX, axes((1, 0), (1, 1)), slice(1, None, 3)), "slice_dropped", "5 files (2.dcm, 5.dcm, 8.dcm and 2 more)"
    ),
    "one field of view": Case(put(T1, 3, PixelSpacing=["2.0", "2.0"]), "slice_dropped", "field of view"),
    "one slice far beside": Case(every(T2, moved(0, 0, 180), slice(2, 3)), "slice_dropped", "beside the other slices"),
    "one slice up a little": Case(every(T2, moved(0, 0, 40), slice(4, 5)), "slice_dropped", "40 mm beside"),
    "one slice a little larger": Case(every(T2, scaled("PixelSpacing", 1.2), slice(4, 5)), "slice_dropped", "field of"),
    "stations half a body apart": Case(beside(T2, moved(2, 0, 55)), "several_stations", "the station around"),
    "axes exchanged": Case(every(T2, axes((1, 0), (1, 1)), slice(4, 5)), "slice_dropped", "in-plane axes"),
    "an axis negated": Case(every(T1, axes((0, 1), (1, -1)), slice(2, 3)), "slice_dropped", "3.dcm"),
    "an axial slice turned over": Case(every(AX, axes((1, 0), (1, 1)), slice(7, 8)), "slice_dropped", "in-plane axes"),
    "some slices turned honestly": Case(every(T2, turned_honestly, slice(0, 3)), "orientation_differs", same=True),
    "all slices turned honestly": Case(every(T2, turned_honestly), "", same=True),
    "two stations": Case(beside(T2, moved(0, 0, 200)), "several_stations", "the station around", same=True),
    "a series of the neck": Case(
        second_series(T2, moved(0, 0, 330, SeriesInstanceUID="1.2.8")), "series_ignored", "another part of the body",
        same=True, rows="9,Sagittal T2/STIR",
    ),
    "coronal slices beside": Case(coronal_beside, "slice_dropped", "coronal", same=True),
    "an oblique localiser": Case(oblique_localiser, "slice_dropped", "as a localiser is", same=True),
    # -- what their pixels are
    "a background that no tag explains": Case(every(T2, dark_background), "values_repaired", "taken for padding"),
    "numbers far from 0": Case(every(T2, far_from_zero), "", same=True),
    "bytes in the other order": Case(every(T2, swapped), "values_repaired", "order that TransferSyntaxUID", same=True),
    "bytes of one slice in the other order": Case(
        every(AX, swapped, slice(7, 8)), "values_repaired", "8.dcm: the bytes of its samples", same=True
    ),
    # -- what they show
    "a screenshot by its class": Case(
        put(T1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "subject_doubtful", "Secondary Capture", same=True
    ),
    "a CT by its class": Case(
        put(T1, SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "slice_dropped", "CT Image", prior="foraminal"
    ),
    "a segmentation": Case(put(T1, Modality="SEG"), "slice_dropped", "Modality is SEG", prior="foraminal"),
    "a projection": Case(put(T2, 8, ImageType=["DERIVED", "PRIMARY", "MIP"]), "slice_dropped", "MIP"),
    "a mosaic": Case(put(T1, ImageType=["ORIGINAL", "MOSAIC"]), "slice_dropped", "MOSAIC", prior="foraminal"),
    "said to be the neck": Case(put(T2, BodyPartExamined="CSPINE"), "subject_doubtful", "CSPINE", same=True),
    "said to be the brain": Case(put(T1, BodyPartExamined="BRAIN"), "subject_doubtful", "BRAIN", same=True),
    "said to be the pelvis": Case(put(AX, BodyPartExamined="Pelvis "), "subject_doubtful", "PELVIS", same=True),
}  # fmt: skip
