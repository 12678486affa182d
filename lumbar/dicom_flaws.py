"""What is wrong with a DICOM file: how it is raised, said in plain words, and collected, each reason once a series."""

import re
import struct
import zlib
from typing import Final, NamedTuple

from pydicom.errors import BytesLengthException, InvalidDicomError

from lumbar.issues import Issue, clip, few

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
_NUMBER: Final = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


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

    def add(self, code: str, reason: str, name: str | None = None) -> None:
        """`name` is the file (and frame) of which `reason` is told; reasons that differ in numbers only are one."""
        key = (code, _NUMBER.sub("#", reason))
        if name is not None and key in self._shared:
            self._shared[key].names.append(name)
            self._shared[key].reasons[reason] = None
            return
        entry = _Entry(code, [] if name is None else [name], {reason: None})
        self._entries.append(entry)
        if name is not None:
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
    names = few([clip(name, SHOWN_CHARS) for name in entry.names])
    return f"{len(entry.names)} {kind} ({names}): {reason}" + (" (so the first)" if len(entry.reasons) > 1 else "")


def plain(error: Exception) -> str:
    """What an exception of pydicom or a decoder says of a file, in one short line."""
    if isinstance(error, UnusableError):
        return str(error)
    if isinstance(error, RecursionError):
        return "is damaged: its sequences are nested too deeply"
    text = " ".join(str(error).split())
    if isinstance(error, EOFError):
        return "is damaged: it ends too early"
    if isinstance(error, LookupError):  # the text is a key or an index that means nothing to a reader
        text = f"a part that is referred to is missing ({text})"
    return f"is damaged: {clip(text or type(error).__name__, 150)}"
