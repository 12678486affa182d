"""SPIDER's slices beside the middle, on which foramina show: studies of one T1 slice for the foramina's detector.

A table says where the foramina of a slice are. Ours is `recipes/spider_foramina.csv`; its `how` is not read and says
how a point came about. seen: set by eye in the middle of the opening's wide upper part, fat with the root in it, below
the pedicle that SPIDER's mask shows, in front of the facets, level by level as the masks or the canal points count.
near: the level does not show; the point of the neighbouring slice. canal: the level shows the canal, or nothing; where
its foramen would be (`write.FORAMEN_FROM_CANAL_MM`, from the nearest slice with canal points), since a level without
a point would teach silence. Held-out patients have points that are seen alone.

The slices lie in `t2_space/images` (the outer ones of the volumes, which pass through pedicles where the spine is
curved) or in `offmidline/images`. In all their sequences fat is bright and the root in it dark, as on T1, which is what
they are written as. Which side a slice shows is not known: both sides get the same point, as on mid-sagittal slices.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lumbar.issues import InputError, cut
from lumbar.spider.labelled import Labelled, read_image, squared
from lumbar.spider.parts import Part, in_part
from lumbar.spider.tables import check_within, read_overview, read_points

#: What `train_sources.csv` calls these studies.
SOURCE: Final = "SPIDER foramina"
#: Pixel spacing of T2 SPACE, mm, of all 31 patients in SPIDER's overview.csv.
PIXEL_MM: Final = 0.46875
FIRST_ID: Final = 10_000_000_000
#: Series as pictures' names have them, in the order of their studies' numbers, and the slices that each may have.
SERIES: Final = ("t1", "t2", "t2_SPACE")
SLICES: Final = 300
_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,5})_(t1|t2|t2_SPACE)_(?:slice)?([0-9]{1,3})")


def study_of(image: str) -> int | None:
    """The number of the study that a picture becomes (`106_t1_04`, `11_t2_SPACE_slice76`); None for another name."""
    found = _NAME.fullmatch(image)
    if found is None or int(found[3]) >= SLICES:
        return None
    return FIRST_ID + int(found[1]) * 1000 + SERIES.index(found[2]) * SLICES + int(found[3])


def with_foramina(source: Path, points: Path, part: Part) -> Iterator[Labelled]:
    """The slices of a part that have points in a table: patient, image, level, x, y in pixels as stored."""
    table = read_points(points, ("patient", "image", "level", "x", "y"))
    for line, patient, image in zip(table.index, table["patient"], table["image"], strict=True):
        if study_of(image) is None or image.split("_")[0] != str(patient):
            raise InputError(
                f"{points}: image {cut(image)!r} in line {line} is not a picture of patient {patient}, like "
                f"{patient}_t1_04 or {patient}_t2_SPACE_slice76; correct the line"
            )
    table = table[[in_part(patient, part, foramina=True) for patient in table["patient"]]]
    overview = read_overview(source / "overview.csv")
    for image, rows in table.groupby("image"):
        study = study_of(str(image))
        assert study is not None
        series = str(image).rpartition("_")[0]
        if series.endswith("SPACE"):
            pixels, spacing = read_image(source / "t2_space" / "images" / f"{image}.png"), PIXEL_MM
            height = len(pixels)
        else:
            picture = source / "offmidline" / "images" / f"{image}.png"
            pixels, spacing, height = squared(source, picture, series, overview)
        check_within(points, rows, height, pixels.shape[1])
        placed = rows.assign(y=rows["y"] * len(pixels) / height)
        yield Labelled(study, {}, 0, placed, spacing, SOURCE, (pixels, spacing))
