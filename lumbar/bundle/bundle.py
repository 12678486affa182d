"""Weights on disk: a folder with `manifest.json` and one safetensors file a member, enough to predict from alone.

The manifest says of each member what it is, how its inputs are made, what it was trained on and how well it did.
Loading checks everything, runs nothing from the files, and reaches for no hub.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from lumbar.bundle.content import check_file, inside
from lumbar.bundle.manifest import MANIFEST, Blend, Manifest, Member
from lumbar.bundle.network import blueprint, build_network, check_size
from lumbar.bundle.ownership import own_files
from lumbar.compute.state import check_numbers, check_shapes, check_state
from lumbar.compute.tensors import load_tensors
from lumbar.ensemble.average import BlendMethod
from lumbar.ensemble.store import SUFFIXES
from lumbar.files.exchange import exchanging
from lumbar.files.read import decoded, parse_json, read_bytes
from lumbar.files.write import sha256, write_bytes, write_json, writing_into
from lumbar.issues import InputError, few, printable
from lumbar.prediction.blend import BundleBlend, FittedBlend, store_blend
from lumbar.recipe.card import Card
from lumbar.recipe.member import MEMBER_NAME, DetectorSpec, GraderSpec
from lumbar.wording import describe

__all__ = [
    "MANIFEST",
    "Blend",
    "Bundle",
    "BundleBlend",
    "FittedBlend",
    "Manifest",
    "Member",
    "Weights",
    "build_network",
    "check_state",
    "load_bundle",
    "save_bundle",
    "sha256",
]

Precision = Literal["float16", "float32"]


@dataclass(frozen=True)
class Weights:
    """A member to be saved: its entry's content and its state dict."""

    name: str
    spec: DetectorSpec | GraderSpec
    state: Mapping[str, torch.Tensor]
    fold: int | None = None
    saw: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    rank: int | None = None  # what a time budget keeps longest has 1
    source: str = ""  # the file they come from, for sentences


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: every file is there and is the one that the manifest means."""

    folder: Path
    manifest: Manifest
    #: SHA-256 of the manifest, which names the whole bundle, since the manifest holds the hash of every file.
    identity: str
    #: Members whose weights were seen to be numbers, which is looked at once.
    _sound: set[str] = field(default_factory=set, compare=False, repr=False)

    def member(self, name: str) -> Member:
        """The entry of that name. Raises InputError where there is none."""
        for member in self.manifest.members:
            if member.name == name:
                return member
        known = few([member.name for member in self.manifest.members])
        raise InputError(f"{self.folder}: the bundle has no member {name!r}; it has {known}")

    def network(self, name: str, device: torch.device | str = "cpu") -> nn.Module:
        """A member's network in evaluation mode on a device, float32.

        Raises InputError where the network cannot be built, is too large, or the weights do not fit it key by key,
        shape by shape, which is seen before a network of whatever size the manifest claims takes any memory; and
        where the weights are no numbers to compute with.
        """
        member = self.member(name)
        path = inside(self.folder, f"member {member.name}", member.file)
        claimed = blueprint(member.spec, str(path))
        check_shapes(_stored_shapes(path), claimed.state_dict(), str(path))
        check_size(claimed, str(path))
        return self.fill(build_network(member.spec), name).to(device).eval()

    def fill(self, network: nn.Module, name: str) -> nn.Module:
        """Put a member's weights into a network of its architecture, in place."""
        network.load_state_dict(self.state(name, network.state_dict()))
        return network

    def state(self, name: str, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A member's weights as stored, still in the file until they are used; checked against a network's `own`.

        Raises InputError where the file cannot be read, does not fit key by key, shape by shape, or holds anything but
        numbers that a network can compute with.
        """
        member = self.member(name)
        path = inside(self.folder, f"member {member.name}", member.file)
        try:
            stored = load_tensors(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as safetensors ({error}); copy the bundle again") from error
        check_shapes({key: tuple(value.shape) for key, value in stored.items()}, own, str(path))
        if name not in self._sound:
            check_numbers(stored, own, str(path))
            self._sound.add(name)
        return stored

    def describe(self) -> str:
        """What the bundle is, a line for the whole and one a member."""
        lines = [f"bundle {self.identity[:12]} in {self.folder}: {self.manifest.description}".rstrip(": ")]
        lines[0] = printable(lines[0])
        for member in self.manifest.members:
            spec = member.spec
            if isinstance(spec, DetectorSpec):
                what = f"keypoints on {spec.series_type}, {spec.network} on {spec.encoder}"
            else:
                what = f"grading {spec.task}, {spec.network} on {spec.backbone}"
            parts = [what, f"{spec.image_size} px", "all folds" if member.fold is None else f"fold {member.fold}"]
            parts += [f"saw {member.saw}"] if member.saw else []
            parts += [f"{name} {value:.4g}" for name, value in member.scores.items()]
            lines.append(f"  {member.name}: {', '.join(parts)}")
        lines.append(f"  blend: {self.manifest.blend.method}")
        return "\n".join(lines)


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file by key, from its header; InputError where it cannot be read."""
    try:
        with safe_open(path, framework="np") as stored:
            return {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}); copy the bundle again") from error


def save_bundle(
    folder: Path | str,
    members: Iterable[Weights],
    *,
    prior: np.ndarray,
    blend: BlendMethod | FittedBlend = "mean",
    description: str = "",
    card: Card | None = None,
    precision: Precision = "float16",
) -> Bundle:
    """Write a bundle and check it; members may come from a generator, one is held at a time.

    With `float16`, matrices are stored in half precision; vectors (biases, norms), integers and tensors that half
    precision cannot hold stay as they are. The folder must be new, empty, or a bundle and nothing else; that one is
    replaced when all of the new one is there.
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
            entries.append(_entry(weights, new / name))
        with writing_into(folder):
            kept = store_blend(blend, new)
            manifest = _manifest(folder, entries, prior, kept, description, card or Card())
            write_json(manifest.model_dump(mode="json"), new / MANIFEST)
        bundle = load_bundle(new)
    return replace(bundle, folder=folder)


def _entry(weights: Weights, file: Path) -> Member:
    return Member(
        name=weights.name,
        spec=weights.spec,
        fold=weights.fold,
        file=file.name,
        sha256=sha256(file),
        saw=weights.saw,
        scores=dict(weights.scores),
        rank=weights.rank,
    )


def _manifest(
    folder: Path, members: list[Member], prior: np.ndarray, blend: Blend, description: str, card: Card
) -> Manifest:
    try:
        return Manifest(
            description=description,
            members=tuple(members),
            blend=blend,
            prior=np.asarray(prior, dtype=np.float64).tolist(),
            card=card,
        )
    except ValidationError as error:
        raise InputError(f"{folder}: no bundle can be made; {describe(error)}") from error


def load_bundle(folder: Path | str) -> Bundle:
    """Read and check a bundle: manifest, paths, file kinds and hashes. Raises InputError with one sentence."""
    folder = Path(folder)
    path = folder / MANIFEST
    raw = read_bytes(path, "give the folder of a weights bundle")
    remedy = "get the bundle again or one made for this version"
    try:
        manifest = Manifest.model_validate(parse_json(decoded(raw, str(path)), str(path), remedy))
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}; {remedy}") from error
    for member in manifest.members:
        check_file(inside(folder, f"member {member.name}", member.file, (".safetensors",)), member.sha256)
    for model in manifest.blend.files.values():
        check_file(inside(folder, "the blend", model.file, SUFFIXES), model.sha256)
    return Bundle(folder, manifest, hashlib.sha256(raw).hexdigest())


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
