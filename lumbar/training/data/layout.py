"""How the views of a grader's sample lie in a batch: those that are alike in one array. No torch."""

from lumbar.grading.tasks import task_of
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.region import Region


def numbered(name: str, number: int) -> str:
    """The name of the first, and of further arrays of a kind."""
    return name if number == 0 else f"{name}.{number}"


def groups(spec: GraderSpec) -> list[list[int]]:
    """Places of a sample's views, those together whose regions have one form; most members have one group."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, view in enumerate(task_of(spec).samples[0].views):
        found.setdefault(_form(spec.region_of(view)), []).append(place)
    return list(found.values())


def _form(region: Region) -> tuple[object, ...]:
    shape = (region.slices, region.channels, region.size, region.box == "whole", region.around == "level", region.pad)
    return (*shape, region.intensity, region.scope, region.percentiles)
