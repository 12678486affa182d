"""Changes that nothing in the answer may follow: other names, other words, other things beside the same images."""

import os
import shutil

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tests.support.changes import same, same_alone
from tests.support.draft import SERIES, T1, Draft, put_text

#: Words that scanners and people write into headers and that decide nothing.
ODD_WORDS = {
    "SeriesDescription": ("", "\\\\", "T1 ax knee", "\u202e"),
    "PatientName": ("", "^^^^", "Ä^Ö"),
    "ProtocolName": ("x" * 64,),
    "SliceThickness": ("0", "", "-3", "1e9"),
    "SpacingBetweenSlices": ("-4", "0", "", "nan"),
    "SliceLocation": ("0", "9e9"),
    "InstanceNumber": ("0", "", "2147483647"),
    "WindowCenter": ("", "a", "1e300"),
    "EchoTime": ("",),
    "PatientPosition": ("FFP", ""),
    "Laterality": ("R",),
    "ImageComments": ("z" * 5000,),
    "AcquisitionNumber": ("",),
    "StudyDate": ("99999999",),
    "Modality": ("", "MR "),
    "BodyPartExamined": ("", "SPINE", "LSPINE "),
    "PatientOrientation": ("R\\F",),
    "ImageLaterality": ("L",),
    "InstitutionName": ("\x1b[31m red",),
    "SpecificCharacterSet": ("ISO_IR 999",),
}
LETTERS = ("IM-0001-{:04d}.DCM", "img {} ä.dcm", "{}.0.dcm", "MR.{}.dCm")
ODD_NAMES = (
    "-rf {}.dcm",
    "%s%n {}.dcm",
    "{}\n{}.dcm",
    "\x1b[31m{}.dcm",
    "腰椎 {}.dcm",
    "a" * 100 + "{}.dcm",
    "{} .dcm",
)


# -- names, folders, tables -------------------------------------------------------------------------------------------


@same
def shuffled_names(draft: Draft) -> None:
    """The files of a series exchange their names."""
    for series in draft.some():
        paths = draft.files(series)
        for path in paths:
            path.rename(path.with_name(path.name + ".old"))
        for path, other in zip(paths, draft.dealer.sample(paths, len(paths)), strict=True):
            path.with_name(path.name + ".old").rename(other)


def _rename(draft: Draft, patterns: tuple[str, ...]) -> None:
    for series in draft.some():
        for number, path in enumerate(draft.files(series), start=1):
            path.rename(path.with_name(draft.dealer.choice(patterns).format(number, number)))


@same
def names_with_letters(draft: Draft) -> None:
    """Names as archives and viewers make them."""
    _rename(draft, LETTERS)


@same
def odd_names(draft: Draft) -> None:
    """Names that shells, terminals and careless programs stumble over."""
    _rename(draft, ODD_NAMES)


@same
def names_that_are_no_text(draft: Draft) -> None:
    """Bytes that are no UTF-8, as an old archive unpacks them."""
    for path in draft.files(draft.one()):
        path.rename(path.with_name(os.fsdecode(b"W\xfcrfel ") + path.name))


@same
def linked_files(draft: Draft) -> None:
    """Every other file of a series lies elsewhere, behind a link."""
    away = draft.root / "away"
    away.mkdir(exist_ok=True)
    for path in draft.files(draft.one())[::2]:
        target = away / f"{len(list(away.iterdir()))}.dcm"
        shutil.move(path, target)
        path.symlink_to(target)


@same
def harmless_files(draft: Draft) -> None:
    """What desktops and CDs leave in a folder."""
    names = (".DS_Store", "._1.dcm", "Thumbs.db", "notes.txt", "DICOMDIR", ".hidden.dcm", "desktop.ini", "viewer.exe")
    folder = draft.folder(draft.one())
    for name in draft.dealer.sample(names, 3):
        (folder / name).write_bytes(draft.dealer.randbytes(50))


@same
def dicomdir(draft: Draft) -> None:
    """A true directory file, as every CD has one, beside the slices and above them."""
    dataset = dcmread(draft.files(T1)[0])
    directory = FileDataset("", Dataset(), preamble=bytes(128), file_meta=dataset.file_meta)
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID, directory.DirectoryRecordSequence = "CD", []
    for folder in (draft.folder(draft.one()), draft.images):
        directory.save_as(folder / "DICOMDIR")


@same
def presentation_beside(draft: Draft) -> None:
    """What a reader saved of a series, beside its slices: no image, and none is missing for it."""

    def change(dataset: FileDataset) -> None:
        for keyword in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient"):
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.Modality, dataset.SeriesInstanceUID = draft.dealer.choice(("PR", "KO", "SR")), draft.uid()

    series = draft.one()
    draft.add(series, draft.files(series)[0], "9001.dcm", change)


@same
def series_twice(draft: Draft) -> None:
    """A whole series copied under another number, and listed again."""
    series = draft.one()
    shutil.copytree(draft.folder(series), draft.images / "4")
    draft.list_series([*draft.listed(), (1, 4, dict(row[1:] for row in draft.listed())[series])])


@same
def unlisted_folders(draft: Draft) -> None:
    """A series and a study that the table does not name."""
    shutil.copytree(draft.folder(draft.one()), draft.images / "77")
    shutil.copytree(draft.images, draft.images.with_name("88"))


@same
def table_in_other_words(draft: Draft) -> None:
    """Rows in another order, words in another case, a column more, another line end."""
    rows = draft.listed()
    lines = ["study_id,series_id,series_description,note"]
    for study, series, words in draft.dealer.sample(rows, len(rows)):
        other = draft.dealer.choice((words.lower(), words.upper(), f" {words.replace(' ', '  ')} "))
        lines.append(f"{study},{series},{other},x")
    mark = "\ufeff" * draft.dealer.randint(0, 1)
    draft.table.write_bytes((mark + "\r\n".join(lines) + "\r\n").encode())


@same
def table_from_a_spreadsheet(draft: Draft) -> None:
    """Numbers with a point, cells in quotes, an empty line, a row twice."""
    lines = [f'{study}.0,{series}.0,"{words}"' for study, series, words in draft.listed()]
    lines.insert(draft.dealer.randrange(len(lines)), "")
    draft.table.write_text("\n".join(["study_id,series_id,series_description", *lines, lines[-1]]), encoding="utf-8")


@same
def trailing_commas(draft: Draft) -> None:
    """One cell more in each row than in the header."""
    lines = [f"{study},{series},{words}," for study, series, words in draft.listed()]
    draft.table.write_text("\n".join(["study_id,series_id,series_description", *lines, ""]), encoding="utf-8")


@same
def other_options(draft: Draft) -> None:
    """Words on the command line that change nothing here."""
    draft.options += draft.dealer.choice(
        (["--hours", "2"], ["--on-error", "prior"], ["--shard", "1/1"], ["--split", "test"], ["--engine", "fused"])
    )


# -- words of the header ----------------------------------------------------------------------------------------------


@same
def odd_words(draft: Draft) -> None:
    """Four tags that decide nothing get odd values."""
    for keyword in draft.dealer.sample(sorted(ODD_WORDS), 4):
        text = draft.dealer.choice(ODD_WORDS[keyword])
        draft.edit(draft.some(), lambda dataset, keyword=keyword, text=text: put_text(dataset, keyword, text))


@same_alone
def anonymised(draft: Draft) -> None:
    """Identity taken away, emptied, or replaced alike in all files."""
    keywords = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyID", "AccessionNumber")
    match draft.dealer.randrange(4):
        case 0:
            draft.put(SERIES, **dict.fromkeys(keywords))
            draft.put(SERIES, SeriesInstanceUID=None)
        case 1:
            draft.put(SERIES, **dict.fromkeys(keywords, ""))
        case 2:
            one = str(draft.uid())
            draft.put(SERIES, PatientID="ANON", PatientName="ANON", StudyInstanceUID=one, FrameOfReferenceUID=one)
        case _:
            draft.put(draft.some(), PatientID=None, StudyInstanceUID="", SeriesInstanceUID=None)


@same
def references_to_others(draft: Draft) -> None:
    """Sequences that name other images, other studies and other names of the patient, as many files have them."""

    def change(dataset: FileDataset) -> None:
        item = Dataset()
        item.ReferencedSOPInstanceUID = item.StudyInstanceUID = item.SeriesInstanceUID = draft.uid()
        item.PatientID, item.FrameOfReferenceUID = "SOMEBODY", draft.uid()
        dataset.ReferencedImageSequence = dataset.OtherPatientIDsSequence = [item]
        dataset.ReferencedStudySequence = [item]

    draft.edit(draft.some(), change)
