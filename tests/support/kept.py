"""What many runs of one process need only once."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

from lumbar.prediction import networks


@contextlib.contextmanager
def networks_kept() -> Iterator[None]:
    """Inside, a bundle's networks are built once and serve all runs that ask for the same."""
    kept: dict[tuple[Any, ...], networks.Networks] = {}
    made = networks.Networks

    def build(
        bundle: Any,
        wanted: Iterable[str],
        engine: Any,
        device: Any,
        room: int | None = None,
        most_moved: float | None = None,
    ) -> Any:
        key = (bundle.identity, tuple(wanted), str(engine), str(device), room, most_moved)
        if key not in kept:
            kept[key] = made(bundle, key[1], engine, device, room, most_moved)
        return kept[key]

    with mock.patch.object(networks, "Networks", build):
        yield
