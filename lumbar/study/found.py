"""The series of a scanned tree by study, each with the part that it plays; and the rows of the tables that say so."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from lumbar.dicom.mixture import FAIR_SHARE
from lumbar.dicom.scan import NO_UID, Facts, Head, Scan
from lumbar.dicom.veil import hide
from lumbar.files.read import read_texts, whole_numbers
from lumbar.geometry import Plane
from lumbar.issues import InputError, cut, few, printable
from lumbar.labels import SERIES_DESCRIPTIONS
from lumbar.study.roles import Role, role

#: A series is of the plane that at least this share of its images has; a localiser has several.
_ONE_PLANE: Final = 0.8
#: Texts of headers and names of folders are cut to this in tables.
_LONGEST: Final = 250
#: Where an edited list says so.
_TOLD: Final = "as the given list says"


@dataclass(eq=False)
class Found:
    """A series of a tree, those of its files that play the part (`kept`), damaged ones, and what is told of it."""

    heads: tuple[Head, ...]
    kept: list[Head]
    damaged: tuple[Path, ...]
    role: Role
    plane: Plane | None
    number: int = 0

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read of it."""
        return (*(head.path for head in self.kept), *self.damaged)

    @cached_property
    def folders(self) -> frozenset[Path]:
        """Where its files lie."""
        return frozenset(head.path.parent for head in self.heads)

    @property
    def images(self) -> int:
        """How many slices those files hold."""
        return sum(head.frames for head in self.kept)

    @property
    def order(self) -> tuple[int, float]:
        """Sorts candidates for one part, the best first, as `choose_series` does: most slices, finest pixels."""
        return -self.images, self.kept[0].pixel_mm2


def by_study(found: Scan) -> dict[int, list[Found]]:
    """The series by study; studies are numbered in the order in which the scan came to them, that of their folders."""
    lots: dict[str, list[Found]] = {}
    for heads in found.series:
        one = _made(heads, found.damaged.get((heads[0].study, heads[0].series), ()))
        lots.setdefault(heads[0].study, []).append(one)
    for lot in lots.values():
        _number(lot)
        _without_saturated_twins(lot)
        lot.sort(key=lambda one: (not one.role.plain, one.number))
    return dict(enumerate(lots.values(), 1))


def _made(heads: tuple[Head, ...], damaged: Iterable[Path]) -> Found:
    """A series with its role: that of the images that play a part, where they are no small share of it."""
    planes = Counter[Plane | None]()
    for head in heads:
        planes[head.plane] += head.frames
    if planes["sagittal"] + planes["axial"]:
        planes["coronal"] = 0  # steep axial slices of L5/S1, see `arrange`
    plane, most = planes.most_common(1)[0]
    by_facts: dict[Facts, list[Head]] = {}
    for head in heads:
        by_facts.setdefault(head.facts, []).append(head)
    lots: dict[Role, list[Head]] = {}
    for facts, of_facts in by_facts.items():
        kind = role(facts, plane, sum(head.frames for head in of_facts))
        alike = next((each for each in lots if (each.part, each.plain) == (kind.part, kind.plain)), kind)
        lots.setdefault(alike, []).extend(of_facts)
    largest = max(map(len, lots.values()))
    playing = [each for each, lot in lots.items() if each.part and len(lot) >= FAIR_SHARE * largest]
    chosen = max(playing or lots, key=lambda each: len(lots[each]))
    kept = sorted(lots[chosen], key=lambda head: head.number)
    if chosen.part and most < _ONE_PLANE * planes.total():
        chosen = Role(None, "a localiser: its slices lie in several planes")
    if chosen.part and len(kept) < len(heads):
        chosen = chosen._replace(why=f"{chosen.why}; {len(heads) - len(kept)} of its {len(heads)} files differ and go")
    return Found(heads, kept if chosen.part else list(heads), tuple(damaged), chosen, plane)


def _number(lot: list[Found]) -> None:
    """Give each series of a study a number: SeriesNumber where no other has it, else the next one above all."""
    told = [one.heads[0].facts.series_number for one in lot]
    counts = Counter(told)
    own = [
        int(text) if text.isascii() and text.isdecimal() and len(text) < 10 and counts[text] == 1 else 0
        for text in told
    ]
    following = max(own, default=0) + 1
    for one, number in sorted(zip(lot, own, strict=True), key=lambda pair: (pair[1] == 0, pair[0].heads[0].series)):
        one.number = number or following
        following += not number


def _without_saturated_twins(lot: list[Found]) -> None:
    """Fat-suppressed axial T2 plays no part where there is a plain one: all axial series are looked at."""
    if any(one.role.part == "Axial T2" and one.role.plain for one in lot):
        for one in lot:
            if one.role.part == "Axial T2" and not one.role.plain:
                one.role = Role(None, f"{one.role.why}; a series without fat suppression is there")


def overrule(studies: dict[int, list[Found]], path: Path) -> None:
    """Let a list decide the parts; what it does not name plays none. InputError where it does not fit the tree."""
    table = read_texts(path, ("study_id", "series_id", "series_description"))
    known = {(number, one.number): one for number, lot in studies.items() for one in lot}
    wanted: dict[tuple[int, int], str] = {}
    named = zip(
        whole_numbers(table["study_id"], path),
        whole_numbers(table["series_id"], path),
        table["series_description"],
        table["series_instance_uid"] if "series_instance_uid" in table else [""] * len(table),
        strict=True,
    )
    words = {word.casefold(): word for word in SERIES_DESCRIPTIONS} | {"": "", "-": ""}
    for study, number, text, uid in named:
        which = f"{path}: study {study}, series {number}"
        one = known.get((study, number))
        if one is None or (uid and uid != _uid(one.heads[0].series)):
            raise InputError(f"{which} is not in this folder as the list has it; make a new list with --list")
        part = words.get(" ".join(text.split()).casefold())
        if part is None:
            raise InputError(
                f"{which}: unknown series_description {cut(text)!r}; known: {', '.join(SERIES_DESCRIPTIONS)}"
            )
        if wanted.setdefault((study, number), part) != part:
            raise InputError(f"{which} is listed twice with different parts; keep one row")
    for key, one in known.items():
        part = wanted.get(key, "")
        if part != (one.role.part or ""):
            one.role = Role(part or None, f"{_TOLD} ({one.role.why})", one.role.plain)
            one.kept = list(one.heads)


def series_rows(
    root: Path, study: int, lot: Sequence[Found], hidden: re.Pattern[str] | None
) -> Iterator[dict[str, object]]:
    """Rows of `series.csv`, a series each."""
    best = {part: min((one for one in lot if one.role.part == part), key=lambda one: one.order)
            for part in dict.fromkeys(one.role.part for one in lot) if part}  # fmt: skip
    for one in lot:
        facts, part = one.heads[0].facts, one.role.part
        why, rivals = one.role.why, [other for other in lot if part and other.role.part == part and other is not one]
        plays = "no"
        if part:
            plays = "yes" if one is best[part] or part == "Axial T2" else "in reserve"
        if rivals and plays == "yes" and part != "Axial T2":
            others = few([str(other.number) for other in rivals])
            why += f"; better than series {others} (slices, then pixels, then number)"
        elif plays == "in reserve" and part:
            why += f"; series {best[part].number} is better (slices, then pixels, then number)"
        yield {
            "study_id": study,
            "series_id": one.number,
            "series_description": part or "",
            "plays": plays,
            "why": _said(why, hidden),
            "images": one.images,
            "orientation": one.plane or "",
            "echo_time_ms": _said(facts.echo, None),
            "repetition_time_ms": _said(facts.repetition, None),
            "inversion_time_ms": _said(facts.inversion, None),
            "description": _said(facts.description, hidden),
            "protocol": _said(facts.protocol, hidden),
            "folder": _said(_folder((one,), root), hidden),
            "series_instance_uid": _uid(one.heads[0].series),
        }


def study_row(
    root: Path, study: int, lot: Sequence[Found], hidden: re.Pattern[str] | None, graded: bool
) -> dict[str, object]:
    """A row of `studies.csv`."""
    return {
        "study_id": study,
        "folder": _said(_folder(lot, root), hidden),
        "study_instance_uid": _uid(lot[0].heads[0].study),
        "graded": "yes" if graded else "no",
    }


def _uid(key: str) -> str:
    """A UID; empty where a folder's name stands for one that the headers lack."""
    return "" if key.startswith(NO_UID) else printable(cut(key, _LONGEST))


def _said(text: str, hidden: re.Pattern[str] | None) -> str:
    """A text from a header or a name of a folder, as it may stand in a table."""
    return printable(cut(hide(text, hidden), _LONGEST))


def _folder(lot: Sequence[Found], root: Path) -> str:
    """The deepest folder that holds all files of some series, below the tree's root."""
    parents = [folder.relative_to(root).parts for folder in {folder for one in lot for folder in one.folders}]
    shared = []
    for level in zip(*parents, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared) or "."
