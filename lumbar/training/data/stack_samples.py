"""What a detector trains on: stacks with their keypoints, from the cached files of a run.

A sample is read from disk as little as possible: one stack out of a study's file. What changes it at random is drawn
here and applied on the device (see `augment`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from lumbar.keypoints.mirror import (
    filled,
    mirror_scores,
    mirror_slices,
    mirror_stack,
    mirrored_maps,
    reverse_scores,
    reverse_slices,
)
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.settings import Training
from lumbar.training.data import augment
from lumbar.training.data.flips import Flips, flips
from lumbar.training.loop.shared_losses import EMPTY


class StackSamples:
    """Stage 1: stacks and keypoints. Files hold: `images` (N, C, S, S), `points` (N, K, 2) px, `mm_per_px` (N, 2),
    `flip` (N,), `slices` (N, K), `slice_mm` (N,), `told` and `rows` (N, K), see `stack_files.stack_arrays`.
    """

    def __init__(
        self,
        folder: Path,
        studies: Sequence[int],
        spec: DetectorSpec,
        training: Training,
        codes: Mapping[int, np.ndarray] | None = None,
        lessons: Path | None = None,
    ) -> None:
        """`codes`: each study's severities (5 conditions, 5 levels), `EMPTY` where unknown; asked for by a loss.

        `lessons`: the folder of what a teacher says of each stack, `lessons` (N, K, T) in a file a study that it speaks
        of; in training only.
        """
        self.folder, self.spec, self.training, self.lessons = folder, spec, training, lessons
        self.codes = codes if "severity" in training.loss else None
        rows = []
        for study in studies:
            with safe_open(self._path(study), "np") as file:
                rows += [(study, number) for number in range(file.get_slice("images").get_shape()[0])]
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 2)

    @property
    def studies(self) -> np.ndarray:
        """(N,) study of each sample."""
        return self.rows[:, 0]

    def _path(self, study: int) -> Path:
        return self.folder / f"{study}.safetensors"

    def _lesson(self, study: int, number: int, image: np.ndarray, flipped: Flips) -> np.ndarray:
        """(K, T) what the teacher says of a stack `image`, as it is turned; NaN where it is silent."""
        path = self.lessons / f"{study}.safetensors" if self.lessons is not None else None
        if path is None or not path.is_file():
            return np.full((self.spec.num_classes, self.spec.in_chans), np.nan, np.float32)
        with safe_open(path, "np") as file:
            lesson = np.asarray(file.get_slice("lessons")[number], np.float32)
        lesson = mirror_scores(lesson, image, self.spec) if flipped.mirrored else lesson
        return reverse_scores(lesson, image, self.spec) if flipped.backwards else lesson

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """`image` (C, S, S) float16, `points` (K, 2) px, `mm_per_px` (2,), and the draw where `rng` is given.

        Where the answer names slices, also `slices` (K,), `slice_mm` () and `told` (K,), and slices keep their order.
        Where a detector is taught, `lesson` (K, T) in training, NaN where its teacher is silent. Where a loss asks for
        severities, `labels` (K,).
        """
        study, number = self.rows[index]
        names = ("images", "points", "mm_per_px", *(("slices", "slice_mm", "told") if self.spec.names_slices else ()))
        with safe_open(self._path(study), "np") as file:
            image, points, scale, *slices = (file.get_slice(name)[number] for name in names)
            flip = float(file.get_tensor("flip")[number])
            rows = file.get_slice("rows")[number] if self.codes is not None else None
        out: dict[str, Any] = {"image": image, "points": points, "mm_per_px": scale}
        if self.codes is not None and rows is not None:
            out["labels"] = np.where(rows < 0, EMPTY, self.codes[int(study)].ravel()[rows]).astype(np.int64)
        if slices:
            out |= dict(zip(("slices", "slice_mm", "told"), slices, strict=True))
        if rng is None:
            return out
        axial = self.spec.series_type.startswith("axial")
        flipped = flips(rng, self.training.augment, sagittal=not axial, axial=axial)
        if flipped.mirrored:
            if slices:
                out["slices"] = mirror_slices(slices[0], image, self.spec)
                out["told"] = slices[2][mirrored_maps(self.spec)]
            if "labels" in out:
                out["labels"] = out["labels"][mirrored_maps(self.spec)]
            out["image"], out["points"] = mirror_stack(image, points, flip, self.spec)
        if flipped.backwards:
            out["image"] = reverse_slices(out["image"], self.spec)
            if slices:
                out["slices"] = filled(image, self.spec) - 1 - out["slices"]
        if self.lessons is not None:
            out["lesson"] = self._lesson(study, number, image, flipped)
        drawn = augment.draw(rng, self.training.augment, len(image), **flipped.turned(axial=axial))
        if slices:
            drawn["order"] = np.arange(len(image))
        return out | drawn
