"""The blend of a bundle at work: members' probabilities in, one table out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lumbar.bundle.bundle import Bundle
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
        self.around = entry = bundle.manifest.blend
        self.method, self.prior = entry.method, np.asarray(bundle.manifest.prior, dtype=np.float64)
        self.places = [[list(graders).index(name) for name in names] for names in entry.tables.values()]
        self.blender = _fitted_blend(bundle) if entry.tables else None

    def __call__(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Members (M, 5, 5, 3), NaN where silent, to the blend (5, 5, 3) and `spoken` (5, 5)."""
        table, spoken = self._blended(by_hand.before(self.around, members))
        return by_hand.after(self.around, table, spoken), spoken

    def _blended(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.blender is None:
            return blend(members, self.prior, self.method)  # type: ignore[arg-type]  # no tables: an average
        from lumbar.ensemble.store import gather

        return self.blender(gather(members, self.places, self.blender.of_folds))


def _fitted_blend(bundle: Bundle) -> "Blender":
    from lumbar.ensemble.fit import Fit
    from lumbar.ensemble.store import Blender

    manifest, entry = bundle.manifest, bundle.manifest.blend
    files = {name: (bundle.folder / found.file).read_bytes() for name, found in entry.files.items()}
    blender = Blender(Fit(entry.method, entry.params, files), tuple(entry.tables), np.asarray(manifest.prior))
    try:
        blender.try_out()
    except InputError as error:
        raise InputError(f"{bundle.folder}: {error}") from error
    return blender
