"""Changes that are faults, and that show: files and folders, the table, the clock, single tags of single files."""

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.support.changes import told
from tests.support.draft import T1, T2, Draft, pixels, put_text, store

IGNORED = (
    "series_ignored",
    "slices_ignored",
    "file_ignored",
    "files_ignored",
    "file_unreadable",
    "ignored",
    "left out",
)

# -- files and folders ------------------------------------------------------------------------------------------------


@told("file_unreadable", "series_ignored")
def cut_file(draft: Draft) -> None:
    """A file ends early, anywhere."""
    path = draft.dealer.choice(draft.files(draft.one()))
    content = path.read_bytes()
    path.write_bytes(content[: draft.dealer.randrange(len(content) - 3)])


@told("file_unreadable", "preamble")
def no_dicom_file(draft: Draft) -> None:
    """No preamble, a page of a web server, nothing at all."""
    path = draft.dealer.choice(draft.files(draft.one()))
    path.write_bytes(draft.dealer.choice((path.read_bytes()[132:], b"<html>404</html>" * 99, b"")))


@told("slice_dropped", keeps=True)
def copied_file(draft: Draft) -> None:
    """A file lies there twice."""
    path = draft.dealer.choice(draft.files(draft.one()))
    shutil.copy(path, path.with_name(f"{path.stem} - Copy.dcm"))


@told(*IGNORED, or_same=True)
def other_extensions(draft: Draft) -> None:
    """Some files, or all, are not named `.dcm`."""
    ending = draft.dealer.choice((".dicom", ".IMA", "", ".dcm.gz", ".dcm.bak", ".mag", ".dcm~", ".DCM.txt"))
    paths = draft.files(draft.one())
    for path in draft.dealer.sample(paths, draft.dealer.randint(1, len(paths))):
        path.rename(path.with_name(path.stem + ending))


@told(*IGNORED, or_same=True)
def some_in_a_subfolder(draft: Draft) -> None:
    """Part of a series lies one folder further down."""
    paths = draft.files(draft.one())
    for path in paths[:: draft.dealer.randint(1, 3)]:
        (path.parent / "part 2").mkdir(exist_ok=True)
        path.rename(path.parent / "part 2" / path.name)


@told(*IGNORED)
def packed_files(draft: Draft) -> None:
    """Files that are there in name only: packed, or still in a cloud."""
    paths = draft.files(draft.one())
    for path in draft.dealer.sample(paths, draft.dealer.randint(1, 4)):
        if draft.dealer.random() < 0.5:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        else:
            path.with_name(f".{path.name}.icloud").write_bytes(b"bplist00" + bytes(120))
        path.unlink()


@told("series_missing", "series_ignored")
def series_gone(draft: Draft) -> None:
    """The folder of a series is missing or empty."""
    folder = draft.folder(draft.one())
    shutil.rmtree(folder)
    if draft.dealer.random() < 0.5:
        folder.mkdir()


@told("zero", "0001", or_same=True)
def leading_zeros(draft: Draft) -> None:
    """A folder is named 0001 where the table says 1."""
    folder = draft.dealer.choice((draft.folder(draft.one()), draft.images))
    folder.rename(folder.with_name(f"{int(folder.name):04d}"))


@told("slices_missing")
def slices_missing(draft: Draft) -> None:
    """Two neighbours out of the middle of a sagittal series."""
    paths = sorted(draft.files(draft.dealer.choice((T1, T2))), key=_from_left_to_right)
    start = draft.dealer.randint(3, 4)
    for path in paths[start : start + 2]:
        path.unlink()


def _from_left_to_right(path: Path) -> float:
    return float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[0])


# -- the table and the clock ------------------------------------------------------------------------------------------


@told("series_ignored", "series_missing", "series_relabelled")
def wrong_description(draft: Draft) -> None:
    """A description that is unknown, empty or endless."""
    rows, place = draft.listed(), draft.dealer.randrange(3)
    words = draft.dealer.choice(("Sagittal T2", "Localizer", "", "NA", "Axial T1", "Sagittal T1 " * 400))
    rows[place] = (*rows[place][:2], words)
    draft.list_series(rows)


@told("series_missing", "no row in the series table")
def row_missing(draft: Draft) -> None:
    """A series has no row in the table."""
    gone = draft.one()
    draft.list_series([row for row in draft.listed() if row[1] != gone])


@told("test_series_descriptions.csv")
def no_table(draft: Draft) -> None:
    """Another header, a study without a number, another kind of file, nothing."""
    text = draft.table.read_text(encoding="utf-8-sig")
    other = (text.replace("series_id", "series"), re.sub("^1", "one", text, flags=re.M), "\0" * 200, "", "[" * 5000)
    draft.table.write_text(draft.dealer.choice(other), encoding="utf-8")


@told("out_of_time", "time budget", "--hours")
def no_time(draft: Draft) -> None:
    """The time is over before it began."""
    draft.options += ["--hours", draft.dealer.choice(("1e-9", "1e-300", "0.0000001"))]
    draft.options += draft.dealer.choice(([], ["--on-error", "prior"]))


@told("hours", "device", "shard", "split")
def no_such_option(draft: Draft) -> None:
    """An option's value that cannot be."""
    word, text = draft.dealer.choice(
        (
            *(("--hours", text) for text in ("nan", "inf", "0", "-1", "soon")),
            *(("--device", text) for text in ("gpu", "meta", "cpu:3", "", "cuda:99")),
            *(("--shard", text) for text in ("0/1", "2/1", "1")),
            ("--split", "valid"),
        )
    )
    draft.options += [f"{word}={text}"]


# -- one file's header ------------------------------------------------------------------------------------------------


@told("slice_dropped", "file_unreadable", "series_ignored")
def header_gone(draft: Draft) -> None:
    """One file lacks a tag without which it has no place or no image."""
    geometry = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    keyword, series = draft.dealer.choice((*geometry, "Rows", "PixelData", "BitsAllocated")), draft.one()
    draft.put(series, [draft.place(series)], **{keyword: None})


NONSENSE = (
    *(("ImagePositionPatient", text) for text in ("1\\2", "inf\\0\\0", "99999\\0\\0", "1,5\\2,5\\3,5", "")),
    *(("ImageOrientationPatient", text) for text in ("1\\0\\0\\1\\0\\0", "0\\0\\0\\0\\0\\0", "nan\\0\\0\\0\\1\\0")),
    *(("PixelSpacing", text) for text in ("0\\0", "-1\\1", "1", "1e5\\1", "1,05\\1,05", "one\\one")),
)


@told("slice_dropped", "file_unreadable")
def header_nonsense(draft: Draft) -> None:
    """A tag of one file's geometry holds nonsense."""
    keyword, text = draft.dealer.choice(NONSENSE)
    series = draft.one()
    draft.edit(series, lambda dataset: put_text(dataset, keyword, text), [draft.place(series)])


@told("pixels_constant")
def constant_slice(draft: Draft) -> None:
    """One slice is a single value."""
    series, value = draft.one(), draft.dealer.randint(0, 9)
    draft.edit(series, lambda one: store(one, np.full(pixels(one).shape, value), "<u2"), [draft.place(series)])


@told("values_repaired", keeps=True)
def bytes_behind_the_pixels(draft: Draft) -> None:
    """Pixel data is a little longer than the image."""
    series = draft.one()

    def change(dataset: FileDataset) -> None:
        store(dataset, pixels(dataset))
        dataset.PixelData += draft.dealer.randbytes(2 * draft.dealer.randint(2, 200))

    draft.edit(series, change, [draft.place(series)])


@told("values_repaired", "rescale")
def rescale_nonsense(draft: Draft) -> None:
    """Rescale tags that no value survives."""
    slope, intercept = draft.dealer.choice((("0", "0"), ("1e30", "0"), ("nan", "0"), ("", "0"), ("1", "inf")))

    def change(dataset: FileDataset) -> None:
        put_text(dataset, "RescaleSlope", slope)
        put_text(dataset, "RescaleIntercept", intercept)

    draft.edit(draft.one(), change)


BITS = ("bits", "highbit", "file_unreadable", "values_repaired")


@told(*BITS)
def bits_lie(draft: Draft) -> None:
    """Numbers of bits that cannot be, or that the values of the image do not fit into."""
    series = draft.one()
    keyword = draft.dealer.choice(("BitsStored", "BitsAllocated"))
    draft.put(series, [draft.place(series)], **{keyword: draft.dealer.choice((0, 3, 17, 33, 255))})


@told(*BITS)
def too_few_bits(draft: Draft) -> None:
    """A whole series whose values need more bits than the header says are used."""

    def change(dataset: FileDataset) -> None:
        store(dataset, pixels(dataset) - min(0, int(pixels(dataset).min())), "<u2")
        dataset.BitsStored, dataset.HighBit = 8, 7

    draft.edit(draft.one(), change)


@told(*BITS, or_same=True)
def high_bit_lies(draft: Draft) -> None:
    """The highest bit is said to be the fifteenth, where twelve are used: those below it, or not even that."""
    series, shift = draft.one(), draft.dealer.choice((0, 4))
    found = [pixels(dcmread(path)) for path in draft.files(series)]
    low, high = min(one.min() for one in found), max(one.max() for one in found)
    scale = min(1.0, 4095 / (high - low))

    def change(dataset: FileDataset) -> None:
        values = np.round((pixels(dataset) - low) * scale).astype(np.int64)
        store(dataset, values << shift, "<u2", 12)
        dataset.HighBit = 15

    draft.edit(series, change)
