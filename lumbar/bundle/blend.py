"""A fitted blend to be kept in a bundle: numbers in the manifest, models as files beside it, each with its hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumbar.bundle.manifest import Blend, BlendFile
from lumbar.ensemble.average import BlendMethod
from lumbar.ensemble.store import Blender, plain_name
from lumbar.files.write import sha256, write_bytes
from lumbar.issues import InputError


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
