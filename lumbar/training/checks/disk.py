"""Whether the disk can hold a run, asked before it begins."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from lumbar.issues import InputError
from lumbar.recipe.recipe import Recipe
from lumbar.study.study import DataFolder
from lumbar.training.checks.recipe import weights_bytes
from lumbar.training.stages import members_of

SPARE_BYTES = 2**30  # results, and what else the machine writes meanwhile


def needed_bytes(data: DataFolder, study_ids: Iterable[int], recipe: Recipe, run: Path) -> int:
    """About how much a run folder will grow beyond what lies in it already.

    Packs are as large as uncompressed files, stacks hold two bytes a pixel, regions one; weights four bytes a number.
    """
    studies = list(study_ids)
    total = float(sum(_size(data.folder(study)) for study in studies))
    total += sum(dict(member.cache(len(studies), recipe) for member in members_of(recipe).values()).values())
    return max(0, round(total) - _size(run / "cache")) + max(0, _weights_bytes(recipe) - _size(run / "members"))


def _weights_bytes(recipe: Recipe) -> int:
    """The best weights of every member and fold, and the largest member's checkpoint: the old one and the new one, each
    with weights, their average and two moments of every gradient."""
    sizes = {name: weights_bytes(member) for name, member in recipe.members().items()}
    return sum(sizes[name] for name, _ in recipe.to_train()) + 2 * 4 * max(sizes.values())


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
