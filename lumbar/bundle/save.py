"""Weights into a bundle: built beside, checked, and exchanged for what stood there."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import save

from lumbar.bundle.blend import FittedBlend, store_blend
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.card import CARD, card_text
from lumbar.bundle.likeness import ENDING, write_likenesses
from lumbar.bundle.manifest import MANIFEST, Blend, LikenessFile, Manifest, Member
from lumbar.bundle.network import blueprint, check_size
from lumbar.bundle.ownership import own_files
from lumbar.compute.state import check_state
from lumbar.ensemble.average import BlendMethod
from lumbar.files.exchange import exchanging
from lumbar.files.write import sha256, write_bytes, write_json, write_text, writing_into
from lumbar.grading.likeness import Likenesses
from lumbar.issues import InputError
from lumbar.recipe.blend import Around
from lumbar.recipe.card import Card
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.member import MEMBER_NAME
from lumbar.recipe.sets import refuse
from lumbar.recipe.wording import describe

Precision = Literal["float16", "float32"]


@dataclass(frozen=True)
class Weights:
    """A member to be saved: its entry's content and its state dict."""

    name: str
    spec: DetectorSpec | GraderSpec
    state: Mapping[str, torch.Tensor]
    fold: int | None = None
    saw: str = ""
    began: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    rank: int | None = None  # what a time budget keeps longest has 1
    source: str = ""  # the file they come from, for sentences
    likenesses: Likenesses = field(default_factory=dict)  # of a grader, by kind of view


def save_bundle(
    folder: Path | str,
    members: Iterable[Weights],
    *,
    prior: np.ndarray,
    blend: BlendMethod | FittedBlend = "mean",
    around: Around | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
    description: str = "",
    card: Card | None = None,
    precision: Precision = "float16",
) -> Bundle:
    """Write a bundle and check it; members may come from a generator, one is held at a time.

    With `float16`, matrices are stored in half precision; vectors (biases, norms), integers and tensors that half
    precision cannot hold stay as they are. `around`: what is done before and after the blend; `sets`: detectors by set
    of keypoints. The folder must be new, empty, or a bundle and nothing else; that one is replaced when all of the new
    one is there.
    """
    folder = Path(folder)
    with exchanging(folder, own_files, MANIFEST) as new:
        entries = []
        for weights in members:
            name = f"{weights.name}.safetensors"
            if not MEMBER_NAME.fullmatch(weights.name):
                raise InputError(f"{folder}: member name {weights.name!r} is not usable as a file name; rename it")
            planned = blueprint(weights.spec, weights.source or name)
            check_size(planned, weights.source or name)
            own = planned.state_dict()
            check_state(weights.state, own, weights.source or name)
            stored = save({key: _stored(value, own[key], precision) for key, value in weights.state.items()})
            with writing_into(folder):
                write_bytes(stored, new / name)
                write_likenesses(weights.likenesses, new / f"{weights.name}{ENDING}")
            entries.append(_entry(weights, new / name))
        with writing_into(folder):
            kept = store_blend(blend, new, around)
            manifest = _manifest(folder, entries, prior, kept, description, card or Card(), sets or {})
            write_json(manifest.model_dump(mode="json"), new / MANIFEST)
        bundle = load_bundle(new)
    return replace(bundle, folder=folder)


def with_likenesses(bundle: Bundle, found: Mapping[str, Likenesses]) -> Bundle:
    """The bundle in its folder with these likenesses, by grader; its card, where it has one, tells of the new one."""
    with exchanging(bundle.folder, own_files, MANIFEST) as new:
        with writing_into(bundle.folder):
            bare = [member.model_copy(update={"likeness": None}) for member in bundle.manifest.members]
            for file in bundle.manifest.model_copy(update={"members": tuple(bare)}).files:
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.folder / file, new / file)
            members = []
            for member in bare:
                write_likenesses(found.get(member.name, {}), new / f"{member.name}{ENDING}")
                members.append(member.model_copy(update={"likeness": likeness_file(new, member.name)}))
            manifest = bundle.manifest.model_copy(update={"members": tuple(members)})
            write_json(manifest.model_dump(mode="json"), new / MANIFEST)
        newer = load_bundle(new)
        if (bundle.folder / CARD).is_file():
            with writing_into(bundle.folder):
                write_text(card_text(newer), new / CARD)
    return replace(newer, folder=bundle.folder)


def _entry(weights: Weights, file: Path) -> Member:
    return Member(
        name=weights.name,
        spec=weights.spec,
        fold=weights.fold,
        file=file.name,
        sha256=sha256(file),
        saw=weights.saw,
        began=weights.began,
        scores=dict(weights.scores),
        rank=weights.rank,
        likeness=likeness_file(file.parent, weights.name),
    )


def likeness_file(folder: Path, name: str) -> LikenessFile | None:
    """A member's likeness in a bundle's folder as its entry names it; None where there is none."""
    path = folder / f"{name}{ENDING}"
    return LikenessFile(file=path.name, sha256=sha256(path)) if path.is_file() else None


def _manifest(
    folder: Path,
    members: list[Member],
    prior: np.ndarray,
    blend: Blend,
    description: str,
    card: Card,
    sets: Mapping[str, Sequence[str]],
) -> Manifest:
    try:
        manifest = Manifest(
            description=description,
            members=tuple(members),
            blend=blend,
            prior=np.asarray(prior, dtype=np.float64).tolist(),
            card=card,
            sets={name: tuple(names) for name, names in sets.items()},
        )
    except ValidationError as error:
        raise InputError(f"{folder}: no bundle can be made; {describe(error)}") from error
    if manifest.graders:
        refuse(manifest.sets, manifest.detectors, manifest.graders, f"{folder}: no bundle can be made")
    return manifest


def _stored(value: torch.Tensor, own: torch.Tensor, precision: Precision) -> torch.Tensor:
    """A tensor as it is written; where the network's `own` one counts, in its type."""
    value = value.detach().cpu().contiguous()
    if not own.is_floating_point():
        return value.to(own.dtype, copy=True)
    if precision == "float16" and value.ndim > 1:
        half = value.to(torch.float16)
        if torch.isfinite(half).all():
            return half
    return value.to(torch.float32)
