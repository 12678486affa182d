"""Which losses a member can be asked for, by word, and their weights. No torch."""

from collections.abc import Mapping
from typing import Final

from lumbar.recipe.detector import Answer, DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.settings import Training

#: What a detector's answer can be asked for; what a recipe that names nothing asks for comes first.
OF_ANSWERS: Final[Mapping[Answer, tuple[str, ...]]] = {
    "heatmaps": ("mse", "bce", "dice", "focal"),
    "points": ("l1", "squared"),
    "slices": ("cross_entropy", "bce", "l1"),
    "boxes": ("focal", "l1"),
}
#: What a grader can be asked for: the severities, the official score's any-severe term, and outputs by their names.
OF_GRADERS: Final = ("severity", "any_severe", "slices", "views", "level")
#: Of these, what every grader can be asked for; others are outputs that its network gives beside.
OF_ALL_GRADERS: Final = ("severity", "any_severe")


def losses_of(spec: DetectorSpec | GraderSpec, training: Training) -> dict[str, float]:
    """Every loss that a member is asked for and its weight, old spellings included."""
    if training.loss:
        return dict(training.loss)
    if isinstance(spec, DetectorSpec):
        return dict.fromkeys(OF_ANSWERS[spec.answer] if spec.answer == "boxes" else OF_ANSWERS[spec.answer][:1], 1.0)
    old = {"any_severe": training.any_severe_weight, "slices": training.auxiliary_weight}
    return {"severity": 1.0} | {word: weight for word, weight in old.items() if weight}
