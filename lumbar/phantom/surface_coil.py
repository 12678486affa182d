"""Axial T2 as surface coils under the back show it: bright fat behind, a dark spine, a saturated front, a grey sac.

The look of real axial slices, whose grey values lie nearly all below a quarter of the brightest: fat of the back three
to five times as bright as the same fat in front, a presaturation band that blacks out what lies before the spine,
discs and bone hardly brighter than muscle, a sac that flow and roots make grey.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lumbar.phantom.tissue import CSF, FAT, MARROW, MESENTERY, MUSCLE, NUCLEUS, SUBCUTIS

Part = Literal["coil", "band", "tissue"]
PARTS: tuple[Part, ...] = ("coil", "band", "tissue")
#: Signal by which each tissue is multiplied, from and to.
_FACTORS = {
    CSF: (0.4, 1.0),
    MUSCLE: (0.5, 1.1),
    FAT: (0.9, 1.2),
    MESENTERY: (0.8, 1.2),
    SUBCUTIS: (1.0, 1.2),
}
_NUCLEI, _BONE = (0.35, 1.0), (0.35, 0.9)


@dataclass(frozen=True)
class SurfaceCoil:
    """Sensitivity and saturation of one axial series, in mm from the vertebral bodies' back wall, to the back."""

    behind: float  # where the coil lies
    reach: float  # the way on which sensitivity falls to 1 / e
    wide: float  # the way to either side on which it does
    edge: float  # in front of it all is saturated
    soft: float  # how gradually
    left: float  # the share of signal that saturation leaves

    def gain(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Brightness at places to the left (x) and back (y) of the back wall, mm; 1 at the wall unless saturated."""
        depth = np.minimum(y - self.behind, 0.0) + self.behind
        coil = np.exp(depth / self.reach - np.square(x / self.wide))
        return coil * (self.left + (1 - self.left) / (1 + np.exp(-(y - self.edge) / self.soft)))


def draw_surface_coil(rng: np.random.Generator, parts: tuple[Part, ...] = PARTS) -> SurfaceCoil:
    """A coil of which only the named parts are not even: `coil` falls off, `band` saturates the front."""
    reach, wide, behind = rng.uniform(35, 90), rng.uniform(140, 400), rng.uniform(55, 85)
    edge, soft, left = rng.uniform(-75, -36), rng.uniform(2, 10), rng.uniform(0.0, 0.25)
    if "coil" not in parts:
        reach, wide = np.inf, np.inf
    if "band" not in parts:
        left = 1.0
    return SurfaceCoil(behind, reach, wide, edge, soft, left)


def darkened(rng: np.random.Generator, signal: np.ndarray, bones: int, discs: int) -> np.ndarray:
    """Signal by tissue (256,) with dark bone and discs and a grey sac; each disc has a factor of its own."""
    out = signal.copy()
    for tissue, (least, most) in _FACTORS.items():
        out[tissue] *= rng.uniform(least, most)
    out[MARROW : MARROW + bones] *= rng.uniform(*_BONE)
    out[NUCLEUS : NUCLEUS + discs] *= rng.uniform(*_NUCLEI, discs)
    return out
