"""Changes of how images are stored that their headers state: the answer stays; and the patient's mirror image."""

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.support.changes import mirrored, same, same_alone
from tests.support.draft import AX, SERIES, T2, Draft, decimals, floats, pixels, put_text, store, write
from tests.support.mirror import mirror_dataset
from tests.support.tiny_dicom import merge_into_enhanced

# -- geometry: stored another way, and the header says so -------------------------------------------------------------


def _reverse(dataset: FileDataset, axis: int) -> None:
    """Store an image with its rows (axis 0) or columns (axis 1) the other way round, the header with it."""
    values, direction = pixels(dataset), floats(dataset.ImageOrientationPatient)
    along = direction[:3] if axis else direction[3:]
    start = floats(dataset.ImagePositionPatient) + along * float(dataset.PixelSpacing[axis]) * (values.shape[axis] - 1)
    along *= -1
    store(dataset, np.flip(values, axis))
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = decimals(direction), decimals(start)


def _turn(dataset: FileDataset) -> None:
    """Store an image turned by 90 degrees, the header with it."""
    values, direction = pixels(dataset), floats(dataset.ImageOrientationPatient)
    rows, columns = floats(dataset.PixelSpacing)
    start = floats(dataset.ImagePositionPatient) + direction[:3] * columns * (values.shape[1] - 1)
    store(dataset, np.rot90(values))
    dataset.PixelSpacing = decimals([columns, rows])
    dataset.ImageOrientationPatient = decimals([*direction[3:], *-direction[:3]])
    dataset.ImagePositionPatient = decimals(start)


@same
def turned_in_the_plane(draft: Draft) -> None:
    """Images stored on their side."""
    draft.edit(draft.some(), _turn)


@same
def columns_reversed(draft: Draft) -> None:
    """Images stored with their columns the other way round."""
    draft.edit(draft.some(), lambda dataset: _reverse(dataset, 1))


@same
def upside_down(draft: Draft) -> None:
    """Images stored from the feet up, or from the back to the front."""
    draft.edit(draft.some(), lambda dataset: _reverse(dataset, 0))


@same
def columns_reversed_in_some(draft: Draft) -> None:
    """Some slices of a series stored the other way round, the others not."""
    series = draft.one()
    count = len(draft.files(series))
    draft.edit(series, lambda dataset: _reverse(dataset, 1), draft.dealer.sample(range(count), max(1, count // 3)))


@same
def patient_moved(draft: Draft) -> None:
    """The whole study lies elsewhere in the scanner."""
    shift = np.array([draft.dealer.uniform(-300, 300) for _ in range(3)])

    def change(dataset: FileDataset) -> None:
        moved = floats(dataset.ImagePositionPatient) + shift
        dataset.ImagePositionPatient = [f"{value:.6f}" for value in moved]

    draft.edit(SERIES, change)


@same
def numbers_written_otherwise(draft: Draft) -> None:
    """Exponents, signs and blanks, all of which a decimal string may have."""

    def change(dataset: FileDataset) -> None:
        for keyword in ("ImagePositionPatient", "PixelSpacing"):
            put_text(dataset, keyword, "\\".join(f"{float(value):+.8E} " for value in dataset[keyword].value))

    draft.edit(draft.some(), change)


@same_alone
def enhanced_files(draft: Draft) -> None:
    """Some series as one file with many frames."""
    for series in draft.some():
        syntax = draft.dealer.choice((ExplicitVRLittleEndian, RLELossless))
        merge_into_enhanced(draft.folder(series), syntax, shared=series != AX)  # whose stacks are angled


# -- values: stored another way, and the header says so ---------------------------------------------------------------


@same
def encodings(draft: Draft) -> None:
    """Each file in an encoding of its own."""
    for series in draft.some():
        for path in draft.files(series):
            dataset = dcmread(path)
            _encode(dataset, draft)
            write(dataset, path)


def _encode(dataset: FileDataset, draft: Draft) -> None:
    syntaxes = (RLELossless, JPEG2000Lossless, ImplicitVRLittleEndian, ExplicitVRBigEndian)
    syntax = draft.dealer.choice((*syntaxes, DeflatedExplicitVRLittleEndian, None))
    if syntax is None:
        dataset.preamble = draft.dealer.randbytes(128)
        block = dataset.private_block(0x4321, "X" * draft.dealer.randint(1, 60), create=True)
        block.add_new(1, "UN", draft.dealer.randbytes(2 * draft.dealer.randint(0, 1500)))
        store(dataset, pixels(dataset), "<i8")
        return
    values = pixels(dataset)
    wide = values.min() < -(2**15) or values.max() >= 2**15
    store(dataset, values, "<i4" if wide else "<i2")
    if syntax.is_encapsulated:
        if not wide:
            dataset.compress(syntax, generate_instance_uid=False)
        return
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, f"<i{dataset.BitsAllocated // 8}").byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax


@same
def values_scaled(draft: Draft) -> None:
    """Other units and another zero, the same for the whole series; padding has the value that it says."""
    series = draft.one()
    factor, offset = draft.dealer.randint(1, 9), draft.dealer.randint(-500, 500)
    if draft.is_plain(series):
        draft.edit(series, lambda dataset: store(dataset, pixels(dataset) * factor + offset))


@same
def rescaled_slice_by_slice(draft: Draft) -> None:
    """Each slice with a slope and an intercept of its own, which give the same values."""
    series = draft.one()

    def change(dataset: FileDataset) -> None:
        finer, offset = draft.dealer.choice((1, 2, 4)), draft.dealer.randint(-200, 200)
        store(dataset, (pixels(dataset) - offset) * finer)
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{1 / finer:g}", str(offset)

    if draft.is_plain(series):
        draft.edit(series, change)


@same
def tiny_slope_and_huge_intercept(draft: Draft) -> None:
    """Other units and another zero by the rescale tags, so large that float32 cannot hold both."""
    series = draft.one()
    if draft.is_plain(series):
        draft.put(series, RescaleSlope="1e-5", RescaleIntercept=draft.dealer.choice(("1e8", "-3e7", "0")))


@same
def monochrome1(draft: Draft) -> None:
    """The smallest value is shown white, and stored so; half of the time with slopes of each slice's own."""
    series, ceiling = draft.one(), 20_000
    own = draft.dealer.random() < 0.5
    if not draft.is_plain(series):
        return

    def change(dataset: FileDataset) -> None:
        finer = draft.dealer.choice((1, 2)) if own else 1
        store(dataset, (ceiling - pixels(dataset)) * finer, "<u2")
        dataset.PhotometricInterpretation = "MONOCHROME1"
        if own:
            dataset.RescaleSlope, dataset.RescaleIntercept = f"{1 / finer:g}", "0"

    draft.edit(series, change)


@same
def padding_stated(draft: Draft) -> None:
    """Where the image is darkest stands a value that the header calls padding; half of the time a range of them."""
    series, ranged = draft.one(), draft.dealer.random() < 0.5
    if not draft.is_plain(series):
        return

    def change(dataset: FileDataset) -> None:
        values = pixels(dataset)
        dark = np.argwhere(values <= np.quantile(values, 0.01))
        store(dataset, values)  # signed from here on
        for number, (row, column) in enumerate(dark):
            values[row, column] = -32768 + (number % 60 if ranged else 0)
        store(dataset, values)
        dataset.PixelPaddingValue = -32768
        dataset["PixelPaddingValue"].VR = "SS"
        if ranged:
            dataset.PixelPaddingRangeLimit = -32700
            dataset["PixelPaddingRangeLimit"].VR = "SS"

    draft.edit(series, change)


@same
def overlay_above_the_bits(draft: Draft) -> None:
    """Twelve bits of image and a drawing in the thirteenth, as old scanners store it, native or in JPEG 2000."""
    series, coded = draft.one(), draft.dealer.random() < 0.5
    found = np.stack([pixels(dcmread(path)) for path in draft.files(series)]) if draft.is_plain(series) else None
    if found is None or found.min() < 0 or found.max() >= 4096:
        return

    def change(dataset: FileDataset) -> None:
        values = pixels(dataset)
        values[10:40:3, 10:60] |= 4096
        store(dataset, values, "<u2")
        if coded:
            dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.add_new(0x60000010, "US", dataset.Rows)
        dataset.add_new(0x60000011, "US", dataset.Columns)
        dataset.add_new(0x60000040, "CS", "G")
        dataset.add_new(0x60000050, "SS", [1, 1])
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", 12)

    draft.edit(series, change)


# -- the patient's mirror image ---------------------------------------------------------------------------------------


@mirrored
def scanned_in_the_mirror(draft: Draft) -> None:
    """As a scanner would have written the mirrored patient."""
    draft.edit(SERIES, mirror_dataset)


@mirrored
def headers_in_the_mirror(draft: Draft) -> None:
    """The pixels of every slice stay: the columns of axial ones run to the patient's right afterwards."""

    def change(dataset: FileDataset) -> None:
        flip = np.array([-1.0, 1.0, 1.0])
        direction = floats(dataset.ImageOrientationPatient) * np.tile(flip, 2)
        dataset.ImagePositionPatient = decimals(floats(dataset.ImagePositionPatient) * flip)
        dataset.ImageOrientationPatient = decimals(direction)

    draft.edit(SERIES, change)


@mirrored
def mirror_elsewhere(draft: Draft) -> None:
    """Mirrored, and then moved: the mirror stood anywhere."""
    scanned_in_the_mirror(draft)
    patient_moved(draft)


@mirrored
def mirrored_and_reversed(draft: Draft) -> None:
    """Mirrored, and one kind of series then stored with its columns reversed."""
    headers_in_the_mirror(draft)
    draft.edit(draft.dealer.choice((AX, T2)), lambda dataset: _reverse(dataset, 1))
