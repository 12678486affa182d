"""What a grader trains on: one level's views with their labels, from the cached files of a run.

A sample is read from disk as little as possible: one level's views out of a study's file. What changes it at random is
drawn here and applied on the device (see `augment`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from lumbar.grading.mirror import mirror_view
from lumbar.grading.tasks import TASKS
from lumbar.labels import CONDITIONS, LEVELS, Condition, SeriesType
from lumbar.labels import mirrored as other_side
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training
from lumbar.recipe.views import MIRROR_VIEW, OWN_VIEW, View
from lumbar.training.data import augment
from lumbar.training.data.flips import Flips, flips
from lumbar.training.data.slice_shift import Shares, draw
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.loop.losses import EMPTY


class RegionSamples:
    """Stage 2: the views of one level and the severities of its conditions.

    Files hold, for each view, `<view>` (5, T, S, S) uint8, `<view>/range` (5, 2) and `<view>/present` (5,).
    """

    def __init__(
        self,
        folder: Path,
        studies: Sequence[int],
        codes: Mapping[int, np.ndarray],
        spec: GraderSpec,
        training: Training,
        soft: SoftLabels | None = None,
        shares: Mapping[SeriesType, Shares] | None = None,
    ) -> None:
        """`codes`: each study's labels (5 conditions, 5 levels), places in `SEVERITIES`, `EMPTY` where unknown.

        Of training only: `soft` labels beside them, and how far windows are shifted by series type (`shares`), where
        files hold more slices than the spec asks for.
        """
        self.folder, self.spec, self.training = folder, spec, training
        self.soft, self.shares = soft, shares or {}
        self.task, self.codes = TASKS[spec.task], codes
        self.present = {study: self._present(study) for study in studies}
        rows = [
            (study, level, number)
            for study in studies
            for level in range(len(LEVELS))
            for number, sample in enumerate(self.task.samples)
            if any(self.present[study][view][level] for view in sample.views)
            and self._known(study, level, sample.conditions, mirrored=False)
        ]
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 3)

    @property
    def studies(self) -> np.ndarray:
        """(N,) study of each sample."""
        return self.rows[:, 0]

    def _path(self, study: int) -> Path:
        return self.folder / f"{study}.safetensors"

    def _present(self, study: int) -> dict[View, np.ndarray]:
        with safe_open(self._path(study), "np") as file:
            return {view: file.get_tensor(f"{view}/present") for view in self.task.views}

    def _labels(self, study: int, level: int, conditions: Sequence[Condition], *, mirrored: bool) -> np.ndarray:
        """(C,) labels; EMPTY where the member would stay silent."""
        sources = [other_side(name) if mirrored else name for name in conditions]
        labels = np.array([self.codes[study][CONDITIONS.index(name), level] for name in sources], dtype=np.int64)
        labels[self._silent(study, level, sources)] = EMPTY
        return labels

    def _known(self, study: int, level: int, conditions: Sequence[Condition], *, mirrored: bool) -> bool:
        if self.soft is not None:
            return bool(self._targets(study, level, conditions, mirrored=mirrored).any())
        return bool((self._labels(study, level, conditions, mirrored=mirrored) != EMPTY).any())

    def _targets(self, study: int, level: int, conditions: Sequence[Condition], *, mirrored: bool) -> np.ndarray:
        """(C, 3) shares of the severities, labels and soft ones as the recipe mixes them; zero where it is silent."""
        assert self.soft is not None
        sources = [other_side(name) if mirrored else name for name in conditions]
        soft = np.where(self._silent(study, level, sources)[:, None], np.nan, self.soft.of(study, sources, level))
        return self.soft.targets(self._labels(study, level, conditions, mirrored=mirrored), soft)

    def _silent(self, study: int, level: int, sources: Sequence[Condition]) -> np.ndarray:
        """(C,) where the member would stay silent, since it cannot see the condition's own view."""
        if self.spec.preprocessing.missing == "silent" and self.spec.view_dropout == 0:
            return np.array([not self.present[study][OWN_VIEW[name]][level] for name in sources])
        return np.zeros(len(sources), bool)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """`views` (V, T, S, S), `seen` (V,), `labels` (C,), `study` (), and the draws (V, …) where `rng` is given."""
        study, level, number = (int(value) for value in self.rows[index])
        names, conditions = self.task.samples[number].views, self.task.samples[number].conditions
        flipped = self._flips(names, rng)
        mirrored = flipped.mirrored and self._known(study, level, conditions, mirrored=True)
        labels = self._labels(study, level, conditions, mirrored=mirrored)
        views, seen = self._views(study, level, names, mirrored)
        out: dict[str, Any] = {"views": self._window(views, names, rng), "seen": seen, "labels": labels}
        out["study"] = np.int64(study)
        if self.soft is not None:
            out["soft"] = self._targets(study, level, conditions, mirrored=mirrored)
        if rng is None:
            return out
        out["seen"] = self._drop(seen, rng)
        if flipped.backwards:
            axial = np.array([name.startswith("axial") for name in names])
            out["views"] = np.where(axial[:, None, None, None], out["views"][:, ::-1], out["views"])
        draws = [self._draw(name, rng, flipped) for name in names]
        return out | {key: np.stack([draw[key] for draw in draws]) for key in draws[0]}

    def _views(self, study: int, level: int, names: Sequence[View], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        views, seen = [], []
        with safe_open(self._path(study), "np") as file:
            for name in names:
                source = MIRROR_VIEW[name] if mirrored else name
                low, high = file.get_slice(f"{source}/range")[level]
                view = file.get_slice(source)[level].astype(np.float32) * ((high - low) / 255) + low
                views.append(mirror_view(view, name, self.spec) if mirrored else view)
                seen.append(bool(file.get_slice(f"{source}/present")[level]))
        return np.stack(views), np.array(seen)

    def _window(self, views: np.ndarray, names: Sequence[View], rng: np.random.Generator | None) -> np.ndarray:
        """The slices (V, T, S, S) that the network sees of views whose files hold some more at either end."""
        spare = (views.shape[1] - self.spec.slices) // 2
        if not spare:
            return views
        none: Shares = (1.0,)
        drawn = [0 if rng is None else draw(rng, self.shares.get(series_of(name), none)) for name in names]
        starts = [spare + min(max(shift, -spare), spare) for shift in drawn]
        return np.stack([view[at : at + self.spec.slices] for view, at in zip(views, starts, strict=True)])

    def _drop(self, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        kept = seen & (rng.random(len(seen)) >= self.spec.view_dropout)
        return kept if kept.any() else seen

    def _flips(self, names: Sequence[View], rng: np.random.Generator | None) -> Flips:
        if rng is None:
            return Flips(mirrored=False, backwards=False, columns=False, rows=False)
        axial = [name.startswith("axial") for name in names]
        return flips(rng, self.training.augment, sagittal=not all(axial), axial=any(axial))

    def _draw(self, view: View, rng: np.random.Generator, flipped: Flips) -> augment.Draw:
        axial = view.startswith("axial")
        turned = {"columns": flipped.columns and not axial, "rows": flipped.rows}
        draw = augment.draw(rng, self.training.augment, self.spec.slices, shuffle=axial, **turned)
        jitter = rng.normal(0, self.training.keypoint_jitter_mm / self.spec.roi_mm, 2)
        return draw | {"shift": (draw["shift"] + jitter).astype(np.float32)}


def series_of(view: View) -> SeriesType:
    """The series type that a view is cut from."""
    if view.startswith("axial"):
        return "axial_t2"
    return "sagittal_t2" if view == "sagittal_t2" else "sagittal_t1"
