"""A fitted blend to be kept in a bundle: numbers in the manifest, models as files beside it, each with its hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lumbar.bundle.manifest import Blend, BlendFile
from lumbar.ensemble.average import BlendMethod
from lumbar.ensemble.store import Blender, plain_name
from lumbar.files.write import sha256, write_bytes
from lumbar.issues import InputError
from lumbar.recipe.blend import Around


@dataclass(frozen=True)
class FittedBlend:
    """A blend of tables to be saved: `tables` names, for each of the fit's, the graders whose mean it is.

    `inner` blends are tables, too, behind these. `around`: what is done before and after an inner blend.
    """

    blender: Blender
    tables: Mapping[str, Sequence[str]]
    inner: Mapping[str, "FittedBlend"] = field(default_factory=dict)
    around: Around | None = None


def store_blend(wanted: BlendMethod | FittedBlend, folder: Path, around: Around | None = None) -> Blend:
    """Write the blend's models into the folder; the manifest's entry. `around`: what is done before and after it."""
    if not isinstance(wanted, FittedBlend):
        return Blend(method=wanted, **_steps(around))
    return _stored(wanted, folder, "blend", around)


def _stored(wanted: FittedBlend, folder: Path, place: str, around: Around | None) -> Blend:
    fitted = wanted.blender.fitted
    if (*wanted.tables, *wanted.inner) != wanted.blender.tables:
        raise InputError(f"the blend was fitted on {', '.join(wanted.blender.tables)}; name these, in order")
    files = {}
    for name, data in fitted.files.items():
        path = folder / f"{place}.{plain_name(name)}"
        write_bytes(data, path)
        files[name] = BlendFile(file=path.name, sha256=sha256(path))
    inner = {}
    for name, each in wanted.inner.items():
        entry = _stored(each, folder, f"{place}.{name}", each.around)
        prior = np.asarray(each.blender.prior, dtype=np.float64).tolist()
        inner[name] = entry.model_dump() | {"prior": prior}
    return Blend.model_validate(
        {
            "method": fitted.method,
            "tables": {name: tuple(members) for name, members in wanted.tables.items()},
            "inner": inner,
            "params": dict(fitted.params),
            "files": files,
            **_steps(around),
        }
    )


def _steps(around: Around | None) -> dict[str, object]:
    return {name: getattr(around or Around(), name) for name in Around.model_fields}
