"""Several bundles as one: each a system with its own members, keypoints and blend; the systems' tables are blended."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.manifest import MANIFEST, Manifest
from lumbar.bundle.ownership import own_files
from lumbar.ensemble.average import BLEND_METHODS
from lumbar.ensemble.by_hand import weighted
from lumbar.files.exchange import exchanging
from lumbar.files.write import write_json, writing_into
from lumbar.issues import InputError, cut, few
from lumbar.recipe.blend import Around, Blend, Inner
from lumbar.recipe.card import Card
from lumbar.recipe.member import MEMBER_NAME
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.systems import called, sets_among
from lumbar.recipe.wording import describe


def join_bundles(pairs: Sequence[tuple[str, Path]], out: Path, recipe: Path | None = None) -> Bundle:
    """Write one bundle of several, by the name that each has as a system; weights and fits stay as they are.

    `recipe`: of just these systems, whose blend says their shares and whose card the bundle gets; None: equal shares of
    probabilities, and nothing on the card. Raises InputError where a bundle cannot be read, a name is none or stands
    twice, or the recipe's systems are others.
    """
    folders = dict(pairs)
    if len(folders) < len(pairs):
        raise InputError("--join names a system twice; give each a name of its own")
    if strange := [name for name in folders if not MEMBER_NAME.fullmatch(name)]:
        raise InputError(f"--join {cut(strange[0])!r}: a name holds letters, digits, '.', '_' and '-' only")
    systems = {name: load_bundle(folder) for name, folder in folders.items()}
    told = None if recipe is None else load_recipe(recipe)
    outer = Blend(method="weighted", inner={name: Inner(method="mean", members=(name,)) for name in folders})
    if told is not None:
        outer = told.blend
        if outer.whole.keys() != folders.keys():
            raise InputError(
                f"{recipe} blends {few(list(outer.whole)) or 'no systems'}, and the bundles are {few(list(folders))}; "
                "give one for each of its systems, and no other"
            )
    fitted = weighted(tuple(folders), outer)
    values = {
        "description": f"joined of {', '.join(folders)}" if told is None else told.description or told.name,
        "members": [_member(name, bundle, each) for name, bundle in systems.items() for each in _dumped(bundle)],
        "blend": {
            "method": fitted.method,
            "params": dict(fitted.params),
            "inner": {name: _inner(name, bundle) for name, bundle in systems.items()},
            **{key: getattr(outer, key) for key in Around.model_fields},
        },
        "sets": {key: names for name, bundle in systems.items() for key, names in _sets(name, bundle.manifest).items()},
        "prior": np.mean([bundle.manifest.prior for bundle in systems.values()], axis=0).tolist(),
        "card": (Card() if told is None else told.card).model_dump(),
    }
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{out}: no bundle can be made; {describe(error)}") from error
    with exchanging(out, own_files, MANIFEST) as new, writing_into(out):
        for name, bundle in systems.items():
            for old, renamed in _files(name, bundle):
                (new / renamed).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.folder / old, new / renamed)
        write_json(manifest.model_dump(mode="json"), new / MANIFEST)
        load_bundle(new)
    return load_bundle(out)


def _dumped(bundle: Bundle) -> list[dict[str, Any]]:
    return [member.model_dump() for member in bundle.manifest.members]


def _member(system: str, bundle: Bundle, entry: dict[str, Any]) -> dict[str, Any]:
    """A member's entry under its new name; a grader answers around its own system's keypoints."""
    name = called(system, entry["name"])
    spec = dict(entry["spec"])
    if entry["name"] in bundle.manifest.graders:
        own = spec.get("sets") or ()
        spec["sets"] = [called(system, each) for each in own] or list(_sets(system, bundle.manifest))
    files: dict[str, Any] = {"file": _weights(system, entry["file"])}
    if likeness := entry.get("likeness"):
        files["likeness"] = likeness | {"file": _weights(system, likeness["file"])}
    return entry | files | {"name": name, "spec": spec}


def _sets(system: str, manifest: Manifest) -> dict[str, list[str]]:
    return sets_among(system, manifest.sets, manifest.detectors)


def _inner(system: str, bundle: Bundle) -> dict[str, Any]:
    """A bundle's blend as one of several; an average of all members becomes one of as many tables."""
    entry = bundle.manifest.blend
    told = _renamed_blend(system, entry.model_dump()) | {"prior": bundle.manifest.prior}
    if entry.method in BLEND_METHODS and not told["tables"]:
        told["tables"] = {name: [name] for each in bundle.manifest.graders for name in [called(system, each)]}
    return told


def _renamed_blend(system: str, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a blend, of members and files under their new names."""
    return entry | {
        "tables": {table: [called(system, name) for name in names] for table, names in entry["tables"].items()},
        "files": {key: each | {"file": _model(system, each["file"])} for key, each in entry["files"].items()},
        "inner": {name: _renamed_blend(system, each) for name, each in entry.get("inner", {}).items()},
    }


def _files(system: str, bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Every file of a bundle, and what it is called in the joined one."""
    for member in bundle.manifest.members:
        for file in member.files:
            yield file, _weights(system, file)
    for model in bundle.manifest.blend.every_file:
        yield model.file, _model(system, model.file)


def _weights(system: str, file: str) -> str:
    """What a member's file is called, in the folder that it is in."""
    path = Path(file)
    return path.with_name(called(system, path.name)).as_posix()


def _model(system: str, file: str) -> str:
    """What a blend's model is called; it stays one by its name."""
    return f"blend.{system}.{file.removeprefix('blend.')}"
