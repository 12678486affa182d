"""How detectors follow each other, and why some cannot: the same for a recipe and for a bundle. No torch."""

from collections.abc import Mapping, Sequence
from typing import Final

from lumbar.labels import SeriesType
from lumbar.recipe.detector import POINTS, DetectorSpec

#: What makes detectors different without changing what they see or what their answer means.
_NETWORK_KEYS: Final = {"network", "encoder", "encoder_args", "network_args", "needs", "tta", "looks"}
#: What an answer is and how it is read.
_ANSWER_KEYS: Final = {"answer", "depth", "stride", "decode", "join", "sigma_px", "target", "beyond"}
#: The places that need each other's points, in the order in which they do.
_RANK: Final[Mapping[str, int]] = {"middle": 0, "offset": 1, "plane": 2}


def in_order(specs: Sequence[DetectorSpec]) -> list[int]:
    """Detectors, by their numbers in the list, in the order in which they look.

    Those of one step (see `one_step`) come together where the first of them stands, as folds of one member do; steps in
    the order of the list. Those at the middle, beside it and on axial planes need each other's points in this order:
    where they stand otherwise they change places among themselves.
    """
    steps: list[list[int]] = []
    for index, spec in enumerate(specs):
        step = next((step for step in steps if one_step(specs[step[0]], spec)), None)
        if step is None:
            steps.append([index])
        else:
            step.append(index)
    ranked = [place for place, step in enumerate(steps) if specs[step[0]].placed in _RANK]
    moved = sorted((steps[place] for place in ranked), key=lambda step: _RANK[specs[step[0]].placed])
    for place, step in zip(ranked, moved, strict=True):
        steps[place] = step
    return [index for step in steps for index in step]


def one_step(one: DetectorSpec, other: DetectorSpec) -> bool:
    """Whether two detectors speak of the same keypoints on the same kind of stacks, so that they look together."""
    return (one.types, one.placed, one.shows) == (other.types, other.placed, other.shows)


def same_inputs(one: DetectorSpec, other: DetectorSpec) -> bool:
    """Whether two detectors see equal stacks and give equal kinds of answers, so that raw answers can be joined."""
    return one.model_dump(exclude=_NETWORK_KEYS) == other.model_dump(exclude=_NETWORK_KEYS)


def same_stacks(one: DetectorSpec, other: DetectorSpec) -> bool:
    """Whether two detectors see equal stacks, whatever they answer."""
    return one.model_dump(exclude=_NETWORK_KEYS | _ANSWER_KEYS) == other.model_dump(
        exclude=_NETWORK_KEYS | _ANSWER_KEYS
    )


def faults(specs: Mapping[str, DetectorSpec]) -> list[str]:
    """Why detectors, by name and in their order, cannot work alone or together: a sentence each; empty where they can.

    Every sentence names the member, what is wrong and what to do.
    """
    told = [f"{name}: {why}" for name, spec in specs.items() for why in _alone(spec)]
    names = list(specs)
    ordered = [(names[index], specs[names[index]]) for index in in_order(list(specs.values()))]
    found: dict[SeriesType, bool] = {}  # types of which slices, or (True) points, are there
    first = ordered[0] if ordered else None
    for name, spec in ordered:
        if first is None or spec is first[1] or not one_step(first[1], spec):
            first = (name, spec)
            told += [f"{name}: {why}" for why in _lacks(spec, found)]
        else:
            told += [f"{name}: {why}" for why in _differs(spec, *first)]
            told += [f"{name}: {why}" for why in _lacks(spec, found) if spec.needed != first[1].needed]
        found |= {kind: found.get(kind, False) or spec.says_places for kind in spec.types}
    return told


def _alone(spec: DetectorSpec) -> list[str]:
    """What makes no sense in one detector, whoever else there is."""
    told = []
    kind, place, shows = spec.series_type, spec.placed, spec.shows
    fits: Mapping[str, tuple[SeriesType, ...]] = {
        "middle": ("sagittal_t2", "sagittal_t1"),
        "offset": ("sagittal_t1",),
        "plane": ("axial_t2",),
    }
    if kind not in fits.get(place, (kind,)):
        told.append(f'place = "{place}" is for {" and ".join(fits[place])}, not for {kind}; choose another place')
    elif shows == "stack" and (kind, place) in (
        ("sagittal_t1", "middle"),
        ("sagittal_t1", "whole"),
        ("axial_t2", "whole"),
    ):
        told.append(
            f'place = "{place}" shows all of a {kind} series, no single {"level" if kind == "axial_t2" else "side"}; '
            f'set points = "series" and num_classes = {spec.names_of("series")}'
        )
    elif spec.num_classes != spec.names_of(shows):
        fitting = (
            sorted({spec.names_of(points) for points in POINTS}) if spec.points is None else [spec.names_of(shows)]
        )
        told.append(
            f"a detector for {kind} with num_classes = {spec.num_classes} has no meaning; "
            f"set it to {' or '.join(map(str, fitting))}"
        )
    if spec.levels_by != "nearest" and place != "plane":
        told.append(f'levels_by = "{spec.levels_by}" holds for place = "plane" only, not for "{place}"; leave it out')
    if spec.unfound != "none" and (place != "found" or kind == "axial_t2"):
        told.append(
            f'unfound = "{spec.unfound}" holds for place = "found" on sagittal series only: of axial ones nobody else '
            "knows which slice is a level's; leave it out"
        )
    if spec.apart and (place, kind, shows) != ("found", "axial_t2", "stack"):
        told.append(
            'apart looks for the sides of an axial level on slices of their own; it needs place = "found" on axial_t2 '
            'and points = "stack"'
        )
    if (spec.depth or spec.answer == "slices") and spec.in_chans == 1:
        told.append("it answers which slice, but sees one only (in_chans = 1); let it see more, or leave depth out")
    if spec.decode == "change" and kind != "axial_t2":
        told.append(
            'decode = "change" takes levels that follow each other along the slices, as on axial_t2; choose '
            '"maximum" or "expectation", or leave it out'
        )
    if spec.decode == "sides" and (kind != "sagittal_t1" or shows != "series"):
        told.append(
            'decode = "sides" takes the slices beside the middle of a whole series, as on sagittal_t1 with points = '
            '"series"; choose "maximum" or "expectation", or leave it out'
        )
    return [*told, *_of_whole_series(spec), *_turns(spec)]


def _of_whole_series(spec: DetectorSpec) -> list[str]:
    """What makes no sense in how a whole series, and one beside it, are brought to the slices of a stack."""
    told = []
    if spec.placed != "whole":
        told += [
            f'{key} = {value} holds for place = "whole" only, not for "{spec.placed}"; leave it out'
            for key, value in (
                ("pad", "true" if spec.pad else ""),
                ("slice_mm", spec.slice_mm),
                ("beside", spec.beside),
                ("resample", spec.resample),
                ("canal_distances", "true" if spec.canal_distances else ""),
            )
            if value and value != DetectorSpec.model_fields[key].default
        ]
    if spec.slice_mm is not None and not spec.pad:
        told.append(
            f"slice_mm = {spec.slice_mm:g} brings series to as many slices as they are long; set pad = true, so that "
            "empty ones follow, or leave it out"
        )
    if spec.beyond != "last" and not (spec.pad and spec.names_slices and spec.series_type != "axial_t2"):
        told.append(
            'beyond = "usual" holds for answers that name slices of a padded sagittal series; set pad = true, or '
            "leave it out"
        )
    if spec.canal_distances and spec.series_type != "axial_t2":
        told.append(
            "canal_distances tell axial slices from each other, and all sagittal ones run along the canal; leave the "
            "key out"
        )
    if spec.beside == spec.series_type:
        told.append(
            f"beside = {spec.series_type} is the series that it sees anyway; name another type, or leave it out"
        )
    if spec.beside == "axial_t2" or (spec.beside and spec.series_type == "axial_t2"):
        told.append("beside brings two sagittal series together, whose slices run alike; leave axial_t2 out")
    if spec.beside and spec.pad:
        told.append("beside needs both series at the same slices, which pad = true does not give; leave pad out")
    return told


def _turns(spec: DetectorSpec) -> list[str]:
    """Turns of the stacks that its answers cannot follow."""
    told = []
    sides = spec.series_type == "sagittal_t1" or spec.beside == "sagittal_t1"
    one_side = sides and spec.placed in ("offset", "found")
    alike = one_side and spec.shows == "stack"  # the same names for both sides
    if len(set(spec.tta)) < len(spec.tta):
        told.append("tta names a turn twice; name each once")
    if "mirror" in spec.tta and alike and spec.preprocessing.side_order == "medial":
        told.append(
            'tta "mirror" changes nothing, since slices of a side run from the middle outwards; leave it out, or set '
            'preprocessing.side_order = "patient"'
        )
    if "columns" in spec.tta and spec.series_type == "axial_t2":
        told.append(
            'tta "columns" would exchange left and right of axial images; write "mirror", which swaps the names'
        )
    if "slices" in spec.tta and sides and not one_side:
        told.append(
            'tta "slices" would exchange left and right of sagittal series; write "mirror", which swaps the names'
        )
    if "mirror" in spec.tta and spec.in_chans == 1 and spec.types == ("sagittal_t2",):
        told.append('tta "mirror" changes nothing where one sagittal slice is seen (in_chans = 1); leave it out')
    if "slices" in spec.tta and spec.in_chans == 1:
        told.append('tta "slices" changes nothing where one slice is seen (in_chans = 1); leave it out')
    return told


def _lacks(spec: DetectorSpec, found: Mapping[SeriesType, bool]) -> list[str]:
    """What a detector needs that nobody before it has found."""
    if spec.needs is None and spec.placed == "found":
        lost = [kind for kind in spec.needed if kind not in found]
        why = (
            f'place = "found" looks around slices found before, and no detector of {spec.series_type} stands before it'
        )
        return [f"{why}; add one that answers slices, or choose another place"] if lost else []
    lost = [kind for kind in spec.needed if not found.get(kind)]
    by = "the distances of its slices are told by" if spec.canal_distances else "its axial planes are chosen by"
    if spec.needs is None and lost:
        return [f"an axial detector needs a sagittal_t2 one: {by} T2 keypoints; add one before it"]
    by_canal = spec.placed == "plane" or spec.canal_distances
    if by_canal and not (found.get("sagittal_t2") or found.get("sagittal_t1")):
        return [f"{by} canal points, and no detector before it finds any; add a sagittal one"]
    names = " and ".join(lost)
    return [f"it needs points on {names}, which no detector before it finds; add one, or change needs"] if lost else []


def _differs(spec: DetectorSpec, name: str, before: DetectorSpec) -> list[str]:
    """Why two detectors of one step cannot be joined."""
    about = f"it speaks of the same points as {name}"
    told = []
    if spec.join != before.join:
        told.append(f'{about}, which is joined by "{before.join}", not by "{spec.join}"; set join alike')
    if spec.beyond != before.beyond:
        told.append(f'{about}, which has beyond = "{before.beyond}", not "{spec.beyond}"; set it alike')
    if spec.preprocessing != before.preprocessing:
        keys = [
            key
            for key in type(spec.preprocessing).model_fields
            if getattr(spec.preprocessing, key) != getattr(before.preprocessing, key)
        ]
        told.append(f"{about}, but its preprocessing differs ({', '.join(keys)}); set it alike")
    return told
