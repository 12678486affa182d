"""Tissues of the phantom and how bright they are in T1, T2 and STIR."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Weighting = Literal["T1", "T2", "STIR"]

# Label values of a tissue map (uint8). NONE means: what the body around the spine shows here.
NONE, AIR, FAT, MUSCLE, CORTEX, ANNULUS, LIGAMENT, CSF, CORD, ROOT, FLUID, CARTILAGE = range(12)
ARTERY, VEIN, BOWEL_WALL, BOWEL, GAS, LIVER, KIDNEY, INTERSPINOUS, FASCIA, MODIC1, MODIC2, HEMANGIOMA = range(12, 24)
SUBCUTIS, GANGLION, SKIN, DURA, MESENTERY = 24, 25, 26, 27, 28
#: Nucleus of disc plane j is NUCLEUS + j, marrow of vertebra k is MARROW + k.
NUCLEUS, MARROW = 40, 60

#: Relative signal in T1, T2, STIR; fat in T1 and CSF in T2 are 1.
_SIGNAL: Final[dict[int, tuple[float, float, float]]] = {
    AIR: (0.0, 0.0, 0.0),
    FAT: (1.0, 0.80, 0.10),
    MUSCLE: (0.34, 0.17, 0.24),
    CORTEX: (0.17, 0.13, 0.08),
    ANNULUS: (0.24, 0.13, 0.10),
    LIGAMENT: (0.22, 0.13, 0.10),
    CSF: (0.17, 1.0, 1.0),
    CORD: (0.40, 0.40, 0.42),
    ROOT: (0.36, 0.36, 0.40),
    FLUID: (0.18, 0.90, 0.95),
    CARTILAGE: (0.34, 0.34, 0.36),
    ARTERY: (0.12, 0.07, 0.08),
    VEIN: (0.16, 0.14, 0.16),
    BOWEL_WALL: (0.36, 0.30, 0.36),
    BOWEL: (0.46, 0.50, 0.50),
    GAS: (0.03, 0.02, 0.02),
    LIVER: (0.52, 0.24, 0.30),
    KIDNEY: (0.38, 0.55, 0.60),
    INTERSPINOUS: (0.50, 0.36, 0.24),
    FASCIA: (0.14, 0.09, 0.08),
    MODIC1: (0.34, 0.66, 0.75),
    MODIC2: (0.86, 0.72, 0.12),
    HEMANGIOMA: (0.88, 0.86, 0.45),
    SUBCUTIS: (1.05, 0.88, 0.11),
    GANGLION: (0.40, 0.38, 0.48),
    SKIN: (0.40, 0.22, 0.25),
    DURA: (0.24, 0.20, 0.20),
    MESENTERY: (0.84, 0.64, 0.14),
}
#: Marrow in T1, T2, STIR, and how much of it is fat, varies by person; these are the middle.
_MARROW_SIGNAL = np.array([0.60, 0.46, 0.20], np.float32)
#: Grain (standard deviation, relative) of tissues that are not uniform.
_GRAIN: Final[dict[int, float]] = {
    MUSCLE: 0.13,
    FAT: 0.07,
    MESENTERY: 0.13,
    SUBCUTIS: 0.06,
    CORTEX: 0.25,
    LIGAMENT: 0.15,
    BOWEL: 0.25,
    LIVER: 0.08,
    KIDNEY: 0.12,
    INTERSPINOUS: 0.30,
    BOWEL_WALL: 0.2,
    CSF: 0.03,
    ANNULUS: 0.15,
    MODIC1: 0.1,
    MODIC2: 0.1,
    HEMANGIOMA: 0.2,
}
_COLUMN: Final[dict[str, int]] = {"T1": 0, "T2": 1, "STIR": 2}


@dataclass(frozen=True)
class Look:
    """How one person's tissues differ: `marrow_fat` (0..1), `hydration` per disc plane (0 black .. 1 bright)."""

    marrow_fat: float
    muscle_fat: float
    hydration: np.ndarray
    marrow: np.ndarray  # factor per vertebra


def signal_table(look: Look, weighting: Weighting, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Signal and grain by tissue label, each (256,) float32, for one series of a person."""
    column = _COLUMN[weighting]
    signal, grain = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for label, values in _SIGNAL.items():
        signal[label] = values[column] * rng.normal(1, 0.09)
    for label, value in _GRAIN.items():
        grain[label] = value
    signal[CSF] = max(signal[CSF], _SIGNAL[CSF][column] * 0.93)
    muscle_fat = 0.28 * look.muscle_fat
    signal[MUSCLE] += muscle_fat * (signal[FAT] - signal[MUSCLE])
    grain[MUSCLE] += 0.22 * look.muscle_fat
    fat = look.marrow_fat - 0.5
    base = _MARROW_SIGNAL[column] * (1 + (0.5, 0.35, -0.5)[column] * fat) * rng.normal(1, 0.05)
    count = len(look.marrow)
    signal[MARROW : MARROW + count] = base * look.marrow
    grain[MARROW : MARROW + count] = 0.07 + 0.05 * abs(fat)
    dark, bright = ((0.30, 0.36), (0.17, 0.78), (0.14, 0.80))[column]
    planes = len(look.hydration)
    signal[NUCLEUS : NUCLEUS + planes] = dark + (bright - dark) * look.hydration
    grain[NUCLEUS : NUCLEUS + planes] = 0.10
    return signal, grain
