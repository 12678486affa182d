"""Whether the disk can hold a run, asked before it begins."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from lumbar.grading.regions import region_key
from lumbar.grading.tasks import VIEWS
from lumbar.issues import InputError
from lumbar.labels import LEVELS, SIDES
from lumbar.recipe.member import DetectorSpec, GraderSpec
from lumbar.recipe.recipe import Recipe
from lumbar.study.study import DataFolder
from lumbar.training.checks.recipe import weights_bytes
from lumbar.training.data.derived import margin_spec

SPARE_BYTES = 2**30  # results, and what else the machine writes meanwhile
STACKS = {"sagittal_t2": 1, "sagittal_t1": len(SIDES), "axial_t2": 1.2 * len(LEVELS)}  # a study; some levels have two


def needed_bytes(data: DataFolder, study_ids: Iterable[int], recipe: Recipe, run: Path) -> int:
    """About how much a run folder will grow beyond what lies in it already.

    Packs are as large as uncompressed files, stacks hold two bytes a pixel, regions one; weights four bytes a number.
    """
    studies = list(study_ids)
    total = float(sum(_size(data.folder(study)) for study in studies))
    regions: dict[str, GraderSpec] = {}
    for member in recipe.members().values():
        spec = member.spec
        if isinstance(spec, DetectorSpec):
            total += len(studies) * STACKS[spec.series_type] * spec.in_chans * spec.image_size**2 * 2
        else:
            regions[region_key(spec)] = margin_spec(spec, recipe.loop.region_margin)
    kinds = 2 if recipe.stage2.keypoints == "labels" else 1
    for spec in regions.values():
        total += kinds * len(studies) * len(VIEWS) * len(LEVELS) * spec.slices * spec.image_size**2
    return max(0, round(total) - _size(run / "cache")) + max(0, _weights_bytes(recipe) - _size(run / "members"))


def _weights_bytes(recipe: Recipe) -> int:
    """The best weights of every member and fold, and the largest member's checkpoint: the old one and the new one, each
    with weights, their average and two moments of every gradient."""
    sizes = [weights_bytes(member) for member in recipe.members().values()]
    return len(recipe.folds.train) * sum(sizes) + 2 * 4 * max(sizes)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_space(out: Path, needed: int) -> None:
    """Raise InputError where the disk of `out` cannot hold `needed` more bytes and some to spare."""
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE_BYTES:
        raise InputError(
            f"{out}: the run needs about {(needed + SPARE_BYTES) / 1e9:.1f} GB for its cache and weights, the disk has "
            f"{free / 1e9:.1f} GB free; free some or give --out on another disk"
        )
