"""A study on its way through the stages, with what is known of it so far."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lumbar.grading.regions import Regions
from lumbar.issues import Issue
from lumbar.keypoints.keypoint import Keypoint
from lumbar.study import Study


@dataclass(eq=False)
class Case:
    """A study on its way through the stages."""

    study_id: int
    study: Study | None = None
    issues: list[Issue] = field(default_factory=list)
    keypoints: list[Keypoint] = field(default_factory=list)
    regions: dict[str, Regions] = field(default_factory=dict)  # by `region_key`
    used: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, np.ndarray] = field(default_factory=dict)  # (5, 5, 3) by member
    device_failed: list[Issue] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None
    reason: str = ""


Step = Callable[[Case], None]
