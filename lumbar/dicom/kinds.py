"""What a file is by its first bytes: a DICOM image, one without its preamble, or something that can be named."""

import struct
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.uid import MediaStorageDirectoryStorage

#: First bytes of what lies in series' folders instead of images, and what is to be done with it.
_KNOWN: Final = {
    b"\x1f\x8b": ("compressed with gzip", "unpack"),
    b"PK\x03\x04": ("packed as zip", "unpack"),
    b"BZh": ("compressed with bzip2", "unpack"),
    b"\xfd7zXZ\0": ("compressed with xz", "unpack"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack"),
    b"7z\xbc\xaf\x27\x1c": ("packed as 7z", "unpack"),
    b"bplist00": ("placeholders for what is still in a cloud", "download"),
}
#: Groups with which a data set begins.
_FIRST_GROUPS: Final = (0x0002, 0x0008)
#: The first element of a data set is shorter than this.
_MOST_FIRST_BYTES: Final = 256
_DICM: Final = b"DICM"
#: So much of a file tells what it is.
FIRST_BYTES: Final = 1024
#: The preamble and these letters.
PREAMBLE_BYTES: Final = 128 + len(_DICM)


def first_bytes(path: Path) -> bytes:
    """The beginning of a file, empty where it is none or may not be read."""
    try:
        if not path.is_file():  # opening a pipe waits for ever
            return b""
        with path.open("rb") as stream:
            return stream.read(FIRST_BYTES)
    except OSError:
        return b""


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts so holds a DICOM image: a directory of files (DICOMDIR) does not."""
    return (has_preamble(start) or lacks_preamble(start)) and MediaStorageDirectoryStorage.encode() not in start


def has_preamble(start: bytes) -> bool:
    """Whether the letters DICM stand where they should."""
    return start[128:PREAMBLE_BYTES] == _DICM


def lacks_preamble(start: bytes) -> bool:
    """Whether a little endian data set begins at byte 0: an element that the standard knows, and no long one."""
    if has_preamble(start) or len(start) < 12:
        return False
    group, element, length = struct.unpack_from("<HHL", start)
    if group not in _FIRST_GROUPS:
        return False
    try:
        known = dictionary_VR((group, element)).encode() if element else b"UL"  # 0: the length of the group
    except KeyError:
        return False
    if start[4:6] == known:  # explicit
        length = struct.unpack_from("<H", start, 6)[0]
    return length < _MOST_FIRST_BYTES


def what_it_is(start: bytes) -> tuple[str, str] | None:
    """What files that start so are, and what is to be done with them; None where that is unknown."""
    return next((what for mark, what in _KNOWN.items() if start.startswith(mark)), None)
