"""The bytes of files: read once, into memory that the files of a study share.

Pages that the system gives anew cost more than what is copied into them, the more so in small pieces: a piece of some
megabytes comes in large pages.
"""

from pathlib import Path
from typing import Final

import numpy as np

#: What a file holds.
Content = bytes | memoryview
#: The size of a piece; what is not written to takes no memory.
_PIECE_BYTES: Final = 16 * 2**20
#: Larger files are read on their own.
_SHARED_BYTES: Final = _PIECE_BYTES // 8
#: Where a file may begin: a line of the processor's cache.
_STEP: Final = 64


class Memory:
    """Memory for the files of one study, read one after the other."""

    def __init__(self) -> None:
        self._piece, self._at, self._last = memoryview(b""), 0, 0

    def read(self, path: Path, size: int) -> Content:
        """What a file of `size` bytes holds."""
        self._last = self._at
        if not 0 < size <= _SHARED_BYTES:
            return path.read_bytes()
        if self._at + size > len(self._piece):
            self._piece, self._at, self._last = np.empty(_PIECE_BYTES, np.uint8).data, 0, 0
        place = self._piece[self._at : self._at + size]
        with path.open("rb", buffering=0) as stream:
            whole = stream.readinto(place) == size and not stream.read(1)
        if not whole:  # it changes while it is read
            return path.read_bytes()
        self._at = -(-(self._at + size) // _STEP) * _STEP
        return place

    def forget(self) -> None:
        """The last file's bytes are not needed: the next one may take their place."""
        self._at = self._last
