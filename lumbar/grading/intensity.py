"""A region's grey values as a network sees them, and over what they are reckoned, see `RegionSpec`. No torch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lumbar.dicom.series import Series, Slice
from lumbar.recipe.region import Region
from lumbar.study.standardise import between, grey_ends, standardise

Images = Callable[[Slice], NDArray[np.float32]]


class Scales:
    """Grey ranges of slices and series, each reckoned once."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._known: dict[tuple[object, ...], tuple[float, float]] = {}

    def of_slice(self, item: Slice, region: Region) -> tuple[float, float]:
        """The two numbers of a whole slice."""
        key = (id(item), region.intensity, region.percentiles)
        if key not in self._known:
            self._known[key] = ends(self.images(item), region)
        return self._known[key]

    def of_series(self, series: Series, region: Region) -> tuple[float, float]:
        """The two numbers of all slices of a series together."""
        key = (series.series_id, region.intensity, region.percentiles)
        if key not in self._known:
            every = np.concatenate([self.images(item).ravel() for item in series.slices])
            self._known[key] = ends(every, region)
        return self._known[key]


def ends(values: NDArray[np.float32], region: Region) -> tuple[float, float]:
    """standard: mean and deviation; else the values that become -1 and 1."""
    if region.intensity == "standard":
        return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return grey_ends(values, region.intensity, region.percentiles)


def scaled(values: NDArray[np.float32], two: tuple[float, float], region: Region) -> NDArray[np.float32]:
    """Values by the two numbers of `ends`; all 0 where these do not differ, or the deviation is 0."""
    if region.intensity == "standard":
        mean, deviation = two
        return ((values - np.float32(mean)) / np.float32(deviation) if deviation > 0 else values * 0).astype(np.float32)
    return between(values, two) * 2 - 1 if two[1] > two[0] else np.zeros_like(values)


def as_seen(
    pixels: NDArray[np.float32], slices: tuple[Slice | None, ...], series: Series, region: Region, scales: Scales
) -> NDArray[np.float32]:
    """A region's pixels (T, H, W) as the network sees them; slices that are not there stay zero."""
    if region.plain:
        return standardise(pixels)
    there = [place for place, item in enumerate(slices) if item is not None]
    out = np.zeros_like(pixels)
    if region.scope == "crop" and there:
        out[there] = scaled(pixels[there], ends(pixels[there], region), region)
    for place in there if region.scope != "crop" else ():
        item = slices[place]
        assert item is not None
        two = scales.of_slice(item, region) if region.scope == "slice" else scales.of_series(series, region)
        out[place] = scaled(pixels[place], two, region)
    return out
