"""Images that do not belong together, or lie where no spine can: graded without them, and told by their cause."""

import contextlib
import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

import train_utils
from lumbar.dicom.identity import Identity
from lumbar.dicom.series import Series
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.study.checks import same_frame
from tests.conftest import ROOT
from tests.support.damage import AX, T1, T2, Harm, files, put
from tests.support.small_study import axial, sagittal
from tests.support.tiny_dicom import CORONAL

SOURCE = {T1: "794108896", T2: "3456246721", AX: "3913907269"}  # of phantom 100001
WORDS = {T1: "Sagittal T1", T2: "Sagittal T2/STIR", AX: "Axial T2"}
#: What moves no probability by more counts as the same answer: pixels that are turned are rounded otherwise.
SAME = 2e-3


@dataclass(frozen=True)
class Case:
    """One way to mix or misplace images of a study."""

    harm: Harm
    code: str  # of an Issue that must be told
    says: str = ""  # words of that Issue
    same: bool = False  # whether the answer stays that of the sound study
    prior: str = ""  # conditions whose rows must all come from the prior (or from members that see other series)
    rows: str = ""  # further rows of the series table


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


def copied_over(folder: Path) -> None:
    """The T1 folder holds the T2 images."""
    shutil.rmtree(folder / str(T1))
    shutil.copytree(folder / str(T2), folder / str(T1))


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


def own_uids(dataset: Dataset, place: int) -> None:
    """What a careless tool does: every file a series, a study and a frame of reference of its own."""
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, str(dataset.SOPInstanceUID)]))


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
    "every file its own": Case(every(T2, own_uids), "series_mixed", "tells nothing", same=True),
    "T1 is a copy of T2": Case(copied_over, "study_mixed", "the same images", prior="foraminal"),
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
    "zipped": Case(zipped, "file_ignored", "2 file(s)"),
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


@dataclass(frozen=True)
class Answer:
    """What became of a study: (25, 3) probabilities, its entry and its Issues in the run report."""

    rows: np.ndarray
    entry: dict
    issues: list[dict]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Every case as a study of one folder, graded by the shipped bundle through the command line."""
    root = tmp_path_factory.mktemp("together")
    studies = {name: 500 + place for place, name in enumerate(("sound", *CASES))}
    lines = ["study_id,series_id,series_description"]
    for name, study in studies.items():
        folder = root / "data/test_images" / str(study)
        for series, old in SOURCE.items():
            shutil.copytree(ROOT / "sample_data/train_images/100001" / old, folder / str(series))
            lines.append(f"{study},{series},{WORDS[series]}")
        if name in CASES:
            CASES[name].harm(folder)
            lines += [f"{study},{CASES[name].rows}"] * bool(CASES[name].rows)
    (root / "data/test_series_descriptions.csv").write_text("\n".join(lines) + "\n")
    words = ["predict", "--data", str(root / "data"), "--weights", str(ROOT / "weights"), "--out", str(root / "out")]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train_utils.main([*words, "--device", "cpu"]) == 0, said.getvalue()
    with (root / "out/submission.csv").open() as stream:
        table = {row["row_id"]: [float(row[word]) for word in list(row)[1:]] for row in csv.DictReader(stream)}
    report = json.loads((root / "out/run_report.json").read_text())
    entries = {entry["study_id"]: entry for entry in report["studies"]}
    order = [f"{condition}_{level}" for condition in CONDITIONS for level in LEVELS]
    return {
        name: Answer(
            np.array([table[f"{study}_{column}"] for column in order]),
            entries[study],
            [issue for issue in report["issues"]["list"] if issue["study"] == study],
        )
        for name, study in studies.items()
    }


def told(answer: Answer, sound: Answer) -> list[dict]:
    known = {(issue["code"], issue["detail"]) for issue in sound.issues}
    return [issue for issue in answer.issues if (issue["code"], issue["detail"]) not in known]


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_belong_is_told_by_its_cause(name: str, answers: dict[str, Answer]) -> None:
    case, new = CASES[name], told(answers[name], answers["sound"])
    if not case.code:
        assert new == []
        return
    found = [issue for issue in new if issue["code"] == case.code and case.says in issue["detail"]]
    assert found, new
    assert all(len(issue["detail"]) <= 300 for issue in new)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same])
def test_the_answer_is_that_of_what_belongs_together(name: str, answers: dict[str, Answer]) -> None:
    assert np.abs(answers[name].rows - answers["sound"].rows).max() < SAME


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.prior])
def test_no_condition_is_graded_on_images_that_do_not_belong(name: str, answers: dict[str, Answer]) -> None:
    own = {column: row["from"] for column, row in answers[name].entry["rows"].items() if CASES[name].prior in column}
    assert len(own) == 10
    assert "own view" not in own.values()


def test_series_in_one_place_show_that_frames_of_reference_were_only_renamed() -> None:
    def framed(series: Series, uid: str) -> Series:
        named = [replace(item, identity=Identity(frame_of_reference=uid)) for item in series.slices]
        return replace(series, slices=tuple(named))

    t2, t1, ax = sagittal(1), sagittal(2), axial(3)
    named = [framed(t2, "1.1"), framed(t1, "1.2"), framed(ax, "1.3")]
    assert same_frame(named[0], named[2], named)
    assert not same_frame(named[0], named[2], [named[0], named[2]])
    assert not same_frame(named[0], framed(ax, "1.2"), [*named[:2], framed(ax, "1.2")])
    assert same_frame(named[0], ax, [named[0], ax])


def test_no_message_names_a_patient(answers: dict[str, Answer]) -> None:
    details = " ".join(issue["detail"] for answer in answers.values() for issue in answer.issues)
    assert "SOMEBODY" not in details
