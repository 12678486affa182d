"""Versions of what can change a probability."""

import importlib.metadata
import platform
from typing import Final

#: Distributions whose version can change a probability.
DISTRIBUTIONS: Final = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "pandas",
    "opencv-python-headless",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "safetensors",
)


def versions_here() -> dict[str, str]:
    """Versions of Python and of every installed distribution that can change a probability."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
