"""Whether the disk can hold a run, asked before it begins."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from lumbar.issues import InputError
from lumbar.recipe.recipe import Recipe
from lumbar.study.study import DataFolder
from lumbar.training.checks.recipe import weights_bytes
from lumbar.training.folder import RunFolder
from lumbar.training.stages import members_of

SPARE_BYTES = 2**30  # results, and what else the machine writes meanwhile


def needed_bytes(data: DataFolder, study_ids: Iterable[int], recipe: Recipe, run: RunFolder) -> dict[Path, int]:
    """About how many bytes a run folder, and its cache, which may lie elsewhere, grow beyond what lies there already.

    Packs are as large as uncompressed files, stacks hold two bytes a pixel, regions one; weights four bytes a number.
    """
    studies = list(study_ids)
    total = float(sum(_size(data.folder(study)) for study in studies))
    total += sum(dict(member.cache(len(studies), recipe) for member in members_of(recipe).values()).values())
    return {
        run.cache: max(0, round(total) - _size(run.cache)),
        run.root: max(0, _weights_bytes(recipe) - _size(run.root / "members")),
    }


def _weights_bytes(recipe: Recipe) -> int:
    """The best weights of every member and fold, and the largest member's checkpoint: the old one and the new one, each
    with weights, their average and two moments of every gradient."""
    sizes = {name: weights_bytes(member) for name, member in recipe.members().items()}
    return sum(sizes[name] for name, _ in recipe.to_train()) + 2 * 4 * max(sizes.values())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_space(needed: Mapping[Path, int]) -> None:
    """Raise InputError where the disk of a folder cannot hold so many more bytes and some to spare; folders of one disk
    share it."""
    disks: dict[int, dict[Path, int]] = {}
    for folder, wanted in needed.items():
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        disks.setdefault(place.stat().st_dev, {})[folder] = wanted
    for folders in disks.values():
        (last, *_), wanted = sorted(folders, key=lambda folder: len(folder.parts)), sum(folders.values())
        free = shutil.disk_usage(next(path for path in (last, *last.absolute().parents) if path.exists())).free
        if free < wanted + SPARE_BYTES:
            names = " and ".join(str(folder) for folder in sorted(folders))
            raise InputError(
                f"{names}: about {(wanted + SPARE_BYTES) / 1e9:.1f} GB are needed for what a run keeps there, the disk "
                f"has {free / 1e9:.1f} GB free; free some, or give --out or --cache on another disk"
            )
