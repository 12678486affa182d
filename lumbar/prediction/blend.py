"""The blend of a bundle at work: members' probabilities in, one table out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lumbar.bundle.bundle import Bundle
from lumbar.bundle.manifest import Blend
from lumbar.ensemble import by_hand
from lumbar.ensemble.average import blend
from lumbar.issues import InputError

if TYPE_CHECKING:  # averages do without
    from lumbar.ensemble.store import Blender


class BundleBlend:
    """The blend of a bundle, ready for one study after another."""

    def __init__(self, bundle: Bundle, graders: Sequence[str]) -> None:
        """`graders`: the members' names in the order in which their probabilities will come.

        Raises InputError where the blend cannot be used: a damaged model, a library that is not installed.
        """
        prior = np.asarray(bundle.manifest.prior, dtype=np.float64)
        self._whole = _EntryBlend(bundle.manifest.blend, bundle.folder, list(graders), prior)

    def __call__(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Members (M, 5, 5, 3), NaN where silent, to the blend (5, 5, 3) and `spoken` (5, 5)."""
        return self._whole(members)


class _EntryBlend:
    """One entry of a manifest: of members, and of inner blends of members."""

    def __init__(self, entry: Blend, folder: Path, graders: list[str], prior: np.ndarray) -> None:
        self.around, self.method = entry, entry.method
        self.prior = np.asarray(entry.prior, dtype=np.float64) if entry.prior else prior
        self.places = [[graders.index(name) for name in names] for names in entry.tables.values()]
        self.inner = [_EntryBlend(each, folder, graders, self.prior) for each in entry.inner.values()]
        self.blender = _fitted_blend(entry, folder, self.prior) if entry.tables or entry.inner else None

    def __call__(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        said = by_hand.before(self.around, members)
        if self.blender is None:
            table, spoken = blend(said, self.prior, self.method)  # type: ignore[arg-type]  # no tables: an average
        else:
            from lumbar.ensemble.store import gather

            tables = gather(said, self.places, self.blender.of_folds)
            if self.inner:
                answers = [each(members) for each in self.inner]
                within = np.stack([np.where(there[..., None], own, np.nan) for own, there in answers])
                tables = np.concatenate([tables, by_hand.before(self.around, within)])
            table, spoken = self.blender(tables)
        return by_hand.after(self.around, table, spoken), spoken


def _fitted_blend(entry: Blend, folder: Path, prior: np.ndarray) -> "Blender":
    from lumbar.ensemble.fit import Fit
    from lumbar.ensemble.store import Blender

    files = {name: (folder / found.file).read_bytes() for name, found in entry.files.items()}
    blender = Blender(Fit(entry.method, entry.params, files), (*entry.tables, *entry.inner), prior)
    try:
        blender.try_out()
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return blender
