"""Finished studies, kept one file each: a run that was killed goes on, and the parts of a shared run come together."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import BaseModel, ValidationError, create_model
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lumbar.files.write import write_bytes, writing_into
from lumbar.prediction.finished import kept_path
from lumbar.prediction.result import StudyResult
from lumbar.study.study import DataFolder


class Store:
    """The folder `finished` in a folder of results. A result counts only for the run and the files it was made from.

    Every field of a result is kept, arrays as tensors, all else as JSON in the header.
    """

    def __init__(
        self, out: Path, data: DataFolder, identity: Mapping[str, Any], kind: type[StudyResult] = StudyResult
    ) -> None:
        """`identity`: what decides the results beside a study's files (bundle, engine, …), as JSON can hold it."""
        self.out, self.data, self.kind = Path(out), data, kind
        self.run = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
        types = get_type_hints(kind)
        self._arrays = [one.name for one in fields(kind) if types[one.name] is np.ndarray]
        words = {one.name: (types[one.name], ...) for one in fields(kind) if one.name not in self._arrays}
        self._words: type[BaseModel] = create_model("Words", run=(str, ...), files=(str, ...), **words)  # type: ignore[call-overload]

    def save(self, result: StudyResult) -> None:
        """Keep a result; InputError where the disk refuses."""
        own = {one.name: getattr(result, one.name) for one in fields(result) if one.name not in self._arrays}
        words = self._words(run=self.run, files=_fingerprint(self.data, result.study_id), **own)
        arrays = {name: np.ascontiguousarray(getattr(result, name)) for name in self._arrays}
        with writing_into(self.out):
            write_bytes(save(arrays, {"words": words.model_dump_json()}), kept_path(self.out, result.study_id))

    def load(self, study_id: int, *, failed: bool = False) -> StudyResult | None:
        """What is kept of a study; None where nothing is, or it is damaged, of another run, or its files have changed.

        `failed`: whether a prior that stood in for the study counts; where it does not, the study is tried again.
        """
        path = kept_path(self.out, study_id)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as stored:
                words = dict(self._words.model_validate_json((stored.metadata() or {})["words"]))
                arrays = {name: stored.get_tensor(name) for name in self._arrays}
        except (SafetensorError, OSError, KeyError, ValidationError):
            return None
        if words.pop("run") != self.run or words.pop("files") != _fingerprint(self.data, study_id):
            return None
        result = self.kind(**words, **arrays)
        return result if failed or not result.failed else None


def _fingerprint(data: DataFolder, study_id: int) -> str:
    """What a study's result depends on: its rows of the series table; names, sizes and times of its files."""
    rows = data.series[data.series["study_id"] == study_id]
    if data.tree is None:  # what may not be read counts as not there
        walk = os.walk(data.folder(study_id))
        places = [(Path(folder).name, Path(folder, name)) for folder, _, names in walk for name in names]
    else:
        files = (path for number in rows["series_id"] for path in data.series_files(study_id, int(number)))
        places = [(path.relative_to(data.root).parent.as_posix(), path) for path in files]
    listed = []
    for folder, path in places:
        with suppress(OSError):
            info = path.stat()
            listed.append((folder, path.name, info.st_size, info.st_mtime_ns))
    return hashlib.sha256(repr((rows.to_numpy().tolist(), sorted(listed))).encode()).hexdigest()
