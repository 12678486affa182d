"""A fitted blend to be kept in a bundle: numbers in the manifest, models as files beside it, each with its hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumbar.bundle.manifest import Blend, BlendFile
from lumbar.ensemble.average import BlendMethod
from lumbar.ensemble.store import Blender, plain_name
from lumbar.files.write import sha256, write_bytes
from lumbar.issues import InputError
from lumbar.recipe.blend import Around


@dataclass(frozen=True)
class FittedBlend:
    """A blend of tables to be saved: `tables` names, for each of the fit's, the graders whose mean it is."""

    blender: Blender
    tables: Mapping[str, Sequence[str]]


def store_blend(wanted: BlendMethod | FittedBlend, folder: Path, around: Around | None = None) -> Blend:
    """Write the blend's models into the folder; the manifest's entry. `around`: what is done before and after it."""
    steps = {name: getattr(around or Around(), name) for name in Around.model_fields}
    if not isinstance(wanted, FittedBlend):
        return Blend(method=wanted, **steps)
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
        {"method": fitted.method, "tables": tables, "params": dict(fitted.params), "files": files, **steps}
    )
