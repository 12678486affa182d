"""What each grader looks at and answers, and which encoder sees which view. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lumbar.labels import CONDITIONS, Condition, mirrored
from lumbar.recipe.grader import GraderSpec, TaskName
from lumbar.recipe.views import MIRROR_VIEW, View, kind_of


@dataclass(frozen=True)
class Sample:
    """What one forward pass of a level takes in (views) and gives out (conditions)."""

    views: tuple[View, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Task:
    """A grading task: its samples per level, all of one layout, and the encoder that sees each place in a sample."""

    name: TaskName | None
    samples: tuple[Sample, ...]
    encoders: tuple[int, ...]

    @property
    def views(self) -> tuple[View, ...]:
        """Every view of the task, in the order of samples."""
        return tuple(dict.fromkeys(view for sample in self.samples for view in sample.views))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Every condition of the task, in the order of samples."""
        return tuple(condition for sample in self.samples for condition in sample.conditions)

    @property
    def num_conditions(self) -> int:
        """Conditions that one sample answers."""
        return len(self.samples[0].conditions)


TASKS: Final[Mapping[TaskName, Task]] = {
    "spinal": Task("spinal", (Sample(("sagittal_t2", "axial_middle"), CONDITIONS[:1]),), (0, 1)),
    "foraminal": Task(
        "foraminal",
        (Sample(("sagittal_t1_left",), CONDITIONS[1:2]), Sample(("sagittal_t1_right",), CONDITIONS[2:3])),
        (0,),
    ),
    "subarticular": Task(
        "subarticular", (Sample(("axial_left",), CONDITIONS[3:4]), Sample(("axial_right",), CONDITIONS[4:5])), (0,)
    ),
    "global": Task(
        "global",
        (Sample(("sagittal_t2", "sagittal_t1_left", "sagittal_t1_right", "axial_left", "axial_right"), CONDITIONS),),
        (0, 1, 1, 2, 2),
    ),
}


def task_of(spec: GraderSpec) -> Task:
    """What a member looks at and answers; a sample that bears a side is followed by its mirrored twin."""
    return TASKS[spec.task] if spec.task is not None else _task(spec.views, spec.conditions)


def heard(spec: GraderSpec) -> tuple[Condition, ...]:
    """The conditions that a member's answers count for, those of twins included."""
    every = task_of(spec).conditions
    counted = {*spec.speaks_for, *(mirrored(name) for name in spec.speaks_for)}
    return tuple(name for name in dict.fromkeys(every) if not counted or name in counted)


@lru_cache(maxsize=64)
def _task(views: tuple[View, ...], conditions: tuple[Condition, ...]) -> Task:
    written = Sample(views, conditions)
    twin = Sample(tuple(MIRROR_VIEW[view] for view in views), tuple(mirrored(name) for name in conditions))
    alike = set(twin.views) == set(views) and set(twin.conditions) == set(conditions)
    kinds = list(dict.fromkeys(kind_of(view) for view in views))
    encoders = tuple(kinds.index(kind_of(view)) for view in views)
    return Task(None, (written,) if alike else (written, twin), encoders)
