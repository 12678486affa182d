"""Nothing by itself: SPIDER's discs as `pfirrmann.py` grades them, cut out at a bundle's own canal keypoints."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lumbar.bundle.bundle import Bundle
from lumbar.dicom.series import Series
from lumbar.files.read import read_table
from lumbar.files.write import replacing
from lumbar.keypoints.detect import detect
from lumbar.labels import LEVELS, SeriesType
from lumbar.recipe.detector import DetectorSpec
from lumbar.spider.write import FIRST_ID, write_spider
from lumbar.study.standardise import standardise
from lumbar.study.study import Study, open_data, read_study

SIDE_PX, MARGIN = 80, 1.3  # of a region; the margin keeps borders out of sight when regions are turned
REGION_MM = 46.0
FORWARD_MM = 20.0  # from the canal's point to the region's middle: the disc and the canal behind it are in sight
STEP_MM = 35.0  # between two levels; in a patient with another median, regions are larger or smaller in proportion
#: Other gradings of a disc, learnt beside its grade; all but the first only because they are there.
SIGNS = (
    "Disc narrowing",
    "Disc bulging",
    "Disc herniation",
    "Modic",
    "UP endplate",
    "LOW endplate",
    "Spondylolisthesis",
)
ABOVE = 2  # discs above L1/L2 that train as well, where they are graded: their points carry the chain on
SHORTER = 0.95  # a level upwards, each step is so much of the one below
SURE, LEAST = 0.6, 0.15  # confidence of an image's points, on average and each, from which on nothing else is tried
TURNED = 3.0  # so many times more support must a chain have on the image turned upside down
WIDTHS_MM, SHARES = (260.0, 300.0, 350.0), (0.85, 1.2)  # of frames, in mm and as shares of the image's
NEAR_MM = 12.0  # chains that differ less are one
Detectors = Sequence[tuple[DetectorSpec, torch.nn.Module]]
VIEWS: tuple[SeriesType, ...] = ("sagittal_t2", "sagittal_t1")


@dataclass(frozen=True)
class Discs:
    """All discs: `views` (N, 2, 1, S, S) T2 and T1, `seen` (N, 2), `grade` (N,) 1 to 5, `signs` (N, 7)."""

    views: np.ndarray
    seen: np.ndarray
    grade: np.ndarray
    signs: np.ndarray  # (N, len(SIGNS)) 0 or 1
    patient: np.ndarray
    judged: np.ndarray  # (N,) whether the disc has a keypoint of its own; others only train


def kept_discs(path: Path, spider: Path, images: Path, bundle: Bundle) -> Discs:
    """The discs of the file `path`, cut and written where it is not there; see `cut_discs`."""
    if not path.is_file():
        found = cut_discs(spider, images, bundle)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **{each.name: getattr(found, each.name) for each in fields(Discs)})
    with np.load(path) as arrays:
        return Discs(**{each.name: arrays[each.name] for each in fields(Discs)})


def cut_discs(spider: Path, images: Path, bundle: Bundle) -> Discs:
    """The regions of every graded disc whose mid-sagittal T2 image is there; `images`: where to write the studies."""
    if not images.is_dir():
        write_spider(spider, images, "images")
    data = open_data(images, "train")
    detectors = [
        (spec, bundle.network(name, torch.device("cpu")))
        for name, spec in bundle.manifest.detectors.items()
        if spec.series_type == "sagittal_t2"
    ]
    columns = ("Patient", "IVD label", "Pfirrman grade", *SIGNS)
    table = read_table(spider / "radiological_gradings.csv", columns)[list(columns)].astype(int).to_numpy()
    graded = {(row[0], row[1]): (row[2], np.minimum(row[3:], 1)) for row in table.tolist()}
    found = []
    for study_id in data.study_ids:
        patient, study = (study_id - FIRST_ID) // 1000, read_study(data, study_id)
        if not study.series.get("sagittal_t2"):  # a field of view of 730 mm is believed of nobody
            continue
        study, chain = _found(study, detectors)
        chain_mm = _longer(chain * _spacing(study, "sagittal_t2"))
        for place in range(len(chain_mm)):
            disc = patient, len(chain_mm) - place  # SPIDER counts from L5/S1 upwards
            if disc in graded and (place >= ABOVE or _inside(chain_mm[place])):
                views, seen = zip(*(_view(study, kind, chain_mm, place) for kind in VIEWS), strict=True)
                found.append((np.stack(views)[:, None], seen, *graded[disc], patient, place >= ABOVE))
    return Discs(*(np.array(column) for column in zip(*found, strict=True)))


def _found(study: Study, detectors: Detectors) -> tuple[Study, np.ndarray]:
    """The study, head up, and its canal points (5, 2) px on T2.

    Where the detector is in doubt it looks again, at parts of the image as wide as those that it learnt from, on a
    wider ground, and at all of that upside down: these images have any width, and a few were stored head down. What
    most of these looks agree on counts, the surer the more.
    """
    best = _look(study, detectors, Frame(0, 0, _size(study)))
    if best.sure > SURE and best.least > LEAST:
        return study, best.chain
    upright, support = _agreed(study, detectors)
    head_up = _upside_down(study)
    turned, its_support = _agreed(head_up, detectors)
    return (head_up, turned) if its_support > TURNED * support else (study, upright)


class Frame(NamedTuple):
    """A square part of an image, px; what lies outside is black."""

    x: int
    y: int
    side: int


class Look(NamedTuple):
    """The canal points (5, 2) px that the detector found in a frame, and how sure it was: on average, and at least."""

    chain: np.ndarray
    sure: float
    least: float


def _agreed(study: Study, detectors: Detectors) -> tuple[np.ndarray, float]:
    """The chain of canal points that most looks agree with, and the sum of how sure these were."""
    looks = [_look(study, detectors, frame) for frame in _frames(_size(study), _spacing(study, "sagittal_t2"))]
    near = NEAR_MM / _spacing(study, "sagittal_t2")

    def support(look: Look) -> float:
        apart = [np.linalg.norm(look.chain - other.chain, axis=1).max() for other in looks]
        return sum(other.sure**2 for other, far in zip(looks, apart, strict=True) if far < near)

    best = max(looks, key=lambda look: (support(look), look.sure))
    return best.chain, support(best)


def _frames(size: int, spacing: float) -> list[Frame]:
    """Squares all over an image, of some widths."""
    frames = []
    for side in {size, *(round(size * share) for share in SHARES), *(round(width / spacing) for width in WIDTHS_MM)}:
        if not SHARES[0] * 0.5 < side / size < 1.3:
            continue
        steps = np.linspace(0, 1, 4) if side < size else [0.5]
        frames += [Frame(round((size - side) * x), round((size - side) * y), side) for x in steps for y in steps]
    return frames


def _look(study: Study, detectors: Detectors, frame: Frame) -> Look:
    series = study.series["sagittal_t2"][0]
    shift = np.array([[1, 0, -frame.x], [0, 1, -frame.y]], np.float32)
    part = cv2.warpAffine(series.slices[0].pixels, shift, (frame.side, frame.side), flags=cv2.INTER_NEAREST)
    alone = replace(series, slices=(replace(series.slices[0], pixels=part),))
    found, _ = detect(replace(study, series={"sagittal_t2": (alone,)}), {"sagittal_t2": detectors})
    points = {point.level: point.xy_px for point in found}
    chain = np.array([points[level] for level in LEVELS]) + np.array(frame[:2])
    confidence = [point.confidence for point in found]
    return Look(chain, float(np.mean(confidence)), min(confidence))


def _size(study: Study) -> int:
    return len(study.series["sagittal_t2"][0].slices[0].pixels)


def _upside_down(study: Study) -> Study:
    def turned(series: Series) -> Series:
        return replace(series, slices=tuple(replace(one, pixels=one.pixels[::-1].copy()) for one in series.slices))

    return replace(study, series={kind: tuple(map(turned, group)) for kind, group in study.series.items()})


def _longer(chain: np.ndarray) -> np.ndarray:
    """A chain of points (5, 2), carried on upwards by `ABOVE` points."""
    for _ in range(ABOVE):
        chain = np.concatenate([[chain[0] - SHORTER * (chain[1] - chain[0])], chain])
    return chain


def _inside(point_mm: np.ndarray) -> bool:
    """Whether the disc at a canal point is far enough from the image's upper border to be seen."""
    return bool(point_mm[1] > REGION_MM / 4)


def _spacing(study: Study, kind: SeriesType) -> float:
    return float(study.series[kind][0].slices[0].affine[1, 0])


def _view(study: Study, kind: SeriesType, chain_mm: np.ndarray, place: int) -> tuple[np.ndarray, bool]:
    """A disc's region on one series, (S, S), and whether the series is there; both series begin at the same corner."""
    if not study.series.get(kind):
        side = _side()
        return np.zeros((side, side), np.float32), False
    spacing = _spacing(study, kind)
    image = study.series[kind][0].slices[0].pixels.astype(np.float32)
    chain = chain_mm / spacing
    size = float(np.median(np.linalg.norm(np.diff(chain, axis=0), axis=1))) / STEP_MM
    return _cut(image, chain, place, size), True


def _side() -> int:
    return round(SIDE_PX * MARGIN / 2) * 2


def _cut(image: np.ndarray, chain: np.ndarray, place: int, size: float) -> np.ndarray:
    """(S, S) standardised: a square before the canal's point, its vertical along the chain (N, 2) px of points.

    `size`: pixels of the image that stand for a millimetre of a spine of ordinary size.
    """
    down = _directions(chain)[place]
    forward = np.array([-down[1], down[0]])  # a quarter turn: towards the belly, where columns run to the back
    side = _side()
    step = REGION_MM / SIDE_PX * size  # source pixels a region pixel
    middle = chain[place] + forward * FORWARD_MM * size
    matrix = np.stack([-forward * step, down * step], axis=1)
    offset = middle - matrix @ np.full(2, (side - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(image, np.c_[matrix, offset], (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return standardise(cut.astype(np.float32)[None])[0]


def _directions(chain: np.ndarray) -> np.ndarray:
    """(N, 2) unit vectors along a chain of points (N, 2); its ends go on curving as the chain does."""
    steps = np.diff(chain, axis=0)
    inner = steps[1:] + steps[:-1]
    down = np.concatenate([[2 * steps[0] - inner[0] / 2], inner, [2 * steps[-1] - inner[-1] / 2]])
    return down / np.linalg.norm(down, axis=1, keepdims=True)
