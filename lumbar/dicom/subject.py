"""What a file says that it shows: refused where it is no slice of an MR series, told where it may be another part."""

import re
from collections.abc import Iterable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from lumbar.dicom.flaws import IssueLog, UnusableError

#: Values of ImageType that no grader has a use for: projections, and many images painted into one.
_OTHER_TYPES: Final = re.compile(r"M(AX|IN)?_?IP|PROJECTION|MOSAIC|MONTAGE|RENDER")
#: Values that make one wonder; what the series table lists is graded all the same, with an Issue.
_DOUBTFUL_TYPES: Final = re.compile(r"^(P|FA|ADC|MPR)$|LOCALI[SZ]ER|SUBTRACT|DIFFUSION|TRACE|PHASE|\bMAP\b|SCREEN")
#: BodyPartExamined of the lumbar spine and of what shows it, letters only. Scanners copy the tag from protocols and it
#: is often wrong, so that anything else only makes one wonder.
_OWN_PARTS: Final = re.compile(
    r"LUMB|SACR|^(L|LS|TL|WHOLE|ENTIRE|TOTAL)?SPINE$|^LWS|LENDEN|COLUMNA|RACHIS|VERTEBRA|WIRBEL"
)
_MR_CLASSES: Final = frozenset({MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage})


def check_subject(dataset: Dataset, name: str, log: IssueLog) -> None:
    """Refuse what says of itself that it is no slice of an MR series; tell what may be none of the lumbar spine."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality not in ("", "MR"):
        raise UnusableError("slice_dropped", f"Modality is {modality[:16]}; only MR images are graded")
    _check_class(dataset, name, log)
    types = [str(word).strip().upper() for word in _several(dataset.get("ImageType"))]
    if wrong := next((word for word in types if _OTHER_TYPES.search(word)), None):
        raise UnusableError("slice_dropped", f"ImageType says {wrong[:24]}, which is no slice of the body")
    part = str(dataset.get("BodyPartExamined") or "").strip().upper()
    letters = re.sub(r"[^A-Z]", "", part)
    if letters and not _OWN_PARTS.search(letters):
        log.add("subject_doubtful", f"BodyPartExamined is {part[:16]}; graded as the series table says", name)
    if doubtful := next((word for word in types if _DOUBTFUL_TYPES.search(word)), None):
        log.add("subject_doubtful", f"ImageType says {doubtful[:24]}; graded as the series table says", name)


def _check_class(dataset: Dataset, name: str, log: IssueLog) -> None:
    """By SOPClassUID, where it is one that DICOM knows: other objects are refused, screenshots are told."""
    kind = UID(str(dataset.get("SOPClassUID") or "").strip())
    if kind in _MR_CLASSES or kind.type != "SOP Class" or "Rows" not in dataset:  # what is no image is told later
        return
    what = kind.name.removesuffix(" Storage")
    if "Secondary Capture" not in what:
        raise UnusableError("slice_dropped", f"it is a {what}, and only MR images are graded")
    log.add("subject_doubtful", f"it is a {what}; graded as the series table says", name)


def _several(value: object) -> list[object]:
    """The values of a tag, however many it has."""
    if value is None:
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
