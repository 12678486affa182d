"""All pretrained weights that a recipe begins with, as a folder for `--pretrained`: a Kaggle dataset as it stands."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lumbar.files.write import replacing, sha256, write_json, writing_into
from lumbar.issues import FaultyInputError, InputError, few
from lumbar.kaggle.pack import DATASET_METADATA, NO_OWNER, PRETRAINED
from lumbar.recipe.recipe import load_recipe
from lumbar.training.pretrained.begun import tags_of
from lumbar.training.pretrained.parts import Tag
from lumbar.training.pretrained.sources import LIST, NowhereError, Sources, listed


def fetch_weights(
    recipe: Path,
    out: Path,
    overrides: Sequence[str] = (),
    owner: str | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Write the weights of all tags of a recipe into `out`, a safetensors file each; returns the path of their list.

    A file that is there and has the listed SHA-256 is not fetched again; others that `out` holds stay. Raises
    InputError with all tags that cannot be had, after the others are written.
    """
    tags = tags_of(load_recipe(Path(recipe), overrides).members())
    if not tags:
        raise InputError(
            f"{recipe}: no member begins with pretrained weights, so there is nothing to fetch; set pretrained = true "
            "for those that should"
        )
    faults: list[str] = []
    sources = Sources()
    for number, tag in enumerate(tags.values(), 1):
        place = f"{tag.name}, {number} of {len(tags)}"
        try:
            say(f"{place}: {'fetched' if _fetch(tag, out, sources) else 'there already'}")
        except NowhereError as error:
            faults.append(f"{tag.name}: {error}")
            sources = replace(sources, no_hub=str(error)) if error.of_hub else sources
            say(f"{place}: {error}")
    if faults:
        missing = few([fault.partition(":")[0] for fault in faults], 40)
        if len(faults) == 1:
            raise InputError(f"{faults[0]}; run the same again where there is a network")
        raise FaultyInputError(
            str(out), [*faults[:-1], f"{faults[-1]}; {missing}: run the same again where there is a network"]
        )
    with writing_into(out):
        write_json(_metadata(owner or NO_OWNER, listed(out)), out / DATASET_METADATA)
    return out / LIST


def _fetch(tag: Tag, out: Path, sources: Sources) -> bool:
    """Write one tag's weights, unless they are there; whether they were fetched."""
    known, path = listed(out), out / f"{tag.name}.safetensors"
    if path.is_file() and known.get(tag.name, {}).get("sha256") == sha256(path):
        return False
    weights = {name: value.contiguous().clone() for name, value in sources.find(tag).items()}
    with writing_into(out):
        out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(weights, temporary, metadata={"tag": tag.name})
        entry = {
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "parameters": sum(value.numel() for value in weights.values() if torch.is_floating_point(value)),
            "source": f"https://huggingface.co/{tag.hub}" + (f"/tree/{tag.revision}" if tag.revision else ""),
            "licence": tag.licence,
        }
        write_json(dict(sorted({**known, tag.name: entry}.items())), out / LIST)
    return True


def _metadata(owner: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A Kaggle dataset's: its description names every file's source and licence."""
    lines = [f"* {name}: {entry['source']}, {entry['licence']}" for name, entry in entries.items()]
    return {
        "title": "Lumbar pretrained weights",
        "id": f"{owner}/{PRETRAINED}",
        "subtitle": "Pretrained backbones that the recipes of Lumbar begin with",
        "description": "\n".join(
            ["Weights as their libraries save them, unchanged, in safetensors files.", "", *lines]
        ),
        "licenses": [{"name": "other"}],
        "keywords": [],
    }
