"""A small study whose spine is bent, with a bright spot at every keypoint, and fake detectors that see the spots."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch

from lumbar.dicom.series import Series
from lumbar.labels import LEVELS, SIDES
from lumbar.recipe.detector import DetectorSpec
from lumbar.study.keypoint import Name
from lumbar.study.study import Study
from tests.support.small_study import CANAL, axial, sagittal

SIZE = 64
#: Patient x of the canal, and of left and right foramina, level by level: each on a slice (4.5 mm apart) of its own.
CANAL_X = (13.5, 9.0, 9.0, 4.5, 9.0)
FORAMEN_X = {"left": (18.0, 18.0, 13.5, 18.0, 22.5), "right": (-13.5, -18.0, -18.0, -18.0, -9.0)}
RECESS_X = {"left": 14.0, "right": -12.0}


def true_points() -> dict[Name, np.ndarray]:
    """Where every keypoint is, in patient mm."""
    found: dict[Name, np.ndarray] = {}
    for number, (level, mm) in enumerate(CANAL.items()):
        found["spinal_canal_stenosis", level] = np.array([CANAL_X[number], *mm[1:]])
        for side in SIDES:
            found[f"{side}_neural_foraminal_narrowing", level] = np.array([FORAMEN_X[side][number], mm[1] + 4, mm[2]])
            found[f"{side}_subarticular_stenosis", level] = np.array([RECESS_X[side], mm[1], mm[2]])
    return found


def spots(condition: str, width: float = 5.0) -> Callable[[np.ndarray], np.ndarray]:
    """Pixels: a bright spot, `width` mm wide, at every keypoint of conditions whose names end so."""
    points = [mm for (name, _), mm in true_points().items() if name.endswith(condition)]

    def paint(mm: np.ndarray) -> np.ndarray:
        return sum(3000 * np.exp(-np.square(mm - point).sum(-1) / (2 * width**2)) for point in points)

    return paint


def bent_study(**series: Sequence[Series]) -> Study:
    """T2, T1 and axial T2 (a stack of three slices at every level), each with its spots; or those that are named."""
    return Study(7, {name: tuple(group) for name, group in {**_usual(), **series}.items()})


@cache
def _usual() -> dict[str, Sequence[Series]]:
    heights = [[float(mm[2]) + step for step in (-4, 0, 4)] for mm in reversed(CANAL.values())]
    return {
        "sagittal_t2": (sagittal(1, paint=spots("canal_stenosis")),),
        "sagittal_t1": (sagittal(2, paint=spots("narrowing"), description="Sagittal T1"),),
        "axial_t2": (axial(3, heights, paint=spots("subarticular_stenosis")),),
    }


def mirrored_study(study: Study) -> Study:
    """The same patient in a mirror: x to -x, axial columns still to the left, sagittal slices from right to left."""
    return replace(study, series={kind: tuple(map(_mirrored, group)) for kind, group in study.series.items()})


def _mirrored(series: Series) -> Series:
    slices = []
    for item in series.slices:
        affine, pixels = np.diag([-1.0, 1.0, 1.0, 1.0]) @ item.affine, item.pixels
        if series.plane == "axial":
            affine[:3, 3] += (pixels.shape[1] - 1) * affine[:3, 0]
            affine[:3, 0] *= -1
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1]) / np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1]))
        slices.append(replace(item, affine=affine, pixels=pixels))
    if series.plane == "sagittal":
        slices.reverse()
    return Series(series.series_id, series.description, series.plane, tuple(slices), series.slabs)


class Seer:
    """A detector that finds the brightest voxel where each keypoint of a stack can be.

    Levels are bands of rows on sagittal series and fifths of the slices of a whole axial one; left is the right half of
    an axial image, and the second half of the slices of a sagittal series that shows both sides. `says` moves its
    answers: (columns, rows, slices); `dim` multiplies how sure it is.
    """

    def __init__(self, spec: DetectorSpec, says: Sequence[float] = (0, 0, 0), dim: float = 1.0) -> None:
        self.spec, self.says, self.dim = spec, np.asarray(says), dim
        heights = [mm[2] for mm in CANAL.values()]
        middles = [(upper + lower) / 2 for upper, lower in pairwise(heights)]
        self.bands = [0, *(round((100 - z) / 2 / 100 * SIZE) for z in middles), SIZE]

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._one(stack) for stack in stacks])

    def _one(self, stack: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        voxels = [self._best(stack, kind, side, level) for kind, side, level in _named(spec)]
        if spec.answer == "slices":
            return torch.stack([scores for _, scores in voxels])
        found = torch.tensor(np.array([at for at, _ in voxels]) + self.says, dtype=torch.float32)  # x, y, z
        if spec.answer == "points":
            shares = found / torch.tensor([SIZE, SIZE, spec.in_chans])
            return shares if spec.depth else shares[:, :2]
        if spec.answer == "boxes":
            return self._boxes((found[:, :2] + 0.5) / spec.stride - 0.5)
        axis = torch.arange(SIZE, dtype=torch.float32)
        across, down = (torch.exp(-((axis - found[:, [at]]) ** 2) / (2 * spec.sigma_px**2)) for at in (0, 1))
        maps = self.dim * down[:, :, None] * across[:, None, :]
        if not spec.depth:
            return maps
        slices = torch.arange(spec.in_chans) == found[:, 2:]
        return maps[:, None] * slices[:, :, None, None]

    def _boxes(self, xy: torch.Tensor) -> torch.Tensor:
        """A score of 1 in the cell of each point, which is 8 pixels wide and 4 high."""
        boxes = torch.zeros(self.spec.num_classes, 5, self.spec.map_size, self.spec.map_size)
        for name, (x, y) in enumerate(xy.tolist()):
            column, row = round(x), round(y)
            boxes[name, :, row, column] = torch.tensor([self.dim, x - column, y - row, 8.0, 4.0])
        return boxes

    def _best(self, stack: torch.Tensor, kind: int, side: int, level: int) -> tuple[list[int], torch.Tensor]:
        """(x, y, z) of the brightest voxel, and the height of the brightest of each slice, among those that count."""
        count = self.spec.in_chans
        values = stack[kind * count : (kind + 1) * count]
        counted = torch.zeros_like(values, dtype=torch.bool)
        if self.spec.series_type == "axial_t2":
            slices = slice(None)
            if level >= 0:  # slices run from the feet to the head
                slices = slice((4 - level) * count // 5, (5 - level) * count // 5)
            counted[slices, :, SIZE // 2 :] = side == 0
            counted[slices, :, : SIZE // 2] = side == 1
        else:
            rows = slice(self.bands[level], self.bands[level + 1])
            slices = {0: slice(count // 2, None), 1: slice(0, count // 2)}.get(side, slice(None))
            counted[slices, rows] = True
        high = torch.where(counted, values, torch.tensor(-100.0))
        z, y, x = np.unravel_index(int(high.argmax()), high.shape)
        return [int(x), int(y), int(z)], self.dim * 10 * high.amax((1, 2))


def _named(spec: DetectorSpec) -> list[tuple[int, int, int]]:
    """For each name of an answer: which series of the stack, the side (0 left, 1 right, -1 none), and the level."""
    levels = range(len(LEVELS))
    if spec.beside is not None:
        canal, foramina = (spec.types.index(kind) for kind in ("sagittal_t2", "sagittal_t1"))
        return [(canal, -1, level) for level in levels] + [
            (foramina, side, level) for side in (0, 1) for level in levels
        ]
    if spec.shows == "series" and spec.series_type != "sagittal_t2":
        return [(0, side, level) for side in (0, 1) for level in levels]
    return (
        [(0, side, -1) for side in (0, 1)] if spec.series_type == "axial_t2" else [(0, -1, level) for level in levels]
    )
