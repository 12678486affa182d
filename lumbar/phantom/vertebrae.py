"""How many vertebrae of which kind a phantom's spine has, as tables from head to foot of an adult's mean sizes.

Thirteen disc planes carry the anatomy, usually T9/T10 to S4/S5; vertebra k lies between plane k and plane k + 1. Labels
count from the sacrum upwards, as readers do who see neither ribs nor the whole spine: L5/S1 is always plane FIRST + 4.

`usual`: five lumbar vertebrae. `six_lumbar`: six, so that the vertebra above the labelled L1/L2 is a lumbar one as well
and conus, kidneys and the aorta's fork lie a level higher, seen from the sacrum. Lumbosacral transitional vertebrae
(Konin and Walz, AJNR 2010; 31: 1778) keep the label that they have among five: `sacralised`: L5 is part of the sacrum,
its transverse processes fused with the ala on both sides (Castellvi IIIb: Spine 1984; 9: 493), above a residual disc
L5/S1 (O'Driscoll 2: Skeletal Radiology 1996; 25: 225). `lumbarised`: S1 is free and squared, and S1/S2, below the
labelled L5/S1, is a well formed disc (O'Driscoll 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

Vertebrae = Literal["usual", "six_lumbar", "sacralised", "lumbarised"]

PLANES = 13
#: Index of the disc plane L1/L2 as labelled; L5/S1 is FIRST + 4.
FIRST = 4


@dataclass(frozen=True, eq=False)
class Column:
    """A spine's mean sizes, mm and degrees: per vertebra (12,) or per disc plane (13,)."""

    #: Plane below the uppermost lumbar vertebra, and index of the uppermost sacral one.
    top: int
    sacrum: int
    #: Index of the uppermost vertebra whose sides are part of the sacrum's ala.
    ala: int
    #: Middle of the posterior wall from plane to plane (per vertebra, T10 … S4).
    pitch: np.ndarray
    #: Sagittal tilt of the planes; positive: the front edge lies lower (T9/T10 … S4/S5).
    tilt: np.ndarray
    disc: np.ndarray
    body_half_width: np.ndarray
    body_depth: np.ndarray
    sac_half_width: np.ndarray
    sac_half_depth: np.ndarray
    #: Pedicles and foramina lie this far from the middle.
    foramen: np.ndarray
    roof: np.ndarray


_USUAL: Final = Column(
    top=FIRST,
    sacrum=FIRST + 4,
    ala=FIRST + 4,
    pitch=np.array([27, 28.5, 31, 33, 34, 34, 32.5, 29.5, 27, 22, 19, 17], float),
    tilt=np.array([-6, -10, -13, -14, -12, -8, -1, 11, 34, 43, 41, 28, 14], float),
    disc=np.array([4.5, 5, 6, 7, 8.2, 9.4, 10.4, 10.8, 9.6, 2.4, 1.6, 1.2, 1], float),
    body_half_width=np.array([16, 17.5, 19.5, 21, 22, 23, 24, 25, 25.5, 21, 17, 14, 11], float),
    body_depth=np.array([27, 28, 30, 31.5, 32.5, 33.5, 34.5, 34.5, 33, 22, 16, 12, 9], float),
    sac_half_width=np.array([7.2, 7.4, 7.8, 8.2, 8.6, 8.6, 8.4, 8.0, 6.8, 4.4, 1.2, 0.2, 0.1], float),
    sac_half_depth=np.array([6.4, 6.4, 6.6, 7.0, 7.1, 6.9, 6.7, 6.5, 5.4, 3.4, 1.0, 0.2, 0.1], float),
    foramen=np.array([12.5, 13, 13.5, 14.2, 14.9, 15.7, 16.7, 17.8, 18.9, 17, 15, 13, 12], float),
    roof=np.array([15.5, 15.5, 16, 17, 17.6, 17.4, 17.2, 17.6, 17, 13, 9, 6, 5], float),
)


def _with_one_more(column: Column) -> dict[str, Any]:
    """Tables in which the uppermost vertebra has gone and one like L3 and L4 has come between these two."""
    found = {}
    for name, values in vars(column).items():
        if isinstance(values, np.ndarray):
            at = FIRST + 1
            found[name] = np.insert(values[1:], at, (values[at] + values[at + 1]) / 2)
    return found


def _changed(values: np.ndarray, changes: Mapping[int, float]) -> np.ndarray:
    found = values.copy()
    found[list(changes)] = list(changes.values())
    return found


#: Of the sacralised L5: a wedge as of S1 (its endplates differ by 1.3 times), a low disc without nucleus behind.
_SACRALISED: Final = replace(
    _USUAL,
    ala=FIRST + 3,
    pitch=_changed(_USUAL.pitch, {FIRST + 3: 27.5}),
    tilt=_changed(_USUAL.tilt, {FIRST + 3: 22, FIRST + 4: 36}),
    disc=_changed(_USUAL.disc, {FIRST + 4: 3.6}),
    body_depth=_changed(_USUAL.body_depth, {FIRST + 3: 34, FIRST + 4: 27, FIRST + 5: 20}),
)
#: Of the lumbarised S1: endplates of like depth (their ratio is at most 1.37: Konin and Walz), a disc as below L5.
_LUMBARISED: Final = replace(
    _USUAL,
    sacrum=FIRST + 5,
    ala=FIRST + 5,
    pitch=_changed(_USUAL.pitch, {FIRST + 4: 29}),
    tilt=_changed(_USUAL.tilt, {FIRST + 4: 21, FIRST + 5: 38}),
    disc=_changed(_USUAL.disc, {FIRST + 4: 10, FIRST + 5: 7.5}),
    body_half_width=_changed(_USUAL.body_half_width, {FIRST + 5: 24.5}),
    body_depth=_changed(_USUAL.body_depth, {FIRST + 4: 34, FIRST + 5: 30, FIRST + 6: 19}),
    sac_half_width=_changed(_USUAL.sac_half_width, {FIRST + 5: 5.6, FIRST + 6: 2.5}),
    sac_half_depth=_changed(_USUAL.sac_half_depth, {FIRST + 5: 4.6, FIRST + 6: 2.0}),
    foramen=_changed(_USUAL.foramen, {FIRST + 5: 19}),
    roof=_changed(_USUAL.roof, {FIRST + 5: 16, FIRST + 6: 11}),
)
COLUMNS: Final[Mapping[Vertebrae, Column]] = {
    "usual": _USUAL,
    "six_lumbar": replace(_USUAL, top=FIRST - 1, **_with_one_more(_USUAL)),
    "sacralised": _SACRALISED,
    "lumbarised": _LUMBARISED,
}
