"""The blend of a bundle at work: members' probabilities in, one table out."""

from collections.abc import Sequence

import numpy as np

from lumbar.bundle.bundle import Bundle
from lumbar.ensemble.average import blend
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.store import Blender, gather
from lumbar.issues import InputError


class BundleBlend:
    """The blend of a bundle, ready for one study after another."""

    def __init__(self, bundle: Bundle, graders: Sequence[str]) -> None:
        """`graders`: the members' names in the order in which their probabilities will come.

        Raises InputError where the blend cannot be used: a damaged model, a library that is not installed.
        """
        entry = bundle.manifest.blend
        self.method, self.prior = entry.method, np.asarray(bundle.manifest.prior, dtype=np.float64)
        self.places = [[list(graders).index(name) for name in names] for names in entry.tables.values()]
        self.blender: Blender | None = None
        if entry.tables:
            files = {name: (bundle.folder / found.file).read_bytes() for name, found in entry.files.items()}
            self.blender = Blender(Fit(entry.method, entry.params, files), tuple(entry.tables), self.prior)
            try:
                self.blender.try_out()
            except InputError as error:
                raise InputError(f"{bundle.folder}: {error}") from error

    def __call__(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Members (M, 5, 5, 3), NaN where silent, to the blend (5, 5, 3) and `spoken` (5, 5)."""
        if self.blender is None:
            return blend(members, self.prior, self.method)  # type: ignore[arg-type]  # no tables: an average
        return self.blender(gather(members, self.places))
