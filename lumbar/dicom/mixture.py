"""Which slices of one folder belong together: one patient, one study, one frame of reference, one series, one echo."""

from collections.abc import Callable, Hashable, Sequence
from typing import Final

import numpy as np

from lumbar import geometry
from lumbar.dicom.file import Slice
from lumbar.dicom.flaws import IssueLog, few_files
from lumbar.dicom.identity import TAGS
from lumbar.geometry import Plane

#: Echo times within this factor of each other are one echo; the echoes of a dual-echo sequence are three to ten apart.
SAME_ECHO: Final = 1.3
#: Echo times of T1- and of T2-weighted spin echoes, ms: below and above.
T1_ECHO_MS, T2_ECHO_MS = 40.0, 60.0
#: Of two lots of slices the one with the fitting echo counts while it has at least this share of the larger one.
FAIR_SHARE: Final = 0.5


def one_origin(slices: Sequence[Slice], description: str, plane: Plane, log: IssueLog) -> list[Slice]:
    """The slices of one patient, study, frame of reference, series and echo; the rest is left out with an Issue.

    The largest lot stays (of lots that are not much smaller, the one whose echo time fits the description). A slice
    that lacks an identifier goes with any. An identifier that differs from file to file tells nothing: it is passed
    over, with an Issue. Axial stacks that were stored as series of their own, one beside the other, all stay.
    """
    kept = list(slices)
    for field in ("patient", "study", "frame_of_reference", "series", "number", "kind", "words"):

        def own(item: Slice, field: str = field) -> Hashable:
            return getattr(item.identity, field) or None

        beside = field in ("series", "number", "words") and plane != "sagittal"
        kept = _largest_lot(kept, own, TAGS[field], description, log, beside=beside)
    echoes = _echoes(kept)
    return _largest_lot(kept, lambda item: echoes.get(item.identity.echo_ms), "EchoTime", description, log)


def _largest_lot(
    slices: list[Slice],
    own: Callable[[Slice], Hashable],
    tag: str,
    description: str,
    log: IssueLog,
    *,
    beside: bool = False,
) -> list[Slice]:
    lots: dict[Hashable, list[Slice]] = {}
    for item in slices:
        if (name := own(item)) is not None:
            lots.setdefault(name, []).append(item)
    if len(lots) < 2:
        return slices
    if len(lots) > 2 and len(lots) > len(slices) / 2:
        log.add("series_mixed", f"{tag} differs from file to file, so that it tells nothing; all slices were kept")
        return slices
    if beside and _lie_apart(list(lots.values())):
        log.add("series_mixed", f"the slices bear {len(lots)} {tag}s; they lie one beside the other and were all kept")
        return slices
    chosen = max(lots, key=lambda name: _worth(lots[name], max(map(len, lots.values())), description))
    left = [item for name, lot in lots.items() if name != chosen for item in lot]
    log.add(
        "series_mixed",
        f"{len(left)} of {len(slices)} slices have another {tag} than the rest and were left out "
        f"({few_files([item.name for item in left])}); a series has one",
    )
    return [item for item in slices if item not in left]


def _worth(lot: Sequence[Slice], largest: int, description: str) -> tuple[bool, bool, int, int]:
    """Sorts lots: large enough, of a fitting echo, larger, first in the natural order of file names."""
    times = [item.identity.echo_ms for item in lot if item.identity.echo_ms is not None]
    fits = bool(times) and weighting(float(np.median(times))) in description.upper()
    return len(lot) >= FAIR_SHARE * largest, fits, len(lot), -min(item.file_order for item in lot)


def weighting(echo_ms: float) -> str:
    """`T1` or `T2` as an echo time has it; `?` between the two."""
    return "T1" if echo_ms < T1_ECHO_MS else "T2" if echo_ms > T2_ECHO_MS else "?"


def _echoes(slices: Sequence[Slice]) -> dict[float | None, int]:
    """Number of the echo that each echo time belongs to."""
    numbers: dict[float | None, int] = {}
    before, number = 0.0, 0
    for time in sorted({item.identity.echo_ms for item in slices if item.identity.echo_ms is not None}):
        number += bool(before) and time > before * SAME_ECHO
        numbers[time], before = number, time
    return numbers


def _lie_apart(lots: Sequence[Sequence[Slice]]) -> bool:
    """Whether no slice of a lot lies between slices of another, along the normal of either."""
    spans = []
    for lot in lots:
        along = geometry.normal(lot[0].affine)
        middles = [[item.centre_mm @ along for item in other] for other in lots]
        spans.append([(min(values), max(values)) for values in middles])
    return not any(
        span[a][0] <= span[b][1] and span[b][0] <= span[a][1]
        for a, span in enumerate(spans)
        for b in range(len(lots))
        if a != b
    )
