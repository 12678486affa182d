"""Studies read once: every usable slice of a study in one file, and what is derived from it, each file written whole.

A pack (`<study>.safetensors`) holds the pixels as stored and, in its header, everything else of the `Study`, with a
fingerprint of the DICOM files (names, sizes, times) and table rows it came from. A derived file carries the
fingerprint of its recipe part and of its pack. What does not match is made again; an interrupted run loses one file.
What a study held when it was first read is noted beside the cache (`studies.json`): where its files have other times
but hold the same, as in the next session on Kaggle, it is the same study, and what was learnt from it stays.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from lumbar.dicom.identity import Identity
from lumbar.dicom.series import Series, Slice
from lumbar.files.read import read_json
from lumbar.files.write import replacing, write_json, writing_into
from lumbar.issues import InputError, Issue
from lumbar.study.study import DataFolder, Study, read_study

VERSION = 1  # raise where packs or derived files change their layout or their numbers
_HEADER = "lumbar"
#: What safetensors calls numpy's types; in a file later ones come first, so that each array begins aligned.
_KINDS: Final = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16", "int32": "I32",
    "uint32": "U32", "float32": "F32", "float64": "F64", "int64": "I64", "uint64": "U64",
}  # fmt: skip
_ORDER: Final = {name: place for place, name in enumerate(_KINDS)}


def fingerprint(*parts: Any) -> str:
    """SHA-256 of the parts' JSON: equal inputs, equal words."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True, default=str).encode()).hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], **header: Any) -> None:
    """Write named arrays and a JSON header as one safetensors file, whole or not at all.

    The library's own writer copies each array before it writes it, which takes as long as decoding a slice; the header
    is simple, and a test compares the file with the library's.
    """
    plain = {name: np.ascontiguousarray(_native(array)) for name, array in arrays.items()}
    ordered = sorted(plain.items(), key=lambda item: (-_ORDER[item[1].dtype.name], item[0]))
    table: dict[str, Any] = {"__metadata__": {_HEADER: json.dumps(header)}}
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        kind = _KINDS[array.dtype.name]
        table[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    try:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for _, array in ordered:
                stream.write(array.reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free space on that disk and run again"
        ) from error


def read_header(path: Path) -> dict[str, Any] | None:
    """The JSON header of a file of `write_arrays`; None where there is no such file or it is damaged."""
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            return header if isinstance(header, dict) else None
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError):
        return None


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the header of a file of `write_arrays`."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return load(data), json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_HEADER])


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array


def study_fingerprint(data: DataFolder, study_id: int) -> str:
    """Of everything a study is read from: files with size and time, rows of the series table."""
    files = [(name, found.st_size, found.st_mtime_ns) for name, found in _files_below(data.folder(study_id))]
    rows = data.series[data.series["study_id"] == study_id]
    return fingerprint(study_id, sorted(files), rows.astype(str).to_numpy().tolist())


def _files_below(folder: Path | str, begin: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Name below the folder and what the system says of each file; folders that are links are not entered."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path, f"{begin}{entry.name}/")
        elif entry.is_file(follow_symlinks=False) or Path(entry.path).is_file():
            yield begin + entry.name, entry.stat()


def content_fingerprint(study: Study) -> str:
    """Of what was read from a study's files, wherever they lie and whenever they were written."""
    held = []
    for series_type, group in sorted(study.series.items()):
        for series in group:
            rows = [[name, value] for item in series.slices for name, value in _row(item, item.path.name).items()]
            plain = [np.ascontiguousarray(_native(item.pixels)).reshape(-1) for item in series.slices]
            pixels = [hashlib.sha256(each.data).hexdigest() for each in plain]
            slabs = [int(slab) for slab in series.slabs]
            held.append([series_type, series.series_id, series.plane, slabs, rows, pixels, series.affines.tolist()])
    return fingerprint(held)


def write_study(study: Study, path: Path, source: str, content: str | None = None) -> None:
    """Write a pack; `content`: the study's `content_fingerprint`, where it is known."""
    arrays: dict[str, np.ndarray] = {}
    table: dict[str, list[dict[str, Any]]] = {}
    for series_type, group in study.series.items():
        table[series_type] = []
        for series in group:
            rows = []
            for number, item in enumerate(series.slices):
                name = f"{series.series_id}/{number}"
                arrays[name], arrays[f"{name}/affine"] = item.pixels, item.affine
                rows.append(_row(item, str(item.path)))
            entry = {"series_id": series.series_id, "description": series.description, "plane": series.plane}
            table[series_type].append({**entry, "stacks": [int(stack) for stack in series.slabs], "slices": rows})
    issues = [asdict(issue) for issue in study.issues]
    content = content or content_fingerprint(study)
    write_arrays(path, arrays, source=source, content=content, study_id=study.study_id, series=table, issues=issues)


#: Fields of a slice that a table holds; its arrays stand beside it.
_FIELDS: Final = tuple(f.name for f in fields(Slice) if f.name not in ("pixels", "affine"))
_IDENTITY: Final = tuple(f.name for f in fields(Identity))
#: Fields of a slice that JSON makes lists of.
_PAIRS = ("stored_range", "padding", "pixel_spacing")


def _row(item: Slice, path: str) -> dict[str, Any]:
    """What is kept of a slice beside its arrays, as JSON has it."""
    row = {name: getattr(item, name) for name in _FIELDS}
    row = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return row | {"path": path, "identity": {name: getattr(item.identity, name) for name in _IDENTITY}}


def load_study(path: Path) -> Study:
    """The study of a pack, equal to what `read_study` gave."""
    arrays, header = read_arrays(path)
    for array in arrays.values():
        array.flags.writeable = False

    def one(entry: dict[str, Any]) -> Series:
        slices = []
        for number, row in enumerate(entry["slices"]):
            name = f"{entry['series_id']}/{number}"
            pairs = {key: tuple(row[key]) if row.get(key) else None for key in _PAIRS}
            values = {**row, **pairs, "path": Path(row["path"])}
            values["identity"] = Identity(**row.get("identity", {}))
            slices.append(Slice(**values, pixels=arrays[name], affine=arrays[f"{name}/affine"]))
        place = (entry["series_id"], entry["description"], entry["plane"])
        return Series(*place, tuple(slices), tuple(entry["stacks"]))

    series = {name: tuple(one(entry) for entry in group) for name, group in header["series"].items()}
    return Study(header["study_id"], series, tuple(Issue(**issue) for issue in header["issues"]))  # type: ignore[arg-type]


class Known(BaseModel):
    """A study as a run has seen it: its files with their times, what they held, and the name that stays with that."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    files: str
    content: str
    source: str


_KNOWN: Final = TypeAdapter(dict[int, Known])


class Packs:
    """The packs of a run: `ensure` reads what is missing or changed, `study` gives one.

    `noted`: the file of the run that tells what its studies held.
    """

    def __init__(self, folder: Path, data: DataFolder, noted: Path) -> None:
        self.folder, self.data, self.noted = folder, data, noted
        self.sources: dict[int, str] = {}
        self.known: dict[int, Known] = {}

    def path(self, study_id: int) -> Path:
        """Where a study's pack lies."""
        return self.folder / f"{study_id}.safetensors"

    def ensure(self, study_ids: Iterable[int], each: Callable[[Callable[[int], None], list[int], str], None]) -> None:
        """Make every pack that is missing or out of date; `each(function, items, title)` runs it over processes.

        InputError where `noted` is damaged.
        """
        self.known = self._known()
        stale, files = [], {}
        for study_id in study_ids:
            seen = files[study_id] = study_fingerprint(self.data, study_id)
            before = self.known.get(study_id)
            self.sources[study_id] = before.source if before and before.files == seen else seen
            header = read_header(self.path(study_id))
            if header is None or header.get("source") != self.sources[study_id]:
                stale.append(study_id)
        each(self.make, stale, "reading studies")
        found = {}
        for study_id, seen in files.items():
            header = read_header(self.path(study_id)) or {}
            self.sources[study_id] = header.get("source", self.sources[study_id])
            content = header.get("content", "")  # packs of an earlier version do not tell it
            found[study_id] = Known(files=seen, content=content, source=self.sources[study_id])
        if found != {study_id: self.known.get(study_id) for study_id in found}:
            self.known = {**self.known, **found}
            with writing_into(self.noted.parent):
                write_json(_KNOWN.dump_python(self.known, mode="json"), self.noted)

    def _known(self) -> dict[int, Known]:
        if not self.noted.is_file():
            return {}
        remedy = "delete it, and what was trained on studies whose files have other times than then is trained again"
        try:
            return _KNOWN.validate_python(read_json(self.noted, remedy))
        except ValidationError as error:
            raise InputError(f"{self.noted}: is not what a run writes there; {remedy}") from error

    def know(self, study_ids: Iterable[int]) -> None:
        """Learn the fingerprints of packs that another process made; InputError where this one cannot see them."""
        for study_id in study_ids:
            header = read_header(self.path(study_id))
            if header is None:
                raise InputError(
                    f"{self.path(study_id)}: missing, although the first process wrote it; give --out and --cache on a "
                    "disk that all machines share"
                )
            self.sources[study_id] = header["source"]

    def make(self, study_id: int) -> None:
        """Read one study's DICOM files and write its pack, under the name that it had where it holds the same."""
        study, before = read_study(self.data, study_id), self.known.get(study_id)
        content = content_fingerprint(study)
        same = before is not None and before.content == content
        source = before.source if before is not None and same else self.sources[study_id]
        write_study(study, self.path(study_id), source, content)

    def study(self, study_id: int) -> Study:
        """One study, from its pack."""
        return load_study(self.path(study_id))
