"""A page on which a person walks through doubtful labels, sees what they are about, and keeps or changes each.

One file that reaches for nothing outside of itself, as `report.html`. What was decided is kept in the browser, and
exported as a table `row_id, label, was` of the changed labels: a recipe takes it as `corrected_labels`, or as
`leave_out`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.ensemble.corrected import COLUMNS
from lumbar.files.read import read_table
from lumbar.files.write import write_text
from lumbar.grading.regions import cut_region
from lumbar.issues import InputError, printable
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, Condition, Level, level_title, row_id, split_row_id
from lumbar.metric import label_codes, prediction_array, read_predictions
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.region import RegionSpec
from lumbar.recipe.views import OWN_VIEW
from lumbar.report.html import images
from lumbar.report.html.cells import SEVERITY_WORDS
from lumbar.report.html.frame import as_json, framed
from lumbar.report.html.regions import VIEW_TITLES
from lumbar.study.keypoint import Keypoint
from lumbar.study.slices import find_slice
from lumbar.study.standardise import slice_values
from lumbar.study.study import Study
from lumbar.terminal.progress import follow
from lumbar.training.data.packs import load_study, read_header
from lumbar.training.folder import RunFolder

#: Slices on either side of the label's own that are shown, and the longest side of each in pixels.
BESIDE, LONGEST_PX = 2, 400
#: Side of the region in mm and pixels.
REGION_MM, REGION_PX = 60.0, 160
Row = tuple[int, Condition, Level]


def write_page(folder: RunFolder, out: Path, rows: Path | None = None) -> int:
    """Write the page of a finished run to the file `out`; how many labels it asks about.

    `rows`: a table with a column `row_id`; by default the run's `suspect_labels.csv`, which `evaluate` makes. Raises
    InputError where that, or a study's cached images, are missing.
    """
    folder.check_finished()
    listed = _listed(folder, rows)
    entries = _entries(folder, listed)
    key = hashlib.sha256("\n".join([row_id(*row) for row in listed]).encode()).hexdigest()[:16]
    index = {
        "key": f"lumbar-relabel-{key}",
        "file": "relabelled.csv",
        "columns": COLUMNS,
        "severities": SEVERITY_WORDS,
        "labels": SEVERITIES,
        "rows": entries,
    }
    title = "Lumbar: labels to look at again"
    write_text(framed("relabel.html", title, ["relabel.js"], index=as_json(index)), Path(out))
    return len(entries)


def _listed(folder: RunFolder, rows: Path | None) -> list[Row]:
    """The rows of the list, each once, in its order."""
    path = folder.root / "suspect_labels.csv" if rows is None else Path(rows)
    if rows is None and not path.is_file():
        raise InputError(f"{path} is missing; run train_utils.py evaluate, which makes it, or give a list as --rows")
    try:
        listed = [split_row_id(str(name)) for name in read_table(path, ["row_id"], text=["row_id"])["row_id"]]
    except ValueError as error:
        raise InputError(f"{path}: {error}; list rows as submission.csv names them") from error
    if not listed:
        raise InputError(f"{path} lists no label; there is nothing to look at")
    return list(dict.fromkeys(listed))


def _entries(folder: RunFolder, listed: Iterable[Row]) -> list[dict[str, Any]]:
    """What the page shows of each row, those of a study one after the other in the images' reading only."""
    recipe = folder.recipe()
    found, told = folder.keypoints(recipe.folds.train), folder.labelled_keypoints(recipe.folds.train)
    labels = folder.labels()
    studies, codes = label_codes(labels.loc[sorted(found)])
    place_of = {int(study): place for place, study in enumerate(studies)}
    names = ["blend", *recipe.stage2.bundled()]
    tables = {name: prediction_array(read_predictions(folder.prediction_file(name)), studies) for name in names}
    rows = list(listed)
    strange = [study for study, _, _ in rows if study not in place_of]
    if strange:
        raise InputError(f"study {strange[0]} is none of those that the run has graded out of fold; leave its rows out")
    shown: dict[Row, dict[str, Any]] = {}
    by_study: dict[int, list[Row]] = {}
    for row in rows:
        by_study.setdefault(row[0], []).append(row)
    for number in follow(list(by_study), "pictures", len(by_study), name=lambda one: f"study {one}"):
        study = _study(folder, number)
        points = {point.name: point for point in found[number]} | {point.name: point for point in told.get(number, ())}
        for row in by_study[number]:
            shown[row] = _pictures(study, row[1], row[2], points)
    entries = []
    for row in rows:
        place = (place_of[row[0]], CONDITIONS.index(row[1]), LEVELS.index(row[2]))
        said = {name: table[place] for name, table in tables.items()}
        entries.append(
            {
                "row": row_id(*row),
                "study": str(row[0]),
                "title": f"{level_title(row[2])} {row[1].replace('_', ' ')}",
                "label": int(codes[place]),
                "answers": [
                    {"name": name, "percent": [round(100 * float(share)) for share in answer]}
                    for name, answer in said.items()
                    if np.isfinite(answer).all()
                ],
                **shown[row],
            }
        )
    return entries


def _study(folder: RunFolder, number: int) -> Study:
    path = folder.cache / "studies" / f"{number}.safetensors"
    if read_header(path) is None:
        raise InputError(
            f"{path} is missing; run train_utils.py train again, it reads the images once more, or say where the run's "
            "cache lies as --cache"
        )
    return load_study(path)


def _pictures(
    study: Study, condition: Condition, level: Level, points: Mapping[tuple[Condition, Level], Keypoint]
) -> dict[str, Any]:
    """The region and the slices beside the point, patient's right on the viewer's left; none where it has no place."""
    point = points.get((condition, level))
    own = None if point is None else find_slice(study, point.series_id, point.instance)
    if point is None or own is None:
        return {"slices": [], "region": None, "series": ""}
    series, item = own
    at = next(place for place, one in enumerate(series.slices) if one is item)
    near = series.slices[max(0, at - BESIDE) : at + BESIDE + 1]
    view = OWN_VIEW[condition]
    spec = GraderSpec(
        views=(view,),
        conditions=(condition,),
        region=RegionSpec(around="point", extent=(REGION_MM, REGION_MM), size=(REGION_PX, REGION_PX)),
        slices=2 * BESIDE + 1,
        mirror_right=False,
    )
    region = cut_region(study, view, level, points, spec)
    return {
        "series": f"{VIEW_TITLES[view]}, slice {printable(item.name)}",
        "slices": [_slice(series, one, point, own=one is item) for one in near],
        "region": None if region is None else images.region_film(region.pixels),
        "count": 0 if region is None else len(region.pixels),
        "mm": REGION_MM,
    }


def _slice(series: Series, item: Slice, point: Keypoint, *, own: bool) -> dict[str, Any]:
    """One slice as a picture, and where the point lies on it in shares of its sides."""
    low, high = images.display_range(series)
    image, affine = slice_values(item, images.DISPLAY)
    column, row = geometry.to_pixel(affine, point.mm)[:2]
    rows, columns = geometry.spacing_mm(affine)
    share = min(1.0, LONGEST_PX / max(image.shape))
    return {
        "instance": item.instance,
        "own": own,
        "shape": round(float(image.shape[1] * columns / (image.shape[0] * rows)), 4),
        "x": round(float((column + 0.5) / image.shape[1]), 4),
        "y": round(float((row + 0.5) / image.shape[0]), 4),
        "image": images.encode(images.to_grey(images.shrink(image, share), low, high)),
    }
