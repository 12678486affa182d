"""A bundle of which every part was tried once."""

from pathlib import Path

from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.network import try_out
from lumbar.prediction.blend import BundleBlend


def checked_bundle(folder: Path) -> Bundle:
    """A bundle after every file was checked, each network was asked once, and the blend was built.

    Raises InputError naming the file with which something is wrong.
    """
    bundle = load_bundle(folder)
    for member in bundle.manifest.members:
        bundle.likenesses(member.name)
        try_out(bundle.network(member.name, "cpu"), member.spec, str(bundle.folder / member.file))
    BundleBlend(bundle, list(bundle.manifest.graders))
    return bundle
