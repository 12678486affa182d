"""A run folder: where everything lies, and how what is done is read back. Nothing here trains.

recipe.json               the resolved recipe
labels.csv, folds.csv     the labels that were used, and which study is in which fold
studies.json              what each study held when it was read (see `data.packs`)
cache/                    studies, stacks and regions (may be deleted: it is made again); or where --cache says
members/<name>/fold<k>/   checkpoint while it trains; best.safetensors and result.json when done, and of graders
                          likeness.safetensors: what the regions of the held-out studies look like to them
keypoints/fold<k>.json    what the fold's detectors found on its held-out studies, and what the labels say
predictions/<name>.csv    out-of-fold probabilities of each grader, blend.csv of all; made_from.json
predictions/logits.safetensors  the graders' logits (N, 5, 5, 3) by name, NaN where silent, and `study_ids` (N,)
blend/                    which blend was chosen and why; what it learned
finished.json             that training ended, and with what: evaluate and bundle want it so
issues.json               what of the images was missing or repaired; keypoints whose slice could not be read
metrics.jsonl             a line an epoch
evaluation.json, .html    made by `evaluate`: figures, and a page of tables and charts; plots/ holds the charts
suspect_labels.csv        what the blend finds hard to believe
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save

from lumbar.files.read import read_json, read_table, whole_numbers
from lumbar.files.write import sha256, write_bytes, write_csv, write_json
from lumbar.issues import InputError, few
from lumbar.labels import SEVERITIES, row_ids
from lumbar.metric import read_labels
from lumbar.recipe.recipe import Recipe, check_recipe
from lumbar.recipe.settings import Folds
from lumbar.recipe.wording import describe
from lumbar.study.keypoint import Keypoint
from lumbar.training.data.packs import fingerprint, read_header

_POINTS: Final = TypeAdapter(dict[int, list[Keypoint]])
_AGAIN: Final = "run train_utils.py train again, it makes what is missing"


@dataclass(frozen=True)
class RunFolder:
    """The paths and finished results of a run. Reading raises InputError where something is not there yet."""

    root: Path
    cache_at: Path | None = None

    @property
    def cache(self) -> Path:
        """What may be deleted."""
        return self.cache_at or self.root / "cache"

    @property
    def studies(self) -> Path:
        """What each study held."""
        return self.root / "studies.json"

    @property
    def blend(self) -> Path:
        """The run's blend: see `blending`."""
        return self.root / "blend"

    def member(self, name: str, fold: int) -> Path:
        """Folder of one member on one fold."""
        return self.root / "members" / name / f"fold{fold}"

    def likeness_file(self, name: str, fold: int) -> Path:
        """What the regions of a fold's held-out studies look like to one member; missing where they are too few."""
        return self.member(name, fold) / "likeness.safetensors"

    def keypoint_file(self, fold: int) -> Path:
        """Out-of-fold keypoints of a fold."""
        return self.root / "keypoints" / f"fold{fold}.json"

    def prediction_file(self, name: str) -> Path:
        """Out-of-fold probabilities of a grader, or of the `blend`."""
        return self.root / "predictions" / f"{name}.csv"

    def check_free(self) -> None:
        """InputError where the folder holds something and is no run; a cache alone is fine."""
        held = [entry.name for entry in self.root.iterdir()] if self.root.is_dir() else []
        held = [name for name in held if name != "cache" and not name.endswith(".tmp")]  # others try to write
        if not held:
            return
        try:
            self.recipe()
        except (InputError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.root} holds {few(sorted(held))} and no recipe.json of a run that this version knows; give a "
                "new folder as --out"
            ) from error

    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return check_recipe(self._json("recipe.json"), str(self.root / "recipe.json"))

    def folds(self) -> pd.DataFrame:
        """Table `study_id, fold`."""
        path = self._there(self.root / "folds.csv")
        table = read_table(path, ["study_id", "fold"], text=["study_id", "fold"])
        return table.assign(**{name: whole_numbers(table[name], path) for name in ("study_id", "fold")})

    def kept_folds(self, study_ids: list[int], folds: Folds) -> pd.DataFrame | None:
        """The stored folds, where they split the same studies by the same settings; else None."""
        if not (self.root / "recipe.json").is_file() or not (self.root / "folds.csv").is_file():
            return None
        stored, table = self._json("recipe.json", "folds")["folds"], self.folds()
        wanted = folds.model_dump(mode="json")
        same = isinstance(stored, dict) and all(
            stored.get(name) == wanted[name] for name in ("method", "count", "seed")
        )
        return table if same and table["study_id"].tolist() == study_ids else None

    def labels(self) -> pd.DataFrame:
        """Labels by study, in the words of `train.csv`."""
        return read_labels(self._there(self.root / "labels.csv"))

    def result(self, name: str, fold: int) -> dict[str, Any] | None:
        """`fingerprint`, `saw`, `began`, `best` and `history` of a trained member; None where it is not done."""
        folder = self.member(name, fold)
        header = read_header(folder / "best.safetensors")
        if header is None or not (folder / "result.json").is_file():
            return None
        result = self._json(folder / "result.json", "fingerprint", "saw", "best", "history")
        # A run with other settings that was stopped leaves its weights beside the result of the one before.
        return result if header.get("fingerprint") == result["fingerprint"] else None

    def untrained(self) -> list[str]:
        """Members and folds of the recipe that are not done yet."""
        return [f"{name} fold {fold}" for name, fold in self.recipe().to_train() if self.result(name, fold) is None]

    def check_finished(self) -> None:
        """InputError where the results are not all there, or are not those of the stored recipe, labels and folds."""
        path = self.root / "finished.json"
        if missing := self.untrained():
            raise InputError(
                f"{self.root}: not trained yet: {few(missing)}; run train_utils.py train again, it goes on"
            )
        if not path.is_file() or self._json(path) != {"fingerprint": self._state()}:
            raise InputError(
                f"{self.root}: training by its present recipe and data has not ended; run train_utils.py train again, "
                "it goes on"
            )

    def finish(self) -> None:
        """Say that everything is trained and graded."""
        write_json({"fingerprint": self._state()}, self.root / "finished.json")

    def _state(self) -> str:
        """What a run was asked for, and what came of it."""
        recipe = self.recipe()
        asked = [sha256(self._there(self.root / name)) for name in ("recipe.json", "labels.csv", "folds.csv")]
        results = [self.result(name, fold) for name, fold in recipe.to_train()]
        points = [self.keypoint_fingerprint(fold) for fold in recipe.folds.train]
        return fingerprint(
            asked, [found and found["fingerprint"] for found in results], points, self.prediction_fingerprint()
        )

    def keypoints(self, folds: tuple[int, ...]) -> dict[int, list[Keypoint]]:
        """Out-of-fold keypoints by study."""
        return {study: points for fold in folds for study, points in self._points(fold, "studies")}

    def keypoints_by_set(self, folds: tuple[int, ...]) -> list[dict[int, list[Keypoint]]]:
        """The same for each set of keypoints, the first of them first."""
        first = self.keypoints(folds)
        others: list[dict[int, list[Keypoint]]] = []
        for fold in folds:
            path = self.keypoint_file(fold)
            for number, content in enumerate(self._json(path).get("other_sets", ())):
                others += [{}] if len(others) <= number else []
                others[number] |= self._checked(path, content)
        return [first, *others]

    def labelled_keypoints(self, folds: tuple[int, ...]) -> dict[int, list[Keypoint]]:
        """Keypoints of the label table by study, for the same studies."""
        return {study: points for fold in folds for study, points in self._points(fold, "labels")}

    def keypoint_fingerprint(self, fold: int) -> str | None:
        """What a fold's keypoints were made from; None where they are not there."""
        path = self.keypoint_file(fold)
        stored = self._json(path) if path.is_file() else {}
        return stored.get("fingerprint") if {"studies", "labels"} <= stored.keys() else None

    def prediction_fingerprint(self) -> str | None:
        """What the prediction tables were made from; None where they are not there."""
        path = self.root / "predictions" / "made_from.json"
        return self._json(path).get("fingerprint") if path.is_file() else None

    def _points(self, fold: int, what: str) -> list[tuple[int, list[Keypoint]]]:
        path = self.keypoint_file(fold)
        return list(self._checked(path, self._json(path).get(what, {})).items())

    def _checked(self, path: Path, content: Any) -> dict[int, list[Keypoint]]:
        """Keypoints by study, as a file has them."""
        try:
            return _POINTS.validate_python(content)
        except ValidationError as error:
            raise InputError(f"{path}: {describe(error)}; {_AGAIN}") from error

    def _json(self, path: Path | str, *keys: str) -> dict[str, Any]:
        """An object of the run that must have these keys; InputError where it is missing or something else.

        `path`: a name in the run's folder, or the whole path.
        """
        path = self._there(self.root / path if isinstance(path, str) else path)
        stored = read_json(path, _AGAIN)
        if not isinstance(stored, dict) or not stored.keys() >= set(keys):
            raise InputError(f"{path}: is not what training writes there; {_AGAIN}")
        return stored

    def _there(self, path: Path) -> Path:
        if not path.is_file():
            raise InputError(f"{path} is missing; give a run folder, and let train_utils.py train finish it")
        return path


def write_predictions(folder: RunFolder, tables: dict[str, dict[int, np.ndarray]]) -> None:
    """Write each grader's out-of-fold probabilities (rows where it spoke), as submissions are written.

    `tables`: for each grader the probabilities (5, 5, 3) by study, NaN where it was silent.
    """
    studies = sorted({study for table in tables.values() for study in table})
    names = [row for study in studies for row in row_ids(study)]
    for name, table in tables.items():
        rows = np.concatenate([table[study].reshape(-1, len(SEVERITIES)) for study in studies])
        frame = pd.DataFrame(rows, columns=list(SEVERITIES))
        frame.insert(0, "row_id", names)
        write_csv(frame.dropna(), folder.prediction_file(name))


def write_logits(folder: RunFolder, tables: Mapping[str, Mapping[int, np.ndarray]]) -> None:
    """Write what the graders' out-of-fold probabilities were made of; `tables` as of `write_predictions`."""
    studies = sorted({study for table in tables.values() for study in table})
    arrays = {name: np.stack([table[study] for study in studies]).astype(np.float32) for name, table in tables.items()}
    stored = save({**arrays, "study_ids": np.array(studies, dtype=np.int64)})
    write_bytes(stored, folder.root / "predictions" / "logits.safetensors")


def seal_predictions(folder: RunFolder, fingerprint: str) -> None:
    """Say what the prediction tables were made from, when all of them are written."""
    write_json({"fingerprint": fingerprint}, folder.root / "predictions" / "made_from.json")
