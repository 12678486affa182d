"""What can be wrong with an input: `Issue` (repaired or replaced, the run goes on) and `InputError` (it does not)."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

NOTICE: Final = "Research use only, not for clinical decisions."

#: Every issue code and what it means to the reader of a run report.
CODES: Final[dict[str, str]] = {
    "file_unreadable": "a file could not be decoded and was left out",
    "file_ignored": "files that are no DICOM images, or copies of others, were passed over",
    "name_of_file_ignored": "files were read as DICOM by their content although their names do not say so",
    "slice_dropped": "a slice was left out (duplicate position, broken geometry, other orientation)",
    "slice_renumbered": "two slices of a series bore one number; the later one got a new one",
    "pixels_constant": "a slice holds one value only",
    "geometry_repaired": "geometry was derived from other tags or slices",
    "geometry_doubtful": "sizes or places that the headers give contradict each other or a spine; the detail says how",
    "geometry_differs": "the field of view differs from slice to slice",
    "orientation_differs": "rows and columns of a slice run another way than those of its neighbours",
    "orientation_doubtful": "the pictures seem to lie another way than their header says",
    "subject_doubtful": "a tag says that the images may not be slices of the lumbar spine",
    "series_mixed": "images of several patients, studies, series or echoes lie in one folder",
    "study_mixed": "series of several patients or studies, or the same images twice, are listed as one study",
    "frames_differ": "series have different frames of reference, so that points of one mean nothing on another",
    "several_stations": "one series holds several stations of a longer spine",
    "values_repaired": "a tag of the pixels is odd or contradicts them; the detail says how they were read",
    "series_missing": "the study has no usable series of this type",
    "series_relabelled": "the series' orientation contradicts its description and decided its type",
    "series_ignored": "the series plays no part (no known type, wrong orientation, another is better)",
    "slices_missing": "the slices are unevenly spaced; some seem to be missing",
    "several_stacks": "one series holds several stacks of different angle or position",
    "series_off_centre": "the middle of a sagittal series is not the other's or not the canal; slices may be missing",
    "window_repeated": "a window reached past the end of the series; the border slice was repeated",
    "region_padded": "a region of interest reached past the image; its border was repeated",
    "no_axial_slice": "no axial slice lies within reach of this level",
    "slice_replaced": "the slice of a keypoint was found beyond its series; the usual one of its kind stands in",
    "keypoint_low_confidence": "a keypoint's heatmap is faint or spread out",
    "keypoint_repaired": "an implausible keypoint was replaced from its neighbours",
    "levels_ambiguous": "the discs could nearly as well be one level higher or lower; the numbering may be off by one",
    "keypoint_missing": "no keypoint could be found; the region is not graded by members that need it",
    "slice_guessed": "no detector found the slice of keypoints; they were looked for in, or beside, the middle",
    "keypoint_lost": "a labelled keypoint lies on a slice that could not be used; no detector trains on it",
    "label_unused": "a labelled study has no row in the series table; it is not trained on",
    "condition_unseen": "a region could not be seen; members that see the level on other series spoke for it",
    "condition_ungraded": "no member graded the region; the prior stands in",
    "region_strange": "a region looks like nothing that the graders learnt from; its severity is not to be trusted",
    "answer_not_finite": "a network's answer was no number; other members or the prior spoke for it",
    "device_failed": "the accelerator failed; the CPU went on",
    "study_unlisted": "a study was left out: it has no row in the series table, or none of its series plays a part",
    "out_of_time": "the time budget was spent before the study's turn; the prior stands in",
    "study_failed": "the study could not be read; the prior stands in",
}

#: Numbers in a reason that may differ from case to case.
NUMBER: Final = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
#: Longer than any sentence should be, so that a text from a file cannot fill a report; paths may need some of it.
LONGEST: Final = 500
#: The same of several sentences in one, as of a recipe with many faults.
LONGEST_OF_MANY: Final = 2000
#: So many faults of one input are told.
MOST_FAULTS: Final = 100


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that was missing, repaired or replaced in a study.

    `code` is a key of `CODES`; `series` is None where the whole study is meant; `detail` is one clear sentence.
    """

    code: str
    study: int
    series: int | None
    detail: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown issue code {self.code!r}")
        object.__setattr__(self, "detail", _sentence(self.detail))


def together(issues: Sequence[Issue], codes: Collection[str]) -> list[Issue]:
    """Issues of which those of some codes are told once a series and reason, with the first names and their number.

    Their details are `name: reason`; reasons that differ in numbers only are one.
    """
    lots: dict[object, list[Issue]] = {}
    for place, issue in enumerate(issues):
        reason = issue.detail.partition(": ")[2]
        shared = issue.code in codes and bool(reason)
        key = (issue.code, issue.study, issue.series, NUMBER.sub("#", reason)) if shared else place
        lots.setdefault(key, []).append(issue)
    return [lot[0] if len(lot) == 1 else _merged(lot) for lot in lots.values()]


def _merged(lot: Sequence[Issue]) -> Issue:
    parts = [issue.detail.partition(": ") for issue in lot]
    same = len({reason for _, _, reason in parts}) == 1
    names = few([name for name, _, _ in parts])
    return replace(lot[0], detail=f"{names}: {parts[0][2]}{'' if same else ' (so the first)'}")


class InputError(Exception):
    """Bad input that stops the job: its text is one clear sentence with file, reason and remedy."""

    def __init__(self, sentence: str) -> None:
        super().__init__(_sentence(sentence, LONGEST_OF_MANY if "(2) " in sentence else LONGEST))


class FaultyInputError(InputError):
    """Bad input of which several things are wrong: `faults` are their sentences, which a command tells in a line each.

    As text they are one sentence, `source: (1) … (2) …`; a single one is `source: …`.
    """

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        told, more = faults[:MOST_FAULTS], len(faults) - MOST_FAULTS
        self.source, self.faults = source, [_sentence(fault) for fault in told]
        self.faults += [f"and {more} more; correct these first"] if more > 0 else []
        super().__init__(f"{source}: {self.faults[0]}")
        if len(self.faults) > 1:
            self.args = (printable(f"{source}: {numbered(self.faults)}"),)


def printable(text: str) -> str:
    """The text with everything escaped that a terminal, JSON or UTF-8 cannot take as it is.

    Names of files may hold bytes that are no UTF-8 (Python keeps them as lone surrogates), line ends and control
    characters; they become `\\xe4`, `\\n`, `\\x1b`. The one place for it: every Issue and InputError comes by here.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    byte = ord(char) - 0xDC00  # how Python keeps a byte of a file name that is no UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else char.encode("unicode_escape").decode()


def _sentence(text: str, most: int = LONGEST) -> str:
    """A printable sentence that is no book: of a very long one the middle goes, since the remedy stands at the end."""
    plain = printable(_without_middle(text, most))
    return _without_middle(plain, most)


def _without_middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 151]}…{text[-150:]}"


def cut(text: str, most: int = 60) -> str:
    """The beginning of a text from a file, short enough for a sentence."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list and how many more there are: `a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def named(words: Sequence[str], most: int = 8) -> str:
    """The first words of a file as it has them, each short enough for a sentence: `'a', 'b' and 2 more`."""
    return few([repr(cut(word, 40)) for word in words], most)


def numbered(faults: Sequence[str]) -> str:
    """All of several faults in a line, the end left open: a single one as it is, others as `(1) … (2) …`."""
    if len(faults) == 1:
        return faults[0]
    return " ".join(f"({number}) {fault}." for number, fault in enumerate(faults, 1)).rstrip(".")
