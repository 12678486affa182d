"""What each grader looks at and answers, and which encoder sees which view. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lumbar.labels import CONDITIONS, Condition
from lumbar.recipe.grader import GraderSpec, TaskName
from lumbar.recipe.views import View


@dataclass(frozen=True)
class Sample:
    """What one forward pass of a level takes in (views) and gives out (conditions)."""

    views: tuple[View, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Task:
    """A grading task: its samples per level, all of one layout, and the encoder that sees each place in a sample."""

    name: TaskName
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
    """What a member looks at and answers."""
    return TASKS[spec.task]
