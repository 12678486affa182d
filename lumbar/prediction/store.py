"""Finished studies, kept one file each: a run that was killed goes on, and the parts of a shared run come together."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lumbar.files.write import write_bytes, writing_into
from lumbar.issues import Issue
from lumbar.prediction.finished import kept_path
from lumbar.prediction.result import StudyResult
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import DataFolder

_ARRAYS: Final = ("probabilities", "members", "graded", "seen")


@dataclass(frozen=True)
class _Words:
    """What of a result is no array, and what it was made from."""

    run: str
    files: str
    study_id: int
    keypoints: tuple[Keypoint, ...]
    issues: tuple[Issue, ...]
    used: dict[str, list[int]]
    seconds: float
    failed: bool
    ran_on: str
    dropped: tuple[str, ...]


_WORDS: Final = TypeAdapter(_Words)


class Store:
    """The folder `finished` in a folder of results. A result counts only for the run and the files it was made from."""

    def __init__(self, out: Path, data: DataFolder, identity: Mapping[str, Any]) -> None:
        """`identity`: what decides the results beside a study's files (bundle, engine, …), as JSON can hold it."""
        self.out, self.data = Path(out), data
        self.run = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()

    def save(self, result: StudyResult) -> None:
        """Keep a result; InputError where the disk refuses."""
        words = _Words(
            run=self.run,
            files=_fingerprint(self.data, result.study_id),
            study_id=result.study_id,
            keypoints=result.keypoints,
            issues=result.issues,
            used={kind: list(listed) for kind, listed in result.used.items()},
            seconds=result.seconds,
            failed=result.failed,
            ran_on=result.ran_on,
            dropped=result.dropped,
        )
        arrays = {name: np.ascontiguousarray(getattr(result, name)) for name in _ARRAYS}
        with writing_into(self.out):
            write_bytes(save(arrays, {"words": _WORDS.dump_json(words).decode()}), kept_path(self.out, result.study_id))

    def load(self, study_id: int, *, failed: bool = False) -> StudyResult | None:
        """What is kept of a study; None where nothing is, or it is damaged, of another run, or its files have changed.

        `failed`: whether a prior that stood in for the study counts; where it does not, the study is tried again.
        """
        path = kept_path(self.out, study_id)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as stored:
                words = _WORDS.validate_json((stored.metadata() or {})["words"])
                arrays = {name: stored.get_tensor(name) for name in _ARRAYS}
        except (SafetensorError, OSError, KeyError, ValidationError):
            return None
        if words.run != self.run or (words.failed and not failed) or words.files != _fingerprint(self.data, study_id):
            return None
        return StudyResult(
            study_id=words.study_id,
            keypoints=words.keypoints,
            issues=words.issues,
            used=words.used,
            seconds=words.seconds,
            failed=words.failed,
            ran_on=words.ran_on,
            dropped=words.dropped,
            **arrays,
        )


def _fingerprint(data: DataFolder, study_id: int) -> str:
    """What a study's result depends on: its rows of the series table; names, sizes and times of its files."""
    rows = data.series[data.series["study_id"] == study_id]
    listed = []
    for folder, _, names in os.walk(data.folder(study_id)):  # what may not be read counts as not there
        for name in names:
            with suppress(OSError):
                info = Path(folder, name).stat()
                listed.append((Path(folder).name, name, info.st_size, info.st_mtime_ns))
    return hashlib.sha256(repr((rows.to_numpy().tolist(), sorted(listed))).encode()).hexdigest()
