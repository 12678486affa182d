"""Libraries of networks without what `torch.compile` alone needs, and which takes a second to load."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from torch._compile import _disable_dynamo

_COMPILER: Final = "torch._dynamo"


class _StandIn(ModuleType):
    """Stands for a module of the compiler while others are imported; what it lacks is taken from the module itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _leave()
        return getattr(importlib.import_module(self.__name__), name)


def _leave() -> None:
    """Take the stand-ins away."""
    for name in (_COMPILER, f"{_COMPILER}.utils"):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _is_compile_supported(device: Any) -> Any:
    return importlib.import_module(f"{_COMPILER}.utils").is_compile_supported(device)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import timm, torchvision and what is made of them inside: the compiler is loaded when somebody compiles."""
    if _COMPILER in sys.modules:
        yield
        return
    package, utils = _StandIn(_COMPILER), _StandIn(f"{_COMPILER}.utils")
    package.__path__ = []
    package.__dict__["disable"] = _disabled
    utils.__dict__["is_compile_supported"] = _is_compile_supported
    sys.modules |= {_COMPILER: package, utils.__name__: utils}
    try:
        yield
    finally:
        _leave()


def _disabled(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
    """As `torch._dynamo.disable`, which torch itself puts off in this way."""
    return _disable_dynamo(fn, recursive)
