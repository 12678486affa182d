"""DICOM files of one series folder -> `Series`: decoded once, checked, in patient order, with an Issue for every flaw.

Only ImagePositionPatient and ImageOrientationPatient decide sides and order; a slice without them is left out.
"""

import math
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from lumbar import geometry
from lumbar.geometry import Plane
from lumbar.issues import Issue

#: Decoder of each compressed syntax, named so that pydicom never picks python-gdcm, which aborts the process on
#: corrupt JPEG 2000. Other compressed syntaxes are refused.
DECODERS: Final[dict[UID, str]] = {
    RLELossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    JPEG2000Lossless: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    JPEGBaseline8Bit: "pillow",
}
#: What pydicom and the decoders raise on damaged files (found by mutating files).
_DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # includes NotImplementedError and RecursionError
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
MAX_FILE_BYTES: Final = 256 * 2**20
#: Lumbar MR images have 256 to 1,024 pixels a side.
MIN_SIDE_PX, MAX_SIDE_PX = 16, 4096
MIN_SPACING_MM, MAX_SPACING_MM = 0.02, 20.0
MAX_POSITION_MM: Final = 10_000.0
#: Orientation vectors: rounding of the decimal strings is kept, up to the second limit it is repaired.
EXACT_ORIENTATION, REPAIRABLE_ORIENTATION = 1e-3, 2e-2
#: Slices whose normals differ by more belong to different stacks, degrees.
STACK_ANGLE_DEG: Final = 1.0
#: A step longer than this many ordinary steps starts a new axial stack.
STACK_GAP: Final = 2.5
#: A step longer than this many ordinary steps means that slices are missing.
MISSING_GAP: Final = 1.5
#: Planes of one stack nearer than this are one position, mm.
SAME_POSITION_MM: Final = 0.05
#: A slice belongs to a series' plane while its normal is within 60 degrees of the plane's axis.
MIN_PLANE_COSINE: Final = 0.5


@dataclass(frozen=True, eq=False)
class Slice:
    """One decoded image. `pixels` (H, W) as stored, read-only; `affine` (4, 4) as in `lumbar.geometry`."""

    path: Path
    #: The number in the file name if it is one, else InstanceNumber.
    instance: int
    pixels: NDArray[np.generic]
    affine: geometry.FloatArray
    slope: float = 1.0
    intercept: float = 0.0
    #: MONOCHROME1: the smallest stored value is white.
    inverted: bool = False
    #: SpacingBetweenSlices in mm as the tag says.
    spacing_between: float | None = None
    #: Rank in the natural order of the file names of the series folder.
    file_order: int = 0
    #: Smallest and largest value that the stored bits can hold.
    stored_range: tuple[float, float] = (0.0, 0.0)
    #: Plane of the series that the slice belongs to.
    plane: Plane = "sagittal"

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        return geometry.spacing_mm(self.affine)


@dataclass(frozen=True, eq=False)
class Series:
    """The usable slices of one series in patient order: sagittal from right to left, axial from the feet to the head.

    Several stacks are kept together stack by stack; `stacks` gives the stack of each slice, counted from 0.
    """

    series_id: int
    description: str
    plane: Plane
    slices: tuple[Slice, ...]
    stacks: tuple[int, ...]
    affines: geometry.FloatArray = field(init=False, repr=False)  # (N, 4, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "affines", np.stack([item.affine for item in self.slices]))

    def __len__(self) -> int:
        return len(self.slices)

    def ordered(self, order: Literal["position", "file"] = "position") -> tuple[Slice, ...]:
        """The slices in patient order, or in the original system's order.

        file: natural order of the file names, reversed where the last slice lies before the first along the patient
        axis on which the two differ most.
        """
        if order == "position":
            return self.slices
        natural = sorted(self.slices, key=lambda item: item.file_order)
        way = natural[-1].affine[:3, 3] - natural[0].affine[:3, 3]
        reverse = way[int(np.argmax(np.abs(way)))] < 0
        return tuple(natural[::-1] if reverse else natural)

    def stack_indices(self, index: int) -> NDArray[np.intp]:
        """Indices, in patient order, of the slices in the same stack as slice `index`."""
        return np.flatnonzero(np.asarray(self.stacks) == self.stacks[index])

    @property
    def spacing_mm(self) -> float | None:
        """Median distance between neighbouring slices of one stack from their positions, mm; None if there are none."""
        steps = [
            np.diff(geometry.positions_mm(self.affines[np.asarray(self.stacks) == stack], _axis(self.plane)))
            for stack in sorted(set(self.stacks))
        ]
        joined = np.concatenate(steps)
        return float(np.median(joined)) if len(joined) else None

    @property
    def spacing_tag(self) -> float | None:
        """SpacingBetweenSlices of the first file in natural order, mm."""
        return min(self.slices, key=lambda item: item.file_order).spacing_between


class _Unusable(Exception):
    """A file that cannot become a slice: issue code and reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Log:
    """Collects the issues of one series."""

    def __init__(self, study_id: int, series_id: int) -> None:
        self.study_id, self.series_id = study_id, series_id
        self.issues: list[Issue] = []

    def add(self, code: str, detail: str) -> None:
        self.issues.append(Issue(code, self.study_id, self.series_id, detail))


def read_series(folder: Path, series_id: int, description: str, study_id: int) -> tuple[Series | None, list[Issue]]:
    """Read all `.dcm` files of a folder, each opened once; None where no slice is usable.

    Whatever is wrong with a file's content becomes an Issue and leaves that slice out; nothing is raised for it.
    """
    log = _Log(study_id, series_id)
    found: list[Slice] = []
    paths = dicom_files(folder)
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        for order, path in enumerate(paths):
            try:
                found.append(_read_slice(path, order, log))
            except _Unusable as flaw:
                log.add(flaw.code, f"{path.name}: {flaw}")
    slices, stacks, plane = _arrange(found, description, log)
    if slices and all(_constant(item.pixels) for item in slices):
        log.add("series_ignored", f"all {len(slices)} slices hold one value only")
        slices = []
    if not slices:
        reason = "no slice is usable" if paths else f"no .dcm file in {folder.name}"
        log.add("series_ignored", f"series {series_id} ({description}): {reason}")
        return None, log.issues
    return Series(series_id, description, plane, tuple(slices), tuple(stacks)), log.issues


def dicom_files(folder: Path) -> list[Path]:
    """The `.dcm` files of a folder in natural order of their names (2 before 10); empty where there is no folder."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and not path.name.startswith(".")]
    return sorted((path for path in paths if path.is_file()), key=lambda path: (_natural(path.stem), path.name))


def _natural(text: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", text)]


def _read_slice(path: Path, order: int, log: _Log) -> Slice:
    """One file as a Slice, its plane not yet decided; raises _Unusable."""
    dataset = _open(path)
    try:
        affine = _affine(dataset, path, log)
        _check_size(dataset)
        pixels = _decode(dataset)
        instance = int(path.stem) if path.stem.isdecimal() else _number(dataset, "InstanceNumber")
        signed, bits = bool(dataset.get("PixelRepresentation", 0)), int(dataset.get("BitsStored", 16))
        inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    except _DAMAGE as error:
        raise _Unusable("file_unreadable", _sentence(error)) from error
    if _constant(pixels):
        log.add("pixels_constant", f"{path.name}: every pixel is {pixels.flat[0]}")
    slope, intercept = _rescale(dataset, path, log)
    spacing = _number(dataset, "SpacingBetweenSlices")
    return Slice(
        path=path,
        instance=order + 1 if instance is None else int(instance),
        pixels=pixels,
        affine=affine,
        slope=slope,
        intercept=intercept,
        inverted=inverted,
        spacing_between=spacing,
        file_order=order,
        stored_range=(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1),
    )


def _open(path: Path) -> FileDataset:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _Unusable("file_unreadable", f"larger than {MAX_FILE_BYTES >> 20} MB")
        return dcmread(BytesIO(path.read_bytes()))
    except _DAMAGE as error:
        raise _Unusable("file_unreadable", _sentence(error)) from error


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    """The `count` finite numbers of a tag, or None where it is missing, malformed or of another length."""
    try:
        value = dataset.get(keyword)
        numbers = np.array([float(item) for item in (value if count > 1 else [value])])
    except _DAMAGE:
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword, 1)
    return None if numbers is None else float(numbers[0])


def _affine(dataset: Dataset, path: Path, log: _Log) -> geometry.FloatArray:
    """Affine of a file, or _Unusable where a tag is missing or cannot be true."""
    position = _numbers(dataset, "ImagePositionPatient", 3)
    direction = _numbers(dataset, "ImageOrientationPatient", 6)
    spacing = _numbers(dataset, "PixelSpacing", 2)
    for keyword, value in (
        ("ImagePositionPatient", position),
        ("ImageOrientationPatient", direction),
        ("PixelSpacing", spacing),
    ):
        if value is None:
            raise _Unusable("slice_dropped", f"{keyword} is missing or not a list of finite numbers")
    assert position is not None and direction is not None and spacing is not None
    if np.abs(position).max() > MAX_POSITION_MM:
        raise _Unusable("slice_dropped", f"ImagePositionPatient {position.tolist()} lies outside any scanner")
    if spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
        raise _Unusable("slice_dropped", f"PixelSpacing {spacing.tolist()} is not that of an MR image")
    row, column = direction[:3], direction[3:]
    flaw = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if flaw > REPAIRABLE_ORIENTATION:
        raise _Unusable("slice_dropped", f"ImageOrientationPatient {direction.tolist()} is not orthonormal")
    if flaw > EXACT_ORIENTATION:
        row = row / np.linalg.norm(row)
        column = column - (column @ row) * row
        direction = np.concatenate([row, column / np.linalg.norm(column)])
        log.add("geometry_repaired", f"{path.name}: ImageOrientationPatient was orthonormal only to {flaw:.3f}")
    return geometry.slice_affine(position, direction, spacing)


def _rescale(dataset: Dataset, path: Path, log: _Log) -> tuple[float, float]:
    """Rescale slope and intercept; (1, 0) where they are absent or unusable."""
    if "RescaleSlope" not in dataset and "RescaleIntercept" not in dataset:
        return 1.0, 0.0
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if not slope or intercept is None or abs(slope) > 1e6 or abs(intercept) > 1e9:
        log.add("values_repaired", f"{path.name}: rescale slope {slope} and intercept {intercept} were ignored")
        return 1.0, 0.0
    return slope, intercept


def _check_size(dataset: Dataset) -> None:
    """Refuse what is no single grey image of a sane size before anything is allocated for it."""
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not (MIN_SIDE_PX <= rows <= MAX_SIDE_PX and MIN_SIDE_PX <= columns <= MAX_SIDE_PX):
        raise _Unusable("file_unreadable", f"an image of {rows} rows and {columns} columns is not accepted")
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if frames != 1 or samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise _Unusable("file_unreadable", f"{frames} frames of {samples} samples ({photometric}), not one grey image")


def _decode(dataset: FileDataset) -> NDArray[np.generic]:
    """Pixels (H, W) as stored, read-only."""
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = ""
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        if syntax not in DECODERS:
            raise _Unusable("file_unreadable", f"transfer syntax {syntax.name} is not supported")
        plugin = DECODERS[syntax]
        if plugin not in get_decoder(syntax).available_plugins:
            raise _Unusable("file_unreadable", f"{syntax.name} needs {plugin}, which is not installed")
    pixels, _ = get_decoder(syntax).as_array(dataset, decoding_plugin=plugin)
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise _Unusable("file_unreadable", f"decoded to shape {pixels.shape}, header says otherwise")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise _Unusable("file_unreadable", "holds values that are not finite")
    pixels.setflags(write=False)
    return pixels


def _constant(pixels: NDArray[np.generic]) -> bool:
    return bool(pixels.min() == pixels.max())


def _axis(plane: Plane) -> int:
    return geometry.PLANE_AXIS[plane]


def _arrange(found: Sequence[Slice], description: str, log: _Log) -> tuple[list[Slice], list[int], Plane]:
    """The slices of the series' plane in patient order, and the stack of each."""
    plane = _series_plane(found, description)
    axis = _axis(plane)
    kept: list[Slice] = []
    for item in found:
        if abs(geometry.normal(item.affine)[axis]) < MIN_PLANE_COSINE:
            own = geometry.plane_of(item.affine)
            log.add("slice_dropped", f"{item.path.name}: a {own} slice in a {plane} series")
        else:
            kept.append(replace(item, plane=plane))
    groups: list[list[Slice]] = []
    for group in _by_orientation(kept):
        groups += _by_position(group, plane, log)
    groups.sort(key=lambda group: float(np.mean([_centre(item)[axis] for item in group])))
    if len(groups) > 1:
        log.add("several_stacks", f"{len(groups)} stacks of {', '.join(str(len(group)) for group in groups)} slices")
    slices = [item for group in groups for item in group]
    return slices, [number for number, group in enumerate(groups) for _ in group], plane


def _centre(item: Slice) -> geometry.FloatArray:
    return geometry.centre_mm(item.affine, item.pixels.shape)


def _series_plane(found: Sequence[Slice], description: str) -> Plane:
    """Plane of most slices; the description decides a tie."""
    planes = [geometry.plane_of(item.affine) for item in found]
    named = description.lower()
    return max(geometry.PLANE_AXIS, key=lambda plane: (planes.count(plane), plane in named))


def _by_orientation(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices grouped by their normal."""
    groups: list[list[Slice]] = []
    limit = math.cos(math.radians(STACK_ANGLE_DEG))
    for item in slices:
        own = geometry.normal(item.affine)
        near = (group for group in groups if abs(geometry.normal(group[0].affine) @ own) >= limit)
        group = next(near, None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return groups


def _by_position(group: list[Slice], plane: Plane, log: _Log) -> list[list[Slice]]:
    """Slices of one orientation sorted by position, repeated positions left out, split at wide gaps."""
    positions = geometry.positions_mm(np.stack([item.affine for item in group]), _axis(plane))
    ordered: list[tuple[float, Slice]] = []
    for index in np.lexsort(([item.file_order for item in group], positions)):
        position, item = float(positions[index]), group[index]
        if ordered and position - ordered[-1][0] < SAME_POSITION_MM:
            first = ordered[-1][1]
            twin, item = (item, first) if item.file_order > first.file_order else (first, item)
            ordered[-1] = (ordered[-1][0], item)
            log.add("slice_dropped", f"{twin.path.name}: same position as {item.path.name}")
        else:
            ordered.append((position, item))
    if len(ordered) < 3:
        return [[item for _, item in ordered]]
    steps = np.diff([position for position, _ in ordered])
    usual = float(np.percentile(steps, 25, method="lower"))
    stacks = [[ordered[0][1]]]
    for step, (_, item) in zip(steps, ordered[1:], strict=True):
        if plane != "sagittal" and step > STACK_GAP * usual:
            stacks.append([])
        elif step > MISSING_GAP * usual:
            log.add("slices_missing", f"{step:.1f} mm before {item.path.name}, where {usual:.1f} mm is usual")
        stacks[-1].append(item)
    return stacks
