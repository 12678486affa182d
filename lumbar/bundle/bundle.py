"""Weights on disk: a folder with `manifest.json` and one safetensors file a member, enough to predict from alone.

The manifest says of each member what it is, how its inputs are made, what it was trained on and how well it did.
Loading checks everything, runs nothing from the files, and reaches for no hub.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from lumbar.bundle.likeness import read_likenesses
from lumbar.bundle.manifest import MANIFEST, Manifest, Member
from lumbar.bundle.network import blueprint, check_size, unfilled
from lumbar.bundle.verify import check_file, inside
from lumbar.compute.state import check_numbers, check_shapes
from lumbar.compute.tensors import load_tensors
from lumbar.ensemble.method_names import SUFFIXES
from lumbar.files.read import decoded, parse_json, read_bytes
from lumbar.grading.likeness import Likeness
from lumbar.issues import InputError, few, printable
from lumbar.recipe import sets
from lumbar.recipe.evidence import rests_on
from lumbar.recipe.wording import describe


@dataclass(frozen=True, repr=False)
class Bundle:
    """A checked bundle: every file is there and is the one that the manifest means."""

    folder: Path
    manifest: Manifest
    #: SHA-256 of the manifest, which names the whole bundle, since the manifest holds the hash of every file.
    identity: str
    #: Members whose weights were seen to be numbers, which is looked at once.
    _sound: set[str] = field(default_factory=set, compare=False, repr=False)

    def __repr__(self) -> str:
        networks = f"{len(self.manifest.members)} networks, blend {self.manifest.blend.method}"
        return printable(f"Bundle {self.identity[:12]} in {self.folder}: {networks}")

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
        return self.fill(unfilled(claimed, member.spec, device), name).eval()

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

    def likenesses(self, name: str) -> dict[str, Likeness]:
        """What a grader's regions looked like in training, by kind of view; empty where the bundle does not hold it.

        Raises InputError where its file holds anything else.
        """
        member = self.member(name)
        if member.likeness is None:
            return {}
        return read_likenesses(inside(self.folder, f"member {name}", member.likeness.file), self.manifest.graders[name])

    def describe(self) -> str:
        """What the bundle is, a line for the whole and one a member."""
        lines = [f"bundle {self.identity[:12]} in {self.folder}: {self.manifest.description}".rstrip(": ")]
        lines[0] = printable(lines[0])
        for member in self.manifest.members:
            fold = "all folds" if member.fold is None else f"fold {member.fold}"
            parts = [member.spec.what, member.spec.pixels, fold]
            parts += [f"saw {member.saw}"] if member.saw else []
            parts += [f"began with {member.began}"] if member.began else []
            parts += [f"{name} {value:.4g}" for name, value in member.scores.items()]
            parts += ["tells what looks like nothing it saw"] if member.likeness else []
            lines.append(f"  {member.name}: {', '.join(parts)}")
        lines.append(f"  blend: {self.manifest.blend.method}")
        lines.append(f"  severities rest on: {printable(rests_on(self.manifest.card.evidence))}")
        return "\n".join(lines)


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file by key, from its header; InputError where it cannot be read."""
    try:
        with safe_open(path, framework="np") as stored:
            return {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}); copy the bundle again") from error


def load_bundle(folder: Path | str) -> Bundle:
    """Read and check a bundle: manifest, detectors that need each other, paths, file kinds and hashes.

    Raises InputError with one sentence.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    raw = read_bytes(path, "give the folder of a weights bundle")
    remedy = "get the bundle again or one made for this version"
    try:
        manifest = Manifest.model_validate(parse_json(decoded(raw, str(path)), str(path), remedy))
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}; {remedy}") from error
    if manifest.graders:  # of detectors alone none is asked for keypoints yet
        sets.refuse(manifest.sets, manifest.detectors, manifest.graders, str(folder))
    for member in manifest.members:
        check_file(inside(folder, f"member {member.name}", member.file, (".safetensors",)), member.sha256)
        if member.likeness is not None:
            check_file(inside(folder, f"member {member.name}", member.likeness.file), member.likeness.sha256)
    for model in manifest.blend.every_file:
        check_file(inside(folder, "the blend", model.file, SUFFIXES), model.sha256)
    return Bundle(folder, manifest, hashlib.sha256(raw).hexdigest())


def bundle_identity(bundle: Bundle) -> dict[str, Any]:
    """What names a bundle and each of its members, as data."""
    manifest = bundle.manifest
    return {
        "name": printable(bundle.folder.name),
        "identity": bundle.identity,
        "description": manifest.description,
        "members": [
            {"name": member.name, "stage": member.spec.stage, "fold": member.fold, "sha256": member.sha256}
            for member in manifest.members
        ],
        "blend": manifest.blend.model_dump(),
    }
