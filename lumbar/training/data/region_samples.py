"""What a grader trains on: the views of one level, or of all five, with their labels, from the cached files of a run.

A sample is read from disk as little as possible: its views out of a study's file. What changes it at random is drawn
here and applied on the device (see `augment`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from lumbar.grading.mirror import mirror_view
from lumbar.grading.tasks import task_of
from lumbar.labels import CONDITIONS, LEVELS, Condition, SeriesType
from lumbar.labels import mirrored as other_side
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.losses import asks_annotations, asks_shared
from lumbar.recipe.settings import Training
from lumbar.recipe.views import MIRROR_VIEW, View, own_views, series_of
from lumbar.training.data import annotations, augment
from lumbar.training.data.flips import Flips, flips
from lumbar.training.data.layout import SHARED, groups, numbered
from lumbar.training.data.slice_shift import Shares, draw
from lumbar.training.data.soft_labels import SoftLabels
from lumbar.training.loop.shared_losses import EMPTY

#: Study, level (-1: all), number of the sample in its task, number of the series.
Row = tuple[int, int, int, int]


class RegionSamples:
    """Stage 2: views and the severities of conditions, of one level or all five.

    Files hold, for each view, `<view>` (5, T, H, W) uint8, `<view>/range` (5, 2), `<view>/present` (5,) and
    `<view>/annotated` (5, T, conditions); where every series is a sample of its own, the second's under `<view>.1`, ….
    Of whole series, seen once for all levels, the first axis is 1, and there are `<view>/points` (5, conditions, 2) px.
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
        labelled: Path | None = None,
    ) -> None:
        """`codes`: each study's labels (5 conditions, 5 levels), places in `SEVERITIES`, `EMPTY` where unknown.

        Of training only: `soft` labels beside them, and how far windows are shifted by series type (`shares`), where
        files hold more slices than the spec asks for; the folder of the same regions around `labelled` keypoints, from
        which a share of the samples comes (`labelled_p`).
        """
        self.folder, self.spec, self.training = folder, spec, training
        self.soft, self.shares, self.labelled = soft, shares or {}, labelled
        self.task, self.codes, self.groups = task_of(spec), codes, groups(spec)
        self.annotated = asks_annotations(training)
        self.present = {study: self._present(study) for study in studies}
        every = [-1] if spec.levels != "one" else range(len(LEVELS))
        rows = [
            (study, level, number, series)
            for study in studies
            for level in every
            for number, sample in enumerate(self.task.samples)
            for series, present in enumerate(self.present[study])
            if any(present[view][self._levels(level)].any() for view in sample.views)
            and self._known((study, level, number, series), mirrored=False)
        ]
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 4)

    @property
    def studies(self) -> np.ndarray:
        """(N,) study of each sample."""
        return self.rows[:, 0]

    def _path(self, study: int, *, labelled: bool = False) -> Path:
        folder = self.labelled if labelled and self.labelled is not None else self.folder
        return folder / f"{study}.safetensors"

    def _around_labels(self, row: Row, rng: np.random.Generator | None) -> bool:
        """Whether a sample is drawn from the regions around labels; these must show all that it shows."""
        if rng is None or self.labelled is None or rng.random() >= self.training.labelled_p:
            return False
        study, level, _, series = row
        told = self._present(study, labelled=True)
        here = self.present[study][series]
        return series < len(told) and all(
            (told[series][view] >= shown)[self._levels(level)].all() for view, shown in here.items()
        )

    def _present(self, study: int, *, labelled: bool = False) -> list[dict[View, np.ndarray]]:
        """Which levels each view shows, for every series that is a sample of its own; most have one."""
        with safe_open(self._path(study, labelled=labelled), "np") as file:
            names = set(file.keys())
            found: list[dict[View, np.ndarray]] = []
            while all(f"{numbered(view, len(found))}/present" in names for view in self.task.views):
                series = len(found)
                found.append({view: file.get_tensor(f"{numbered(view, series)}/present") for view in self.task.views})
        return found

    def _shown(self, level: int) -> list[int]:
        """The levels of a sample that have views of their own; of whole series one stands for all."""
        return [0] if self.spec.levels == "study" else self._levels(level)

    @staticmethod
    def _levels(level: int) -> list[int]:
        """The levels of a sample; -1 stands for all."""
        return [level] if level >= 0 else list(range(len(LEVELS)))

    def _sources(self, row: Row, *, mirrored: bool) -> list[Condition]:
        """The conditions whose labels a row's sample has; in the mirror those of the other side."""
        conditions = self.task.samples[row[2]].conditions
        return [other_side(name) if mirrored else name for name in conditions]

    def _labels(self, row: Row, *, mirrored: bool) -> np.ndarray:
        """(L, C) labels; EMPTY where the member would stay silent."""
        levels, sources = self._levels(row[1]), self._sources(row, mirrored=mirrored)
        labels = self.codes[row[0]][np.ix_([CONDITIONS.index(name) for name in sources], levels)].T.astype(np.int64)
        labels[self._silent(row, mirrored=mirrored)] = EMPTY
        return labels

    def _known(self, row: Row, *, mirrored: bool) -> bool:
        if self.soft is not None:
            return bool(self._targets(row, mirrored=mirrored).any())
        return bool((self._labels(row, mirrored=mirrored) != EMPTY).any())

    def _targets(self, row: Row, *, mirrored: bool) -> np.ndarray:
        """(L, C, 3) shares of the severities, as the recipe mixes labels and soft ones; zero where it is silent."""
        assert self.soft is not None
        sources = self._sources(row, mirrored=mirrored)
        soft = np.stack([self.soft.of(row[0], sources, level) for level in self._levels(row[1])])
        soft = np.where(self._silent(row, mirrored=mirrored)[..., None], np.nan, soft)
        return self.soft.targets(self._labels(row, mirrored=mirrored), soft)

    def _silent(self, row: Row, *, mirrored: bool) -> np.ndarray:
        """(L, C) where the member would stay silent, since it cannot see the condition's own view."""
        study, level, number, series = row
        levels, sources = self._levels(level), self._sources(row, mirrored=mirrored)
        if self.spec.preprocessing.missing != "silent" or self.spec.view_dropout > 0:
            return np.zeros((len(levels), len(sources)), bool)
        views = [MIRROR_VIEW[view] if mirrored else view for view in self.task.samples[number].views]
        present = self.present[study][series]
        seen = [np.any([present[view] for view in own_views(name, views)], axis=0) for name in sources]
        return ~np.stack(seen, axis=1)[levels]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """`views` (V, T, H, W), `seen` (V,), `labels` (C,), `level` (), `study` (), draws (V, …) where `rng` is given.

        Where losses ask for them: which slices of all views, one after the other, carry an annotation of each of its
        conditions, `annotated` (T, C), or of any that the view shows, `marked` (T,).
        Of all five levels every array but the study begins with them; of whole series `views`, `seen` and draws begin
        with one for all, and with annotations come `points` (V, 25, 2) px, in the order of levels, then conditions.
        Views of another form stand apart, see `layout`.
        """
        study, level, number, series = (int(value) for value in self.rows[index])
        row, names = (study, level, number, series), self.task.samples[number].views
        flipped = self._flips(names, rng)
        mirrored = flipped.mirrored and self._known(row, mirrored=True)
        labelled = self._around_labels(row, rng)
        views, seen = self._views(row, names, mirrored, labelled=labelled)
        windows = [[self._window(*one, rng) for one in zip(own, names, strict=True)] for own in views]
        views = [[view[at] for view, at in zip(*both, strict=True)] for both in zip(views, windows, strict=True)]
        out: dict[str, Any] = {"seen": seen, "labels": self._labels(row, mirrored=mirrored)}
        out["level"] = np.array(self._levels(level))
        if self.soft is not None:
            out["soft"] = self._targets(row, mirrored=mirrored)
        draws: list[list[augment.Draw]] = []
        if rng is not None:
            out["seen"] = self._drop(seen, rng)
            if flipped.backwards:
                views = [
                    [v[::-1] if n.startswith("axial") else v for v, n in zip(own, names, strict=True)] for own in views
                ]
            draws = [[self._draw(name, rng, flipped) for name in names] for _ in views]
        if self.annotated:
            orders = [[draw["order"] for draw in own] for own in draws]
            out |= self._annotations(row, flipped, mirrored, windows, orders, out["seen"], labelled=labelled)
        if self.annotated and self.spec.levels == "study":
            out |= self._points(row, mirrored=mirrored)
        if asks_shared(self.training):
            own = [draw["order"] for draw in draws[0]] if draws else []
            out |= self._shared(row, flipped, mirrored, windows[0], own)
        for group, places in enumerate(self.groups):
            out[numbered("views", group)] = np.stack([np.stack([own[place] for place in places]) for own in views])
            for key in draws[0][0] if rng is not None else ():
                drawn = [np.stack([own[place][key] for place in places]) for own in draws]
                out[numbered(key, group)] = np.stack(drawn)
        if level >= 0:
            out = {name: value[0] for name, value in out.items()}
        return out | {"study": np.int64(study)}

    def _views(
        self, row: Row, names: Sequence[View], mirrored: bool, *, labelled: bool
    ) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """The views of each level, and which are there (L, V)."""
        study, level, _, series = row
        views, seen = [], []
        with safe_open(self._path(study, labelled=labelled), "np") as file:
            for place in self._shown(level):
                own, there = [], []
                for name in names:
                    source = numbered(MIRROR_VIEW[name] if mirrored else name, series)
                    low, high = file.get_slice(f"{source}/range")[place]
                    view = file.get_slice(source)[place].astype(np.float32) * ((high - low) / 255) + low
                    own.append(mirror_view(view, name, self.spec) if mirrored else view)
                    there.append(bool(file.get_slice(f"{source}/present")[place]))
                views.append(own)
                seen.append(there)
        return views, np.array(seen)

    def _window(self, view: np.ndarray, name: View, rng: np.random.Generator | None) -> slice:
        """The frames that the network sees of a view (T, H, W) whose file may hold some more at either end."""
        region = self.spec.region_of(name)
        spare = (len(view) // region.channels - region.slices) // 2
        if not spare:
            return slice(0, len(view))
        shift = 0 if rng is None else draw(rng, self.shares.get(series_of(name), (1.0,)))
        start = (spare + min(max(shift, -spare), spare)) * region.channels
        return slice(start, start + region.frames)

    def _annotations(
        self,
        row: Row,
        flipped: Flips,
        mirrored: bool,
        windows: Sequence[Sequence[slice]],
        orders: Sequence[Sequence[np.ndarray]],
        seen: np.ndarray,
        *,
        labelled: bool,
    ) -> dict[str, np.ndarray]:
        """`annotated` (L, T, C) and `marked` (L, T) of a sample, whose frames were turned, chosen and put in order."""
        study, level, number, series = row
        names, conditions = self.task.samples[number].views, self._sources(row, mirrored=mirrored)
        found = []
        with safe_open(self._path(study, labelled=labelled), "np") as file:
            for at, place in enumerate(self._levels(level)):
                for view, name in enumerate(names):
                    source = MIRROR_VIEW[name] if mirrored else name
                    own = min(at, len(windows) - 1)  # of whole series one stands for all levels
                    told = file.get_slice(f"{numbered(source, series)}/annotated")[place] * seen[own, view]
                    backwards = flipped.backwards and name.startswith("axial")
                    order = orders[own][view] if orders else None
                    at_window = windows[own][view]
                    frames = annotations.frames(self.spec, name, len(told), at_window, order, mirrored, backwards)
                    found.append(annotations.of_view(told[frames], source, conditions))
        count = len(self._levels(level))
        both = (np.concatenate(each).reshape(count, -1, *each[0].shape[1:]) for each in zip(*found, strict=True))
        return dict(zip(("annotated", "marked"), both, strict=True))

    def _points(self, row: Row, *, mirrored: bool) -> dict[str, np.ndarray]:
        """Where labels lie on the views of whole series (1, V, 25, 2) px, by group, see `layout`."""
        names, conditions = self.task.samples[row[2]].views, self._sources(row, mirrored=mirrored)
        own = [CONDITIONS.index(name) for name in conditions]
        found = []
        with safe_open(self._path(row[0]), "np") as file:
            for name in names:
                source = numbered(MIRROR_VIEW[name] if mirrored else name, row[3])
                points = file.get_tensor(f"{source}/points")[:, own]
                if mirrored and name.startswith("axial"):  # whose columns are turned, see `mirror_view`
                    points = points * (-1, 1) + (self.spec.region_of(name).size[1] - 1, 0)
                found.append(points.reshape(-1, 2).astype(np.float32))
        return {
            numbered("points", group): np.stack([found[place] for place in places])[None]
            for group, places in enumerate(self.groups)
        }

    def _shared(
        self,
        row: Row,
        flipped: Flips,
        mirrored: bool,
        windows: Sequence[slice],
        orders: Sequence[np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Positions of the study (1, P, 3) mm, and by group where its views show them (1, V, P, 3): slice, column, row;
        NaN where they do not. Slices are those of the sample, columns and rows before its draws."""
        found = []
        with safe_open(self._path(row[0]), "np") as file:
            mm = file.get_tensor(numbered(SHARED, row[3]))
            for place, name in enumerate(self.task.samples[row[2]].views):
                source = MIRROR_VIEW[name] if mirrored else name
                shown = file.get_tensor(f"{numbered(source, row[3])}/{SHARED}")
                axial, region = name.startswith("axial"), self.spec.region_of(name)
                order = orders[place] if orders else None
                backwards = flipped.backwards and axial
                own = annotations.frames(self.spec, name, region.slices, windows[place], order, mirrored, backwards)
                at = (shown[:, :1] == own).argmax(1)
                gone = ~(shown[:, :1] == own).any(1)
                columns = region.size[1] - 1 - shown[:, 1] if mirrored and axial else shown[:, 1]
                moved = np.column_stack([at, columns, shown[:, 2]])
                found.append(np.where(gone[:, None], np.nan, moved).astype(np.float32))
        shared = {
            numbered(SHARED, group): np.stack([found[place] for place in places])[None]
            for group, places in enumerate(self.groups)
        }
        return shared | {f"{SHARED}/mm": mm[None]}

    def _drop(self, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        kept = seen & (rng.random(seen.shape) >= self.spec.view_dropout)
        return np.where(kept.any(axis=-1, keepdims=True), kept, seen)

    def _flips(self, names: Sequence[View], rng: np.random.Generator | None) -> Flips:
        if rng is None:
            return Flips(mirrored=False, backwards=False, columns=False, rows=False)
        axial = [name.startswith("axial") for name in names]
        return flips(rng, self.training.augment, sagittal=not all(axial), axial=any(axial))

    def _draw(self, view: View, rng: np.random.Generator, flipped: Flips) -> augment.Draw:
        axial = view.startswith("axial")
        region = self.spec.region_of(view)
        shuffle = axial and not region.neighbours
        turned = flipped.turned(axial=axial)
        draw = augment.draw(rng, self.training.augment, region.frames, shuffle=shuffle, **turned)
        height, width = (
            region.extent if region.units == ("mm", "mm") and region.extent else (self.spec.roi_mm, self.spec.roi_mm)
        )
        jitter = rng.normal(0, self.training.keypoint_jitter_mm, 2) / (width, height)
        return draw | {"shift": (draw["shift"] + jitter).astype(np.float32)}
