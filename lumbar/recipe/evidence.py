"""What a condition's severities rest on: what its graders learnt from, and how they were tested on patients. No torch.

A recipe states it below `[card.evidence]`, the manifest carries it, and every place that shows a severity says it.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from lumbar.labels import CONDITION_GROUPS, CONDITIONS, Condition, condition_title
from lumbar.recipe.strict import Strict

#: More patients than any study has.
MOST_PATIENTS: Final = 10_000_000
Words = Annotated[str, Field(max_length=300)]


class PatientTest(Strict):
    """One test on patients that no grader had learnt from: how many, of what, graded by whom, with which figures."""

    LATER = frozenset({"intervals"})

    patients: int = Field(strict=True, ge=1, le=MOST_PATIENTS)
    #: What of them, in a few words: "205 discs on mid-sagittal T2 images: 173 / 18 / 14 of each severity"; what stands
    #: behind a colon is left out where there is little room.
    cases: Words = ""
    graded_by: Annotated[str, Field(min_length=1, max_length=300)]
    figures: dict[Words, float] = Field(min_length=1, max_length=20)
    #: Of some of them the middle 95 % over draws of patients.
    intervals: dict[Words, tuple[float, float]] = Field(default={}, max_length=20)
    #: What measures the figures again.
    command: Words = ""

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        for name, (low, high) in self.intervals.items():
            if name not in self.figures:
                yield f"intervals names {name!r}, which is none of figures; give the figure too or leave it out"
            elif not low <= self.figures[name] <= high:
                yield f"intervals: {name} is {self.figures[name]:g}, not from {low:g} to {high:g}; correct it"

    def says(self, *, short: bool = False) -> str:
        """In words; `short`: without the cases' counts, and with the first figure alone."""
        figures = [f"{name} {value:.3g}{self._spread(name)}" for name, value in self.figures.items()]
        figures = figures[: 1 if short else None]
        cases = self.cases.partition(":")[0] if short else self.cases
        of = f" ({cases})" if cases else ""
        return f"tested on {self.patients} patients{of}, graded by {self.graded_by}: {', '.join(figures)}"

    def _spread(self, name: str) -> str:
        low, high = self.intervals.get(name, (None, None))
        return "" if low is None else f" ({low:.3g} to {high:.3g})"


class Evidence(Strict):
    """What one condition's severities rest on; by default nothing is known of it."""

    LATER = frozenset({"points"})

    learnt_from: Literal["unknown", "phantoms", "patients", "phantoms and patients"] = "unknown"
    #: Patients whose studies the graders learnt from, and who graded those.
    patients: int = Field(default=0, strict=True, ge=0, le=MOST_PATIENTS)
    graded_by: Words = ""
    tested: tuple[PatientTest, ...] = Field(default=(), max_length=20)
    #: How far its keypoints lie from marked ones, and on how many real images: "2.3 mm off (median of 19) on 4 slices".
    points: Words = ""

    def rules(self) -> Iterator[str]:
        """See `Strict`."""
        told = bool(self.patients), bool(self.graded_by)
        if "patients" in self.learnt_from and not all(told):
            yield "learnt_from names patients; say how many (patients) and who graded them (graded_by)"
        if "patients" not in self.learnt_from and any(told):
            yield f'learnt_from = "{self.learnt_from}" goes with neither patients nor graded_by; leave them out'

    @property
    def on_patients(self) -> bool:
        """Whether the graders were tested on patients."""
        return bool(self.tested)

    def says(self, *, short: bool = False) -> str:
        """What the severities rest on, in words."""
        learnt = f"learnt from {self.learnt_from}" + (" alone" if self.learnt_from == "phantoms" else "")
        if self.learnt_from == "unknown":
            learnt = "what it learnt from is not told"
        elif self.patients and not short:
            learnt += f" ({self.patients}, graded by {self.graded_by})"
        tests = [test.says(short=short) for test in self.tested]
        untested = "never tested on patients" if self.learnt_from == "phantoms" else "no test on patients is told"
        points = [f"its points {self.points}"] if self.points and not short else []
        return ", ".join([learnt, *((tests[:1] if short else tests) or [untested]), *points])


#: Of a bundle that tells nothing.
UNKNOWN: Final = Evidence()
ByCondition = Mapping[Condition, Evidence]


def complete(told: ByCondition) -> dict[Condition, Evidence]:
    """Every condition with its evidence; where none is told, nothing is known."""
    return {condition: told.get(condition, UNKNOWN) for condition in CONDITIONS}


def rests_on(told: ByCondition, *, short: bool = False) -> str:
    """What the severities rest on, in one line: conditions of equal evidence together, both sides by one name."""
    parts: dict[str, list[str]] = {}
    for group, conditions in CONDITION_GROUPS.items():
        found = {condition: told.get(condition, UNKNOWN).says(short=short) for condition in conditions}
        same = len(set(found.values())) == 1
        for condition, says in found.items():
            names = parts.setdefault(says, [])
            name = group if same else condition_title(condition)
            names += [] if name in names else [name]
    return "; ".join(f"{', '.join(names)}: {says}" for says, names in parts.items())
