"""What a file says that it shows: refused where it is no slice of an MR series, told where it may be another part."""

import re
from collections.abc import Iterable
from typing import Final

from pydicom.dataset import Dataset

from lumbar.dicom_flaws import IssueLog, UnusableError

#: Words of ImageType that no grader has a use for: projections, and many images painted into one.
_OTHER_TYPES: Final = frozenset({"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "MOSAIC"})
#: Words of ImageType that make one wonder; what the series table lists is graded all the same, with an Issue.
_DOUBTFUL_TYPES: Final = frozenset(
    {"LOCALIZER", "MPR", "SUBTRACTION", "SUBTRACT", "ADC", "DIFFUSION", "TRACEW", "FA", "PHASE MAP", "SCREEN SAVE"}
)
#: BodyPartExamined of other parts; only doubtful, since scanners copy the tag from protocols and it is often wrong.
_OTHER_PARTS: Final = frozenset(
    {"ABDOMEN", "ANKLE", "ARM", "BRAIN", "BREAST", "CHEST", "ELBOW", "EXTREMITY", "FINGER", "FOOT", "FOREARM", "HAND"}
    | {
        "HEAD",
        "HEART",
        "HIP",
        "KNEE",
        "LEG",
        "NECK",
        "PELVIS",
        "PROSTATE",
        "SHOULDER",
        "SKULL",
        "THIGH",
        "TOE",
        "WRIST",
    }
    | {"CSPINE", "CERVICALSPINE", "CERVICAL", "TSPINE", "THORACICSPINE", "THORACIC", "CTSPINE", "COCCYX"}
)


def check_subject(dataset: Dataset, name: str, log: IssueLog) -> None:
    """Refuse what says of itself that it is no slice of an MR series; tell what may be none of the lumbar spine."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality and not modality.startswith("MR"):
        raise UnusableError("slice_dropped", f"Modality is {modality[:16]}; only MR images are graded")
    types = {str(word).strip().upper() for word in _several(dataset.get("ImageType"))}
    if wrong := sorted(types & _OTHER_TYPES):
        raise UnusableError("slice_dropped", f"ImageType says {wrong[0]}, which is no slice of the body")
    part = str(dataset.get("BodyPartExamined") or "").strip().upper()
    if re.sub(r"[^A-Z]", "", part) in _OTHER_PARTS:
        log.add("subject_doubtful", f"BodyPartExamined is {part[:16]}; graded as the series table says", name)
    if doubtful := sorted(types & _DOUBTFUL_TYPES):
        log.add("subject_doubtful", f"ImageType says {doubtful[0]}; graded as the series table says", name)


def _several(value: object) -> list[object]:
    """The values of a tag, however many it has."""
    if value is None:
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
