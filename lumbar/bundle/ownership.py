"""Which files of a folder are a bundle's own: what goes when another bundle is written in its place."""

import hashlib
from pathlib import Path

from lumbar.bundle.bundle import Bundle
from lumbar.bundle.card import CARD, card_text
from lumbar.bundle.manifest import MANIFEST, Manifest
from lumbar.files.read import decoded, parse_json
from lumbar.files.write import sha256
from lumbar.issues import InputError


def own_files(folder: Path) -> list[str]:
    """The manifest, the files that it names and whose hash it knows, and the card where nobody wrote into it.

    Empty where there is no manifest of ours.
    """
    try:
        raw = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
        manifest = Manifest.model_validate(parse_json(decoded(raw, MANIFEST), MANIFEST, ""))
    except (OSError, ValueError, InputError):
        return []
    files = {member.file: member.sha256 for member in manifest.members}
    files |= {model.file: model.sha256 for model in manifest.blend.every_file}
    own = [name for name, digest in files.items() if _is(folder / name, digest)]
    if len(own) == len(files) and (folder / CARD).is_file():
        bundle = Bundle(folder, manifest, hashlib.sha256(raw).hexdigest())
        own += [CARD] if (folder / CARD).read_bytes() == card_text(bundle).encode(errors="backslashreplace") else []
    return [MANIFEST, *own]


def _is(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and sha256(path) == digest
    except (OSError, ValueError):  # a name that no file can have, or what may not be read
        return False
