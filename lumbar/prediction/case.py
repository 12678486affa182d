"""A study on its way through the stages, with what is known of it so far, and what becomes of it where a step fails.

`attempt` is the per-study boundary and the only wide `except` of the project.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lumbar.grading.grade import Batches
from lumbar.grading.likeness import Features
from lumbar.grading.regions import Regions
from lumbar.issues import InputError, Issue, cut
from lumbar.study.keypoint import Keypoint
from lumbar.study.study import Study

OnError = Literal["fail", "prior"]
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Case:
    """A study on its way through the stages."""

    study_id: int
    study: Study | None = None
    issues: list[Issue] = field(default_factory=list)
    keypoints: list[Keypoint] = field(default_factory=list)
    regions: list[dict[str, Regions]] = field(default_factory=list)  # by set of keypoints and `region_key`
    batches: dict[str, Batches] = field(default_factory=dict)  # on an accelerator, by where, set and `region_key`
    used: dict[str, list[int]] = field(default_factory=dict)
    phantom: bool = False
    answers: dict[str, np.ndarray] = field(default_factory=dict)  # logits (5, 5, 3) by member
    unanswered: dict[str, np.ndarray] = field(default_factory=dict)  # (5, 5) bool by member: no number where it saw
    features: dict[str, Features] = field(default_factory=dict)  # what backbones say of its regions, by member
    device_failed: list[Issue] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None
    reason: str = ""


Step = Callable[[Case], None]


def attempt(step: Step, on_error: OnError, case: Case) -> None:
    """A step of a study, unless an earlier one failed; the per-study boundary: no study takes others with it."""
    if case.error is not None:
        return
    try:
        step(case)
    except Exception as error:  # whatever is wrong with one study
        case.error = error
        case.reason = str(error) if isinstance(error, InputError) else _unexpected(case.study_id, error)
        if on_error == "fail":
            raise InputError(case.reason) from error


def _unexpected(study_id: int, error: Exception) -> str:
    _log.debug("study %s failed", study_id, exc_info=error)
    remedy = "look at its files, or run with --on-error prior to go on without it"
    return f"study {study_id}: {type(error).__name__}: {cut(str(error), 120)}; {remedy}"
