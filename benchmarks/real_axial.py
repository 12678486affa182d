"""Does the axial detector find the subarticular points on real axial T2 slices, in mm?

    python benchmarks/real_axial.py --weights weights --axial SUDIRMAN [--card FILE] [--pictures FILE.png]

SUDIRMAN: a folder of `images/NAME.png`, single axial slices stored as usual (the patient's right on the left of the
picture), and `points.csv` (image, side_in_image, x, y, pixel_mm): where the points lie that are to be seen. Each slice
is a series of its own; only the detector is asked, as on the slice of a level that was found, and nothing is repaired.
± is the standard error by drawing slices anew: both points of a slice err together. Images: Sudirman et al., Lumbar
Spine MRI Dataset, Mendeley Data 2019, doi 10.17632/k57fr854j2.2, CC BY 4.0. Nothing is trained on them.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from real_foramina import POINT_COLUMNS, cells, figures
from real_images import detectors_of, say

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import load_bundle
from lumbar.files.read import read_texts
from lumbar.issues import InputError
from lumbar.keypoints.detect import read_stacks
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.stacks import Stack, channel_names
from lumbar.keypoints.steps import Members, read
from lumbar.labels import side_of
from lumbar.phantom.scan import Plane, SeriesPlan
from lumbar.phantom.writer import Coding, slice_dataset, write_slice
from lumbar.recipe.card import Measured
from lumbar.spider.labelled import read_image
from lumbar.study.study import open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows

#: Beyond this a point lies elsewhere in the body, mm; a detector that is this sure of it (or more) is wrong.
FAR_MM, SURE = 20.0, 0.5
SERIES_ID = 1
#: On which side of the patient a side of the picture lies, in pictures stored as usual.
PATIENT_SIDE = {"image_left": "right", "image_right": "left"}
#: The level that a slice is said to be of; the detector is not told.
LEVEL = "L4/L5"
COLUMNS = (
    *POINT_COLUMNS,
    f"beyond {FAR_MM:g} mm",
    f"of these surer than {SURE:g}",
)


@dataclass(frozen=True)
class Found:
    """What the detector says of a slice: place (2,) px by side of the patient, how far off in mm, and how sure."""

    name: str
    image: np.ndarray
    told: dict[str, tuple[float, float]]
    said: dict[str, tuple[float, float]]
    mm: dict[str, float]
    sure: dict[str, float]
    alone: dict[str, float]  # mm, where each side is read by itself


def write_slices(source: Path, out: Path) -> list[str]:
    """Write each slice with points as a study of one axial series, with its points as labels; the pictures' names."""
    path = source / "points.csv"
    rows = read_texts(path, ("image", "side_in_image", "x", "y", "pixel_mm"))
    coordinates: list[dict[str, object]] = []
    names = list(dict.fromkeys(rows["image"]))
    for study, name in enumerate(names, start=1):
        own = rows[rows["image"] == name]
        if set(own["side_in_image"]) != set(PATIENT_SIDE) or len(own) != len(PATIENT_SIDE):
            raise InputError(f"{path}: {name} needs one row image_left and one image_right; correct the table")
        pixels, spacing = read_image(source / "images" / f"{name}.png"), float(own["pixel_mm"].iloc[0])
        height, width = pixels.shape
        corner = np.array([-width / 2 * spacing, -height / 2 * spacing, 0.0])
        plane = Plane(corner, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), (height, width), spacing)
        plan = SeriesPlan("Axial T2", "T2", (plane,), (1,), 4.0, None)
        dataset = slice_dataset(study, SERIES_ID, 1, plan, 0, pixels.astype(np.uint16), Coding(), str(source))
        dataset.Manufacturer = "unknown"
        write_slice(dataset, out / "train_images" / str(study) / str(SERIES_ID), 1)
        for side, x, y in zip(own["side_in_image"], own["x"], own["y"], strict=True):
            condition = f"{PATIENT_SIDE[side].title()} Subarticular Stenosis"
            place = {"study_id": study, "series_id": SERIES_ID, "instance_number": 1, "x": float(x), "y": float(y)}
            coordinates.append(place | {"condition": condition, "level": LEVEL})
    series = {"study_id": range(1, len(names) + 1), "series_id": SERIES_ID, "series_description": "Axial T2"}
    pd.DataFrame(series).to_csv(out / "train_series_descriptions.csv", index=False)
    pd.DataFrame(coordinates).to_csv(out / "train_label_coordinates.csv", index=False)
    return names


def look(members: Members, source: Path) -> list[Found]:
    """What the axial detectors of a bundle say of every slice that has points."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        names = write_slices(source, Path(folder))
        data = open_data(Path(folder), "train")
        assert data.coordinates is not None
        rows = study_rows(data.coordinates)
        for study_id, name in zip(data.study_ids, names, strict=True):
            study = read_study(data, study_id)
            labels = label_keypoints(study, rows[study_id])
            (stack,), _ = stacks_for(study, members[0][0], Known(labels, labelled=True))
            found.append(_compare(members, stack, name, {side_of(k[0]): p.xy_px for k, p in labels.items()}))
    return found


def _compare(members: Members, stack: Stack, name: str, told: dict[str | None, tuple[float, float]]) -> Found:
    reading = read_stacks([stack], members, torch.device("cpu"), None)[0]
    places = stack.to_slice(reading.points[0, :, :2])[0]
    apart = stack.to_slice(read([stack], members, torch.device("cpu"), None).points[0, :, :2])[0]
    sides = [str(side_of(each[0])) for each in channel_names(members[0][0], None, stack.level) if each is not None]
    spacing = float(np.linalg.norm(stack.centre.affine[:3, 0]))
    image = stack.centre.pixels
    mm = {side: float(np.hypot(*(places[at] - told[side]))) * spacing for at, side in enumerate(sides)}
    said = {side: (float(places[at, 0]), float(places[at, 1])) for at, side in enumerate(sides)}
    sure = {side: float(reading.confidence[0, at]) for at, side in enumerate(sides)}
    alone = {side: float(np.hypot(*(apart[at] - told[side]))) * spacing for at, side in enumerate(sides)}
    return Found(name, image, {side: told[side] for side in sides}, said, mm, sure, alone)


def table(found: Sequence[Found], command: str) -> Measured:
    """The figures of all points, of each side, and of all where each side is read by itself."""
    both = ("left", "right")
    kinds = {"both": both, "left": ("left",), "right": ("right",)}
    rows = [
        _row(kind, [[(each.mm[side], each.sure[side]) for side in sides] for each in found])
        for kind, sides in kinds.items()
    ]
    rows.append(_row("each side read by itself", [[(each.alone[side], None) for side in both] for each in found]))
    return Measured(title="Recesses on real axial slices", command=command, columns=COLUMNS, rows=tuple(rows))


def _row(kind: str, slices: Sequence[Sequence[tuple[float, float | None]]]) -> tuple[str, ...]:
    """A row of the table: mm of each point, slice by slice, and how sure it is where that is known."""
    row = figures([np.array([mm for mm, _ in points]) for points in slices])
    far = [sure for points in slices for mm, sure in points if mm > FAR_MM]
    return (
        kind,
        *cells(row),
        f"{len(far)}",
        "" if None in far else f"{sum(sure > SURE for sure in far if sure is not None)}",
    )


def draw(found: Sequence[Found], path: Path) -> None:
    """A sheet of the slices: where the points are (rings) and what the detector says (crosses)."""
    tiles = []
    for each in found:
        grey = np.clip(each.image / max(float(np.percentile(each.image, 99.5)), 1.0), 0, 1)
        tile = cv2.cvtColor((grey * 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        scale = 256 / max(tile.shape[:2])
        tile = cv2.resize(tile, None, fx=scale, fy=scale)
        for points, mark in ((each.told, None), (each.said, cv2.MARKER_TILTED_CROSS)):
            for side, (x, y) in points.items():
                at, colour = (round(x * scale), round(y * scale)), (80, 220, 80) if side == "left" else (80, 160, 255)
                if mark is None:
                    cv2.circle(tile, at, 5, colour, 1)
                else:
                    cv2.drawMarker(tile, at, colour, mark, 8, 1)
        tile = cv2.copyMakeBorder(tile, 0, 256 - tile.shape[0], 0, 256 - tile.shape[1], cv2.BORDER_CONSTANT)
        cv2.putText(tile, each.name, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    rows = [np.hstack(tiles[at : at + 4]) for at in range(0, len(tiles), 4)]
    cv2.imwrite(str(path), np.vstack(rows))


def main() -> None:
    """Print the table; write it for the card, and the sheet, where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="bundle folder")
    parser.add_argument("--axial", type=Path, required=True, metavar="DIR", help="images/ and points.csv")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the table here, for train_utils.py card")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="write a sheet of the slices (PNG)")
    args = parser.parse_args()
    members = detectors_of(load_bundle(args.weights))["axial_t2"]["axial_t2"]
    found = look(members, args.axial)
    for each in found:
        print(each.name, *(f"{side} {each.mm[side]:.1f} mm ({each.sure[side]:.2f})" for side in each.mm), sep="  ")
    say([table(found, "python benchmarks/real_axial.py --weights weights --axial SUDIRMAN")], args.card)
    if args.pictures:
        draw(found, args.pictures)


if __name__ == "__main__":
    main()
