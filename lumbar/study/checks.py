"""Whether the series of a study belong together: one patient, one frame of reference, one part of the spine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from lumbar.dicom.flaws import few_files
from lumbar.dicom.identity import TAGS
from lumbar.dicom.mixture import weighting
from lumbar.dicom.series import Series
from lumbar.geometry import FloatArray, normal
from lumbar.issues import Issue, few
from lumbar.labels import SeriesType
from lumbar.study.copies import COPIED, Pictures, repeated_pictures, shared_pictures

#: Series whose middles lie this near to each other (mm) and whose normals differ by no more (degrees) lie in one place.
SAME_PLACE_MM, SAME_NORMAL_DEG = 5.0, 2.0
#: Echo times of T2 and STIR are longer, ms.
LEAST_T2_ECHO_MS: Final = 20.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A row of the series table as it was read: the part that it plays, and its stations (one, of most series)."""

    series_type: SeriesType
    stations: tuple[Series, ...]

    @property
    def series(self) -> Series:
        """The station that counts."""
        return self.stations[0]

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures of that station, to be compared."""
        return Pictures(self.series)


def belonging(study_id: int, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Issue]]:
    """The candidates (in table order) that belong to one study, each with one station; and what is odd about them.

    A series of another patient than most is left out, and so is a part of the spine that no other series shows. Series
    of several studies or frames of reference, and images that occur in two series, are told.
    """
    issues: list[Issue] = []
    kept = _of_one_patient(study_id, list(candidates), issues)
    kept = _of_one_region(study_id, _one_station(study_id, kept, issues), issues)
    kept = _without_copies(study_id, kept, issues)
    issues += _names(study_id, kept) + [issue for each in kept for issue in _repeats(study_id, each)]
    issues += [issue for each in kept for issue in _contrast(study_id, each)]
    for field, what in (("study", "StudyInstanceUID"), ("frame_of_reference", "FrameOfReferenceUID")):
        lots = _lots(kept, field)
        if len(lots) > 1:
            groups = " and ".join(few([str(each.series.series_id) for each in lot]) for lot in lots)
            code = "study_mixed" if field == "study" else "frames_differ"
            issues.append(Issue(code, study_id, None, f"series {groups} differ in {what}; {_CONSEQUENCE[field]}"))
    return kept, issues


_CONSEQUENCE: Final = {
    "study": "they may show the patient on different days",
    "frame_of_reference": "points are carried from one to the other only where positions show that they agree",
}


def common(series: Series, field: str) -> str:
    """An identifier of `Identity` that more than half of the slices bear, empty where none is."""
    [(value, times)] = Counter(getattr(item.identity, field) for item in series.slices).most_common(1)
    return value if 2 * times > len(series) else ""


def same_frame(one: Series, other: Series, study: Sequence[Series]) -> bool:
    """Whether millimetres mean the same on two series of a study (`study`: all of its series).

    They do where FrameOfReferenceUID agrees or one lacks it, or where both series lie in the same place all the same. A
    study whose every series has a frame of its own, though some lie in the same place, was anonymised carelessly.
    """
    frames = [common(each, "frame_of_reference") for each in (one, other)]
    if not all(frames) or frames[0] == frames[1] or _same_place(one, other):
        return True
    every = [common(each, "frame_of_reference") for each in study]
    return len(set(every)) == len(every) and any(
        _same_place(a, b) for place, a in enumerate(study) for b in study[place + 1 :]
    )


def _same_place(one: Series, other: Series) -> bool:
    if one.plane != other.plane:
        return False
    apart = float(np.linalg.norm(_middle(one) - _middle(other)))
    aligned = abs(float(normal(one.slices[0].affine) @ normal(other.slices[0].affine)))
    return apart <= SAME_PLACE_MM and aligned >= np.cos(np.radians(SAME_NORMAL_DEG))


def _middle(series: Series) -> FloatArray:
    return np.mean([item.centre_mm for item in (series.slices[0], series.slices[-1])], axis=0)


def _lots(candidates: Sequence[Candidate], field: str) -> list[list[Candidate]]:
    """Candidates by an identifier, the largest lot first; those that lack it are in none."""
    lots: dict[str, list[Candidate]] = {}
    for each in candidates:
        if value := common(each.series, field):
            lots.setdefault(value, []).append(each)
    return sorted(lots.values(), key=len, reverse=True)


def _of_one_patient(study_id: int, candidates: list[Candidate], issues: list[Issue]) -> list[Candidate]:
    lots = _lots(candidates, "patient")
    if len(lots) < 2:
        return candidates
    groups = " and ".join(few([str(each.series.series_id) for each in lot]) for lot in lots)
    if len(lots[0]) == len(lots[1]):
        detail = f"series {groups} are of different patients by their PatientID; which are right cannot be told"
        issues.append(Issue("study_mixed", study_id, None, detail))
        return candidates
    for each in (each for lot in lots[1:] for each in lot):
        detail = f"series {each.series.series_id} is of another patient than most by its PatientID; left out"
        issues.append(Issue("study_mixed", study_id, each.series.series_id, detail))
    strange = [each for lot in lots[1:] for each in lot]
    return [each for each in candidates if each not in strange]


def _names(study_id: int, candidates: Sequence[Candidate]) -> list[Issue]:
    """An Issue where names or birth dates of the patient differ."""
    differ = [
        TAGS[field]
        for field in ("name", "birth")
        if len({getattr(item.identity, field) for each in candidates for item in each.series.slices} - {""}) > 1
    ]
    if not differ:
        return []
    detail = f"{' and '.join(differ)} differ within the study; images of several patients may lie in it"
    return [Issue("study_mixed", study_id, None, detail)]


def _one_station(study_id: int, candidates: list[Candidate], issues: list[Issue]) -> list[Candidate]:
    """Of several stations of a series the one that the other series overlap most, else the one nearest to the feet."""
    single = [each.series for each in candidates if len(each.stations) == 1]
    kept = []
    for each in candidates:
        if len(each.stations) > 1:
            shares = [sum(_overlap_mm(station, other) for other in single) for station in each.stations]
            chosen = each.stations[int(np.argmax(shares))]  # the first, nearest to the feet, where nothing tells
            heights = ", ".join(f"{_middle(station)[2]:.0f}" for station in each.stations if station is not chosen)
            detail = f"the station around {_middle(chosen)[2]:.0f} mm counts, not that around {heights} mm"
            issues.append(Issue("several_stations", study_id, each.series.series_id, detail))
            each = Candidate(each.series_type, (chosen,))
        kept.append(each)
    return kept


def _of_one_region(study_id: int, candidates: list[Candidate], issues: list[Issue]) -> list[Candidate]:
    """Without series that overlap no series of another type, where another of their own type does."""

    def seen_elsewhere(each: Candidate) -> bool:
        others = [other.series for other in candidates if other.series_type != each.series_type]
        every = [each.series, *others]
        return any(_overlap_mm(each.series, one) > 0 or not same_frame(each.series, one, every) for one in others)

    kept = []
    for each in candidates:
        rivals = [other for other in candidates if other.series_type == each.series_type and other is not each]
        if not seen_elsewhere(each) and any(seen_elsewhere(rival) for rival in rivals):
            detail = f"{each.series.description}: shows another part of the body than the series of other types"
            issues.append(Issue("series_ignored", study_id, each.series.series_id, detail))
        else:
            kept.append(each)
    return kept


def _overlap_mm(one: Series, other: Series) -> float:
    """How far two series reach over each other along the patient's length, mm; 0 where they lie beside each other."""
    (low_a, high_a), (low_b, high_b) = one.bounds_mm, other.bounds_mm
    shared = np.minimum(high_a, high_b) - np.maximum(low_a, low_b)
    return float(shared[2]) if (shared > 0).all() else 0.0


def _contrast(study_id: int, candidate: Candidate) -> list[Issue]:
    """An Issue where the echo time is that of the other weighting."""
    series = candidate.series
    times = [item.identity.echo_ms for item in series.slices if item.identity.echo_ms is not None]
    if not times:
        return []
    time = float(np.median(times))
    t1 = candidate.series_type == "sagittal_t1"
    if weighting(time) != "T2" if t1 else time >= LEAST_T2_ECHO_MS:
        return []
    detail = f"listed as {series.description}, but its EchoTime of {time:g} ms is that of T{2 if t1 else 1} weighting"
    return [Issue("subject_doubtful", study_id, series.series_id, detail)]


def _without_copies(study_id: int, candidates: list[Candidate], issues: list[Issue]) -> list[Candidate]:
    """Without series that hold the images of another: of two parts, the one that the echo time contradicts."""
    kept = list(candidates)
    for place, first in enumerate(candidates):
        for second in candidates[place + 1 :]:
            if first not in kept or second not in kept:
                continue
            ids = f"series {first.series.series_id} and {second.series.series_id}"
            how, part = _copied(first, second)
            copy = None if part else _wrong_one(first, second)
            end = "" if copy is None else f"; {copy.series.series_id}, listed as {copy.series.description}, is left out"
            if how or part:
                issues.append(Issue("study_mixed", study_id, None, f"{ids} {how or part}{end}"))
            kept = [each for each in kept if each is not copy or not how]
    return kept


def _repeats(study_id: int, candidate: Candidate) -> list[Issue]:
    """An Issue where slices of a series in different places show one picture."""
    series, twins = candidate.series, repeated_pictures(candidate.pictures)
    if not twins:
        return []
    detail = (
        f"{len(twins)} of {len(series)} slices ({few_files([item.name for item in twins])}) repeat others' pictures"
    )
    return [Issue("series_mixed", study_id, series.series_id, f"{detail}; they may be copies of slices")]


def _copied(first: Candidate, second: Candidate) -> tuple[str, str]:
    """What says that two series hold the same images, or else that a part of them does; empty where nothing does."""
    one, other = first.series, second.series
    least = COPIED * min(len(one), len(other))
    shared = shared_pictures(first.pictures, second.pictures)
    if min(map(len, shared)) >= least:
        places = [{tuple(np.round(item.affine, 3).ravel().tolist()) for item in each} for each in shared]
        return f"hold the same images in {'the same' if places[0] & places[1] else 'other'} places", ""
    names = [{item.identity.image for item in each.slices} - {""} for each in (one, other)]
    if names[0] & names[1] and len(names[0] & names[1]) >= least:
        return "bear the same SOPInstanceUIDs", ""
    if not any(shared):
        return "", ""
    return "", f"share the pictures of some slices ({few_files([item.name for item in shared[1]])} of the second)"


def _wrong_one(first: Candidate, second: Candidate) -> Candidate | None:
    """Which of two equal series plays a part that it cannot; the second where both play the same, None where untold."""
    if first.series_type == second.series_type:
        return second
    times = [item.identity.echo_ms for item in first.series.slices if item.identity.echo_ms is not None]
    own = weighting(float(np.median(times))) if times else "?"
    wrong = [each for each in (first, second) if own != "?" and own not in each.series.description.upper()]
    return wrong[0] if len(wrong) == 1 else None
