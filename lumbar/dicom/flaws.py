"""What is wrong with a DICOM file: how it is raised, said in plain words, and collected, each reason once a series."""

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from pydicom.datadict import tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError

from lumbar.issues import NUMBER, Issue, cut, few

#: What pydicom and the decoders raise on damaged files (found by mutating files).
DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,  # includes NotImplementedError and RecursionError
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
#: What a value from a file, or the name of one among many, is cut to.
SHOWN_CHARS: Final = 40


#: How texts of pydicom begin that are written for programmers, and what they mean.
_PLAIN: Final = {
    "No tag to read": "its compressed pixels end too early",
    "Unexpected tag": "the parts of its compressed pixels are not where they should be",
    "Found unexpected tag": "the parts of its compressed pixels are not where they should be",
    "Unable to decode": "its compressed pixels cannot be decoded",
    "Expected total bytes": "a tag's length does not fit what it holds",
    "Unknown Value Representation": "a tag is of a kind that DICOM does not know",
}


class UnusableError(Exception):
    """A file that cannot become a slice: issue code and reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RoomError(Exception):
    """The pixels of a file do not fit into the memory that its study may take."""


class _Entry(NamedTuple):
    code: str
    names: list[str]
    reasons: dict[str, None]  # an ordered set


class IssueLog:
    """Collects the issues of one series; a reason that many files share is said once, with their number."""

    def __init__(self, study_id: int, series_id: int) -> None:
        self.study_id, self.series_id = study_id, series_id
        self._entries: list[_Entry] = []
        self._shared: dict[tuple[str, str], _Entry] = {}

    def add(self, code: str, reason: str, names: str | Sequence[str] = ()) -> None:
        """`names`: the file (and frame), or several, of which `reason` is told; reasons that differ in numbers only are
        one."""
        added = [names] if isinstance(names, str) else list(names)
        key = (code, NUMBER.sub("#", reason))
        if added and key in self._shared:
            self._shared[key].names.extend(added)
            self._shared[key].reasons[reason] = None
            return
        entry = _Entry(code, added, {reason: None})
        self._entries.append(entry)
        if added:
            self._shared[key] = entry

    @property
    def issues(self) -> list[Issue]:
        """One Issue a reason, in the order in which the reasons came up."""
        return [Issue(entry.code, self.study_id, self.series_id, _detail(entry)) for entry in self._entries]


def _detail(entry: _Entry) -> str:
    reason = next(iter(entry.reasons))
    if len(entry.names) < 2:
        return ": ".join([*entry.names, reason])
    kind = "frames" if all(" frame " in name for name in entry.names) else "files"
    return f"{len(entry.names)} {kind} ({few_files(entry.names)}): {reason}" + (
        " (so the first)" if len(entry.reasons) > 1 else ""
    )


def few_files(names: Sequence[str]) -> str:
    """The first names of files, each short enough for a sentence, and how many more there are."""
    return few([cut(name, SHOWN_CHARS) for name in names])


def plain(error: Exception) -> str:
    """What an exception of pydicom or a decoder says of a file, in one short line without Python's words."""
    match error:
        case UnusableError():
            return str(error)
        case RecursionError():
            why = "its sequences are nested too deeply"
        case EOFError() | struct.error():
            why = "it ends too early, or a length in it is wrong"
        case zlib.error():
            why = "its compressed part cannot be unpacked"
        case AttributeError(name=str(name)) if tag_for_keyword(name) is not None:
            why = f"{name} is missing"
        case AttributeError() | TypeError() | LookupError():  # their text names parts of programs
            why = "a tag is missing or holds what does not belong there"
        case _:
            text = cut(" ".join(str(error).split()) or type(error).__name__, 150)
            why = next((words for start, words in _PLAIN.items() if text.startswith(start)), text)
    return f"is damaged: {why}"
