"""Numbers from the tags of a DICOM file, and what a sentence says where a tag holds none."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lumbar.dicom.flaws import DAMAGE, SHOWN_CHARS, IssueLog, UnusableError
from lumbar.issues import cut

MIN_SLOPE, MAX_SLOPE, MAX_INTERCEPT = 1e-12, 1e6, 1e9


def shown(dataset: Dataset, keyword: str) -> str:
    """A tag's value as the file has it, cut to a few words; `missing` or `empty` where there is none."""
    if keyword not in dataset:
        return "missing"
    try:
        value = dataset.get(keyword)
    except DAMAGE:  # pydicom cannot make sense of it
        value = dataset.get_item(keyword).value  # type: ignore[union-attr]
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    text = "\\".join("" if part is None else str(part) for part in parts).strip("\0 ")
    return repr(cut(text, SHOWN_CHARS)) if text else "empty"


def whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """A tag's whole number, `default` where it is absent or empty; UnusableError where that leaves none."""
    try:
        value = dataset.get(keyword)
        value = default if value in (None, "", b"") else value
        if value is not None:
            return int(value)
    except DAMAGE as error:
        raise UnusableError("file_unreadable", f"{keyword} is {shown(dataset, keyword)}, no whole number") from error
    raise UnusableError("file_unreadable", f"{keyword} is {shown(dataset, keyword)}")


def numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    """The `count` finite numbers of a tag, or None where it is missing, malformed or of another length."""
    try:
        value = dataset.get(keyword)
        numbers = [float(item) for item in (value if count > 1 else [value])]
    except DAMAGE:
        return None
    return np.array(numbers) if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    found = numbers(dataset, keyword, 1)
    return None if found is None else float(found[0])


def required(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    found = numbers(dataset, keyword, count)
    if found is None:
        is_there = "missing or" if shown(dataset, keyword) == "missing" else f"{shown(dataset, keyword)},"
        raise UnusableError("slice_dropped", f"{keyword} is {is_there} not {count} finite numbers")
    return found


def rescale(dataset: Dataset, name: str, log: IssueLog) -> tuple[float, float]:
    """Rescale slope and intercept; what is absent or unusable of them changes nothing (1, 0).

    A negative slope turns the contrast over, as the standard says.
    """
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if "RescaleSlope" not in dataset:
        slope = 1.0
    elif slope is None or not MIN_SLOPE <= abs(slope) <= MAX_SLOPE:
        why = f"RescaleSlope is {shown(dataset, 'RescaleSlope')}; it and RescaleIntercept were ignored"
        log.add("values_repaired", why, name)
        return 1.0, 0.0
    elif slope < 0:
        log.add("values_repaired", f"RescaleSlope {slope:g} is negative; it turns dark into bright", name)
    if "RescaleIntercept" not in dataset:
        intercept = 0.0
    elif intercept is None or abs(intercept) > MAX_INTERCEPT:
        log.add("values_repaired", f"RescaleIntercept is {shown(dataset, 'RescaleIntercept')}; it was ignored", name)
        intercept = 0.0
    return slope, intercept
