"""Which losses a member can be asked for, by word, and their weights. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from lumbar.recipe.answers import Answer
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.settings import Training

#: What a detector's answer can be asked for; what a recipe that names nothing asks for comes first.
OF_ANSWERS: Final[Mapping[Answer, tuple[str, ...]]] = {
    "heatmaps": ("mse", "bce", "dice", "focal", "severity"),
    "points": ("l1", "squared"),
    "slices": ("cross_entropy", "bce", "l1"),
    "boxes": ("focal", "l1"),
}


@dataclass(frozen=True)
class GraderLoss:
    """What one word asks of a grader: which output of its network is compared with what.

    `target`: the sample's severities; what of them is severe; whether any level is severe; which level it is; which
    slice of each view carries its annotation; where on their slices the labels lie; which places of two
    views are one position in the patient. `annotated`: slices alone that
    carry an annotation of the condition are asked. `mixes`: which mixed samples have a label for it: all; all but those
    of slices from two studies; those that are whole studies; none.
    """

    output: str
    target: Literal["severity", "severe", "any_severe", "level", "slice", "points", "shared"] = "severity"
    annotated: bool = False
    mixes: Literal["always", "slices stay", "studies", "never"] = "always"

    @property
    def beside(self) -> bool:
        """Whether its output is one that a network gives beside the severities, in training only."""
        return self.output != "severity"

    @property
    def by_slice(self) -> bool:
        """Whether it must be known which slices carry an annotation."""
        return self.annotated or self.target in ("slice", "points")


#: What a grader can be asked for. A new word is an entry here; a network gives the output, which makes (B, L, …, C, 3)
#: of severities. Only another target needs a function, too, see `training.loop.grader_losses`.
OF_GRADERS: Final[Mapping[str, GraderLoss]] = {
    "severity": GraderLoss("severity"),
    "severe": GraderLoss("severity", "severe"),
    "any_severe": GraderLoss("severity", "any_severe", mixes="studies"),
    "slices": GraderLoss("slices"),
    "views": GraderLoss("views"),
    "auxiliary": GraderLoss("auxiliary"),
    "level": GraderLoss("level", "level"),
    "slice_scores": GraderLoss("slice_scores", annotated=True, mixes="slices stay"),
    "annotated_slice": GraderLoss("annotated_slice", "slice", mixes="slices stay"),
    "heatmaps": GraderLoss("heatmaps", "points", mixes="never"),
    "correspondence": GraderLoss("embedding", "shared", mixes="never"),
}


def of_detector(spec: DetectorSpec, training: Training) -> dict[str, float]:
    """Every loss that a detector is asked for and its weight."""
    known = OF_ANSWERS[spec.answer]
    return dict(training.loss) or dict.fromkeys(known if spec.answer == "boxes" else known[:1], 1.0)


def of_grader(training: Training) -> dict[str, float]:
    """Every loss that a grader is asked for and its weight, old spellings included."""
    if training.loss:
        return dict(training.loss)
    old = {"any_severe": training.any_severe_weight, "slices": training.auxiliary_weight}
    return {"severity": 1.0} | {word: weight for word, weight in old.items() if weight}


def asks_shared(training: Training) -> bool:
    """Whether a grader's losses ask for positions that several of its views show."""
    return any(OF_GRADERS[word].target == "shared" for word in of_grader(training) if word in OF_GRADERS)


def asks_annotations(training: Training) -> bool:
    """Whether a grader's losses ask which slices carry an annotation."""
    return any(OF_GRADERS[word].by_slice for word in of_grader(training) if word in OF_GRADERS)
