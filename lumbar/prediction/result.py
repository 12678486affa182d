"""What one study came to, and what its members could not see of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lumbar.issues import Issue
from lumbar.labels import CONDITIONS, LEVELS, Condition, condition_title, level_title
from lumbar.recipe.evidence import UNKNOWN, Evidence, complete, rests_on
from lumbar.recipe.views import OWN_VIEW, series_of
from lumbar.study.keypoint import Keypoint

#: Metadata of a result's field that stands in the run report: its key there.
REPORTED: Final = "report"


@dataclass(frozen=True, repr=False)
class StudyResult:
    """What one study came to. Axes are named by `labels.CONDITIONS`, `labels.LEVELS` and `labels.SEVERITIES`.

    `store` keeps every field, whatever there is; the run report has those that say so. A new field is written here
    alone, with a default.
    """

    study_id: int = field(metadata={REPORTED: "study_id"})
    probabilities: np.ndarray  # (5 conditions, 5 levels, 3), blended, each row sums to 1
    members: np.ndarray  # (M, 5, 5, 3), NaN where a member stays silent
    graded: np.ndarray  # (5, 5) bool; False: no member spoke, the weighted prior stands in
    seen: np.ndarray  # (5, 5) bool; False: no region on the condition's own view, who spoke saw the level on others
    keypoints: tuple[Keypoint, ...] = ()
    issues: tuple[Issue, ...] = ()
    #: (5, 5), how little each region looks like those of training, above 1 too little; NaN where nobody can tell.
    strangeness: np.ndarray = field(default_factory=lambda: np.full((len(CONDITIONS), len(LEVELS)), np.nan))
    #: (M, 5, 5, 3), what the members' probabilities were made of.
    logits: np.ndarray = field(default_factory=lambda: np.zeros((0, len(CONDITIONS), len(LEVELS), 3)))
    #: Series ids by series type.
    used: Mapping[str, list[int]] = field(default_factory=dict, metadata={REPORTED: "series_used"})
    seconds: float = field(default=0.0, metadata={REPORTED: "seconds"})
    failed: bool = field(default=False, metadata={REPORTED: "failed"})
    ran_on: str = ""  # device and number type
    dropped: tuple[str, ...] = ()  # members that a time budget had left out by then
    phantom: bool = field(default=False, metadata={REPORTED: "phantom"})  # a synthetic study of ours
    #: What the severities of each condition rest on, as the bundle tells it.
    evidence: Mapping[Condition, Evidence] = field(default_factory=lambda: complete({}))

    def __repr__(self) -> str:
        """In short, with what the severities rest on."""
        kind = "phantom, " if self.phantom else ""
        told = f"{int(np.sum(self.graded))} of 25 graded, {len(self.keypoints)} keypoints, {len(self.issues)} issues"
        return f"StudyResult {self.study_id}: {kind}{told}. Severities rest on: {self.rests_on(short=True)}."

    @property
    def backed(self) -> np.ndarray:
        """(5 conditions,) bool: whether a test on patients backs the severities, or the study is a phantom."""
        return np.array([self.phantom or self.evidence.get(one, UNKNOWN).on_patients for one in CONDITIONS])

    @property
    def strange(self) -> np.ndarray:
        """(5 conditions, 5 levels) bool: where a network graded a region that looks like nothing seen in training."""
        return np.asarray(self.graded, dtype=bool) & beyond_bar(self.strangeness)

    @property
    def shown_as_told(self) -> np.ndarray:
        """(5 conditions, 5 levels) bool: whether severities may be shown as they are: `backed`, and not `strange`."""
        shown: np.ndarray = self.backed[:, None] & ~self.strange
        return shown

    def rests_on(self, *, short: bool = False) -> str:
        """What the severities rest on, in one line."""
        return rests_on(self.evidence, short=short)


def left_out(study_id: int, graded: np.ndarray, seen: np.ndarray) -> tuple[Issue, ...]:
    """What members could not see of a study: `graded` and `seen` (5, 5) as in `StudyResult`."""
    return (*_unseen(study_id, graded & ~seen), *_ungraded(study_id, graded, seen))


def not_finite(
    study_id: int, unanswered: Mapping[str, np.ndarray], graded: np.ndarray, engine: str
) -> tuple[Issue, ...]:
    """One Issue a member that gave no numbers; `unanswered` (5, 5) bool by its name says where it should have spoken.

    `graded` (5, 5) tells whether others spoke there; `engine` is how the networks ran.
    """
    issues = []
    for name, silent in unanswered.items():
        others = "other members or the prior" if graded[silent].any() else "the prior"
        others = "other members" if graded[silent].all() else others
        what = f"{name} gave no number for {silent.sum()} of its answers ({engine}); {others} spoke for it"
        issues.append(Issue("answer_not_finite", study_id, None, what))
    return tuple(issues)


def beyond_bar(strangeness: np.ndarray) -> np.ndarray:
    """Which of some regions look like nothing seen in training; False where nobody can tell."""
    beyond: np.ndarray = np.nan_to_num(strangeness, nan=0.0) > 1
    return beyond


def unlike(study_id: int, graded: np.ndarray, strangeness: np.ndarray) -> Iterator[Issue]:
    """One Issue a condition for the levels (5, 5) that were graded on a region which looks like nothing seen before."""
    for condition, row, shares in zip(CONDITIONS, graded & beyond_bar(strangeness), strangeness, strict=True):
        if row.any():
            told = [f"{level_title(LEVELS[place])} ({shares[place]:.1f})" for place in np.flatnonzero(row)]
            series = series_of(OWN_VIEW[condition]).replace("_", " ").replace(" t", " T")
            detail = (
                f"{condition_title(condition)} {', '.join(told)}: on {series} the region looks like nothing that the "
                "graders learnt from (in brackets how many times as far from it as allowed)"
            )
            yield Issue("region_strange", study_id, None, detail)


def _unseen(study_id: int, spoken: np.ndarray) -> Iterator[Issue]:
    """One Issue a condition for the levels (5, 5) at which only members without its own view spoke."""
    for condition, row in zip(CONDITIONS, spoken, strict=True):
        if row.any():
            levels = ", ".join(level_title(level) for level, there in zip(LEVELS, row, strict=True) if there)
            detail = f"{condition_title(condition)} {levels}: graded by members that see the level on other series"
            yield Issue("condition_unseen", study_id, None, detail)


def _ungraded(study_id: int, graded: np.ndarray, seen: np.ndarray) -> Iterator[Issue]:
    for (row, column), spoken in np.ndenumerate(graded):
        if not spoken:
            what = f"{condition_title(CONDITIONS[row])} {level_title(LEVELS[column])}"
            why = "no member gave an answer" if seen[row, column] else "no member could see its region"
            yield Issue("condition_ungraded", study_id, None, f"{what}: {why}; the prior stands in")
