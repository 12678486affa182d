"""Studies made in memory for tests of the two stages: known geometry, images that say where they are."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lumbar import geometry
from lumbar.dicom.series import Series, Slice
from lumbar.study.study import Study

#: Displayed as usual: sagittal columns to the back, rows to the feet; axial columns to the left, rows to the back.
SAGITTAL, AXIAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
#: Canal points of an upright spine in patient mm: 32 mm apart, the last step shorter and slanting backwards.
CANAL = {
    "l1_l2": np.array([0.0, 10.0, 80.0]),
    "l2_l3": np.array([0.0, 10.0, 48.0]),
    "l3_l4": np.array([0.0, 11.0, 16.0]),
    "l4_l5": np.array([0.0, 14.0, -16.0]),
    "l5_s1": np.array([0.0, 22.0, -40.0]),
}
Paint = Callable[[np.ndarray], np.ndarray]  # patient mm (H, W, 3) -> values (H, W)


def patterned(mm: np.ndarray) -> np.ndarray:
    """An image with no symmetry, so that a flip or a shift shows."""
    return 500 + 200 * np.sin(mm[..., 1] / 7) + 150 * np.cos(mm[..., 2] / 9) + 3 * mm[..., 1] + 2 * mm[..., 0]


def make_slice(
    number: int, affine: np.ndarray, plane: str, shape: tuple[int, int], paint: Paint = patterned, **fields: object
) -> Slice:
    columns, rows = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    mm = geometry.to_patient(affine, np.stack([columns, rows], axis=-1))
    pixels = np.round(paint(mm)).astype(np.int16)
    return Slice(Path(f"{number}.dcm"), number, pixels, affine, plane=plane, file_order=number - 1, **fields)


def sagittal(
    series_id: int = 1,
    count: int = 11,
    step: float = 4.5,
    *,
    shape: tuple[int, int] = (100, 80),
    px: float = 2.0,
    paint: Paint = patterned,
    description: str = "Sagittal T2/STIR",
    **fields: object,
) -> Series:
    """Slices from right to left around x = 0; rows from z = 100 to the feet, columns from y = -60 to the back."""
    slices = []
    for index in range(count):
        affine = geometry.slice_affine([(index - (count - 1) / 2) * step, -60.0, 100.0], SAGITTAL, [px, px])
        slices.append(make_slice(index + 1, affine, "sagittal", shape, paint, spacing_between=step, **fields))
    return Series(series_id, description, "sagittal", tuple(slices), (0,) * count)


def axial(
    series_id: int = 3,
    heights: Sequence[Sequence[float]] = ((-44.0, -40.0, -36.0), (12.0, 16.0, 20.0), (76.0, 80.0, 84.0)),
    *,
    shape: tuple[int, int] = (70, 90),
    px: float = 1.5,
    paint: Paint = patterned,
) -> Series:
    """Stacks of axial slices at those heights, columns from x = -66 to the left, rows from y = -40 to the back."""
    slices, stacks = [], []
    for stack, places in enumerate(heights):
        for z in places:
            affine = geometry.slice_affine([-66.0, -40.0, z], AXIAL, [px, px])
            slices.append(make_slice(len(slices) + 1, affine, "axial", shape, paint))
            stacks.append(stack)
    return Series(series_id, "Axial T2", "axial", tuple(slices), tuple(stacks))


def turned(series: Series, turn: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Series:
    """The same series with every image stored another way round; `turn` maps pixels and affine."""
    slices = []
    for item in series.slices:
        pixels, affine = turn(item.pixels, item.affine)
        slices.append(Slice(item.path, item.instance, pixels, affine, plane=item.plane, file_order=item.file_order))
    return Series(series.series_id, series.description, series.plane, tuple(slices), series.slabs)


def upside_down(pixels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image stored with its rows and columns exchanged and reversed."""
    flipped = affine.copy()
    flipped[:3, 3] += affine[:3, 1] * (pixels.shape[0] - 1)
    flipped[:3, 1] *= -1
    flipped[:, [0, 1]] = flipped[:, [1, 0]]
    flipped[:3, 2] = np.cross(flipped[:3, 0], flipped[:3, 1])
    flipped[:3, 2] /= np.linalg.norm(flipped[:3, 2])
    return np.ascontiguousarray(pixels[::-1].T), flipped


def small_study(**series: Sequence[Series]) -> Study:
    """A study of those series by type; T2, T1 and axial where none is named."""
    if not series:
        series = {"sagittal_t2": (sagittal(1),), "sagittal_t1": (sagittal(2),), "axial_t2": (axial(3),)}
    return Study(7, {name: tuple(group) for name, group in series.items()})
