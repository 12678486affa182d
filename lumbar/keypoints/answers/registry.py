"""What a detector can answer, by the recipe's word. A new kind is a file with the three functions of `Answer`, its
words in `recipe.answers` and `recipe.losses`, and its losses in `training.loop.detector_losses`.

The files are imported when their answer is asked for; none of them needs torch.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

import numpy as np

from lumbar.keypoints.answers.reading import Reading
from lumbar.recipe.answers import Answer as AnswerName
from lumbar.recipe.detector import DetectorSpec

#: Word → the file that knows it.
ANSWERS: Final[Mapping[AnswerName, str]] = {
    "heatmaps": "lumbar.keypoints.answers.heatmaps",
    "points": "lumbar.keypoints.answers.points",
    "slices": "lumbar.keypoints.answers.slices",
    "boxes": "lumbar.keypoints.answers.boxes",
}


class Answer(Protocol):
    """One kind of answer."""

    def shape(self, spec: DetectorSpec) -> tuple[int, ...]:
        """Shape of the raw answer to one stack."""

    def join(self, raw: Sequence[Any], how: str = "mean", *, every: bool = False) -> Any:
        """One raw answer (N, …) out of several members' to the same stacks: NumPy arrays or tensors, as they come.

        `how`: mean or median over members. What says nothing is left out (`every`: counts like any other, as long as
        it holds numbers); where no member says anything the joined answer is NaN.
        """

    def read(self, spec: DetectorSpec, raw: np.ndarray) -> Reading:
        """Raw answers (N, …) float32 to N stacks, as points."""


def answer_of(spec: DetectorSpec) -> Answer:
    """The kind of answer that a detector gives."""
    return cast(Answer, importlib.import_module(ANSWERS[spec.answer]))
