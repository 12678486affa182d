"""What a run is asked for: its recipe and data, which study is in which fold, and which labels count."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

from lumbar.ensemble.suspects import read_left_out, without
from lumbar.metric import label_codes
from lumbar.recipe.recipe import Recipe
from lumbar.recipe.settings import Folds, Training
from lumbar.study.study import DataFolder
from lumbar.training.data.labelled import study_rows
from lumbar.training.data.packs import Packs, fingerprint
from lumbar.training.deadline import Deadline
from lumbar.training.folder import RunFolder
from lumbar.training.folds import make_folds
from lumbar.training.pretrained.sources import Sources


@dataclass(frozen=True)
class Setup:
    """A run before its first step; nothing in it changes while it trains."""

    folder: RunFolder
    recipe: Recipe
    data: DataFolder
    accelerator: Accelerator
    labels: pd.DataFrame  # by study, in the words of `train.csv`
    study_ids: list[int]  # those with a series and labels
    packs: Packs
    rows: dict[int, pd.DataFrame]  # labelled keypoints by study
    codes: dict[int, np.ndarray]  # labels (5 conditions, 5 levels) by study, places in `SEVERITIES`
    training_codes: dict[int, np.ndarray]  # without those that the recipe leaves out
    folds: pd.DataFrame  # `study_id, fold`
    deadline: Deadline = field(default_factory=Deadline)
    sources: Sources = field(default_factory=Sources)  # of pretrained weights

    @property
    def main(self) -> bool:
        """Whether this process is the one of several that reads, caches and writes."""
        return bool(self.accelerator.is_main_process)

    def limited_to(self, study_ids: list[int]) -> "Setup":
        """The same with some of the studies only."""
        return replace(self, study_ids=study_ids)

    def held_out(self, fold: int) -> list[int]:
        """Studies of a fold: not trained on, used to choose the epoch and for out-of-fold results."""
        return [int(study) for study in self.folds.loc[self.folds["fold"] == fold, "study_id"]]

    def in_trained_folds(self) -> list[int]:
        """Studies of the folds that the recipe trains: those that get out-of-fold keypoints."""
        return [study for fold in self.recipe.folds.train for study in self.held_out(fold)]

    def draws(self, training: Training) -> dict[int, int]:
        """How often an epoch takes the samples of each study whose source the recipe names (oversampling)."""
        return {study: training.draws[kind] for study, kind in self.data.sources.items() if kind in training.draws}

    def source(self, study: int) -> str:
        """Fingerprint of a study's images, keypoints and labels."""
        rows = self.rows.get(study)
        table = [] if rows is None else rows.astype(str).to_numpy().tolist()
        return fingerprint(self.packs.sources[study], table, self.codes[study].tolist())


def set_up(
    out: Path,
    recipe: Recipe,
    data: DataFolder,
    accelerator: Accelerator,
    sources: Sources | None = None,
    deadline: Deadline | None = None,
    *,
    cache: Path | None = None,
    split: bool = True,
) -> Setup:
    """The setup of the run folder `out`; its stored folds are kept where they still fit. Every process calls it.

    `data` has labels and keypoints. `cache`: where studies, stacks and regions lie, if not in `out`. `split=False`:
    folds play no part, and any number of studies will do. Raises InputError where its studies cannot make the folds.
    """
    assert data.labels is not None
    assert data.coordinates is not None
    folder = RunFolder(out, cache)
    study_ids = sorted(set(data.study_ids) & {int(study) for study in data.labels.index})
    found, numbers = label_codes(data.labels)
    codes = {int(study): code for study, code in zip(found, numbers, strict=True)}
    left_out = read_left_out(recipe.leave_out) if recipe.leave_out else set()
    kept = folder.kept_folds(study_ids, recipe.folds)
    wanted = recipe.folds if split else Folds(method="kfold", count=2, train=(0,))
    folds = make_folds(data.labels, study_ids, wanted) if kept is None else kept
    accelerator.wait_for_everyone()  # nobody writes before everybody has read
    return Setup(
        folder=folder,
        recipe=recipe,
        data=data,
        accelerator=accelerator,
        labels=data.labels,
        study_ids=study_ids,
        packs=Packs(folder.cache / "studies", data, folder.studies),
        rows=study_rows(data.coordinates),
        codes=codes,
        training_codes=without(codes, left_out),
        folds=folds,
        deadline=deadline or Deadline(),
        sources=sources or Sources(),
    )


def drawn(rows: np.ndarray, draws: Mapping[int, int]) -> np.ndarray:
    """Rows of samples (N, …), study first, each as often as `draws` says of its study (once where it says nothing)."""
    return np.repeat(rows, [draws.get(int(study), 1) for study in rows[:, 0]], axis=0)
