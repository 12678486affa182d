"""Lumbar: grading of degenerative lumbar-spine disease on MRI.

As a library: `lumbar.grade(folder, weights=...)`, see docs/api.md. What is named here is loaded on first use, so that
importing the package takes no time and no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumbar.bundle.bundle import load_bundle as load_bundle
    from lumbar.metric import score as score
    from lumbar.report.results import Results as Results
    from lumbar.report.results import grade as grade
    from lumbar.study.folder import open_folder as open_data

__version__ = "0.2.0"
__all__ = ["Results", "__version__", "grade", "load_bundle", "open_data", "score"]

_HOME = {
    "grade": ("lumbar.report.results", "grade"),
    "Results": ("lumbar.report.results", "Results"),
    "load_bundle": ("lumbar.bundle.bundle", "load_bundle"),
    "open_data": ("lumbar.study.folder", "open_folder"),
    "score": ("lumbar.metric", "score"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
