"""The fitted blend in a bundle: its numbers in the manifest, its models as files beside it, each with its hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lumbar.bundle.manifest import Blend, BlendFile
from lumbar.ensemble.average import BlendMethod, blend
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.store import Blender, gather, plain_name
from lumbar.files.write import sha256, write_bytes
from lumbar.issues import InputError

if TYPE_CHECKING:
    from lumbar.bundle.bundle import Bundle


@dataclass(frozen=True)
class FittedBlend:
    """A fitted blend to be saved: `tables` names, for each of the fit's tables, the graders whose mean it is."""

    blender: Blender
    tables: Mapping[str, Sequence[str]]


def store_blend(wanted: BlendMethod | FittedBlend, folder: Path) -> Blend:
    """Write the blend's models into the folder; the manifest's entry."""
    if not isinstance(wanted, FittedBlend):
        return Blend(method=wanted)
    fitted = wanted.blender.fitted
    if tuple(wanted.tables) != wanted.blender.tables:
        raise InputError(f"the blend was fitted on {', '.join(wanted.blender.tables)}; name these, in order")
    files = {}
    for name, data in fitted.files.items():
        path = folder / f"blend.{plain_name(name)}"
        write_bytes(data, path)
        files[name] = BlendFile(file=path.name, sha256=sha256(path))
    tables = {name: tuple(members) for name, members in wanted.tables.items()}
    return Blend.model_validate(
        {"method": fitted.method, "tables": tables, "params": dict(fitted.params), "files": files}
    )


class BundleBlend:
    """The blend of a bundle, ready for one study after another."""

    def __init__(self, bundle: "Bundle", graders: Sequence[str]) -> None:
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
