"""Changes after which the answer may be any: only what holds of every run is asked of them."""

import shutil

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.support.changes import free
from tests.support.draft import OTHER, SAMPLES, SERIES, Draft, decimals, floats, pixels, put_text, store
from tests.support.fuzz_targets import NASTY_VALUES, mutate_dicom, mutate_text

# -- files and tables -------------------------------------------------------------------------------------------------


@free
def slices_gone(draft: Draft) -> None:
    """Some slices of a series are missing, or all."""
    paths = draft.files(draft.one())
    for path in draft.dealer.sample(paths, draft.dealer.randint(1, len(paths))):
        path.unlink()


@free
def folders_exchanged(draft: Draft) -> None:
    """Two series lie in each other's folders."""
    first, second = (draft.folder(series) for series in draft.dealer.sample(SERIES, 2))
    first.rename(first.with_name("t"))
    second.rename(first)
    first.with_name("t").rename(second)


@free
def mutated_files(draft: Draft) -> None:
    """Bytes or tags of a few files are mutated."""
    for path in draft.dealer.sample(draft.files(draft.one()), draft.dealer.randint(1, 4)):
        path.write_bytes(mutate_dicom(path.read_bytes(), draft.dealer))


@free
def mutated_table(draft: Draft) -> None:
    """Bytes, cells or lines of the series table are mutated."""
    draft.table.write_bytes(mutate_text(draft.table.read_bytes(), draft.dealer))


@free
def little_time(draft: Draft) -> None:
    """A time budget that ends somewhere in the study, or before it."""
    draft.options += ["--hours", f"{10 ** draft.dealer.uniform(-7, -3):.3g}"]


# -- geometry ---------------------------------------------------------------------------------------------------------


@free
def tilted(draft: Draft) -> None:
    """A whole series turned about the patient's x or z axis."""
    turn = draft.dealer.uniform(-1.2, 1.2)
    sine, cosine = np.sin(turn), np.cos(turn)
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    about_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    matrix = draft.dealer.choice((about_x, about_z))

    def change(dataset: FileDataset) -> None:
        direction = floats(dataset.ImageOrientationPatient)
        dataset.ImageOrientationPatient = decimals([*matrix @ direction[:3], *matrix @ direction[3:]])
        dataset.ImagePositionPatient = decimals(matrix @ floats(dataset.ImagePositionPatient))

    draft.edit(draft.one(), change)


@free
def positions_shaken(draft: Draft) -> None:
    """Each slice a little, or far, beside its place."""
    reach = draft.dealer.choice((0.01, 1, 30))

    def change(dataset: FileDataset) -> None:
        shaken = floats(dataset.ImagePositionPatient) + [draft.dealer.uniform(-reach, reach) for _ in range(3)]
        dataset.ImagePositionPatient = decimals(shaken)

    draft.edit(draft.some(), change)


@free
def all_in_one_place(draft: Draft) -> None:
    """Every slice of a series says that it lies where the first one does."""
    series = draft.one()
    place = dcmread(draft.files(series)[0], stop_before_pixels=True).ImagePositionPatient
    draft.put(series, ImagePositionPatient=list(place))


@free
def unlike_spacings(draft: Draft) -> None:
    """Pixels that are no squares."""
    rows, columns = (draft.dealer.uniform(0.5, 2) for _ in range(2))

    def change(dataset: FileDataset) -> None:
        dataset.PixelSpacing = decimals(floats(dataset.PixelSpacing) * [rows, columns])

    draft.edit(draft.one(), change)


@free
def nasty_values(draft: Draft) -> None:
    """One tag of a whole series with a value that breaks a careless reader."""
    series = draft.one()
    keywords = [element.keyword for element in dcmread(draft.files(series)[0]) if element.keyword]
    keyword = draft.dealer.choice([word for word in keywords if word != "PixelData"])
    text = str(draft.dealer.choice([value for value in NASTY_VALUES if value is not None]))
    draft.edit(series, lambda dataset: put_text(dataset, keyword, text))


# -- values -----------------------------------------------------------------------------------------------------------


@free
def noise(draft: Draft) -> None:
    """A series of nothing but noise."""
    random = np.random.default_rng(draft.dealer.randrange(9999))

    def change(dataset: FileDataset) -> None:
        store(dataset, random.integers(0, 4000, (dataset.Rows, dataset.Columns)), "<u2")

    draft.edit(draft.one(), change)


@free
def cropped(draft: Draft) -> None:
    """Slices of unlike sizes, cut from the image."""
    rows = draft.dealer.randint(16, 150)
    draft.edit(draft.one(), lambda one: store(one, pixels(one)[:rows, : draft.dealer.randint(16, 150)]))


@free
def one_pixel_of_the_extreme(draft: Draft) -> None:
    """One pixel of one slice holds the largest or smallest number of 32 bits."""
    series, value = draft.one(), draft.dealer.choice((2**31 - 1, -(2**31)))

    def change(dataset: FileDataset) -> None:
        values = pixels(dataset)
        values[draft.dealer.randrange(16), draft.dealer.randrange(16)] = value
        store(dataset, values)

    draft.edit(series, change, [draft.place(series)])


@free
def one_large_slice(draft: Draft) -> None:
    """One slice with two or five times as many pixels a side, and the same spacing."""
    series, times = draft.one(), draft.dealer.choice((2, 5))
    draft.edit(series, lambda one: store(one, np.kron(pixels(one), np.ones((times, times)))), [draft.place(series)])


@free
def dark_or_bright(draft: Draft) -> None:
    """Another gamma, and a bright corner that no header speaks of."""
    power = draft.dealer.uniform(0.3, 3)

    def change(dataset: FileDataset) -> None:
        values = pixels(dataset) - pixels(dataset).min()
        bent = 1000 * (values / max(1, values.max())) ** power
        bent[:12, :12] = draft.dealer.choice((-30_000, 0, 30_000))
        store(dataset, bent.round())

    draft.edit(draft.some(), change)


@free
def slopes_at_odds(draft: Draft) -> None:
    """Each slice with a slope of its own that its values do not follow; some are negative."""

    def change(dataset: FileDataset) -> None:
        dataset.RescaleSlope = f"{draft.dealer.choice((-1, 1)) * 10 ** draft.dealer.uniform(-3, 3):.6g}"
        dataset.RescaleIntercept = str(draft.dealer.randint(-5000, 5000))

    draft.edit(draft.one(), change)


@free
def said_to_be_monochrome1(draft: Draft) -> None:
    """Pixels as they were, said to be shown the other way round."""
    draft.put(draft.some(), PhotometricInterpretation=draft.dealer.choice(("MONOCHROME1", "MONOCHROME1 ", "")))


@free
def images_of_another_patient(draft: Draft) -> None:
    """Pixels and geometry of somebody else under the study's own names: no header can show it."""
    series = draft.one()
    own = dcmread(draft.files(series)[0], stop_before_pixels=True)
    ids = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    shutil.rmtree(draft.folder(series))
    shutil.copytree(SAMPLES / OTHER[SERIES.index(series)], draft.images / str(series))
    draft.put(series, **{keyword: own[keyword].value for keyword in ids if keyword in own})
