"""Libraries of networks without what `torch.compile` alone needs, and which takes a second to load."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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


class _Rest(MetaPathFinder, Loader):
    """Imports a module of the compiler that has no stand-in: the compiler is wanted after all."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{_COMPILER}."):
            return None
        _leave()
        importlib.import_module(name)
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """The module has run."""


_rest: Final = _Rest()


def _leave() -> None:
    """Take the stand-ins away."""
    if _rest in sys.meta_path:
        sys.meta_path.remove(_rest)
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
    sys.meta_path.insert(0, _rest)
    sys.modules |= {_COMPILER: package, utils.__name__: utils}
    try:
        yield
    finally:
        _leave()


def _disabled(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
    """As `torch._dynamo.disable`, which torch itself puts off in this way."""
    return _disable_dynamo(fn, recursive)
