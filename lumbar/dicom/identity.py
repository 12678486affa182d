"""Whose image it is and of what: the identifiers in a file's header.

Names, numbers and dates of patients are read to be compared, and appear in no message.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from pydicom.dataset import Dataset

from lumbar.dicom.flaws import DAMAGE
from lumbar.dicom.said import Opened, Said

#: Manufacturer of the studies that `lumbar.phantom` paints.
PHANTOM: Final = "Lumbar phantom"


@dataclass(frozen=True)
class Identity:
    """Identifiers as the header gives them, empty where it does not; `echo_ms` is EchoTime, None where unknown."""

    patient: str = ""
    study: str = ""
    series: str = ""
    frame_of_reference: str = ""
    number: str = ""
    kind: str = ""
    words: str = ""
    image: str = ""
    name: str = ""
    birth: str = ""
    echo_ms: float | None = None
    maker: str = ""

    @property
    def is_phantom(self) -> bool:
        """Whether the image shows no patient but a synthetic study of ours."""
        return self.maker == PHANTOM.casefold()


#: Field of `Identity` → the tag that it comes from, in the order in which slices are parted.
TAGS: Final = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "frame_of_reference": "FrameOfReferenceUID",
    "series": "SeriesInstanceUID",
    "number": "SeriesNumber",
    "kind": "ImageType",
    "words": "SeriesDescription",
    "image": "SOPInstanceUID",
    "name": "PatientName",
    "birth": "PatientBirthDate",
}


def read_identity(opened: Opened, of_frame: Said) -> Identity:
    """Of a file and one of its frames; what is damaged counts as missing."""
    echo = of_frame.of(_effective_echo) or opened.said.of(_echo)
    return replace(opened.said.of(_common), echo_ms=echo, image=opened.image or _text(opened.dataset, TAGS["image"]))


def _common(dataset: Dataset) -> Identity:
    """What files of a series have in common."""
    words: dict[str, Any] = {field: _text(dataset, tag) for field, tag in TAGS.items() if field != "image"}
    return Identity(**words, maker=_text(dataset, "Manufacturer"))


def _text(dataset: Dataset, tag: str) -> str:
    try:
        return " ".join(str(dataset.get(tag) or "").strip("\0").replace("^", " ").split()).casefold()
    except DAMAGE:
        return ""


def _echo(dataset: Dataset) -> float | None:
    return _time(dataset, "EchoTime")


def _effective_echo(header: Dataset) -> float | None:
    return _time(header, "EffectiveEchoTime")


def _time(dataset: Dataset, tag: str) -> float | None:
    try:
        value = float(dataset.get(tag) or 0)
    except DAMAGE:
        return None
    return value if 0 < value < 10_000 else None
