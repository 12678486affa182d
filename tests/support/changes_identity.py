"""Changes that are faults, and that show in what whole series say: whose they are, what, where, and how large."""

import shutil

import numpy as np
from pydicom.dataset import FileDataset

from tests.support.changes import told
from tests.support.draft import AX, OTHER, SAMPLES, SERIES, T1, T2, Draft, decimals, floats, pixels, store

# -- whose they are ---------------------------------------------------------------------------------------------------


@told("mixed", "frame", "patient")
def other_patient_id(draft: Draft) -> None:
    """A series names another patient, study and frame of reference."""
    ids = {"StudyInstanceUID": draft.uid(), "FrameOfReferenceUID": draft.uid()}
    draft.put(draft.one(), PatientID="SOMEBODY", **ids)


@told("patient", "frame", "studyinstanceuid")
def series_of_another_patient(draft: Draft) -> None:
    """A series of another phantom, headers and all."""
    series = draft.one()
    shutil.rmtree(draft.folder(series))
    shutil.copytree(SAMPLES / OTHER[SERIES.index(series)], draft.images / str(series))


@told("mixed", "patient", "studyinstanceuid")
def patients_in_one_series(draft: Draft) -> None:
    """A few slices of a series name another patient and study."""
    series = draft.one()
    places = draft.dealer.sample(range(len(draft.files(series))), draft.dealer.randint(2, 4))
    draft.put(series, places, PatientID="SOMEBODY", StudyInstanceUID=draft.uid())


@told("mixed", "seriesinstanceuid", "series_uid")
def second_series_between(draft: Draft) -> None:
    """Every other slice of a sagittal series is of another series, echo and frame of reference."""
    uid = draft.uid()
    places = range(1, 9, 2)
    draft.put(draft.dealer.choice((T1, T2)), places, SeriesInstanceUID=uid, EchoTime="12", FrameOfReferenceUID=uid)


@told("mixed", "seriesinstanceuid", "series_uid", "echo", keeps=True)
def few_of_another_series(draft: Draft) -> None:
    """Two or three slices of another echo between those of a series: the many stay together."""
    series, uid, echo = draft.one(), draft.uid(), draft.dealer.choice(("7.5", "250"))

    def change(dataset: FileDataset) -> None:
        step = np.cross(floats(dataset.ImageOrientationPatient[:3]), floats(dataset.ImageOrientationPatient[3:]))
        dataset.ImagePositionPatient = decimals(floats(dataset.ImagePositionPatient) + 1.7 * step)
        dataset.SeriesInstanceUID, dataset.EchoTime = uid, echo
        store(dataset, pixels(dataset)[::-1])

    for number, path in enumerate(draft.dealer.sample(draft.files(series), draft.dealer.randint(2, 3))):
        draft.add(series, path, f"{9001 + number}.dcm", change)


@told("sopinstanceuid", "same image", "same file", "copy", "copies", "identical", "twice")
def series_copied_as_another(draft: Draft) -> None:
    """One sagittal series under both numbers: the other one is missing, though its folder is full."""
    source, target = draft.dealer.sample((T1, T2), 2)
    shutil.rmtree(draft.folder(target))
    shutil.copytree(draft.folder(source), draft.images / str(target))


@told("frame")
def in_another_frame(draft: Draft) -> None:
    """Axial slices of another session, whose zero lies elsewhere."""
    shift = np.array([0.0, 0.0, draft.dealer.choice((-1, 1)) * draft.dealer.uniform(25, 45)])
    uid = draft.uid()

    def change(dataset: FileDataset) -> None:
        dataset.FrameOfReferenceUID = uid
        dataset.ImagePositionPatient = decimals(floats(dataset.ImagePositionPatient) + shift)

    draft.edit(AX, change)


@told("frame", or_same=True)
def a_frame_for_each_series(draft: Draft) -> None:
    """As some anonymisers leave it: the positions agree all the same."""
    for series in SERIES:
        draft.put(series, FrameOfReferenceUID=draft.uid())


# -- what they are ----------------------------------------------------------------------------------------------------


@told("modality")
def another_modality(draft: Draft) -> None:
    """A series says that it is no MR image."""
    draft.put(draft.one(), Modality=draft.dealer.choice(("SEG", "OT", "PR", "CT", "PT", "SR", "RTSTRUCT", "SC")))


@told("imagetype", "mosaic", "projection")
def computed_images(draft: Draft) -> None:
    """A series of projections, or with many slices in each picture."""
    kinds = (["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"], ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    draft.put(draft.one(), ImageType=draft.dealer.choice(kinds))


@told("bodypart", "body part")
def another_body_part(draft: Draft) -> None:
    """A series says that it shows another part of the body."""
    part = draft.dealer.choice(("CSPINE", "TSPINE", "CERVICAL SPINE", "PELVIS", "KNEE", "ABDOMEN"))
    draft.put(draft.one(), BodyPartExamined=part)


@told("bodypart", "body part", keeps=True)
def body_part_from_a_protocol(draft: Draft) -> None:
    """What scanners copy from the protocol of the patient before: the images are graded, and it is told."""
    draft.put(draft.some(), BodyPartExamined=draft.dealer.choice(("BRAIN", "HEAD")))


# -- where, and how large ---------------------------------------------------------------------------------------------


@told("spacing", "field")
def impossible_field_of_view(draft: Draft) -> None:
    """PixelSpacing in other units: a body of two centimetres, or of two metres."""
    factor = draft.dealer.choice((0.05, 0.1, 10))

    def change(dataset: FileDataset) -> None:
        dataset.PixelSpacing = [f"{value * factor:.6f}" for value in floats(dataset.PixelSpacing)]

    draft.edit(draft.one(), change)


@told("slice_dropped", "apart", "imagepositionpatient")
def positions_in_metres(draft: Draft) -> None:
    """ImagePositionPatient in other units than PixelSpacing."""

    def change(dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = decimals(floats(dataset.ImagePositionPatient) / 1000)

    draft.edit(draft.one(), change)


@told("spacing", "field")
def one_slice_of_another_spacing(draft: Draft) -> None:
    """One slice says that it is twice, or half, as large as the others."""
    series, factor = draft.one(), draft.dealer.choice((0.5, 2))

    def change(dataset: FileDataset) -> None:
        dataset.PixelSpacing = [f"{value * factor:.6f}" for value in floats(dataset.PixelSpacing)]

    draft.edit(series, change, [draft.place(series)])


@told("orientation", "in-plane", "in the plane", "axes")
def one_slice_turned(draft: Draft) -> None:
    """Rows and columns of one slice are exchanged in its header alone."""

    def change(dataset: FileDataset) -> None:
        old = list(dataset.ImageOrientationPatient)
        dataset.ImageOrientationPatient = old[3:] + old[:3]

    draft.edit(draft.dealer.choice((T1, T2)), change, [draft.dealer.randrange(3, 6)])


@told("orientation", "in-plane", "in the plane", "axes", "beside the other")
def one_slice_reversed(draft: Draft) -> None:
    """Rows of one slice are said to run the other way, as they do not: by its header it lies beside the others."""

    def change(dataset: FileDataset) -> None:
        direction = floats(dataset.ImageOrientationPatient)
        direction[:3] *= -1
        dataset.ImageOrientationPatient = decimals(direction)

    draft.edit(draft.dealer.choice((T1, T2)), change, [draft.dealer.randrange(3, 6)])


@told("station", "several_stacks", keeps=True)
def two_stations(draft: Draft) -> None:
    """A series of the whole spine: the upper station lies in the same planes, 200 mm nearer to the head."""
    series = draft.dealer.choice((T1, T2))

    def change(dataset: FileDataset) -> None:
        up = -200 * floats(dataset.ImageOrientationPatient[3:])
        dataset.ImagePositionPatient = decimals(floats(dataset.ImagePositionPatient) + up)
        store(dataset, pixels(dataset)[::-1])

    for number, path in enumerate(draft.files(series)):
        draft.add(series, path, f"{9001 + number}.dcm", change)


@told("slice_dropped", "several_stacks", "coronal", keeps=True)
def coronal_slices_beside(draft: Draft) -> None:
    """Twenty coronal slices in the folder of the axial ones."""

    def change(dataset: FileDataset) -> None:
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
        dataset.ImagePositionPatient = decimals([-100, -60 + 4 * number, 100])

    template = draft.files(AX)[0]
    for number in range(20):
        draft.add(AX, template, f"{9001 + number}.dcm", change)


@told("slice_dropped", "several_stacks", "localiser", "degrees", keeps=True)
def oblique_localiser(draft: Draft) -> None:
    """One picture 35 degrees askew among the slices of a sagittal series."""
    series = draft.dealer.choice((T1, T2))
    turn = np.deg2rad(35) * draft.dealer.choice((-1, 1))
    matrix = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])

    def change(dataset: FileDataset) -> None:
        direction = floats(dataset.ImageOrientationPatient)
        dataset.ImageOrientationPatient = decimals([*matrix @ direction[:3], *matrix @ direction[3:]])
        store(dataset, pixels(dataset)[:, ::-1])

    draft.add(series, draft.dealer.choice(draft.files(series)), "9001.dcm", change)


@told("orientation_doubtful", "upside", "wrong way", "other way", "upwards", "feet")
def upside_down_and_not_said(draft: Draft) -> None:
    """Rows of the pixels reversed, or rows and columns, the header as it was: feet where it says head."""
    axes = draft.dealer.choice(((0,), (0, 1)))
    draft.edit(T2, lambda dataset: store(dataset, np.flip(pixels(dataset), axes)))
